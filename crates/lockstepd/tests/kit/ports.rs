//! Ports that nobody listens on, below those that the kernel gives to outgoing connections: a node
//! that is started again must find its port free.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 11_000;
const COUNT: u16 = 20_000;

/// One port. No other call of this process answers the same.
pub fn free_port() -> u16 {
    candidates().find(|port| is_free(*port)).expect("a port is free between 11000 and 31000")
}

/// The base port of a development cluster of three nodes: three HTTP ports, and peer ports 1000 above.
pub fn free_base_port() -> u16 {
    let whole = |base: &u16| (0..3).all(|node| is_free(base + node) && is_free(base + 1000 + node));
    // In steps of three: two clusters that start at the same time never share a port.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let mut bases = (0..COUNT).map(|_| FIRST + (start() + NEXT.fetch_add(3, Ordering::Relaxed)) % COUNT);
    bases.find(whole).expect("six ports are free between 11000 and 31000")
}

/// Test processes that run at the same time start at different places.
fn candidates() -> impl Iterator<Item = u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    (0..COUNT).map(|_| FIRST + (start() + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT)
}

fn start() -> u16 {
    let start = std::process::id().wrapping_mul(97) % u32::from(COUNT);
    u16::try_from(start).expect("below 20000")
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}
