//! Whether a history of one key is that of a register that may lose its value at any time.
//!
//! Every value is written once. Its *zone* lies between the first end of an operation that wrote or saw
//! it and the last begin of one. A history is linearizable exactly if nothing was seen before it was
//! written, no two values must have been there at the same time, and none must have come and gone while
//! another one was there. Source: Gibbons and Korach, "Testing Shared Memories" (1997). A read that
//! finds nothing says nothing: a value may become a miss at any time.

use std::collections::BTreeMap;
use std::time::Duration;

/// What an operation did or saw. Values are named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// This value was written.
    Write(String),
    /// This value was seen.
    Read(String),
    /// The first was there, and the second took its place at once.
    Swap(String, String),
    /// There was nothing at some instant in between.
    Delete,
}

/// One operation.
#[derive(Clone, Debug)]
pub struct Op {
    /// Before it was asked for.
    pub start: Duration,
    /// When its answer was there; `None`: it may have been done, or may be done some day.
    pub end: Option<Duration>,
    /// What.
    pub what: What,
}

#[derive(Clone, Debug)]
struct Zone {
    written: Option<Duration>,
    first_end: Duration,
    last_start: Duration,
}

/// Why the history of one key cannot be explained.
pub fn check(ops: &[Op]) -> Result<(), String> {
    let zones = zones(ops)?;
    let all: Vec<(&String, &Zone)> = zones.iter().collect();
    for (nth, (name, zone)) in all.iter().enumerate() {
        if zone.written.is_none_or(|written| written > zone.first_end) {
            return Err(format!("{name} was seen and had not been written"));
        }
        for (other_name, other) in &all[nth + 1..] {
            let met = [(*zone, *other), (*other, *zone)].into_iter().any(|(one, two)| conflict(one, two));
            if met {
                return Err(format!("{name} and {other_name}: {zone:?}, {other:?}"));
            }
        }
    }
    for op in ops {
        if let (What::Swap(from, to), Some(_)) = (&op.what, op.end) {
            let between = all.iter().find(|(name, zone)| {
                *name != from && *name != to && before(&zones[from], zone) && before(zone, &zones[to])
            });
            if let Some((name, _)) = between {
                return Err(format!(
                    "{name} was there between {from} and {to}, which took its place at once"
                ));
            }
        }
    }
    Ok(())
}

/// Whether `one` is there from first to last while `two` must be there as well, or come and go.
fn conflict(one: &Zone, two: &Zone) -> bool {
    let must_last = one.first_end < one.last_start;
    must_last && one.first_end < two.last_start && two.first_end < one.last_start
}

/// Whether `one` must have been there before `two`.
fn before(one: &Zone, two: &Zone) -> bool {
    one.first_end < two.last_start
}

fn zones(ops: &[Op]) -> Result<BTreeMap<String, Zone>, String> {
    let mut zones = BTreeMap::<String, Zone>::new();
    let mut note = |name: String, op: &Op, writes: bool| {
        let zone = zones.entry(name.clone()).or_insert(Zone {
            written: None,
            first_end: Duration::MAX,
            last_start: Duration::ZERO,
        });
        if writes && zone.written.replace(op.start).is_some() {
            return Err(format!("{name} was written twice"));
        }
        zone.first_end = zone.first_end.min(op.end.unwrap_or(Duration::MAX));
        zone.last_start = zone.last_start.max(op.start);
        Ok(())
    };
    for (nth, op) in ops.iter().enumerate() {
        match &op.what {
            What::Write(name) => note(name.clone(), op, true)?,
            What::Read(name) => note(name.clone(), op, false)?,
            What::Swap(from, to) => {
                if op.end.is_some() {
                    note(from.clone(), op, false)?;
                }
                note(to.clone(), op, true)?;
            }
            // Its nothing is a value of its own. One that may never happen proves nothing.
            What::Delete if op.end.is_some() => note(format!("nothing {nth}"), op, true)?,
            What::Delete => {}
        }
    }
    // What may never have been written, and nobody saw, is nowhere.
    zones.retain(|_, zone| zone.first_end != Duration::MAX);
    Ok(zones)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(start: u64, end: u64, what: What) -> Op {
        let end = (end > 0).then(|| Duration::from_millis(end));
        Op { start: Duration::from_millis(start), end, what }
    }

    fn write(start: u64, end: u64, name: &str) -> Op {
        op(start, end, What::Write(name.into()))
    }

    fn read(start: u64, end: u64, name: &str) -> Op {
        op(start, end, What::Read(name.into()))
    }

    #[test]
    fn what_a_register_can_do_is_accepted() {
        let overlapping =
            [write(1, 9, "a"), write(2, 8, "b"), read(3, 4, "b"), read(5, 6, "a"), read(7, 8, "a")];
        check(&overlapping).unwrap();
        let unknown = [write(1, 0, "a"), write(2, 3, "b"), read(4, 5, "b"), read(6, 7, "a"), read(8, 9, "a")];
        check(&unknown).unwrap();
        let swapped = [write(1, 2, "a"), op(3, 4, What::Swap("a".into(), "b".into())), read(5, 6, "b")];
        check(&swapped).unwrap();
        check(&[write(1, 2, "a"), op(3, 4, What::Delete), write(5, 0, "never")]).unwrap();
    }

    #[test]
    fn a_stale_history_is_refused() {
        let stale = [write(1, 2, "a"), write(3, 4, "b"), read(5, 6, "a")];
        check(&stale).unwrap_err();
        let new_then_old = [write(1, 2, "a"), write(3, 20, "b"), read(4, 5, "b"), read(6, 7, "a")];
        check(&new_then_old).unwrap_err();
        check(&[write(1, 2, "a"), op(3, 4, What::Delete), read(5, 6, "a")]).unwrap_err();
        check(&[read(1, 2, "a"), write(3, 4, "a")]).unwrap_err();
        check(&[read(1, 2, "never written")]).unwrap_err();
        let old_after_unknown = [write(1, 2, "a"), write(3, 0, "b"), read(5, 6, "b"), read(7, 8, "a")];
        check(&old_after_unknown).unwrap_err();
    }

    #[test]
    fn a_swap_over_a_value_in_between_is_refused() {
        let swap = op(5, 6, What::Swap("a".into(), "c".into()));
        check(&[write(1, 2, "a"), write(3, 4, "b"), swap.clone()]).unwrap_err();
        check(&[write(1, 2, "a"), swap, write(7, 8, "b")]).unwrap();
    }
}
