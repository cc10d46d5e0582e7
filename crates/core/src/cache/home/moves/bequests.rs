//! A home that leaves for good sends its lines ahead, to be used if the next ring is this one without it.
//!
//! What does not arrive, or is not used, becomes a miss.

use super::parcels::{Line, MOVED_BYTES};
use super::{Home, Output};
use crate::cache::message::{Answer, Moved};
use crate::names::{NodeId, Origin};
use crate::stamp::Millis;

/// What one leaver has sent ahead.
#[derive(Clone, Debug, Default)]
pub(super) struct Bequest {
    pub(super) ring_epoch: u64,
    pub(super) lines: Vec<Line>,
    pub(super) bytes: usize,
}

impl Home {
    /// Stops to be a home: no line is served any more, and once [`Self::has_left`] no copy of one
    /// can be read. What a node does before it leaves the cluster.
    pub fn retire(&mut self, now: Millis) -> Vec<Output> {
        let mut outputs = Vec::new();
        self.tenure.retire();
        self.abandon_flushes(&mut outputs);
        self.take_back(now, &mut outputs);
        self.move_out(now, &mut outputs);
        self.answer_seals(now, &mut outputs);
        outputs
    }

    /// Whether nothing that this home ever served can be read anywhere.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.moves.leaving == 0 && self.lines.is_empty()
    }

    /// What a home that has left sends to its heirs, in portions, for [`Self::inherit`].
    #[must_use]
    pub fn bequests(&self, now: Millis) -> Vec<(NodeId, Vec<Moved>)> {
        let mut portions = Vec::new();
        for (heir, parcel) in &self.moves.bequeathed {
            let (mut parcel, mut first) = (parcel.clone(), 0);
            loop {
                let (lines, more) = parcel.chunk(first, now);
                first += lines.len() as u64;
                if !lines.is_empty() {
                    portions.push((*heir, lines));
                }
                if !more {
                    break;
                }
            }
        }
        portions
    }

    /// `from` leaves, and these lines are ours if the ring after `ring_epoch` is the same without it.
    pub fn inherit(&mut self, from: Origin, ring_epoch: u64, lines: Vec<Moved>, now: Millis) -> Answer {
        let bequest = self.moves.bequests.entry(from).or_default();
        if ring_epoch < bequest.ring_epoch {
            return Answer::Taken;
        }
        if bequest.ring_epoch != ring_epoch {
            *bequest = Bequest { ring_epoch, ..Bequest::default() };
        }
        for moved in lines {
            let is_welcome = ring_epoch == self.tenure.ring_epoch() && bequest.bytes < self.bytes_max;
            if is_welcome {
                bequest.bytes += moved.key.len() + moved.held.value.len() + MOVED_BYTES;
                // It may be long before the ring changes.
                let deadline = moved.held.left.map(|left| now.plus(left));
                bequest.lines.push(Line { moved, deadline });
            }
        }
        Answer::Taken
    }

    pub(super) fn take_bequests(&mut self, before: &[Origin], now: Millis) {
        let (epoch, after) = (self.tenure.ring_epoch(), self.tenure.origins().collect::<Vec<_>>());
        for (leaver, bequest) in std::mem::take(&mut self.moves.bequests) {
            let rest = before.iter().copied().filter(|origin| *origin != leaver);
            let is_next = epoch == bequest.ring_epoch.saturating_add(1);
            if is_next && before.contains(&leaver) && rest.eq(after.iter().copied()) {
                let lines = bequest.lines.iter().map(|line| line.at(now)).collect();
                self.install(leaver.node, lines, now);
            }
        }
    }
}
