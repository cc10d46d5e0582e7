//! The list of members: `1=10.0.0.1:9001,2=10.0.0.2:9001`. Host names are resolved when a
//! connection is made, not here: a member that is down must not keep another from starting.

use std::collections::BTreeMap;

use lockstep_core::names::NodeId;

use super::Error;

/// Parses the list. Errors name the part that is wrong.
pub(super) fn parse(text: &str) -> Result<BTreeMap<NodeId, String>, Error> {
    let mut members = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (id, address) = member(part)?;
        if members.values().any(|other| *other == address) {
            return Err(invalid(format!(
                "--members has {address} twice: each node needs a peer address of its own"
            )));
        }
        if members.insert(id, address).is_some() {
            return Err(invalid(format!("--members has node {id} twice: give each node an id of its own")));
        }
    }
    Ok(members)
}

/// A node that is not a member of its own cluster is a mistake in one of two flags.
pub(super) fn must_include(members: &BTreeMap<NodeId, String>, node: NodeId) -> Result<(), Error> {
    if members.contains_key(&node) {
        return Ok(());
    }
    let ids: Vec<String> = members.keys().map(ToString::to_string).collect();
    Err(invalid(format!(
        "--members names {} but not this node: add {node}=HOST:PORT to it, or correct --node-id {node}",
        if ids.is_empty() { "nobody".to_owned() } else { format!("node {}", ids.join(", ")) }
    )))
}

fn member(part: &str) -> Result<(NodeId, String), Error> {
    let example = "write ID=HOST:PORT, for example 1=127.0.0.1:9001,2=127.0.0.1:9002";
    let wrong = |why: &str| invalid(format!("--members: {part:?} {why}; {example}"));
    let (id, address) = part.split_once('=').ok_or_else(|| wrong("has no `=`"))?;
    let id: u64 = id.trim().parse().map_err(|_| wrong("does not start with a number"))?;
    if id == 0 {
        return Err(wrong("has id 0, and ids start at 1"));
    }
    let address = address.trim();
    let (host, port) = address.rsplit_once(':').ok_or_else(|| wrong("has no port"))?;
    if host.is_empty() || port.parse::<u16>().map_or(true, |port| port == 0) {
        return Err(wrong("has no usable address"));
    }
    Ok((NodeId(id), address.to_owned()))
}

fn invalid(message: String) -> Error {
    Error::Invalid(message)
}
