//! One body, looked up by way of the latest snapshot: for when the chunk that this node knew of has
//! no good copy. Tells damage from a chunk that a newer snapshot has made superfluous.
//!
//! It changes nothing; whoever asked decides what follows.

use bytes::Bytes;
use lockstep_core::Shard;
use lockstep_core::names::MessageId;

use super::keys::Keys;
use super::link::Link;
use super::{Fault, chunks, snapshot};
use crate::state::State;
use crate::store::bodies::Manifest;

/// The body of `id`; `None` where nobody needs it any more, or this node lags behind. Errors: it is needed,
/// and it is not where the snapshot that counts has it.
pub(super) async fn body(
    link: &mut Link,
    keys: &Keys,
    state: &State,
    id: MessageId,
) -> Result<Option<Bytes>, Fault> {
    let lives = || state.read(|shard| shard.body_lives(id));
    let Some(mut pointer) = snapshot::pointer(link, keys).await? else {
        // What is in no snapshot is in memory, and would have been found there.
        return if lives() { Err(snapshot::vanished(keys)) } else { Ok(None) };
    };
    loop {
        let what = match snapshot::bodies(link, keys, &pointer).await.map_err(Fault::away)? {
            None => keys.pieces(&pointer),
            Some(bodies) => match bodies.find(id.0) {
                Some((number, offset, bytes)) => {
                    let read = chunks::read(link, keys, number, offset, bytes).await.map_err(Fault::away)?;
                    if let Some(body) = Manifest::body(id.0, read) {
                        return Ok(Some(body));
                    }
                    keys.body_chunk(number)
                }
                // It may have died before a snapshot that is ahead of this node.
                None if pointer.at.index > state.read(Shard::applied) => return Ok(None),
                None => keys.pieces(&pointer),
            },
        };
        if !lives() {
            return Ok(None);
        }
        pointer = snapshot::replaced(link, keys, pointer, &what).await?;
    }
}
