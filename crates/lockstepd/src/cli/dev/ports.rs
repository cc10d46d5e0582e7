//! Looks whether the ports are free before anything starts, and who has one that is not.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;

use super::Failure;
use super::plan::Plan;

/// Every port can be listened on, or an error names the first that cannot, and how to choose others.
pub(super) fn must_be_free(plan: &Plan) -> Result<(), Failure> {
    for node in &plan.nodes {
        for (port, use_of_it) in [(node.http, "HTTP"), (node.peer, "peer")] {
            // Bound and closed again at once: a listener that never accepted leaves nothing behind.
            if let Err(error) = TcpListener::bind(("127.0.0.1", port)) {
                return Err(Failure::new(explain(port, use_of_it, node.id, &error)));
            }
        }
    }
    Ok(())
}

fn explain(port: u16, use_of_it: &str, node: u16, error: &std::io::Error) -> String {
    let why = match (error.kind(), holder(port)) {
        (std::io::ErrorKind::AddrInUse, Some(who)) => format!("is taken by {who}"),
        (std::io::ErrorKind::AddrInUse, None) => "is taken by another process".to_owned(),
        _ => format!("cannot be used ({error})"),
    };
    format!(
        "port {port} ({use_of_it} port of node {node}) {why}: stop that, or choose other ports with --base-port, \
         for example `lockstep dev --base-port {}`",
        if port < 20_000 { 21_001 } else { 8_001 }
    )
}

/// Who listens on `port`, as far as /proc tells this user. Only a courtesy: any doubt is `None`.
fn holder(port: u16) -> Option<String> {
    let mut sockets = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        sockets.extend(text.lines().skip(1).filter_map(|line| listening_inode(line, port)));
    }
    let processes = std::fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|process| {
        let path = process.path();
        let id: u32 = path.file_name()?.to_str()?.parse().ok()?;
        has_socket(&path, &sockets).then(|| named(&path, id))
    })
}

/// The inode of a line of /proc/net/tcp, if it is a listener (state 0A) on `port`.
fn listening_inode(line: &str, port: u16) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
    let matches = u16::from_str_radix(local_port, 16).ok()? == port && *fields.get(3)? == "0A";
    matches.then(|| format!("socket:[{}]", fields.get(9).unwrap_or(&"")))
}

fn has_socket(process: &Path, sockets: &BTreeSet<String>) -> bool {
    let Ok(files) = std::fs::read_dir(process.join("fd")) else { return false };
    files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok()).any(|target| {
        let target = target.to_string_lossy();
        sockets.contains(target.as_ref())
    })
}

fn named(process: &Path, id: u32) -> String {
    let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
    format!("process {id} ({})", name.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_explained_with_its_holder() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = TcpListener::bind(("127.0.0.1", port)).unwrap_err();
        let text = explain(port, "HTTP", 1, &error);
        assert!(text.contains(&format!("port {port}")) && text.contains("--base-port"), "{text}");
        assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    }

    #[test]
    fn only_listeners_count_as_holders() {
        let line = |state: &str| {
            format!(
                "   0: 0100007F:1F41 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  0 0 4242 1"
            )
        };
        assert_eq!(listening_inode(&line("0A"), 8001).as_deref(), Some("socket:[4242]"));
        assert_eq!(listening_inode(&line("01"), 8001), None);
        assert_eq!(listening_inode(&line("0A"), 8002), None);
    }
}
