//! Orders to forget and what comes back: from sharers, from owners, or from nobody in time.
//!
//! It does not know what a change is for; it tells [`super::write`] when nothing is awaited any more.

use super::line::{Line, Owner, Pending, Why};
use super::{Home, Output, write};
use crate::cache::feed::Change;
use crate::cache::message::{Addressee, Answer, Forget, Had, Held, Order};
use crate::cache::{Key, Version};
use crate::names::NodeId;
use crate::stamp::Millis;

impl Home {
    /// Marks the line pending and tells its sharers, or its owner, to forget.
    pub(super) fn begin(&mut self, key: &Key, why: Why, now: Millis, outputs: &mut Vec<Output>) {
        let home = self.tenure.origin();
        let granted = self.newest_granted();
        let Some(line) = self.lines.get_mut(key) else { return };
        self.next_seq += 1;
        let seq = self.next_seq;
        let mut awaiting = std::mem::take(&mut line.sharers);
        awaiting.retain(|node| self.peers.may_read(*node, now));
        let mut orders: Vec<(NodeId, Forget)> =
            awaiting.iter().map(|node| (*node, Forget::Copy { key: key.clone() })).collect();
        if let Some(owner) = line.owner {
            if self.peers.may_read(owner.node, now) {
                let Owner { node, process, grant } = owner;
                let keeps = matches!(why, Why::Share);
                if keeps {
                    line.sharers.insert(node);
                }
                let what = Forget::Owned { key: key.clone(), grant, process, keeps };
                orders.push((owner.node, what));
                awaiting.insert(owner.node);
                self.stats.recalls += 1;
            } else {
                line.lose();
                self.stats.lost += 1;
                outputs.push(write::news(key, granted, Change::Lost));
            }
        }
        if !matches!(why, Why::Share) {
            self.stats.changes_with_sharers += u64::from(!orders.is_empty());
            self.stats.invalidations += orders.len() as u64;
        }
        let moves = matches!(why, Why::Leave);
        for (to, what) in orders {
            self.peers.sent(to, seq, now);
            outputs.push(Output::Forget { to, order: Order { home, seq, what, moves } });
        }
        line.pending = Some(Pending { seq, why, awaiting });
        self.pending.insert(seq, key.clone());
        self.lines.settle(key, false);
    }

    /// `from` has forgotten what the order `seq` named, and had this. Late, repeated and unknown
    /// answers do nothing.
    pub fn acknowledged(&mut self, from: NodeId, seq: u64, had: Had, now: Millis) -> Vec<Output> {
        let mut outputs = Vec::new();
        self.release(from, seq, Some(had), now, &mut outputs);
        outputs
    }

    /// `node` need not be waited for any more: it has answered, or can read nothing.
    pub(super) fn release(
        &mut self,
        node: NodeId,
        seq: u64,
        had: Option<Had>,
        now: Millis,
        outputs: &mut Vec<Output>,
    ) {
        self.peers.settled(node, seq);
        if self.flushes.release(node, seq) {
            return self.complete_flushes(now, outputs);
        }
        let Some(key) = self.pending.get(&seq).cloned() else { return };
        let granted = self.newest_granted();
        let is_stranger = !self.tenure.has(node);
        if let Some(line) = self.lines.get_mut(&key)
            && line.pending.as_mut().is_some_and(|pending| pending.awaiting.remove(&node))
            && line.owner.is_some_and(|owner| owner.node == node)
        {
            match had {
                Some(Had::Nothing) => line.owner = None,
                Some(Had::Written(held)) => {
                    line.take(held, now);
                    outputs.extend(news_of_stranger(is_stranger, &key, line));
                }
                Some(Had::Lost) | None => {
                    line.lose();
                    self.stats.lost += 1;
                    outputs.push(write::news(&key, granted, Change::Lost));
                }
            }
        }
        self.go_on(&key, now, outputs);
    }

    /// No owner has written under a larger version.
    fn newest_granted(&self) -> Version {
        Version { epoch: self.tenure.ring_epoch(), counter: self.counter }
    }

    /// `from` gives a line back that it owns under `grant`. Anything else than the current grant
    /// changes nothing.
    pub fn returned(
        &mut self,
        from: NodeId,
        to: Addressee,
        key: &Key,
        grant: u64,
        written: Option<Held>,
        now: Millis,
    ) -> (Answer, Vec<Output>) {
        let mut outputs = Vec::new();
        let is_stranger = !self.tenure.has(from);
        let is_ours = self.tenure.is_meant(Addressee { ring_epoch: 0, ..to });
        if is_ours
            && let Some(line) = self.lines.get_mut(key)
            && line.owner.is_some_and(|owner| owner.node == from && owner.grant == grant)
        {
            match written {
                Some(held) => {
                    line.take(held, now);
                    outputs.extend(news_of_stranger(is_stranger, key, line));
                }
                None => line.owner = None,
            }
            self.lines.settle(key, true);
            self.go_on(key, now, &mut outputs);
        }
        (Answer::Returned, outputs)
    }
}

/// What an owner wrote that is no member any more: it tells nobody who watches, so its home does.
fn news_of_stranger(is_stranger: bool, key: &Key, line: &Line) -> Option<Output> {
    let how = if line.value.is_some() { Change::Set } else { Change::Deleted };
    is_stranger.then(|| write::news(key, line.version, how))
}
