//! Watching the cache from one node: the feeds of all members become one, with numbers of its own.
//!
//! While anybody watches here, this node follows what every member says it has changed. Whatever may
//! have been missed becomes a *reset* in the common feed: a member's process is another one, its feed
//! has forgotten what was not heard yet, or it has left the ring. While a member is silent, or this
//! node does not know whether it is one itself, resets are repeated, so that nobody who obeys them
//! keeps anything for long. Sources of the changes are asked one after the other in no order: only
//! those of one member stay in theirs. It sends nothing itself, and it holds up no write.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::feed::{Cost, FEED_BYTES_MAX, Feed, News, Since};
use crate::names::{Incarnation, NodeId, Origin};
use crate::stamp::Millis;

#[cfg(test)]
mod tests;

/// How long a member takes to answer when it has nothing to say.
pub const FOLLOW_WAIT: Millis = Millis(500);

/// An answer that takes longer is waited for no more: there is time for another question before its
/// member counts as silent.
pub const FOLLOW_TIMEOUT: Millis = Millis(1_500);

/// A member that has not answered any question asked since so long may have changed anything.
pub const SILENT_MAX: Millis = Millis(3_000);

/// While a member is silent, so often is everything reset.
pub const RESET_EVERY: Millis = Millis(1_000);

/// So long after the last watcher has gone, another one can still go on where it stopped.
pub const LINGER: Millis = Millis(60_000);

/// Changes in one answer.
pub const NEWS_MAX: usize = 256;

/// An entry of the common feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Something changed.
    News(News),
    /// Something may have changed that nobody can name.
    Reset(Gap),
}

/// Why changes may have been missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// A member's process ended, its feed forgot too early, or it lost lines that it cannot name.
    Missed,
    /// A member left the ring, or may have come and left unseen.
    Ring,
    /// A member is silent, or this node is none at present; repeated for as long as that lasts.
    Away,
}

impl Cost for Told {
    fn cost(&self) -> usize {
        match self {
            Self::News(news) => news.cost(),
            Self::Reset(_) => 64,
        }
    }
}

/// What a member answers to those who follow it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// Its process, by the first name under which it was admitted.
    pub process: Incarnation,
    /// The ring that it knows.
    pub ring_epoch: u64,
    /// What of its feed comes after the number that was asked for.
    pub since: Since<News>,
}

impl Heard {
    /// What `process` answers out of its feed.
    #[must_use]
    pub fn new(process: Incarnation, ring_epoch: u64, feed: &Feed<News>, ask: Ask) -> Self {
        let is_other = ask.process.is_some_and(|known| known != process);
        let after = ask.after.filter(|_| !is_other).unwrap_or(u64::MAX);
        Self { process, ring_epoch, since: feed.after(after, NEWS_MAX) }
    }

    /// Whether there is anything to be said before the asker has waited.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        !self.since.whole || !self.since.entries.is_empty()
    }
}

/// Where to go on with a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// The process that the number is of, if one was ever heard.
    pub process: Option<Incarnation>,
    /// What is known already; `None`: everything until now.
    pub after: Option<u64>,
}

/// A member that is followed, since it was last begun with: whoever asks it stops when this is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follow {
    /// Whom.
    pub member: Origin,
    round: u64,
}

/// What one node knows of the changes of all members.
#[derive(Clone, Debug)]
pub struct Watching {
    node: NodeId,
    ring_epoch: u64,
    log: Feed<Told>,
    /// Members that are followed, this node not among them.
    sources: BTreeMap<Origin, Source>,
    /// How often following was begun with.
    round: u64,
    is_active: bool,
    watchers: usize,
    /// Since when nobody watches.
    idle_since: Millis,
    last_reset: Millis,
}

#[derive(Clone, Debug)]
struct Source {
    round: u64,
    ask: Ask,
    /// Nothing that it did before is unheard.
    heard: Millis,
}

impl Watching {
    /// Nobody watches at `node` yet.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            ring_epoch: 0,
            log: Feed::new(FEED_BYTES_MAX),
            sources: BTreeMap::new(),
            round: 0,
            is_active: false,
            watchers: 0,
            idle_since: Millis(0),
            last_reset: Millis(0),
        }
    }

    /// Somebody begins to watch, under the ring of these members. Returns those that have to be
    /// followed from now on.
    pub fn enter(
        &mut self,
        ring_epoch: u64,
        members: impl Iterator<Item = Origin>,
        now: Millis,
    ) -> Vec<Follow> {
        self.watchers += 1;
        if self.is_active {
            return Vec::new();
        }
        self.is_active = true;
        self.ring_epoch = ring_epoch;
        self.log.forget();
        self.sources.clear();
        self.begin_with(members, None, now)
    }

    /// How many watch.
    #[must_use]
    pub fn watchers(&self) -> usize {
        self.watchers
    }

    /// Somebody watches no more.
    pub fn leave(&mut self, now: Millis) {
        self.watchers = self.watchers.saturating_sub(1);
        self.idle_since = now;
    }

    /// The members are these now. Returns those that have to be followed from now on. What they
    /// change before that is not missed: they remember it from their first change on.
    pub fn set_members(
        &mut self,
        ring_epoch: u64,
        members: impl Iterator<Item = Origin>,
        now: Millis,
    ) -> Vec<Follow> {
        if !self.is_active {
            return Vec::new();
        }
        // Somebody may have come, changed something and left in between.
        let skips = ring_epoch > self.ring_epoch.saturating_add(1);
        self.ring_epoch = ring_epoch;
        let members: BTreeSet<Origin> = members.collect();
        let before = self.sources.len();
        self.sources.retain(|member, _| members.contains(member));
        if skips || self.sources.len() < before {
            self.reset(Gap::Ring, now);
        }
        self.begin_with(members.into_iter(), Some(0), now)
    }

    /// Follows those that are not followed yet, from behind this number.
    fn begin_with(
        &mut self,
        members: impl Iterator<Item = Origin>,
        after: Option<u64>,
        now: Millis,
    ) -> Vec<Follow> {
        self.round += 1;
        let round = self.round;
        // Others may know a newcomer for longer than this node does, but no longer than they are unheard.
        let now = self.sources.values().map(|source| source.heard).min().unwrap_or(now);
        let mut new = Vec::new();
        for member in members.filter(|member| member.node != self.node) {
            self.sources.entry(member).or_insert_with(|| {
                new.push(Follow { member, round });
                Source { round, ask: Ask { process: None, after }, heard: now }
            });
        }
        new
    }

    /// What to ask a member next; `None`: it need not be followed any more.
    #[must_use]
    pub fn ask(&self, of: Follow) -> Option<Ask> {
        self.sources.get(&of.member).filter(|source| source.round == of.round).map(|source| source.ask)
    }

    /// A member has answered what was asked last, at `sent`. Returns whether it has more to tell at once.
    ///
    /// Whatever it changed before that is known now, if this is all; and if it knows the very ring that
    /// we know: by another one it may let somebody write whom this node does not follow.
    pub fn heard(&mut self, of: Follow, heard: Heard, sent: Millis, now: Millis) -> bool {
        let source = self.sources.get_mut(&of.member).filter(|source| source.round == of.round);
        let Some(source) = source else { return false };
        let Heard { process, ring_epoch, since } = heard;
        let before = source.ask;
        let is_same = before.process.is_none_or(|known| known == process);
        let known =
            before.after.filter(|known| is_same && since.whole && since.first == known.saturating_add(1));
        let after = known.map_or(since.last, |known| known.saturating_add(since.entries.len() as u64));
        let is_all = after >= since.last;
        source.ask = Ask { process: Some(process), after: Some(after) };
        if is_all && ring_epoch == self.ring_epoch {
            source.heard = source.heard.max(sent);
        }
        match known {
            Some(_) => since.entries.into_iter().for_each(|news| self.log.push(Told::News(news))),
            None => self.reset(Gap::Missed, now),
        }
        !is_all
    }

    /// This node itself has changed something.
    pub fn own(&mut self, news: &News) {
        if self.is_active {
            self.log.push(Told::News(news.clone()));
        }
    }

    /// This node itself has lost what nobody can name.
    pub fn lost_own(&mut self, now: Millis) {
        if self.is_active {
            self.reset(Gap::Missed, now);
        }
    }

    /// Time has passed; `is_member`: whether this node surely is one, by its own clock.
    pub fn tick(&mut self, is_member: bool, now: Millis) {
        if !self.is_active {
            return;
        }
        if self.watchers == 0 && now.since(self.idle_since) >= LINGER {
            self.is_active = false;
            self.sources.clear();
            return;
        }
        let is_due = now.since(self.last_reset) >= RESET_EVERY;
        if is_due && (!is_member || self.is_anybody_silent(now)) {
            self.reset(Gap::Away, now);
        }
    }

    fn is_anybody_silent(&self, now: Millis) -> bool {
        self.sources.values().any(|source| now.since(source.heard) >= SILENT_MAX)
    }

    /// Whether the feeds of all members are being followed from a number that is known.
    #[must_use]
    pub fn is_in_step(&self) -> bool {
        self.is_active && self.sources.values().all(|source| source.ask.process.is_some())
    }

    /// The number of the last entry.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.log.last()
    }

    /// What came after number `seq`, at most `max` entries.
    #[must_use]
    pub fn after(&self, seq: u64, max: usize) -> Since<Told> {
        self.log.after(seq, max)
    }

    fn reset(&mut self, gap: Gap, now: Millis) {
        self.last_reset = now;
        self.log.push(Told::Reset(gap));
    }
}
