//! Sharers for `cache-set --sharers N`: before each write, N nodes other than the key's home take a copy,
//! so that the write has to wait until they have forgotten it.
//!
//! Their reads are not measured.

use std::rc::Rc;

use super::workload::{StepError, after, ok};
use crate::cli::http1::{Address, Connection};

/// Which nodes read which key.
#[derive(Default)]
pub(super) struct Plan {
    addresses: Vec<Address>,
    /// For each key, the addresses of its sharers and what to ask them.
    reads: Vec<Vec<(usize, Vec<u8>)>>,
}

impl Plan {
    /// Finds out where the keys live. Errors: fewer nodes were named than are needed.
    pub(super) async fn new(addresses: &[Address], keys: u32, sharers: usize) -> Result<Self, StepError> {
        if sharers == 0 {
            return Ok(Self::default());
        }
        let mut nodes = Vec::new();
        for address in addresses {
            let mut connection = Connection::open(address).await?;
            let response = ok(connection.request(&address.get("/leader")).await?)?;
            nodes.push(number(response.body, br#""node":"#)?);
        }
        let mut connection = Connection::open(&addresses[0]).await?;
        let mut reads = Vec::new();
        for key in 0..keys {
            let line = addresses[0].get(&format!("/cache/line?k=bench-{key}"));
            let home = number(ok(connection.request(&line).await?)?.body, br#""home":"#)?;
            let others = (0..addresses.len()).filter(|at| nodes[*at] != home).take(sharers);
            let of_key: Vec<_> =
                others.map(|at| (at, addresses[at].get(&format!("/cache/get?k=bench-{key}")))).collect();
            if of_key.len() < sharers {
                let why = format!("{sharers} sharers need {} nodes: name them all with --url", sharers + 1);
                return Err(StepError::Refused(why));
            }
            reads.push(of_key);
        }
        Ok(Self { addresses: addresses.to_vec(), reads })
    }
}

/// One connection's sharers, over connections of their own.
#[derive(Default)]
pub(super) struct Sharers {
    plan: Rc<Plan>,
    connections: Vec<Option<Connection>>,
}

impl Sharers {
    pub(super) fn new(plan: &Rc<Plan>) -> Self {
        Self { plan: Rc::clone(plan), connections: plan.addresses.iter().map(|_| None).collect() }
    }

    /// Lets the sharers of a key take their copies.
    pub(super) async fn read(&mut self, key: usize) -> Result<(), StepError> {
        let Some(reads) = self.plan.reads.get(key) else { return Ok(()) };
        for (at, request) in reads {
            let slot = &mut self.connections[*at];
            if slot.is_none() {
                *slot = Some(Connection::open(&self.plan.addresses[*at]).await?);
            }
            let Some(connection) = slot else { continue };
            let response = connection.request(request).await?;
            // Nothing there yet: that is a copy as well.
            if response.status != 404 {
                ok(response)?;
            }
        }
        Ok(())
    }
}

fn number(body: &[u8], mark: &[u8]) -> Result<u64, StepError> {
    let text = after(body, mark, |byte| byte.is_ascii_digit())?;
    text.parse().map_err(|_| StepError::Refused("the key has no home now".into()))
}
