//! The promises, checked over what happened.

use std::collections::{BTreeMap, BTreeSet};

use super::cluster::Run;
use super::history::{Event, What};

/// Fewer acknowledged operations than this prove nothing.
const TOO_FEW: usize = 60;

/// Clients that a crash may take in the middle of something.
const CLIENTS_A_NODE: usize = 3;

/// Every promise. Panics with what was broken.
pub fn everything(run: &Run) {
    let events = run.history.events();
    let done = events
        .iter()
        .filter(|event| !matches!(event.what, What::Failed { .. } | What::State { .. } | What::Left))
        .count();
    assert!(done >= TOO_FEW, "seed {} did {done} things: that proves nothing", run.seed);
    tokens_only_grow(&events);
    nothing_acknowledged_is_lost(&events);
    reads_are_never_older(&events);
    versions_are_unique(&events);
    flushed_values_stay_away(&events);
    nothing_is_written_between(&events);
    increments_count_once(&events, run.faults);
    replicas_agree(&events);
}

/// A grant that began after another had ended has a larger token, and no two owners share one.
fn tokens_only_grow(events: &[Event]) {
    let mut owners: BTreeMap<u64, &String> = BTreeMap::new();
    let mut grants: Vec<(&Event, u64, &String)> = Vec::new();
    for event in events {
        let What::Granted { lock, owner, token } = &event.what else { continue };
        let first = owners.entry(*token).or_insert(owner);
        assert_eq!(*first, owner, "token {token} was granted twice: {event:?}");
        for (before, smaller, of) in &grants {
            let later = before.ended < event.begun && *of == lock;
            assert!(!later || smaller < token, "a token went back: {before:?}, then {event:?}");
        }
        grants.push((event, *token, lock));
    }
}

/// What was acknowledged as pushed was received; nothing else was; what was acknowledged as done was
/// never delivered again.
fn nothing_acknowledged_is_lost(events: &[Event]) {
    let (mut tried, mut pushed, mut received) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut acked: BTreeMap<&String, &Event> = BTreeMap::new();
    for event in events {
        match &event.what {
            What::Pushed { payload, acknowledged } => {
                tried.insert(payload);
                if *acknowledged {
                    pushed.insert(payload);
                }
            }
            What::Received { payload, .. } => {
                received.insert(payload);
                if let Some(done) = acked.get(payload) {
                    assert!(event.begun <= done.ended, "delivered after {done:?}: {event:?}");
                }
            }
            What::Acked { payload } => {
                acked.insert(payload, event);
            }
            _ => {}
        }
    }
    let lost: Vec<_> = pushed.difference(&received).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    // A push whose node crashed in the middle was tried, although nobody wrote that down.
    let unknown: Vec<_> = received.iter().filter(|payload| payload.split('.').count() != 4).collect();
    assert!(unknown.is_empty(), "from nowhere: {unknown:?}");
    assert!(!tried.is_empty(), "nothing was pushed");
}

/// Once a write has returned or a read has shown a version, no later read shows an older one.
fn reads_are_never_older(events: &[Event]) {
    let mut seen: Vec<(&Event, &String, (u64, u64))> = Vec::new();
    for event in events {
        let (key, version, reads) = match &event.what {
            What::Wrote { key, version } => (key, *version, false),
            What::Read { key, version: Some(version) } => (key, *version, true),
            _ => continue,
        };
        for (before, of, known) in &seen {
            let stale = reads && *of == key && before.ended < event.begun && version < *known;
            assert!(!stale, "a read went back: {before:?}, then {event:?}");
        }
        seen.push((event, key, version));
    }
}

/// No two writes of a key have one version.
fn versions_are_unique(events: &[Event]) {
    let mut seen: BTreeMap<(&String, (u64, u64)), &Event> = BTreeMap::new();
    for event in events {
        let What::Wrote { key, version } = &event.what else { continue };
        if let Some(before) = seen.insert((key, *version), event) {
            panic!("one version twice: {before:?}, then {event:?}");
        }
    }
}

/// A write on the condition that nothing was written since took the place of what it had seen.
fn nothing_is_written_between(events: &[Event]) {
    let wrote = |event: &Event| match &event.what {
        What::Wrote { key, version } => Some((key.clone(), *version)),
        _ => None,
    };
    let written: BTreeSet<_> = events.iter().filter_map(wrote).collect();
    for event in events {
        let What::Swapped { key, from, to } = &event.what else { continue };
        assert!(from < to, "it wrote an older version: {event:?}");
        let between = written.iter().find(|(of, version)| of == key && from < version && version < to);
        assert!(between.is_none(), "{between:?} was written before {event:?}");
    }
}

/// In the order of their versions each sum is one more than the last, or begins anew. What was never
/// answered may have been done as well: a write that failed, or one of a node that crashed.
fn increments_count_once(events: &[Event], faults: usize) {
    let failed = events.iter().filter(|e| matches!(e.what, What::Failed { op: "write", .. })).count();
    let unknown = (failed + CLIENTS_A_NODE * faults) as i64;
    let mut sums: BTreeMap<&String, BTreeMap<(u64, u64), i64>> = BTreeMap::new();
    for event in events {
        if let What::Counted { key, version, sum } = &event.what {
            sums.entry(key).or_default().insert(*version, *sum);
        }
    }
    for (key, sums) in sums {
        let (mut last, mut more) = (0, 0);
        for sum in sums.values() {
            more += if *sum > last { sum - last - 1 } else { sum - 1 };
            last = *sum;
        }
        assert!(more <= unknown, "{key}: {more} increments nobody asked for, in {sums:?}");
    }
}

/// What was there before a flush began is not seen after it has returned.
fn flushed_values_stay_away(events: &[Event]) {
    let known = |event: &Event| match &event.what {
        What::Wrote { key, version } | What::Read { key, version: Some(version) } => {
            (!key.contains('\0')).then(|| (key.clone(), *version))
        }
        _ => None,
    };
    for flush in events.iter().filter(|event| matches!(event.what, What::Flushed)) {
        let before: BTreeSet<_> = events.iter().filter(|e| e.ended < flush.begun).filter_map(known).collect();
        for event in events.iter().filter(|event| event.begun > flush.ended) {
            if let (What::Read { .. }, Some(seen)) = (&event.what, known(event)) {
                assert!(!before.contains(&seen), "flushed by {flush:?} and seen again: {event:?}");
            }
        }
    }
}

/// Replicas that have applied the same log hold the same bytes.
fn replicas_agree(events: &[Event]) {
    let mut states: BTreeMap<(u32, u64), (u64, u64)> = BTreeMap::new();
    for event in events {
        let What::State { shard, index, hash } = event.what else { continue };
        let (node, first) = *states.entry((shard, index)).or_insert((event.node, hash));
        assert_eq!(first, hash, "shard {shard} at {index}: nodes {node} and {} differ", event.node);
    }
}
