//! The binary `lockstep`.

mod cli;

/// A request is a handful of small pieces that live for a millisecond: with the C library's allocator
/// they took an eighth of all processor time (decision 0018).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
