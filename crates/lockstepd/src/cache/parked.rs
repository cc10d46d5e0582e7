//! Who waits for an answer of the machines at this node, and how many may.
//!
//! It does not know what they wait for.

use std::collections::BTreeMap;

use lockstep_core::cache::Tag;
use lockstep_core::cache::message::{Answer, Refusal};
use tokio::sync::oneshot;

use super::ReadAnswer;

/// Callers that wait for an answer of a machine, by tag.
pub(super) struct Parked {
    next: Tag,
    max: usize,
    callers: BTreeMap<Tag, oneshot::Sender<Answer>>,
    readers: BTreeMap<Tag, oneshot::Sender<ReadAnswer>>,
}

impl Parked {
    /// Nobody waits, and never more than `max` for answers of the home machine.
    pub(super) fn new(max: usize) -> Self {
        Self { next: 0, max, callers: BTreeMap::new(), readers: BTreeMap::new() }
    }

    /// Waits for an answer of the home machine. Errors: as many wait as may; where that is said.
    pub(super) fn caller(&mut self) -> Result<(Tag, oneshot::Receiver<Answer>), oneshot::Receiver<Answer>> {
        if self.callers.len() < self.max {
            return Ok(self.caller_anyway());
        }
        let (sender, receiver) = oneshot::channel();
        let _ = sender.send(Answer::Refused(Refusal::Overloaded));
        Err(receiver)
    }

    /// Waits for an answer of the home machine, however many do.
    pub(super) fn caller_anyway(&mut self) -> (Tag, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        self.next += 1;
        self.callers.insert(self.next, sender);
        (self.next, receiver)
    }

    /// Waits for a read through the copies.
    pub(super) fn reader(&mut self) -> (Tag, oneshot::Receiver<ReadAnswer>) {
        let (sender, receiver) = oneshot::channel();
        self.next += 1;
        self.readers.insert(self.next, sender);
        (self.next, receiver)
    }

    pub(super) fn take_caller(&mut self, tag: Tag) -> Option<oneshot::Sender<Answer>> {
        self.callers.remove(&tag)
    }

    pub(super) fn take_reader(&mut self, tag: Tag) -> Option<oneshot::Sender<ReadAnswer>> {
        self.readers.remove(&tag)
    }
}
