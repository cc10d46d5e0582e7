//! Whether the increments of one key are those of a counter that may begin anew at any time.
//!
//! Versions say in which order increments were done; each sum follows from the one before it. It knows no
//! values but sums: `register` checks everything else.

use std::time::Duration;

/// An increment by one that was answered.
#[derive(Clone, Debug)]
pub struct Sum {
    /// Before it was asked for.
    pub start: Duration,
    /// When its answer was there.
    pub end: Duration,
    /// What it made of the key: two numbers, as the answer has them.
    pub version: (u64, u64),
    /// The sum.
    pub value: u64,
}

/// Why the sums of one key cannot be explained, where `unknown` further increments may have been done.
pub fn check(sums: &[Sum], unknown: u64) -> Result<(), String> {
    let mut sums = sums.to_vec();
    sums.sort_by_key(|sum| sum.version);
    let (mut before, mut latest_start) = (0, Duration::ZERO);
    let mut versions = sums.iter().map(|sum| sum.version).collect::<Vec<_>>();
    versions.dedup();
    if versions.len() != sums.len() {
        return Err("one version was made twice".to_owned());
    }
    let mut unexplained = 0;
    for sum in &sums {
        if sum.end < latest_start {
            return Err(format!("{sum:?} was done before one that had ended when it began"));
        }
        latest_start = latest_start.max(sum.start);
        // It goes on, or begins anew; increments in between were never answered.
        let from = if sum.value > before { before } else { 0 };
        unexplained += sum.value - from - 1;
        before = sum.value;
    }
    if unexplained > unknown {
        return Err(format!("{unexplained} increments too many, and {unknown} of unknown outcome"));
    }
    Ok(())
}

/// `7.12` as two numbers.
pub fn version(text: &str) -> (u64, u64) {
    let part = |text: &str| text.parse().unwrap_or_else(|_| panic!("{text} is no version"));
    text.split_once('.').map_or_else(|| panic!("{text} is no version"), |(one, two)| (part(one), part(two)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(at: u64, version: u64, value: u64) -> Sum {
        let (start, end) = (Duration::from_millis(at), Duration::from_millis(at + 5));
        Sum { start, end, version: (1, version), value }
    }

    #[test]
    fn a_counter_that_begins_anew_is_accepted() {
        check(&[sum(0, 1, 1), sum(10, 5, 2), sum(20, 6, 1), sum(21, 7, 2)], 0).unwrap();
        check(&[sum(0, 1, 1), sum(10, 5, 3)], 1).unwrap();
    }

    #[test]
    fn what_was_added_twice_or_to_an_old_sum_is_refused() {
        check(&[sum(0, 1, 1), sum(10, 5, 3)], 0).unwrap_err();
        check(&[sum(0, 7, 1), sum(10, 5, 2)], 9).unwrap_err();
        check(&[sum(0, 7, 1), sum(1, 7, 2)], 9).unwrap_err();
    }
}
