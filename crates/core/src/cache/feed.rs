//! What a node's part in the cache has changed, numbered, for those who watch: the last of it.
//!
//! A feed is no part of coherence: nobody waits for its readers, and what it no longer remembers is
//! a gap that its reader is told of. It knows neither readers nor time.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Key, Version};

/// Bytes that a feed remembers, as [`Cost`] counts them: some 40,000 changes of short keys.
pub const FEED_BYTES_MAX: usize = 4 << 20;

/// Something that whoever keeps values elsewhere must hear of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum News {
    /// Whatever is kept of a key from before is not what a read answers with any more.
    Changed {
        /// Its namespace included.
        key: Key,
        /// What was read with this version or an older one has been replaced, or is gone: for
        /// [`Change::Set`] only what is older than it.
        version: Version,
        /// How.
        how: Change,
    },
    /// Everything of a namespace that this node is home of is gone.
    Flushed {
        /// Which.
        namespace: Arc<str>,
    },
}

/// What became of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// There is another one.
    Set,
    /// It was removed.
    Deleted,
    /// It made room for others.
    Evicted,
    /// Its owner fell silent, and whatever that has written is gone.
    Lost,
}

/// Bytes that an entry takes.
pub trait Cost {
    /// About so many.
    fn cost(&self) -> usize;
}

impl Cost for News {
    fn cost(&self) -> usize {
        const NEWS_BYTES: usize = 96;
        NEWS_BYTES
            + match self {
                Self::Changed { key, .. } => key.len(),
                Self::Flushed { namespace } => namespace.len(),
            }
    }
}

/// The last entries of a sequence whose numbers begin at 1.
#[derive(Clone, Debug)]
pub struct Feed<T> {
    entries: VecDeque<T>,
    /// The number of the last entry that there ever was.
    last: u64,
    bytes: usize,
    bytes_max: usize,
}

/// What came after a number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since<T> {
    /// Nothing in between is forgotten; otherwise there are no entries.
    pub whole: bool,
    /// The number of the first of `entries`.
    pub first: u64,
    /// In order, as many as were asked for.
    pub entries: Vec<T>,
    /// The number of the last entry of the feed.
    pub last: u64,
}

impl<T: Cost + Clone> Feed<T> {
    /// An empty feed that remembers about `bytes_max` bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { entries: VecDeque::new(), last: 0, bytes: 0, bytes_max }
    }

    /// Adds an entry, and forgets the oldest ones beyond the bound.
    pub fn push(&mut self, entry: T) {
        self.bytes += entry.cost();
        self.entries.push_back(entry);
        self.last += 1;
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.entries.pop_front()
        {
            self.bytes -= oldest.cost();
        }
    }

    /// The number of the last entry; 0 before the first.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Forgets every entry; the numbers go on, with one in between that no reader has seen.
    pub fn forget(&mut self) {
        self.entries.clear();
        self.bytes = 0;
        self.last += 1;
    }

    /// At most `max` entries after number `seq`. A number that was never given out is a gap as well.
    #[must_use]
    pub fn after(&self, seq: u64, max: usize) -> Since<T> {
        let before_first = self.last - self.entries.len() as u64;
        let whole = (before_first..=self.last).contains(&seq);
        let known =
            if whole { usize::try_from(seq - before_first).unwrap_or(usize::MAX) } else { usize::MAX };
        let entries = self.entries.iter().skip(known).take(max).cloned().collect();
        Since { whole, first: seq.saturating_add(1), entries, last: self.last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Cost for u64 {
        fn cost(&self) -> usize {
            10
        }
    }

    fn feed(entries: u64) -> Feed<u64> {
        let mut feed = Feed::new(30);
        (1..=entries).for_each(|entry| feed.push(entry));
        feed
    }

    #[test]
    fn a_reader_gets_everything_after_its_number_or_is_told_of_a_gap() {
        let feed = feed(5);
        for (seq, whole, entries) in [
            (5, true, vec![]),
            (3, true, vec![4, 5]),
            (2, true, vec![3, 4, 5]),
            (1, false, vec![]),
            (6, false, vec![]),
        ] {
            assert_eq!(feed.after(seq, 10), Since { whole, first: seq + 1, entries, last: 5 }, "after {seq}");
        }
        assert_eq!(feed.after(2, 2).entries, [3, 4], "no more than asked for");
        assert!(!feed.after(u64::MAX, 1).whole);
    }

    #[test]
    fn a_new_feed_has_no_gap() {
        assert!(feed(0).after(0, 1).whole);
        assert_eq!(feed(2).after(0, 9).entries, [1, 2]);
    }

    #[test]
    fn an_entry_larger_than_the_feed_is_a_gap_and_no_panic() {
        let mut feed = Feed::new(5);
        feed.push(1);
        assert_eq!((feed.last(), feed.bytes), (1, 0));
        assert!(!feed.after(0, 1).whole && feed.after(1, 1).whole);
    }

    #[test]
    fn whoever_knew_the_end_of_a_feed_that_forgot_everything_is_told_so() {
        let mut feed = feed(3);
        feed.forget();
        assert!(!feed.after(3, 1).whole);
        feed.push(7);
        assert_eq!(feed.after(4, 9).entries, [7]);
    }
}
