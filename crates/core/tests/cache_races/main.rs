//! The races of the cache, each by its name: one order of events, written down, that would show an old
//! value, lose a lease or repeat a write if one guard of the pure machines were missing.
//!
//! The design lists them; here is where each is. What only real processes can show has its test there
//! as well (`crates/lockstepd/tests/processes`). All orders of small cases are walked by
//! `src/cache/explore`. Nothing here is random.
//!
//! - late fill after invalidation: [`fills::late_fill_after_invalidation`]
//! - registration after the value read: [`fills::registration_after_the_value_read`]
//! - own write's reply overtaken by an invalidation: [`fills::own_writes_reply_overtaken_by_an_invalidation`]
//! - invalidation during a pending fill: [`fills::invalidation_during_a_pending_fill`]
//! - new-then-old reads before commit: [`fills::new_then_old_reads_before_commit`]
//! - delete/re-create: [`fills::delete_and_recreate`]
//! - absent entry vs create: [`fills::absent_entry_vs_create`]
//! - TTL vs write: [`fills::ttl_vs_write`], [`fills::ttl_vs_write_that_waits`]
//! - flush vs fill: [`fills::flush_vs_fill`], [`fills::flush_vs_fill_of_another_home`]
//! - load token vs write: [`fills::load_token_vs_write`], and vs a move: [`homes::load_token_vs_move`]
//! - duplicate or reordered acks: [`leases::duplicate_and_reordered_acks`]
//! - ack after lease end: [`leases::ack_after_lease_end`]
//! - renewal crossing an invalidation: [`leases::renewal_crossing_an_invalidation`], and the two tests after it
//! - one-way partition: [`leases::one_way_partition`]; on processes `cache_history`
//! - sharer restarting within its lease: [`leases::sharer_restarting_within_its_lease`]; `cache_history`
//! - SIGSTOP and suspend: [`leases::sharer_that_slept`], [`crashes::home_that_slept`]; on processes
//!   `pauses::a_node_that_slept_through_a_write_does_not_answer_the_old_value`, `cache_history`, and
//!   `clocks::an_hour_that_only_one_node_has_slept_ends_no_lease`
//! - clock drift: [`leases::clock_drift`], [`leases::clock_drift_of_a_time_to_live`]; on processes
//!   `cache_history::histories_with_a_fast_and_a_slow_clock_are_those_of_registers`
//! - slow sharer overflowing its queue: [`leases::slow_sharer_overflowing_its_queue`]; a slow near client:
//!   `src/cache/near/tests.rs`, `a_client_too_slow_to_be_told_has_to_forget_everything`
//! - home crash before, during, after invalidation and before the reply: [`crashes::home_crash_before_invalidation`]
//!   and the three tests after it; on processes `cache_history`
//! - rebalancing re-adding a copy: [`homes::rebalancing_readding_a_copy`]
//! - two homes: [`homes::two_homes`], [`homes::two_homes_after_a_move_there_and_back`],
//!   [`homes::home_restarting_within_its_membership_while_another_joins`],
//!   [`homes::seal_asked_for_under_an_older_ring`]
//! - home evicting a line with sharers: [`homes::home_evicting_a_line_with_sharers`]
//! - retried increment: [`homes::retried_increment`], [`homes::retried_increment_at_another_process`]
//! - late eviction notice un-registering a fresh copy: [`owners::late_eviction_notice`]
//!
//! Of the hard cases: a lease past its home's membership (25) in [`crashes::lease_past_its_homes_membership`];
//! a ring that changes elsewhere (27) in [`homes::unrelated_change_of_the_ring`]; owners that fall silent,
//! restart, or answer a recall twice (28), and orders from a former home, in [`owners`].

mod crashes;
mod fills;
mod homes;
mod leases;
mod owners;
mod packets;
mod stage;
