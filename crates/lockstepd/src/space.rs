//! How full the disks are: this node's own, and those of the members that replicate its shards.
//!
//! Every answer to the log's messages says whether its node's disk is full, so a leader knows within
//! a heartbeat. It refuses nothing itself: the log does, and only what brings message bodies.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use lockstep_core::names::NodeId;

use crate::clock::Clock;

/// A member that has said nothing for so long no longer counts: it may be gone for good.
const HEARD_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks of a node whose log is busy: so little can be written meanwhile that it always fits.
const AGAIN_AFTER_US: u64 = 2_000;
/// How often a node looks whose log stands still.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What one node knows of disks.
#[derive(Default)]
pub struct Space {
    full: AtomicBool,
    /// Where to look, and from how many percent on it is full.
    place: OnceLock<(PathBuf, u64)>,
    /// When a message of the log made it look, in microseconds of the node's clock.
    looked_us: AtomicU64,
}

impl Space {
    /// A disk with room.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Whether this node's disk is full enough that nothing large may be added.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Looks how full the disk below `data` is, for ever: full is `percent_max` of a hundred.
    pub async fn watch(self: Arc<Self>, data: PathBuf, percent_max: u64) {
        let _ = self.place.set((data, percent_max));
        loop {
            self.look();
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Looks, unless it just has. For every message of the log: a small disk fills in less time than
    /// lies between two looks of [`Self::watch`].
    pub fn look_at(&self, now: Duration) {
        let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let last = self.looked_us.load(Ordering::Relaxed);
        if now.abs_diff(last) >= AGAIN_AFTER_US {
            self.looked_us.store(now, Ordering::Relaxed);
            self.look();
        }
    }

    fn look(&self) {
        let Some((data, percent_max)) = self.place.get() else { return };
        match usage(data) {
            Ok(usage) => self.set_full(usage.percent >= *percent_max),
            Err(error) => tracing::warn!(%error, "cannot tell how full the disk is"),
        }
    }

    /// What was measured.
    pub fn set_full(&self, full: bool) {
        if self.full.swap(full, Ordering::Relaxed) != full {
            if full {
                tracing::warn!("the disk is nearly full: pushes are refused until there is room");
            } else {
                tracing::warn!("the disk has room again");
            }
        }
    }
}

/// The disks of one shard's members.
pub struct Voters {
    own: Arc<Space>,
    clock: Clock,
    /// When each full one was last heard of.
    full: Mutex<BTreeMap<NodeId, Duration>>,
}

impl Voters {
    /// None of them is full, as far as this node knows.
    pub fn new(own: Arc<Space>, clock: Clock) -> Arc<Self> {
        Arc::new(Self { own, clock, full: Mutex::default() })
    }

    /// `node` has said whether its disk is full.
    pub fn heard(&self, node: NodeId, full: bool) {
        let now = self.clock.now();
        self.own.look_at(now);
        let mut all = self.lock();
        if full {
            all.insert(node, now);
        } else if !all.is_empty() {
            all.remove(&node);
        }
    }

    /// Whether any member's disk is full.
    pub fn any_full(&self) -> bool {
        let mut all = self.lock();
        if !all.is_empty() {
            let now = self.clock.now();
            all.retain(|_, heard| now.saturating_sub(*heard) < HEARD_WITHIN);
        }
        self.own.is_full() || !all.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Duration>> {
        self.full.lock().expect("nothing panics while it holds this")
    }
}

/// A disk's size, and how much of it is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in all.
    pub total: u64,
    /// Of a hundred that may be used, as `df` counts.
    pub percent: u64,
}

/// Asks the file system that holds `path`.
pub fn usage(path: &Path) -> io::Result<Usage> {
    let stat = rustix::fs::statvfs(path)?;
    let used = stat.f_blocks.saturating_sub(stat.f_bfree);
    let usable = used.saturating_add(stat.f_bavail);
    let percent = used.saturating_mul(100).div_ceil(usable.max(1));
    Ok(Usage { total: stat.f_blocks.saturating_mul(stat.f_frsize), percent })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_full_member_counts_until_it_says_otherwise_or_is_silent_for_long() {
        let own = Space::new();
        let voters = Voters::new(Arc::clone(&own), Clock::tokio());
        assert!(!voters.any_full());
        voters.heard(NodeId(2), true);
        assert!(voters.any_full());
        voters.heard(NodeId(3), false);
        assert!(voters.any_full());
        voters.heard(NodeId(2), false);
        assert!(!voters.any_full());
        voters.heard(NodeId(2), true);
        tokio::time::advance(HEARD_WITHIN).await;
        assert!(!voters.any_full());
        own.set_full(true);
        assert!(voters.any_full());
    }

    #[test]
    fn a_disk_says_how_large_it_is() {
        let usage = usage(Path::new("/")).unwrap();
        assert!(usage.total > 0 && usage.percent <= 100, "{usage:?}");
    }
}
