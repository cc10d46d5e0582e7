//! Raft's messages between the replicas of one shard, over the node's peer transport.
//!
//! Appends are pipelined: many are on their way at once, in order, and their answers keep that
//! order. Every message has a deadline of ours; openraft's are too short for a busy disk.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use lockstep_core::names::{NodeId, ShardId};
use openraft::base::{BoxFuture, BoxStream};
use openraft::entry::RaftEntry;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{SnapshotResponse, StreamAppendResult};
use openraft::{OptionalSend, impls::EmptyNode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::types::{
    Append, AppendAnswer, Config, Raft, Snapshot, SnapshotMeta, Transfer, TransferAnswer, Vote, VoteAnswer,
    VoteAsk, encode,
};
use crate::clock::Clock;
use crate::peer::{self, Handler, Lane, Peers, Service};

/// Appends on their way to one follower.
const PIPELINE: usize = 16;
const APPEND_TIME: Duration = Duration::from_secs(5);
const VOTE_TIME: Duration = Duration::from_secs(2);
const CHUNK_TIME: Duration = Duration::from_secs(30);
const CHUNK_BYTES: usize = 4 * 1024 * 1024;
/// The largest snapshot that is accepted from a peer.
const SNAPSHOT_BYTES_MAX: usize = 4 * 1024 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
enum Ask {
    Append(Append),
    Vote(VoteAsk),
    PreVote(VoteAsk),
    Transfer(Transfer),
    Snapshot(Part),
}

/// A part of a snapshot; the last one installs it.
#[derive(Serialize, Deserialize)]
struct Part {
    vote: Vote,
    meta: SnapshotMeta,
    offset: u64,
    bytes: Bytes,
    last: bool,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    shard: ShardId,
    ask: Ask,
}

/// Makes connections for one shard.
pub(super) struct Factory {
    pub(super) shard: ShardId,
    pub(super) peers: Arc<dyn Peers>,
}

/// One shard's way to one other replica.
pub(super) struct Network {
    shard: ShardId,
    target: NodeId,
    peers: Arc<dyn Peers>,
    lane: Lane,
}

impl RaftNetworkFactory<Config> for Factory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Network {
        let peers = Arc::clone(&self.peers);
        Network { shard: self.shard, target: NodeId(target), peers, lane: Lane::Append }
    }

    async fn new_heartbeat_client(&mut self, target: u64, _node: &EmptyNode) -> Network {
        let peers = Arc::clone(&self.peers);
        Network { shard: self.shard, target: NodeId(target), peers, lane: Lane::Control }
    }
}

impl Network {
    fn ask<T: DeserializeOwned>(
        &self,
        lane: Lane,
        ask: Ask,
        time: Duration,
    ) -> impl Future<Output = Result<T, peer::Error>> + Send + use<T> {
        let payload = encode(&Envelope { shard: self.shard, ask });
        let (peers, target) = (Arc::clone(&self.peers), self.target);
        async move {
            let answer = peers.call(target, lane, Service::Raft, payload, time).await?;
            postcard::from_bytes(&answer).map_err(|_| peer::Error::Malformed)
        }
    }
}

impl RaftNetworkV2<Config> for Network {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        rpc: Append,
        _option: RPCOption,
    ) -> Result<AppendAnswer, RPCError<Config>> {
        self.ask(self.lane, Ask::Append(rpc), APPEND_TIME).await.map_err(failed)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<Config>, RPCError<Config>>>, RPCError<Config>>,
    >
    where
        S: Stream<Item = Append> + OptionalSend + Unpin + 'static,
    {
        let calls = input.map(move |rpc| {
            let prev = rpc.prev_log_id;
            let last = rpc.entries.last().map(RaftEntry::log_id).or(prev);
            let call = self.ask(self.lane, Ask::Append(rpc), APPEND_TIME);
            async move {
                let answer: AppendAnswer = call.await.map_err(failed)?;
                let whole = !matches!(&answer, AppendAnswer::PartialSuccess(upto) if *upto != last);
                Ok((answer.into_stream_result(prev, last), whole))
            }
        });
        // The first answer that is not a whole success ends the stream: what followed it on the
        // wire was built on it.
        let answers = calls.buffered(PIPELINE).scan(false, |over, answer| {
            let last = std::mem::replace(over, !matches!(&answer, Ok((Ok(_), true))));
            std::future::ready((!last).then_some(answer.map(|(result, _)| result)))
        });
        Box::pin(async move { Ok(Box::pin(answers) as BoxStream<'s, _>) })
    }

    async fn vote(&mut self, rpc: VoteAsk, _option: RPCOption) -> Result<VoteAnswer, RPCError<Config>> {
        self.ask(Lane::Control, Ask::Vote(rpc), VOTE_TIME).await.map_err(failed)
    }

    async fn pre_vote(&mut self, rpc: VoteAsk, _option: RPCOption) -> Result<VoteAnswer, RPCError<Config>> {
        self.ask(Lane::Control, Ask::PreVote(rpc), VOTE_TIME).await.map_err(failed)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Config>, StreamingError<Config>> {
        let send = async {
            let bytes = snapshot.snapshot;
            let mut offset = 0;
            loop {
                let end = (offset + CHUNK_BYTES).min(bytes.len());
                let last = end == bytes.len();
                let meta = snapshot.meta.clone();
                let part = Part { vote, meta, offset: offset as u64, bytes: bytes.slice(offset..end), last };
                let ask = Ask::Snapshot(part);
                let theirs: Vote =
                    self.ask(Lane::Snapshot, ask, CHUNK_TIME).await.map_err(|error| match error {
                        peer::Error::NoAnswer => StreamingError::Network(NetworkError::new(&error)),
                        _ => StreamingError::Unreachable(Unreachable::new(&error)),
                    })?;
                if last || theirs > vote {
                    return Ok(SnapshotResponse::new(theirs));
                }
                offset = end;
            }
        };
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = send => sent,
        }
    }

    async fn transfer_leader(
        &mut self,
        req: Transfer,
        _option: RPCOption,
    ) -> Result<TransferAnswer, RPCError<Config>> {
        self.ask(Lane::Control, Ask::Transfer(req), VOTE_TIME).await.map_err(failed)
    }
}

fn failed(error: peer::Error) -> RPCError<Config> {
    match error {
        peer::Error::NoAnswer => RPCError::Network(NetworkError::new(&error)),
        _ => RPCError::Unreachable(Unreachable::new(&error)),
    }
}

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

    fn now(&self) {
        *self.at.lock().expect("nothing panics while it holds this") = Some(self.clock.now());
    }

    /// Whether one was heard of in the last `time`.
    pub(super) fn within(&self, time: Duration) -> bool {
        let at = *self.at.lock().expect("nothing panics while it holds this");
        at.is_some_and(|at| self.clock.now().saturating_sub(at) < time)
    }
}

/// Takes raft's messages for every shard of this node.
#[derive(Default)]
pub(super) struct Receiver {
    rafts: RwLock<BTreeMap<ShardId, (Raft, Heard)>>,
    /// Snapshots that are arriving: whose, and what of them is here.
    arriving: Mutex<BTreeMap<(ShardId, NodeId), BytesMut>>,
}

impl Receiver {
    pub(super) fn add(&self, shard: ShardId, raft: Raft, heard: Heard) {
        self.rafts.write().expect("nothing panics while it holds this").insert(shard, (raft, heard));
    }

    async fn take_part(&self, raft: &Raft, from: (ShardId, NodeId), part: Part) -> Result<Vote, peer::Error> {
        let Part { vote, meta, offset, bytes, last } = part;
        let whole = {
            let mut arriving = self.arriving.lock().expect("nothing panics while it holds this");
            let here = arriving.entry(from).or_default();
            if offset == 0 {
                here.clear();
            }
            if here.len() as u64 != offset || here.len() + bytes.len() > SNAPSHOT_BYTES_MAX {
                arriving.remove(&from);
                return Err(peer::Error::Malformed);
            }
            here.extend_from_slice(&bytes);
            if !last {
                return Ok(vote);
            }
            arriving.remove(&from).unwrap_or_default().freeze()
        };
        let installed = raft.install_full_snapshot(vote, Snapshot { meta, snapshot: whole }).await;
        installed.map(|answer| answer.vote).map_err(|_| peer::Error::Unreachable)
    }
}

#[async_trait]
impl Handler for Receiver {
    async fn handle(&self, from: NodeId, payload: Bytes) -> Result<Bytes, peer::Error> {
        let Envelope { shard, ask } = postcard::from_bytes(&payload).map_err(|_| peer::Error::Malformed)?;
        let raft = self.rafts.read().expect("nothing panics while it holds this").get(&shard).cloned();
        let (raft, heard) = raft.ok_or(peer::Error::Unreachable)?;
        let stopped = |_| peer::Error::Unreachable;
        match ask {
            Ask::Append(rpc) => {
                heard.now();
                raft.append_entries(rpc).await.map(|answer| encode(&answer)).map_err(stopped)
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
        }
    }
}
