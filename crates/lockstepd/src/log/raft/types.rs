//! The types that openraft is told of: a log entry is an encoded pack, its answer the replies.
//!
//! Entries are cloned on every way (disk, each follower, apply), so the payload is shared bytes.

use std::fmt;

use bytes::Bytes;
use lockstep_core::Reply;
use serde::{Deserialize, Serialize};

use super::machine::{Data, Machine};
use super::runtime::Runtime;

/// An encoded [`lockstep_core::Pack`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Payload(pub(super) Bytes);

/// One reply for each command of a pack; none for entries without one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Replies(pub(super) Vec<Reply>);

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

openraft::declare_raft_types!(
    pub(super) Config:
        D = Payload,
        R = Replies,
        Node = openraft::impls::EmptyNode,
        AsyncRuntime = Runtime,
);

pub(super) type Raft = openraft::Raft<Config, Machine>;
pub(super) type Entry = openraft::alias::EntryOf<Config>;
pub(super) type LogId = openraft::alias::LogIdOf<Config>;
pub(super) type Vote = openraft::alias::VoteOf<Config>;
pub(super) type SnapshotMeta = openraft::alias::SnapshotMetaOf<Config>;
pub(super) type Snapshot = openraft::alias::SnapshotOf<Config, Data>;
pub(super) type StoredMembership = openraft::alias::StoredMembershipOf<Config>;
pub(super) type Append = openraft::raft::AppendEntriesRequest<Config>;
pub(super) type AppendAnswer = openraft::raft::AppendEntriesResponse<Config>;
pub(super) type VoteAsk = openraft::raft::VoteRequest<Config>;
pub(super) type VoteAnswer = openraft::raft::VoteResponse<Config>;
pub(super) type Transfer = openraft::raft::TransferLeaderRequest<Config>;
pub(super) type TransferAnswer = openraft::raft::TransferLeaderResponse<Config>;

/// `value` as bytes.
pub(super) fn encode<T: Serialize>(value: &T) -> Bytes {
    postcard::to_stdvec(value).expect("writing to memory cannot fail").into()
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;
    use openraft::vote::RaftLeaderId;

    use super::*;

    fn log_id(index: u64) -> LogId {
        let leader = openraft::impls::leader_id_adv::LeaderId { term: 3, node_id: 2 };
        LogId::new(leader.to_committed(), index)
    }

    #[test]
    fn what_goes_over_the_wire_comes_back_the_same() {
        let members = [1, 2, 3].map(|id| (id, openraft::impls::EmptyNode {}));
        let membership =
            openraft::Membership::new(vec![[1, 2, 3].into()], std::collections::BTreeMap::from(members))
                .unwrap();
        let stored = StoredMembership::new(Some(log_id(1)), membership.clone());
        let meta = SnapshotMeta { last_log_id: Some(log_id(7)), last_membership: stored };
        assert_eq!(postcard::from_bytes::<SnapshotMeta>(&encode(&meta)).unwrap(), meta);
        let payloads = [
            EntryPayload::Blank,
            EntryPayload::Normal(Payload("pack".into())),
            EntryPayload::Membership(membership),
        ];
        for payload in payloads {
            let entry = Entry { log_id: log_id(8), payload };
            assert_eq!(postcard::from_bytes::<Entry>(&encode(&entry)).unwrap(), entry);
        }
    }
}
