//! The other end of a forwarded request: serves what another node's router asks of this one.

use async_trait::async_trait;
use bytes::Bytes;
use lockstep_core::names::NodeId;

use super::Router;
use super::attempt::serve_here;
use super::wire::{Ask, Said, decode, encode};
use crate::peer::{Error, Handler};
use crate::replica::Failure;

#[async_trait]
impl Handler for Router {
    async fn handle(&self, _from: NodeId, payload: Bytes) -> Result<Bytes, Error> {
        let ask: Ask = decode(&payload).ok_or(Error::Malformed)?;
        let said = match self.replica(ask.shard) {
            Some(replica) => serve_here(&replica, &ask.what).await,
            None => Said::Failed(Failure::NotLeader { hint: None }),
        };
        Ok(encode(&said))
    }
}
