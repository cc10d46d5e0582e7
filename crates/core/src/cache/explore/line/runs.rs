//! Which bounds are walked, and what must have happened within them.

use super::{Budget, Seen, World};
use crate::cache::explore::walk::{exhaust, seeds, wander};

const NONE: Budget = Budget {
    write_back: false,
    two_keys: false,
    alone: false,
    reads: 0,
    writes: 0,
    deletes: 0,
    renewals: 0,
    looks: 0,
    steps: 0,
    repeats: 0,
    restarts: 0,
    squeezes: 0,
    owned_writes: 0,
    returns: 0,
    flushes: 0,
    loads: 0,
    turns: 0,
    lends: 0,
};
const BACK: Budget = Budget { write_back: true, ..NONE };

fn explore(budget: Budget) -> Seen {
    exhaust(&World::new(budget))
}

#[test]
fn no_order_of_messages_and_lease_ends_shows_a_stale_or_uncommitted_value() {
    let seen = explore(Budget { reads: 2, writes: 1, steps: 3, ..NONE });
    assert!(seen.hits > 0 && seen.unkept > 0 && seen.waited_out > 0 && seen.read_answers > 0, "{seen:?}");
}

#[test]
fn a_renewal_at_any_moment_revives_no_stale_copy() {
    let seen = explore(Budget { reads: 1, writes: 1, renewals: 1, steps: 4, ..NONE });
    assert!(seen.hits > 0 && seen.waited_out > 0, "{seen:?}");
}

#[test]
fn repeated_messages_and_restarted_sharers_show_no_stale_value() {
    let seen = explore(Budget { reads: 2, writes: 1, repeats: 1, restarts: 1, ..NONE });
    assert!(seen.hits > 0 && seen.unkept > 0, "{seen:?}");
}

#[test]
fn eviction_delete_and_creation_show_no_stale_value() {
    let seen = explore(Budget { reads: 1, writes: 2, deletes: 1, squeezes: 1, ..NONE });
    assert!(seen.hits > 0 && seen.unkept > 0, "{seen:?}");
}

#[test]
fn a_flush_beside_fills_and_writes_shows_no_stale_value() {
    let seen = explore(Budget { reads: 2, writes: 1, flushes: 1, ..NONE });
    assert!(seen.hits > 0 && seen.unkept > 0, "{seen:?}");
}

#[test]
fn any_write_delete_or_flush_ends_a_right_to_fill() {
    let seen = explore(Budget { writes: 1, deletes: 1, flushes: 1, loads: 2, ..NONE });
    assert!(seen.filled > 0 && seen.void > 0, "{seen:?}");
    let seen = explore(Budget { reads: 1, writes: 1, loads: 1, ..NONE });
    assert!(seen.filled > 0 && seen.void > 0 && seen.hits > 0, "{seen:?}");
}

#[test]
fn an_owner_reads_and_writes_alone_and_its_recall_brings_back_what_it_wrote() {
    let seen = explore(Budget { reads: 2, owned_writes: 2, writes: 1, ..BACK });
    assert!(seen.hits > 0 && seen.owners > 0 && seen.unkept > 0, "{seen:?}");
}

#[test]
fn an_owner_whose_line_another_reads_goes_on_reading_and_never_an_old_value() {
    let seen = explore(Budget { reads: 3, owned_writes: 1, writes: 1, ..BACK });
    assert!(seen.owners > 0 && seen.readers == 2, "{seen:?}");
    let seen = explore(Budget { reads: 2, owned_writes: 1, repeats: 1, restarts: 1, ..BACK });
    assert!(seen.owners > 0 && seen.readers == 2, "{seen:?}");
    let seen = explore(Budget { reads: 2, owned_writes: 1, flushes: 1, repeats: 1, ..BACK });
    assert!(seen.owners > 0 && seen.readers == 2, "{seen:?}");
    let seen = explore(Budget { reads: 2, owned_writes: 1, steps: 3, ..BACK });
    assert!(seen.owners > 0 && seen.readers == 2 && seen.lost > 0, "{seen:?}");
}

#[test]
fn a_read_of_a_former_process_makes_nobody_an_owner_beside_a_reader() {
    let seen = explore(Budget { reads: 3, turns: 1, restarts: 1, ..NONE });
    assert!(seen.owners > 0 && seen.readers == 2 && seen.lost > 0, "{seen:?}");
}

#[test]
fn an_owner_that_is_silent_or_restarted_leaves_a_miss_and_never_an_old_value() {
    let seen = explore(Budget { reads: 1, owned_writes: 1, writes: 1, steps: 3, ..BACK });
    assert!(seen.lost > 0 && seen.waited_out > 0, "{seen:?}");
    let seen = explore(Budget { reads: 2, owned_writes: 1, restarts: 1, repeats: 1, ..BACK });
    assert!(seen.lost > 0 && seen.owners > 0, "{seen:?}");
}

#[test]
fn giving_a_line_back_at_any_moment_loses_nothing() {
    let seen = explore(Budget { reads: 2, owned_writes: 1, returns: 1, repeats: 1, ..BACK });
    assert!(seen.owners > 0 && seen.lost == 0, "{seen:?}");
    let seen = explore(Budget { reads: 1, owned_writes: 1, returns: 1, writes: 1, steps: 2, ..BACK });
    assert!(seen.owners > 0, "{seen:?}");
}

#[test]
fn a_recall_that_is_repeated_because_its_answer_was_lost_brings_back_what_was_written() {
    let seen = explore(Budget { reads: 1, owned_writes: 1, writes: 2, repeats: 1, ..BACK });
    assert!(seen.owners > 0 && seen.lost == 0, "{seen:?}");
}

#[test]
fn a_flush_of_owned_lines_shows_no_stale_value() {
    let seen = explore(Budget { reads: 1, owned_writes: 1, flushes: 1, returns: 1, ..BACK });
    assert!(seen.owners > 0 && seen.hits > 0, "{seen:?}");
}

#[test]
fn a_second_key_under_the_same_lease_revives_no_stale_copy_of_the_first() {
    let two_keys = Budget { two_keys: true, alone: true, ..NONE };
    let seen = explore(Budget { reads: 2, writes: 1, looks: 1, steps: 3, ..two_keys });
    assert!(seen.hits > 0 && seen.waited_out > 0 && seen.due > 0, "{seen:?}");
}

#[test]
fn a_client_of_the_homes_own_node_is_a_sharer_like_any_other() {
    let seen = explore(Budget { reads: 1, writes: 1, lends: 1, steps: 3, ..NONE });
    assert!(seen.lent_hits > 0 && seen.hits > 0 && seen.waited_out > 0, "{seen:?}");
    let seen = explore(Budget { reads: 2, owned_writes: 1, lends: 1, repeats: 1, ..BACK });
    assert!(seen.lent_hits > 0 && seen.owners > 0, "{seen:?}");
}

#[test]
fn a_namespace_that_turns_write_back_or_through_shows_no_stale_value() {
    let seen = explore(Budget { reads: 2, owned_writes: 1, turns: 1, repeats: 1, ..NONE });
    assert!(seen.hits > 0 && seen.owners > 0, "{seen:?}");
    let seen = explore(Budget { reads: 2, owned_writes: 1, turns: 1, writes: 1, ..BACK });
    assert!(seen.hits > 0 && seen.owners > 0, "{seen:?}");
}

#[test]
fn looking_for_what_is_due_at_any_moment_forgets_nothing_too_early() {
    let seen = explore(Budget { reads: 2, writes: 1, looks: 1, steps: 3, alone: true, ..NONE });
    assert!(seen.hits > 0 && seen.due > 0 && seen.waited_out > 0, "{seen:?}");
    let seen = explore(Budget { reads: 2, looks: 1, flushes: 1, steps: 2, alone: true, ..NONE });
    assert!(seen.hits > 0 && seen.due > 0, "{seen:?}");
    let seen = explore(Budget { reads: 2, owned_writes: 1, looks: 1, steps: 2, ..BACK });
    assert!(seen.due > 0 && seen.unused > 0 && seen.hits > 0, "{seen:?}");
}

/// What no bound small enough to be walked in every order has: a little of everything.
const MUCH: Budget = Budget {
    write_back: false,
    two_keys: false,
    alone: false,
    reads: 12,
    writes: 5,
    deletes: 2,
    renewals: 3,
    looks: 3,
    steps: 6,
    repeats: 4,
    restarts: 2,
    squeezes: 1,
    owned_writes: 5,
    returns: 2,
    flushes: 1,
    loads: 2,
    turns: 2,
    lends: 2,
};

#[test]
fn long_orders_drawn_from_seeds_show_no_stale_value() {
    if let Some(seen) = wander(&World::new(MUCH), seeds(150), 90) {
        assert!(seen.hits > 0 && seen.owners > 0 && seen.lent_hits > 0 && seen.waited_out > 0, "{seen:?}");
    }
}

#[test]
fn long_orders_over_two_keys_show_no_stale_value() {
    let two_keys = Budget { two_keys: true, turns: 0, ..MUCH };
    if let Some(seen) = wander(&World::new(two_keys), seeds(100), 90) {
        assert!(seen.hits > 0 && seen.waited_out > 0, "{seen:?}");
    }
}

#[test]
fn long_orders_with_owners_show_no_stale_value() {
    if let Some(seen) = wander(&World::new(Budget { write_back: true, ..MUCH }), seeds(150), 90) {
        assert!(seen.owners > 0 && seen.lost > 0 && seen.filled > 0 && seen.void > 0, "{seen:?}");
    }
}

/// Some eight minutes on an idle machine:
/// `LOCKSTEP_WALKS=20000 cargo test --release -p lockstep-core explore -- --include-ignored`.
#[test]
#[ignore = "takes minutes"]
fn wider_bounds_show_no_stale_value_either() {
    explore(Budget { reads: 3, writes: 1, steps: 3, ..NONE });
    explore(Budget { reads: 2, writes: 2, deletes: 1, squeezes: 1, steps: 1, ..NONE });
    explore(Budget { reads: 2, writes: 1, renewals: 1, steps: 3, ..NONE });
    explore(Budget { reads: 2, writes: 1, flushes: 1, steps: 1, ..NONE });
    explore(Budget { reads: 1, writes: 1, deletes: 1, flushes: 1, loads: 2, ..NONE });
    explore(Budget { reads: 2, owned_writes: 1, writes: 1, steps: 3, ..BACK });
    explore(Budget { reads: 3, owned_writes: 1, writes: 1, steps: 2, ..BACK });
    explore(Budget { reads: 2, owned_writes: 2, returns: 1, flushes: 1, restarts: 1, ..BACK });
    explore(Budget { reads: 2, writes: 1, looks: 2, steps: 4, ..NONE });
}
