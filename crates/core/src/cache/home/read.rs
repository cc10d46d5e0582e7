//! Reads at the home: registers who will keep a copy before it looks at the value.
//!
//! It changes no value.

use bytes::Bytes;

use super::line::{self, Owner, Queued};
use super::{Home, Output};
use crate::cache::message::{Addressee, Answer, Grant, Held, Refusal, Value, Wish};
use crate::cache::{Key, Tag, Version, space};
use crate::names::NodeId;
use crate::stamp::Millis;

/// Versions that an owner gets to write under.
pub(super) const GRANT_WRITES: u64 = 1 << 20;

impl Home {
    /// The committed value for a reader on this very node: the line itself is its copy.
    /// Errors: `NotHome` if this node may not answer for the key now, `Owned` if it has to ask the
    /// owner first ([`Self::read_here`]).
    pub fn read_own(&self, key: &str, now: Millis) -> Result<Option<Held>, Refusal> {
        if !self.tenure.serves(key, now) {
            return Err(Refusal::NotHome);
        }
        match self.lines.get(key) {
            Some(line) if line.is_leaving() => Err(Refusal::NotHome),
            Some(line) if self.lines.is_flushed(key, line) => Ok(None),
            Some(line) if line.owner.is_some() => Err(Refusal::Owned),
            Some(line) => Ok(line.held(now).inspect(|_| line.touched.set())),
            None => Ok(None),
        }
    }

    /// What was attached to the value of `key`, for a reader on this very node; `None` if there is
    /// nothing, or the value may not be read now, or has a time to live.
    #[must_use]
    pub fn note(&self, key: &str, now: Millis) -> Option<&Bytes> {
        let line = self.lines.get(key).filter(|line| line.owner.is_none() && line.deadline.is_none())?;
        let note = line.note.as_ref().filter(|_| !line.is_leaving())?;
        let may = !self.lines.is_flushed(key, line) && self.tenure.serves(key, now);
        may.then(|| {
            line.touched.set();
            note
        })
    }

    /// Attaches something to the value of `key`, if it still has this version, and there is room that
    /// no value is likely to need soon. It is counted.
    pub fn annotate(&mut self, key: &Key, version: Version, note: Bytes) {
        let has_room = |namespace, max: usize| self.lines.staying(namespace) + note.len() <= max / 16 * 15;
        if has_room(None, self.bytes_max)
            && has_room(Some(space::of(key)), self.share(key))
            && let Some(line) = self.lines.get_mut(key)
            && line.value.is_some()
            && line.version == version
        {
            self.lines.note(key, note);
        }
    }

    /// Like [`Self::read_own`], and waits for the owner if need be. Answered under `tag`.
    pub fn read_here(&mut self, tag: Tag, key: &Key, now: Millis) -> Vec<Output> {
        self.read_for(tag, None, None, key, Wish::Look, now)
    }

    /// The committed value for `from`, which is registered as a sharer first if it wants a copy and
    /// may have one. Answered under `tag`.
    pub fn read(
        &mut self,
        tag: Tag,
        from: NodeId,
        to: Addressee,
        key: &Key,
        wish: Wish,
        now: Millis,
    ) -> Vec<Output> {
        self.read_for(tag, Some(from), Some(to), key, wish, now)
    }

    /// The committed value for this node's own near clients, whose copies this node answers for from
    /// now on like any sharer: registered, with its lease. `None` if nobody may keep a copy now.
    pub fn lend(&mut self, key: &Key, now: Millis) -> Option<(Option<Held>, Millis, Vec<Output>)> {
        let is_ours = self.admit(None, key, now).is_ok() && self.read_own(key, now).is_ok();
        if !is_ours || !self.is_keepable(key) {
            return None;
        }
        let lease = self.lend_on(now)?;
        let me = self.tenure.node();
        self.lines.entry(key).sharers.insert(me);
        let held = self.lines.get_mut(key).and_then(|line| line.held(now));
        self.lines.settle(key, false);
        let mut outputs = Vec::new();
        self.make_room(key, now, &mut outputs);
        Some((held, lease, outputs))
    }

    /// Renews the lease under which this node's own near clients read.
    pub fn lend_on(&mut self, now: Millis) -> Option<Millis> {
        let left = self.tenure.is_open(now).then(|| self.tenure.left(now))?;
        self.peers.grant(self.tenure.node(), left, now)
    }

    fn read_for(
        &mut self,
        tag: Tag,
        from: Option<NodeId>,
        to: Option<Addressee>,
        key: &Key,
        wish: Wish,
        now: Millis,
    ) -> Vec<Output> {
        let mut outputs = Vec::new();
        if let Err(refusal) = self.admit(to, key, now) {
            outputs.push(Output::Answer { tag, answer: Answer::Refused(refusal) });
        } else if self.lines.get(key).is_some_and(|l| l.owner.is_some() && !self.lines.is_flushed(key, l)) {
            self.lines.entry(key).queue.push_back(Queued::Read { tag, from, wish });
            self.advance(key, now, &mut outputs);
        } else {
            self.tell(tag, from, key, wish, now, &mut outputs);
        }
        self.make_room(key, now, &mut outputs);
        outputs
    }

    /// Answers a read of a line that nobody owns.
    pub(super) fn tell(
        &mut self,
        tag: Tag,
        from: Option<NodeId>,
        key: &Key,
        wish: Wish,
        now: Millis,
        outputs: &mut Vec<Output>,
    ) {
        let lease = from.and_then(|from| self.register(from, key, wish, now));
        let (lease, grant) = lease.map_or((None, None), |(lease, grant)| (Some(lease), grant));
        let line = self.lines.get_mut(key);
        let held = line.and_then(|line| line.held(now).inspect(|_| line.touched.set()));
        self.lines.settle(key, false);
        outputs.push(Output::Answer { tag, answer: Answer::Value(Value { held, lease, grant }) });
    }

    /// Nobody may keep a copy of a line that is about to change, nor when the directory is full.
    fn is_keepable(&self, key: &str) -> bool {
        let is_changing = self.lines.get(key).is_some_and(|line| line.pending.is_some())
            || self.flushes.is_flushing(space::of(key));
        !is_changing && self.lines.staying(None) <= self.bytes_max && self.is_worth_its_room(key)
    }

    /// An absence is kept only where no value has to make room for it.
    fn is_worth_its_room(&self, key: &str) -> bool {
        if self.lines.get(key).is_some_and(|line| line.value.is_some() || !line.sharers.is_empty()) {
            return true;
        }
        let room = |namespace, max| self.lines.staying(namespace) + line::cost(key, 0) <= max;
        room(None, self.bytes_max) && room(Some(space::of(key)), self.share(key))
    }

    fn register(
        &mut self,
        from: NodeId,
        key: &Key,
        wish: Wish,
        now: Millis,
    ) -> Option<(Millis, Option<Grant>)> {
        if wish == Wish::Look || from == self.tenure.node() || !self.is_keepable(key) {
            return None;
        }
        let lease = self.peers.grant(from, self.tenure.left(now), now)?;
        let grant = self.give(from, key, wish, now);
        if grant.is_none() {
            self.lines.entry(key).sharers.insert(from);
        }
        Some((lease, grant))
    }

    /// Makes a sole reader the owner where the namespace allows it, if those who watch follow it.
    fn give(&mut self, from: NodeId, key: &Key, wish: Wish, now: Millis) -> Option<Grant> {
        let settings = self.settings(key);
        let Wish::Own { process } = wish else { return None };
        if !settings.write_back || !self.tenure.has(from) {
            return None;
        }
        let line = self.lines.entry(key);
        line.sharers.retain(|node| self.peers.may_read(*node, now));
        if line.fill.is_some() || line.sharers.iter().any(|node| *node != from) {
            return None;
        }
        line.sharers.clear();
        self.next_seq += 1;
        let number = self.next_seq;
        line.owner = Some(Owner { node: from, process, grant: number });
        let after = Version { epoch: self.tenure.ring_epoch(), counter: self.counter };
        self.counter += GRANT_WRITES;
        Some(Grant { number, after, writes: GRANT_WRITES, ttl: settings.ttl })
    }
}
