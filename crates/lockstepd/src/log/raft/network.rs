//! Raft's messages to the other replicas of one shard, over the node's peer transport.
//!
//! Appends are pipelined: many are on their way at once, in order, and their answers keep that
//! order. Every message has a deadline of ours; openraft's are too short for a busy disk.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use lockstep_core::names::{MessageId, NodeId, ShardId};
use openraft::base::{BoxFuture, BoxStream};
use openraft::entry::RaftEntry;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{SnapshotResponse, StreamAppendResult};
use openraft::{OptionalSend, impls::EmptyNode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::machine::Data;
use super::types::{
    Append, AppendAnswer, Config, Snapshot, SnapshotMeta, Transfer, TransferAnswer, Vote, VoteAnswer,
    VoteAsk, encode,
};
use crate::blocking;
use crate::log::due::Due;
use crate::peer::{self, Lane, Peers, Service};
use crate::space::Voters;
use crate::store::snapshots::Saved;

/// Appends on their way to one follower.
const PIPELINE: usize = 16;
/// How long a follower may learn later than it could how far the log is committed.
const COMMIT_PAUSE: Duration = Duration::from_millis(1);
const APPEND_TIME: Duration = Duration::from_secs(5);
const VOTE_TIME: Duration = Duration::from_secs(2);
const CHUNK_TIME: Duration = Duration::from_secs(30);
/// Small enough that sending one holds nothing else up.
const CHUNK_BYTES: usize = 1024 * 1024;
const BODY_TIME: Duration = Duration::from_secs(2);

#[derive(Serialize, Deserialize)]
pub(super) enum Ask {
    Append(Append),
    Vote(VoteAsk),
    PreVote(VoteAsk),
    Transfer(Transfer),
    Snapshot(Part),
    Body(MessageId),
}

/// A part of a snapshot; the last one installs it.
#[derive(Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) vote: Vote,
    pub(super) meta: SnapshotMeta,
    /// Counted from 0; a missing one breaks the transfer off.
    pub(super) number: u64,
    pub(super) piece: Piece,
    pub(super) last: bool,
}

/// Bodies come first, so that what becomes of them is known when the shard's own bytes are.
#[derive(Serialize, Deserialize)]
pub(super) enum Piece {
    Bodies { file: usize, bytes: Bytes },
    Core(Bytes),
}

#[derive(Serialize, Deserialize)]
pub(super) struct Envelope {
    pub(super) shard: ShardId,
    pub(super) ask: Ask,
}

/// Makes connections for one shard.
pub(super) struct Factory {
    pub(super) shard: ShardId,
    pub(super) peers: Arc<dyn Peers>,
    pub(super) due: Arc<Due>,
    pub(super) disks: Arc<Voters>,
}

/// One shard's way to one other replica.
pub(super) struct Network {
    shard: ShardId,
    target: NodeId,
    peers: Arc<dyn Peers>,
    due: Arc<Due>,
    disks: Arc<Voters>,
    lane: Lane,
}

impl RaftNetworkFactory<Config> for Factory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Network {
        self.network(target, Lane::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, _node: &EmptyNode) -> Network {
        self.network(target, Lane::Control)
    }
}

impl Factory {
    fn network(&self, target: u64, lane: Lane) -> Network {
        let (peers, due, disks) = (Arc::clone(&self.peers), Arc::clone(&self.due), Arc::clone(&self.disks));
        Network { shard: self.shard, target: NodeId(target), peers, due, disks, lane }
    }
}

impl Network {
    /// Appends entries there, and hears whether its disk is full.
    fn append(
        &self,
        rpc: Append,
    ) -> impl Future<Output = Result<AppendAnswer, RPCError<Config>>> + Send + use<> {
        let call = self.ask(self.lane, Ask::Append(rpc), APPEND_TIME);
        let (disks, target) = (Arc::clone(&self.disks), self.target);
        async move {
            let (full, answer): (bool, AppendAnswer) = call.await.map_err(failed)?;
            disks.heard(target, full);
            Ok(answer)
        }
    }

    fn ask<T: DeserializeOwned>(
        &self,
        lane: Lane,
        ask: Ask,
        time: Duration,
    ) -> impl Future<Output = Result<T, peer::Error>> + Send + use<T> {
        send(&self.peers, self.target, self.shard, lane, ask, time)
    }
}

fn send<T: DeserializeOwned>(
    peers: &Arc<dyn Peers>,
    target: NodeId,
    shard: ShardId,
    lane: Lane,
    ask: Ask,
    time: Duration,
) -> impl Future<Output = Result<T, peer::Error>> + Send + use<T> {
    let payload = encode(&Envelope { shard, ask });
    let peers = Arc::clone(peers);
    async move {
        let answer = peers.call(target, lane, Service::Raft, payload, time).await?;
        postcard::from_bytes(&answer).map_err(|_| peer::Error::Malformed)
    }
}

/// Another replica's copy of a body.
pub(super) async fn fetch_body(
    peers: &Arc<dyn Peers>,
    shard: ShardId,
    from: NodeId,
    id: MessageId,
) -> Option<Bytes> {
    send::<Option<Bytes>>(peers, from, shard, Lane::Request, Ask::Body(id), BODY_TIME).await.ok().flatten()
}

impl RaftNetworkV2<Config> for Network {
    type SnapshotData = Data;

    async fn append_entries(
        &mut self,
        rpc: Append,
        _option: RPCOption,
    ) -> Result<AppendAnswer, RPCError<Config>> {
        self.append(rpc).await
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
        let calls = spare(input, |rpc: &Append| rpc.entries.is_empty()).map(move |rpc| {
            let prev = rpc.prev_log_id;
            let last = rpc.entries.last().map(RaftEntry::log_id).or(prev);
            let call = self.append(rpc);
            async move {
                let answer = call.await?;
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
        let _sending = self.due.sending();
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot) => sent,
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

/// Leaves out a message that is `bare`, one that only says how far the log is committed, where another
/// follows at once, which says it too. The answer to that one stands for both.
fn spare<T: Send>(
    input: impl Stream<Item = T> + Send + Unpin,
    bare: impl Fn(&T) -> bool + Copy + Send,
) -> impl Stream<Item = T> + Send {
    // openraft's stream may not be asked again after its end.
    futures::stream::unfold((input.fuse(), false), move |(mut input, begun)| async move {
        let mut message = input.next().await?;
        // The first one asks what the follower has.
        if begun
            && bare(&message)
            && let Ok(Some(next)) = tokio::time::timeout(COMMIT_PAUSE, input.next()).await
        {
            message = next;
        }
        Some((message, (input, true)))
    })
}

impl Network {
    /// Sends a snapshot piece by piece, each read when its turn has come.
    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: Snapshot,
    ) -> Result<SnapshotResponse<Config>, StreamingError<Config>> {
        let Data::Saved(saved) = snapshot.snapshot else {
            return Err(unsendable(&io::Error::other("it is not this node's own")));
        };
        let mut reader = Reader { saved, file: 0, offset: 0 };
        for number in 0.. {
            let memory = reader.saved.bodies.is_memory();
            let read = blocking::run(memory, move || Ok((reader.next()?, reader))).await;
            let ((piece, last), rest) = read.map_err(|error| {
                tracing::error!(shard = self.shard.0, %error, "cannot read the snapshot to send it");
                unsendable(&error)
            })?;
            reader = rest;
            let part = Part { vote, meta: snapshot.meta.clone(), number, piece, last };
            let theirs: Vote = self.ask(Lane::Snapshot, Ask::Snapshot(part), CHUNK_TIME).await.map_err(
                |error| match error {
                    peer::Error::NoAnswer => StreamingError::Network(NetworkError::new(&error)),
                    _ => StreamingError::Unreachable(Unreachable::new(&error)),
                },
            )?;
            if last || theirs > vote {
                return Ok(SnapshotResponse::new(theirs));
            }
        }
        Err(unsendable(&io::Error::other("it has no end")))
    }
}

fn unsendable(error: &io::Error) -> StreamingError<Config> {
    StreamingError::Unreachable(Unreachable::new(error))
}

/// How far a snapshot has been read.
struct Reader {
    saved: Arc<Saved>,
    file: usize,
    offset: u64,
}

impl Reader {
    /// The next piece, and whether it is the last.
    fn next(&mut self) -> io::Result<(Piece, bool)> {
        while self.file < self.saved.bodies.files() {
            let bytes = self.saved.bodies.read(self.file, self.offset, CHUNK_BYTES)?;
            if !bytes.is_empty() {
                self.offset += bytes.len() as u64;
                return Ok((Piece::Bodies { file: self.file, bytes }, false));
            }
            (self.file, self.offset) = (self.file + 1, 0);
        }
        let bytes = self.saved.read_core(self.offset, CHUNK_BYTES)?;
        self.offset += bytes.len() as u64;
        Ok((Piece::Core(bytes), self.offset >= self.saved.core_bytes()))
    }
}

fn failed(error: peer::Error) -> RPCError<Config> {
    match error {
        peer::Error::NoAnswer => RPCError::Network(NetworkError::new(&error)),
        _ => RPCError::Unreachable(Unreachable::new(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Zero is bare. Like openraft's own stream, this one panics when it is asked after its end.
    async fn spared(messages: &[u8]) -> Vec<u8> {
        let input = futures::stream::unfold(messages.iter().copied(), |mut left| async move {
            left.next().map(|message| (message, left))
        });
        spare(Box::pin(input), |message| *message == 0).collect().await
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_is_left_out_where_entries_follow_at_once() {
        assert_eq!(spared(&[1, 0, 2, 0]).await, [1, 2, 0]);
        assert_eq!(spared(&[0, 1]).await, [0, 1], "the first one is a question");
        assert_eq!(spared(&[0]).await, [0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_that_nothing_follows_is_sent_after_a_moment() {
        let (sender, receiver) = futures::channel::mpsc::unbounded();
        let mut sent = Box::pin(spare(receiver, |message: &u8| *message == 0));
        sender.unbounded_send(1).unwrap();
        sender.unbounded_send(0).unwrap();
        assert_eq!(sent.next().await, Some(1));
        assert_eq!(sent.next().await, Some(0));
    }
}
