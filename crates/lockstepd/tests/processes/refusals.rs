//! Data directories that a node must not touch, and logs that it must not believe.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::kit::{Cluster, Settings, run_to_end, serve_command};

const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// Starts node `id`, which must refuse; what it says.
async fn refusal(cluster: &mut Cluster, id: u64, what: &str) -> String {
    let command = serve_command(cluster.node(id));
    let output = run_to_end(what, command, ENDS_WITHIN).await;
    assert!(!output.status.success(), "{what}: it exited with success");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("panicked"), "{what}: {said}");
    said
}

#[tokio::test]
async fn a_second_process_on_the_same_directory_is_refused() {
    let mut cluster = Cluster::start(1).await;
    let mut other = Cluster::prepare(Settings::fast(1)).await;
    let data = cluster.node(1).data.clone();
    other.node(1).data.clone_from(&data);
    let said = refusal(&mut other, 1, "a second process").await;
    assert!(said.contains(&data.display().to_string()), "{said}");
    cluster.ready(1).await;
}

#[tokio::test]
async fn the_directory_of_another_node_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let (mine, theirs) = (cluster.node(1).data.clone(), cluster.node(2).data.clone());
    cluster.node(1).kill();
    cluster.node(2).kill();
    cluster.node(1).data.clone_from(&theirs);
    let said = refusal(&mut cluster, 1, "node 1 on node 2's directory").await;
    assert!(said.contains(&theirs.display().to_string()) && said.contains('2'), "{said}");
    cluster.node(1).data = mine;
    cluster.start_all();
    cluster.all_ready().await;
}

#[tokio::test]
async fn the_directory_of_another_cluster_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let mut other = Cluster::start(3).await;
    other.kill_all();
    cluster.node(1).kill();
    let mine = std::mem::replace(&mut cluster.node(1).data, other.node(1).data.clone());
    let said = refusal(&mut cluster, 1, "node 1 with the directory of another cluster").await;
    assert!(said.contains("cluster"), "{said}");
    cluster.node(1).data = mine;
    cluster.start_all();
    cluster.all_ready().await;
}

#[tokio::test]
async fn a_member_that_comes_back_with_an_empty_directory_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let id = cluster.others(cluster.leader().await)[0];
    cluster.node(id).kill();
    let empty = cluster.directory().join("empty");
    cluster.node(id).data = empty;
    let said = refusal(&mut cluster, id, "an empty directory").await;
    assert!(said.contains("--data") || said.contains("directory"), "{said}");
}

#[tokio::test]
async fn a_damaged_log_is_refused_with_file_and_offset() {
    let mut cluster = Cluster::start(1).await;
    for number in 0..200 {
        let body = json!({"payload": format!("message {number}")});
        let answer = cluster.http(1).post("/queue/push", &body).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    let data = cluster.node(1).data.clone();
    cluster.node(1).kill();
    let (file, offset) = find(&data, b"message 20\"");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[offset] ^= 0x40;
    std::fs::write(&file, &bytes).unwrap();
    let said = refusal(&mut cluster, 1, "a damaged log").await;
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    assert!(said.contains(&name) && said.contains("offset"), "{said}");

    bytes[offset] ^= 0x40;
    std::fs::write(&file, &bytes).unwrap();
    cluster.start_all();
    cluster.ready(1).await;
}

/// Where in which file of a directory some bytes stand.
fn find(directory: &Path, needle: &[u8]) -> (PathBuf, usize) {
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in std::fs::read_dir(next).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap_or_default();
            if let Some(offset) = bytes.windows(needle.len()).position(|window| window == needle) {
                return (path, offset);
            }
        }
    }
    panic!("{:?} stands nowhere below {}", String::from_utf8_lossy(needle), directory.display());
}
