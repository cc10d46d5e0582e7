//! Walks what can happen to the cache's machines, and asserts its invariants in every state reached.
//!
//! [`walk`] knows how to walk and nothing of caches: every order of events within small bounds, or long
//! orders drawn from seeds. The models say what can happen: [`line`], one home whose lines are read,
//! written, owned, evicted and flushed by nodes that restart and fall silent; [`ring`], homes that join,
//! leave, die and take over. `near/explore.rs` has a third, of clients. A message that is never
//! delivered was lost, any may overtake any other, and some are delivered twice.
//!
//! What is found here by name, one order of events each, is in `tests/cache_races`.

pub(super) mod walk;

mod line;
mod ring;
