//! The binary `lockstep`.

fn main() {}
