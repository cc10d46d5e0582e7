//! The log in memory: every member in one process, applied at once. For tests.
//!
//! It orders and stamps as the real drivers do, so that machines above it see the same world; it keeps
//! nothing, and loses nothing but the process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use lockstep_core::names::NodeId;
use lockstep_core::{Command, Epoch, Index, Pack, Reply, Shard};
use tokio::sync::watch;

use super::time::LogTime;
use super::{Applied, BarrierError, Log, ProposeError, Status};
use crate::clock::Clock;
use crate::state::State;

/// One shard's log and all of its members.
pub struct Group(Mutex<Inner>);

struct Inner {
    entries: Vec<(Epoch, Pack)>,
    epoch: Epoch,
    leader: NodeId,
    members: BTreeMap<NodeId, Member>,
    time: LogTime,
}

struct Member {
    state: Arc<State>,
    status: watch::Sender<Status>,
}

/// The log as one member sees it.
pub struct MemoryLog {
    node: NodeId,
    group: Arc<Group>,
    status: watch::Sender<Status>,
}

impl Group {
    /// An empty log that `leader` leads.
    pub fn new(leader: NodeId, clock: Clock) -> Arc<Self> {
        let (members, time) = (BTreeMap::new(), LogTime::new(clock));
        let entries = vec![(Epoch(1), Pack::default())];
        Arc::new(Self(Mutex::new(Inner { entries, epoch: Epoch(1), leader, members, time })))
    }

    /// A member that starts with an empty state: it is fed everything that was ever ordered.
    pub fn join(self: &Arc<Self>, node: NodeId, state: Arc<State>) -> Arc<MemoryLog> {
        let mut inner = self.lock();
        for (nth, (epoch, pack)) in inner.entries.iter().enumerate() {
            state.apply(Index(nth as u64 + 1), *epoch, pack);
        }
        let (status, _) = watch::channel(Status::default());
        inner.members.insert(node, Member { state, status: status.clone() });
        inner.tell();
        Arc::new(MemoryLog { node, group: Arc::clone(self), status })
    }

    /// Another member leads from now on, in a new reign.
    pub fn elect(&self, leader: NodeId) {
        let mut inner = self.lock();
        inner.leader = leader;
        inner.epoch = Epoch(inner.epoch.0 + 1);
        inner.order(Vec::new());
    }

    /// Writes log time down, as a leader does from time to time.
    pub fn tick(&self) {
        self.lock().order(Vec::new());
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("a panic inside apply has already failed the test")
    }
}

impl Inner {
    /// Orders one pack and applies it everywhere. Answers the leader's replies.
    fn order(&mut self, commands: Vec<Command>) -> (Index, Vec<Reply>) {
        let (epoch, leader) = (self.epoch, self.leader);
        let Some(state) = self.members.get(&leader).map(|member| Arc::clone(&member.state)) else {
            return (Index(0), Vec::new());
        };
        let (last, max_step) = state.read(|shard| (shard.now(), shard.max_step()));
        let now = self.time.stamp(epoch, last, max_step);
        let pack = Pack { now, settings: state.settings_due(), commands };
        self.entries.push((epoch, pack.clone()));
        let index = Index(self.entries.len() as u64);
        let mut replies = Vec::new();
        for (node, member) in &self.members {
            let theirs = member.state.apply(index, epoch, &pack);
            if *node == leader {
                replies = theirs;
            }
        }
        self.tell();
        (index, replies)
    }

    fn tell(&self) {
        for (node, member) in &self.members {
            member.status.send_replace(Status {
                leader: Some(self.leader),
                leading: *node == self.leader,
                epoch: self.epoch,
                applied: member.state.read(Shard::applied),
                away: None,
                failed: None,
            });
        }
    }
}

#[async_trait]
impl Log for MemoryLog {
    async fn propose(&self, command: Command) -> Result<Applied, ProposeError> {
        let mut inner = self.group.lock();
        if inner.leader != self.node {
            return Err(ProposeError::NotLeader { hint: Some(inner.leader) });
        }
        let (index, mut replies) = inner.order(vec![command]);
        replies.pop().map(|reply| Applied { index, reply }).ok_or(ProposeError::Stopped)
    }

    async fn barrier(&self) -> Result<Index, BarrierError> {
        let inner = self.group.lock();
        if inner.leader != self.node {
            return Err(BarrierError::NotLeader { hint: Some(inner.leader) });
        }
        Ok(Index(inner.entries.len() as u64))
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    async fn hand_over(&self, to: NodeId) {
        self.group.elect(to);
    }

    async fn shutdown(&self) {
        self.group.lock().members.remove(&self.node);
    }
}
