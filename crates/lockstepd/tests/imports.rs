//! Who may import whom. The walls between crates are the compiler's; these are the ones inside.

use std::path::{Path, PathBuf};

fn sources(below: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(below);
    let mut found = Vec::new();
    let mut directories = vec![root];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "nothing below {below}");
    found
}

fn assert_never_names(below: &str, except: &[&str], words: &[&str]) {
    for path in sources(below) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if except.contains(&name.as_str()) {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for (number, line) in code.enumerate() {
            for word in words {
                assert!(
                    !line.contains(word),
                    "{} names {word} in code line {}: {line}",
                    path.display(),
                    number + 1
                );
            }
        }
    }
}

#[test]
fn the_core_imports_nothing_of_ours_and_waits_for_nobody() {
    let words = [
        "lockstepd",
        "lockstep_client",
        "tokio",
        "async fn",
        ".await;",
        ".await?",
        "std::fs",
        "std::net",
        "std::thread",
    ];
    assert_never_names("core/src", &[], &words);
}

#[test]
fn http_knows_no_log_driver() {
    assert_never_names("lockstepd/src/http", &[], &["openraft", "redis", "crate::log", "crate::store"]);
}

#[test]
fn the_log_knows_no_http_and_no_wire_shapes() {
    assert_never_names(
        "lockstepd/src/log",
        &[],
        &["axum", "lockstep_client", "crate::http", "crate::router"],
    );
    assert_never_names("lockstepd/src/store", &[], &["axum", "lockstep_client", "openraft", "crate::http"]);
}

#[test]
fn the_client_knows_no_core() {
    assert_never_names("client/src", &[], &["lockstep_core", "lockstepd"]);
}

#[test]
fn one_file_knows_status_codes() {
    assert_never_names("lockstepd/src/http", &["error.rs"], &["StatusCode"]);
    for area in ["router", "cache", "log", "peer"] {
        assert_never_names(&format!("lockstepd/src/{area}"), &[], &["StatusCode"]);
    }
}

#[test]
fn one_driver_knows_openraft() {
    for area in ["router", "cache", "peer", "http", "store"] {
        assert_never_names(&format!("lockstepd/src/{area}"), &[], &["openraft"]);
    }
}
