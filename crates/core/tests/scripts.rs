//! Readable scripts over one shard: what is said, and what comes of it.
//!
//! A script is a list of blocks: commands, `----`, what they answer. `UPDATE_SCRIPTS=1` rewrites what is
//! expected. Every command line begins with the log time at which it is ordered:
//!
//! ```text
//! shard 0
//! at 1000 acquire resA client1 exclusive ttl=30000
//! ----
//! granted token=1 left=30000
//! ```

mod script;

use std::path::Path;

#[test]
fn every_script_answers_as_written() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut paths: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 8, "the scripts are gone");
    let update = std::env::var_os("UPDATE_SCRIPTS").is_some();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let run = script::run(&text);
        if update {
            #[allow(clippy::disallowed_methods, reason = "the runner does I/O; the core does not")]
            std::fs::write(&path, run).unwrap();
        } else {
            assert_eq!(text, run, "{} answers otherwise; UPDATE_SCRIPTS=1 rewrites it", path.display());
        }
    }
}
