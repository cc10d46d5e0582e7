//! Who waits for an answer of the machines at this node, and how many may.
//!
//! It does not know what they wait for.

use std::collections::BTreeMap;

use lockstep_core::cache::message::{Answer, Refusal};
use lockstep_core::cache::{Key, Tag};
use tokio::sync::oneshot;

use super::ReadAnswer;

/// Callers that wait for an answer of a machine, by tag.
pub(super) struct Parked {
    next: Tag,
    max: usize,
    callers: BTreeMap<Tag, oneshot::Sender<Answer>>,
    /// Callers among them that wait for somebody else to fill a value in, for as long as they said.
    loads: BTreeMap<Tag, Key>,
    readers: BTreeMap<Tag, oneshot::Sender<ReadAnswer>>,
}

impl Parked {
    /// Nobody waits, and never more than `max` for answers of the home machine, with as many loads beside.
    pub(super) fn new(max: usize) -> Self {
        let (callers, loads, readers) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { next: 0, max, callers, loads, readers }
    }

    /// Waits for an answer of the home machine. Errors: as many wait as may; where that is said.
    pub(super) fn caller(&mut self) -> Result<(Tag, oneshot::Receiver<Answer>), oneshot::Receiver<Answer>> {
        if self.callers.len() - self.loads.len() < self.max {
            return Ok(self.caller_anyway());
        }
        Err(refused())
    }

    /// Like [`Self::caller`], for a load: it parks on purpose, and takes nobody else's place.
    pub(super) fn loader(
        &mut self,
        key: Key,
    ) -> Result<(Tag, oneshot::Receiver<Answer>), oneshot::Receiver<Answer>> {
        if self.loads.len() < self.max {
            let (tag, receiver) = self.caller_anyway();
            self.loads.insert(tag, key);
            return Ok((tag, receiver));
        }
        Err(refused())
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

    /// Who waits, and for which key to be loaded.
    pub(super) fn take_caller(&mut self, tag: Tag) -> Option<(oneshot::Sender<Answer>, Option<Key>)> {
        let load = self.loads.remove(&tag);
        self.callers.remove(&tag).map(|caller| (caller, load))
    }

    /// Whether somebody waits for that answer of the home machine still.
    pub(super) fn is_waiting(&self, tag: Tag) -> bool {
        self.callers.get(&tag).is_some_and(|caller| !caller.is_closed())
    }

    /// How many wait for an answer of the home machine, or did and have gone.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.callers.len()
    }

    pub(super) fn take_reader(&mut self, tag: Tag) -> Option<oneshot::Sender<ReadAnswer>> {
        self.readers.remove(&tag)
    }
}

fn refused() -> oneshot::Receiver<Answer> {
    let (sender, receiver) = oneshot::channel();
    let _ = sender.send(Answer::Refused(Refusal::Overloaded));
    receiver
}
