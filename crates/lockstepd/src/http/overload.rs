//! Refusing early: a node that has as many requests to its cache in hand as it may says so at once.
//!
//! Locks and queues are bounded where they wait for the log, and what waits at a home for the cache's
//! protocol is bounded there. Loads, which park on purpose, have as much room again, beside the others.
//! What people look at when a node is overloaded is always answered, and so is what others wait for: near
//! clients, which are bounded by their number, say here what they have forgotten, and a write waits for it.
//! Neither are watches counted, which are bounded as connections.

use std::sync::atomic::{AtomicUsize, Ordering};

use lockstep_client::wire::Code;

use super::error::Fault;

/// Requests to the cache that are being answered.
#[derive(Default)]
pub(super) struct InHand {
    working: AtomicUsize,
    /// They wait for somebody else, for as long as they said.
    parked: AtomicUsize,
}

/// Room for one request, until it is dropped.
#[derive(Debug)]
pub(super) struct Place<'a>(Option<&'a AtomicUsize>);

impl InHand {
    /// Makes room for a request, if it counts, among `max`.
    pub(super) fn enter(&self, path: &str, max: usize) -> Result<Place<'_>, Fault> {
        let count = match path {
            "/cache/near/sync" | "/cache/near/close" | "/cache/watch" | "/cache/stats" => {
                return Ok(Place(None));
            }
            "/cache/load" => &self.parked,
            path if path.starts_with("/cache/") => &self.working,
            _ => return Ok(Place(None)),
        };
        let place = Place(Some(count));
        if count.fetch_add(1, Ordering::Relaxed) < max {
            return Ok(place);
        }
        Err(Fault::new(
            Code::Overloaded,
            "This node has as many requests to its cache in hand as it may, and nothing was done. Ask again after a pause.",
        ))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(count) = self.0 {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_too_many_is_refused_and_there_is_room_again_when_one_is_done() {
        let in_hand = InHand::default();
        let first = in_hand.enter("/cache/set", 1).expect("there is room");
        assert!(in_hand.enter("/cache/get", 1).is_err());
        let parked = in_hand.enter("/cache/load", 1).expect("they have room of their own");
        assert!(in_hand.enter("/cache/load", 1).is_err());
        for path in ["/health", "/metrics", "/lock/acquire", "/cache/stats", "/cache/watch"] {
            assert!(in_hand.enter(path, 1).is_ok(), "{path} is not counted");
        }
        for path in ["/cache/near/sync", "/cache/near/close"] {
            assert!(in_hand.enter(path, 1).is_ok(), "a write waits for {path}");
        }
        drop(parked);
        assert!(in_hand.enter("/cache/load", 1).is_ok());
        drop(first);
        assert!(in_hand.enter("/cache/get", 1).is_ok());
    }
}
