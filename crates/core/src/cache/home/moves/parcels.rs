//! Lines on their way to another home, in portions.
//!
//! It knows no rings; who gets what is decided in [`super`].

use crate::cache::message::Moved;
use crate::stamp::Millis;

/// Bytes of lines in one message.
const CHUNK: usize = 256 << 10;
/// What a line on its way costs beside its key and value.
pub(super) const MOVED_BYTES: usize = 64;

#[derive(Clone, Debug, Default)]
pub(super) struct Parcel {
    pub(super) lines: Vec<Line>,
    /// Since when its new home may have all of it, and serve.
    pub(super) told_all: Option<Millis>,
    /// How many lines it had before they were forgotten.
    pub(super) forgotten: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) moved: Moved,
    pub(super) deadline: Option<Millis>,
}

impl Parcel {
    pub(super) fn forget(&mut self) {
        self.forgotten += std::mem::take(&mut self.lines).len() as u64;
    }

    /// From line number `first` on, as many as fit one message, and whether that is not all.
    pub(super) fn chunk(&mut self, first: u64, now: Millis) -> (Vec<Moved>, bool) {
        let mut bytes = 0;
        let from = usize::try_from(first).unwrap_or(usize::MAX).min(self.lines.len());
        let fits = |line: &&Line| {
            let is_first = bytes == 0;
            bytes += line.moved.key.len() + line.moved.held.value.len() + MOVED_BYTES;
            is_first || bytes <= CHUNK
        };
        let lines: Vec<Moved> = self.lines[from..].iter().take_while(fits).map(|line| line.at(now)).collect();
        let more = from + lines.len() < self.lines.len();
        if !more {
            self.told_all = self.told_all.or(Some(now));
        }
        (lines, more)
    }
}

impl Line {
    /// As it is now.
    pub(super) fn at(&self, now: Millis) -> Moved {
        let mut moved = self.moved.clone();
        moved.held.left = self.deadline.map(|end| end.since(now));
        moved
    }
}
