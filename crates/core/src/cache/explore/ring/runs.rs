//! Which bounds are walked, and what must have happened within them.

use super::{Budget, Seen, World};
use crate::cache::explore::walk::{exhaust, seeds, wander};

const NONE: Budget = Budget {
    write_back: false,
    reads: 0,
    writes: 0,
    steps: 0,
    heartbeats: 0,
    renewals: 0,
    looks: 0,
    joins: 0,
    drops: 0,
    leaves: 0,
    crashes: 0,
    flushes: 0,
    repeats: 0,
};

/// One member, and another that may join: the line is that one's then.
fn joining(budget: Budget) -> Seen {
    exhaust(&World::new(budget, &[1], &[1, 2]))
}

/// Two members, and nobody else.
fn pair(budget: Budget) -> Seen {
    exhaust(&World::new(budget, &[1, 2], &[1, 2]))
}

#[test]
fn a_home_that_joins_takes_its_lines_over_and_never_serves_beside_the_old_one() {
    let seen = joining(Budget { joins: 1, reads: 1, writes: 1, ..NONE });
    assert!(seen.homes.len() == 2 && seen.moved > 0 && seen.hits > 0 && seen.writes > 0, "{seen:?}");
}

#[test]
fn a_home_that_leaves_hands_its_lines_over_after_every_copy_is_gone() {
    let seen = pair(Budget { leaves: 1, reads: 1, writes: 1, ..NONE });
    assert!(seen.homes.len() == 2 && seen.moved > 0 && seen.hits > 0 && seen.writes > 0, "{seen:?}");
}

#[test]
fn a_home_that_dies_is_replaced_after_every_copy_of_its_lines_has_ended() {
    let seen = pair(Budget { reads: 1, writes: 1, drops: 1, steps: 3, heartbeats: 1, ..NONE });
    assert!(seen.homes.len() == 2 && seen.missed > 0 && seen.hits > 0, "{seen:?}");
}

#[test]
fn a_restarted_home_serves_only_as_another_and_starts_empty() {
    let seen = joining(Budget { drops: 1, joins: 1, crashes: 1, steps: 3, ..NONE });
    assert!(seen.missed > 0 && seen.homes.len() == 2, "{seen:?}");
}

#[test]
fn a_restarted_home_never_serves_beside_copies_of_what_it_served_before() {
    let again = Budget { drops: 1, joins: 1, crashes: 1, steps: 3, ..NONE };
    let seen = pair(Budget { reads: 1, writes: 1, ..again });
    assert!(seen.missed > 0 && seen.hits > 0 && seen.writes > 0 && seen.read_answers > 0, "{seen:?}");
    let seen = pair(Budget { writes: 1, heartbeats: 1, ..again });
    assert!(seen.homes.len() == 2 && seen.missed > 0 && seen.writes > 0, "{seen:?}");
}

#[test]
fn what_is_due_at_any_moment_is_renewed_forgotten_or_given_back_and_no_copy_is_stale() {
    let seen = pair(Budget { reads: 2, writes: 1, looks: 1, steps: 2, write_back: true, ..NONE });
    assert!(seen.due > 0 && seen.unused > 0 && seen.hits > 0 && seen.writes > 0, "{seen:?}");
    let seen = pair(Budget { reads: 1, writes: 1, looks: 1, steps: 1, leaves: 1, write_back: true, ..NONE });
    assert!(seen.due > 0 && seen.unused > 0 && seen.moved > 0 && seen.homes.len() == 2, "{seen:?}");
}

/// What no bound small enough to be walked in every order has: a little of everything.
const MUCH: Budget = Budget {
    write_back: false,
    reads: 10,
    writes: 6,
    steps: 9,
    heartbeats: 14,
    renewals: 4,
    looks: 4,
    joins: 3,
    drops: 2,
    leaves: 1,
    crashes: 1,
    flushes: 1,
    repeats: 4,
};

fn long_orders(write_back: bool) {
    let world = World::new(Budget { write_back, ..MUCH }, &[1, 2], &[1, 2, 3]);
    if let Some(seen) = wander(&world, seeds(200), 120) {
        assert!(seen.homes.len() == 3 && seen.moved > 0 && seen.missed > 0 && seen.hits > 0, "{seen:?}");
        assert!(seen.writes > 0 && (seen.owners > 0) == write_back, "{seen:?}");
    }
}

#[test]
fn long_orders_of_joins_deaths_and_leaves_show_no_stale_value() {
    long_orders(false);
}

#[test]
fn long_orders_of_joins_deaths_and_leaves_with_owners_show_no_stale_value() {
    long_orders(true);
}

/// Some six minutes on an idle machine:
/// `LOCKSTEP_WALKS=20000 cargo test --release -p lockstep-core explore -- --include-ignored`.
#[test]
#[ignore = "takes minutes"]
fn wider_bounds_of_joins_deaths_and_leaves_show_no_stale_value_either() {
    let back = Budget { write_back: true, ..NONE };
    joining(Budget { joins: 1, reads: 2, writes: 1, repeats: 1, ..back });
    joining(Budget { joins: 2, drops: 1, crashes: 1, steps: 3, ..NONE });
    pair(Budget { joins: 1, drops: 1, crashes: 1, steps: 3, ..NONE });
    pair(Budget { leaves: 1, reads: 2, writes: 2, repeats: 1, ..NONE });
    pair(Budget { reads: 1, writes: 2, drops: 1, steps: 3, heartbeats: 2, ..NONE });
    pair(Budget { reads: 1, writes: 1, drops: 1, joins: 1, crashes: 1, steps: 3, heartbeats: 1, ..NONE });
    exhaust(&World::new(Budget { joins: 1, writes: 1, ..NONE }, &[1, 2], &[1, 2, 3]));
}
