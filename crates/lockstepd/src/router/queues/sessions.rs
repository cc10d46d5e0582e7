//! Sessions of consumers over all shards: they live in the coordination shard, their receipts elsewhere.
//!
//! Before the first receive of a session from a shard the coordination shard learns of it; from then on
//! heartbeats concern that shard, and its leader is told of the session's end, however often leaders
//! change meanwhile. Nothing of a session is decided here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use lockstep_core::command::{InSession, Lease, QueueOp, Renewal, SessionOp};
use lockstep_core::names::{SessionId, ShardId};
use lockstep_core::query::{Answer, Query};
use lockstep_core::{Op, Refusal, Reply};

use super::super::wire::{Said, What};
use super::super::{Asked, Error, Router};
use crate::replica::Replica;

const HOME: ShardId = ShardId::COORDINATION;
/// Sessions and shards that this node knows of each other before it forgets them all.
const KNOWN_MAX: usize = 100_000;
/// How long a heartbeat is carried to the shards: the session itself is renewed by then.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long a close waits for every shard to know of it.
const CLOSE: Duration = Duration::from_secs(2);
/// Ends that one command tells.
const ENDS: usize = 1_000;
/// One try to tell takes at most this long.
const TRY: Duration = Duration::from_secs(5);
/// The pause after a try that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// Which sessions may hold receipts where, as far as the coordination shard has told this node.
#[derive(Default)]
pub(in super::super) struct Enlisted(Mutex<BTreeSet<(SessionId, ShardId)>>);

/// A session after a heartbeat.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// The session.
    pub lease: Lease,
    /// How many receipts were extended; `None` for a session that never received anything.
    pub receipts: Option<u64>,
    /// Shards that could not be told in time: what it holds there lasts as long as it did.
    pub unreached: Vec<ShardId>,
}

impl Router {
    /// Starts the time of sessions anew, and that of all their receipts.
    pub async fn renew_sessions(
        &self,
        sessions: Vec<SessionId>,
        asked: &Asked,
    ) -> Result<Vec<Result<Heartbeat, Error>>, Error> {
        let op = Op::Session(SessionOp::Renew { sessions });
        let Reply::Renewed(renewals) = self.execute(HOME, op, asked).await? else {
            return Err(Error::OutcomeUnknown);
        };
        let mut by_shard: BTreeMap<ShardId, Vec<SessionId>> = BTreeMap::new();
        for renewal in renewals.iter().flatten() {
            for shard in renewal.shards.iter().filter(|shard| self.routes.contains_key(shard)) {
                by_shard.entry(*shard).or_default().push(renewal.lease.session);
            }
        }
        let beats = by_shard.into_iter().map(|(shard, sessions)| async move {
            let kept = self.keep(shard, sessions.clone()).await;
            (shard, sessions, kept)
        });
        let mut receipts: BTreeMap<SessionId, u64> = BTreeMap::new();
        let mut unreached: BTreeMap<SessionId, Vec<ShardId>> = BTreeMap::new();
        for (shard, sessions, kept) in join_all(beats).await {
            match kept {
                Ok(kept) => sessions
                    .into_iter()
                    .zip(kept)
                    .for_each(|(session, count)| *receipts.entry(session).or_default() += u64::from(count)),
                Err(_) => {
                    sessions.into_iter().for_each(|session| unreached.entry(session).or_default().push(shard))
                }
            }
        }
        let beat = |Renewal { lease, shards }: Renewal| Heartbeat {
            lease,
            receipts: (!shards.is_empty()).then(|| receipts.get(&lease.session).copied().unwrap_or(0)),
            unreached: unreached.remove(&lease.session).unwrap_or_default(),
        };
        let mut beat = beat;
        Ok(renewals.into_iter().map(|renewal| renewal.map(&mut beat).map_err(Error::from)).collect())
    }

    /// Ends a session. What it held goes back before this returns, wherever a shard can be told in time;
    /// elsewhere as soon as it can.
    pub async fn close_session(&self, session: SessionId, asked: &Asked) -> Result<(), Error> {
        let op = Op::Session(SessionOp::Close { session });
        let Reply::Closed { shards } = self.execute(HOME, op, asked).await? else {
            return Err(Error::OutcomeUnknown);
        };
        if !shards.is_empty() {
            let deadline = self.deadline(CLOSE.min(asked.timeout));
            let ms = u64::try_from(CLOSE.as_millis()).unwrap_or(u64::MAX);
            let _ = self.ask(HOME, What::AwaitEnd(session, ms), deadline).await;
        }
        Ok(())
    }

    /// Errors: [`Refusal::SessionExpired`] where the session is over by now.
    pub(super) async fn check_session(&self, session: SessionId, timeout: Duration) -> Result<(), Error> {
        match self.query(HOME, Query::Session { session }, timeout).await? {
            Answer::Session(Some(_)) => Ok(()),
            Answer::Session(None) => Err(Refusal::SessionExpired.into()),
            _ => Err(Error::NoLeader { shard: HOME }),
        }
    }

    /// Does `work` with a receive of `shard`, once its session may hold receipts there. A shard that
    /// does not remember so old a session gets a proof that it is alive.
    pub(super) async fn in_session<T, F: Future<Output = Result<T, Error>>>(
        &self,
        shard: ShardId,
        op: &QueueOp,
        timeout: Duration,
        work: impl Fn(QueueOp) -> F,
    ) -> Result<T, Error> {
        let Some(session) = session_of(op) else { return work(op.clone()).await };
        if !self.enlisted.knows(session, shard) {
            self.enlist(session, shard, timeout).await?;
        }
        let done = match work(op.clone()).await {
            Err(Error::Refused(Refusal::SessionUnproven)) => {
                self.enlist(session, shard, timeout).await?;
                work(proven(op.clone())).await
            }
            done => done,
        };
        if matches!(done, Err(Error::Refused(Refusal::SessionExpired))) {
            self.enlisted.forget(session, shard);
        }
        done
    }

    async fn enlist(&self, session: SessionId, shard: ShardId, timeout: Duration) -> Result<(), Error> {
        let op = Op::Session(SessionOp::Enlist { session, shard });
        match self.execute(HOME, op, &Asked::plain(timeout)).await? {
            Reply::Enlisted(_) => {
                self.enlisted.learn(session, shard);
                Ok(())
            }
            _ => Err(Error::NoLeader { shard: HOME }),
        }
    }

    /// Carries a heartbeat to a shard: how many receipts of each session it extended. Where none of them
    /// holds anything, nothing is written.
    async fn keep(&self, shard: ShardId, sessions: Vec<SessionId>) -> Result<Vec<u32>, Error> {
        let deadline = self.deadline(HEARTBEAT);
        let request = self.request(shard, &Asked::plain(HEARTBEAT));
        loop {
            let op = Op::Queue(QueueOp::RenewSessions { sessions: sessions.clone() });
            let what = What::Keep(sessions.clone(), request.command(self, shard, None, op));
            match self.ask(shard, what, deadline).await? {
                Said::Taken(None) => return Ok(vec![0; sessions.len()]),
                Said::Taken(Some(told)) | Said::Executed(told) => match told.reply {
                    Reply::Kept(kept) => return Ok(kept),
                    Reply::Refused(Refusal::TooLate) if self.clock.now() < deadline => {}
                    Reply::Refused(refusal) => return Err(refusal.into()),
                    _ => return Err(Error::OutcomeUnknown),
                },
                _ => return Err(Error::OutcomeUnknown),
            }
        }
    }

    /// Tells the queue shard `to` of sessions that have ended, whenever this node leads the coordination
    /// shard, whose replica is given. For ever.
    pub async fn carry_ends(self: Arc<Self>, replica: Arc<Replica>, to: ShardId) {
        let mut outbox = replica.state().waiters().outbox();
        let mut status = replica.watch();
        loop {
            outbox.borrow_and_update();
            let leads = status.borrow_and_update().leading;
            let ended =
                if leads { replica.state().read(|shard| shard.locks().untold(to, ENDS)) } else { Vec::new() };
            if ended.is_empty() {
                tokio::select! {
                    changed = outbox.changed() => if changed.is_err() { return },
                    changed = status.changed() => if changed.is_err() { return },
                }
            } else if let Err(error) = self.tell(to, ended).await {
                tracing::debug!(%error, shard = to.0, "could not tell a shard of sessions that have ended");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn tell(&self, shard: ShardId, sessions: Vec<SessionId>) -> Result<(), Error> {
        let asked = Asked::plain(TRY);
        let op = Op::Queue(QueueOp::EndSessions { sessions: sessions.clone() });
        self.execute(shard, op, &asked).await?;
        self.execute(HOME, Op::Session(SessionOp::Told { shard, sessions }), &asked).await.map(drop)
    }
}

/// The session in which a receive is done.
pub(super) fn session_of(op: &QueueOp) -> Option<SessionId> {
    match op {
        QueueOp::Receive { session, .. } => session.map(|of| of.session),
        _ => None,
    }
}

fn proven(mut op: QueueOp) -> QueueOp {
    if let QueueOp::Receive { session: Some(of), .. } = &mut op {
        *of = InSession { proven: true, ..*of };
    }
    op
}

impl Enlisted {
    fn knows(&self, session: SessionId, shard: ShardId) -> bool {
        self.lock().contains(&(session, shard))
    }

    fn learn(&self, session: SessionId, shard: ShardId) {
        let mut known = self.lock();
        // Asking once more costs little.
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert((session, shard));
    }

    fn forget(&self, session: SessionId, shard: ShardId) {
        self.lock().remove(&(session, shard));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<(SessionId, ShardId)>> {
        self.0.lock().expect("nothing panics while it holds this")
    }
}
