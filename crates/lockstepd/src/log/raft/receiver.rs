//! Raft's messages from the other replicas: answered by this node's replica of their shard.
//!
//! It also notes when a leader was last heard of. It sends nothing of its own accord.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lockstep_core::names::{NodeId, ShardId};

use super::machine::Data;
use super::network::{Ask, Envelope, Part, Piece};
use super::types::{Raft, Snapshot, Vote, encode};
use crate::blocking;
use crate::clock::Clock;
use crate::peer::{self, Handler};
use crate::space::Space;
use crate::state::State;
use crate::store::snapshots::{Arriving, Snapshots};

/// When a leader was last heard of.
#[derive(Clone)]
pub(super) struct Heard {
    clock: Clock,
    at: Arc<Mutex<Option<Duration>>>,
}

impl Heard {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, at: Arc::default() }
    }

    fn now(&self) -> Duration {
        let now = self.clock.now();
        *self.at.lock().expect("nothing panics while it holds this") = Some(now);
        now
    }

    /// Whether one was heard of in the last `time`.
    pub(super) fn within(&self, time: Duration) -> bool {
        let at = *self.at.lock().expect("nothing panics while it holds this");
        at.is_some_and(|at| self.clock.now().saturating_sub(at) < time)
    }
}

/// Takes raft's messages for every shard of this node.
pub(super) struct Receiver {
    snapshots: Snapshots,
    space: Arc<Space>,
    seats: RwLock<BTreeMap<ShardId, Seat>>,
    /// Snapshots that are arriving: whose, which part comes next, and what of them is here.
    arriving: Mutex<BTreeMap<(ShardId, NodeId), (u64, Arriving)>>,
}

/// One shard's replica at this node.
#[derive(Clone)]
struct Seat {
    raft: Raft,
    state: Arc<State>,
    heard: Heard,
}

impl Receiver {
    pub(super) fn new(snapshots: Snapshots, space: Arc<Space>) -> Self {
        Self { snapshots, space, seats: RwLock::default(), arriving: Mutex::default() }
    }

    pub(super) fn add(&self, shard: ShardId, raft: Raft, state: Arc<State>, heard: Heard) {
        let seat = Seat { raft, state, heard };
        self.seats.write().expect("nothing panics while it holds this").insert(shard, seat);
    }

    async fn take_part(&self, raft: &Raft, from: (ShardId, NodeId), part: Part) -> Result<Vote, peer::Error> {
        let Part { vote, meta, number, piece, last } = part;
        let refused = |error: io::Error| {
            tracing::warn!(shard = from.0.0, node = from.1.0, %error, "a snapshot cannot be taken");
            peer::Error::Malformed
        };
        let arriving = self.lock_arriving().remove(&from);
        let here = match (number, arriving) {
            (0, before) => {
                drop(before);
                self.snapshots.receive(from.0).map_err(refused)?
            }
            (_, Some((next, here))) if next == number => here,
            _ => return Err(peer::Error::Malformed),
        };
        let memory = self.snapshots.is_memory();
        let here = blocking::run(memory, move || take_piece(here, &piece)).await.map_err(refused)?;
        if !last {
            self.lock_arriving().insert(from, (number + 1, here));
            return Ok(vote);
        }
        let encoded = encode(&meta);
        let arrived = blocking::run(memory, move || here.finish(encoded)).await.map_err(refused)?;
        let snapshot = Snapshot { meta, snapshot: Data::Arrived(Box::new(arrived)) };
        let installed = raft.install_full_snapshot(vote, snapshot).await;
        installed.map(|answer| answer.vote).map_err(|_| peer::Error::Unreachable)
    }

    fn lock_arriving(&self) -> MutexGuard<'_, BTreeMap<(ShardId, NodeId), (u64, Arriving)>> {
        self.arriving.lock().expect("nothing panics while it holds this")
    }
}

fn take_piece(mut here: Arriving, piece: &Piece) -> io::Result<Arriving> {
    match piece {
        Piece::Bodies { file, bytes } => here.bodies(*file, bytes)?,
        Piece::Core(bytes) => here.core(bytes),
    }
    Ok(here)
}

#[async_trait]
impl Handler for Receiver {
    async fn handle(&self, from: NodeId, payload: Bytes) -> Result<Bytes, peer::Error> {
        let Envelope { shard, ask } = postcard::from_bytes(&payload).map_err(|_| peer::Error::Malformed)?;
        let seat = self.seats.read().expect("nothing panics while it holds this").get(&shard).cloned();
        let Seat { raft, state, heard } = seat.ok_or(peer::Error::Unreachable)?;
        let stopped = |_| peer::Error::Unreachable;
        match ask {
            Ask::Append(rpc) => {
                let now = heard.now();
                let answer = raft.append_entries(rpc).await.map_err(stopped)?;
                self.space.look_at(now);
                Ok(encode(&(self.space.is_full(), answer)))
            }
            Ask::Vote(rpc) => raft.vote(rpc).await.map(|answer| encode(&answer)).map_err(stopped),
            Ask::PreVote(rpc) => raft.pre_vote(rpc).await.map(|answer| encode(&answer)).map_err(stopped),
            Ask::Transfer(rpc) => {
                let answer = raft.handle_transfer_leader(rpc).await;
                answer.map(|answer| encode(&answer)).map_err(|_| peer::Error::Unreachable)
            }
            Ask::Snapshot(part) => {
                let theirs = self.take_part(&raft, (shard, from), part).await?;
                Ok(encode(&theirs))
            }
            Ask::Body(id) => {
                let read = move || Ok(state.body(id).ok().flatten());
                let body = blocking::run(self.snapshots.is_memory(), read).await;
                body.map(|body| encode(&body)).map_err(|_| peer::Error::Unreachable)
            }
        }
    }
}
