//! Which processes a development cluster consists of: ports, directories, arguments.

use std::path::{Path, PathBuf};

use super::{Args, Failure};

/// The whole cluster.
pub(super) struct Plan {
    pub(super) nodes: Vec<Node>,
    pub(super) data: PathBuf,
    /// Where logs live, if that was said. It may hold a password, so nodes get it by their environment.
    pub(super) store: Option<String>,
}

/// One `lockstep serve`.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) id: u16,
    pub(super) http: u16,
    pub(super) peer: u16,
    pub(super) data: PathBuf,
    /// Everything after `lockstep`.
    pub(super) arguments: Vec<String>,
}

impl Node {
    /// Where clients reach it.
    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }
}

/// Peer ports lie this far above HTTP ports.
const PEER_OFFSET: u16 = 1000;

impl Plan {
    /// Lays out the cluster. Opens nothing.
    pub(super) fn new(args: &Args) -> Result<Self, Failure> {
        let last = args.base_port.checked_add(PEER_OFFSET + args.nodes);
        if args.base_port == 0 || last.is_none() {
            return Err(Failure::usage(format_args!(
                "--base-port {} leaves no room for {} nodes and their peer ports {PEER_OFFSET} above: choose one \
                 between 1 and {}",
                args.base_port,
                args.nodes,
                u16::MAX - PEER_OFFSET - args.nodes
            )));
        }
        let peer = |id: u16| args.base_port + PEER_OFFSET + id - 1;
        let members: Vec<String> =
            (1..=args.nodes).map(|id| format!("{id}=127.0.0.1:{}", peer(id))).collect();
        let members = members.join(",");
        let node = |id: u16| {
            let http = args.base_port + id - 1;
            let data = args.data.join(format!("node{id}"));
            let arguments = arguments(args, id, http, peer(id), &members, &data);
            Node { id, http, peer: peer(id), data, arguments }
        };
        Ok(Self {
            nodes: (1..=args.nodes).map(node).collect(),
            data: args.data.clone(),
            store: args.store.clone(),
        })
    }

    /// Whether the nodes have no directories, because Redis holds everything.
    pub(super) fn keeps_nothing(&self) -> bool {
        keeps_nothing(self.store.as_deref())
    }

    /// Creates the directories. A cluster is formed with a number of nodes, and keeps it.
    pub(super) fn prepare_data(&self) -> Result<(), Failure> {
        if self.keeps_nothing() {
            return Ok(());
        }
        let formed = (1..=9).filter(|id| self.data.join(format!("node{id}")).is_dir()).count();
        if formed != 0 && formed != self.nodes.len() {
            return Err(Failure::usage(format_args!(
                "{} holds a cluster of {formed} nodes: start it with --nodes {formed}, or give the new one a \
                 directory of its own with --data",
                self.data.display()
            )));
        }
        for node in &self.nodes {
            std::fs::create_dir_all(&node.data).map_err(|error| {
                Failure::usage(format_args!(
                    "cannot create {}: {error}; choose another directory with --data",
                    node.data.display()
                ))
            })?;
        }
        Ok(())
    }
}

fn keeps_nothing(store: Option<&str>) -> bool {
    store.is_some_and(|store| store.starts_with("redis"))
}

fn arguments(args: &Args, id: u16, http: u16, peer: u16, members: &str, data: &Path) -> Vec<String> {
    let mut arguments: Vec<String> = [
        "serve",
        "--node-id",
        &id.to_string(),
        "--http",
        &format!("127.0.0.1:{http}"),
        "--peer",
        &format!("127.0.0.1:{peer}"),
        "--members",
        members,
        "--die-with-parent",
        &std::process::id().to_string(),
    ]
    .map(str::to_owned)
    .to_vec();
    if !keeps_nothing(args.store.as_deref()) {
        arguments.extend(["--data".to_owned(), data.display().to_string()]);
    }
    arguments.extend(args.serve.iter().cloned());
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(nodes: u16, base_port: u16, data: &Path) -> Args {
        Args {
            nodes,
            base_port,
            data: data.to_owned(),
            store: None,
            serve: vec!["--log".into(), "info".into()],
        }
    }

    #[test]
    fn every_node_gets_the_same_members_and_its_own_ports() {
        let plan = Plan::new(&args(3, 8001, Path::new("d"))).unwrap();
        let ports: Vec<(u16, u16)> = plan.nodes.iter().map(|node| (node.http, node.peer)).collect();
        assert_eq!(ports, [(8001, 9001), (8002, 9002), (8003, 9003)]);
        for node in &plan.nodes {
            assert!(
                node.arguments.contains(&"1=127.0.0.1:9001,2=127.0.0.1:9002,3=127.0.0.1:9003".to_owned())
            );
            assert_eq!(node.arguments.last().map(String::as_str), Some("info"));
        }
    }

    #[test]
    fn ports_beyond_the_last_are_refused() {
        for port in [0, 64_600, 65_535] {
            let Err(failure) = Plan::new(&args(3, port, Path::new("d"))) else { panic!("{port} was taken") };
            assert!(failure.message.contains("--base-port"), "{}", failure.message);
        }
    }

    #[test]
    fn a_directory_with_another_number_of_nodes_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        Plan::new(&args(3, 8001, directory.path())).unwrap().prepare_data().unwrap();
        Plan::new(&args(3, 7001, directory.path())).unwrap().prepare_data().unwrap();
        let failure = Plan::new(&args(5, 8001, directory.path())).unwrap().prepare_data().unwrap_err();
        assert!(failure.message.contains("--nodes 3"), "{}", failure.message);
    }
}
