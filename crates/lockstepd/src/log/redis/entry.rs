//! One entry of a shard's stream, as Redis keeps it: the id `<epoch>-<seq>` and a few fields.
//!
//! Ids order entries and fence leaders; the dense index beside them shows what is missing. What a
//! pack means is the core's business.

use bytes::Bytes;
use lockstep_core::names::NodeId;
use lockstep_core::{Epoch, Index};
use redis::Value;

/// The last epoch that a clock can bring about, in the year 2097: whatever it shows, so many reigns can follow
/// that no epoch ever needs more than 32 bits, and neither do the numbers of chunks wrap nor tokens reach 2^53.
const CALENDAR_MAX: u64 = (1 << 32) - (1 << 28);

/// Where an entry stands.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub(super) struct Position {
    pub(super) epoch: Epoch,
    /// Within its reign, from 0: the entry that begins it.
    pub(super) seq: u64,
    pub(super) index: Index,
}

/// Who wrote an entry: one reign of one process. No two reigns have the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Author {
    pub(super) node: NodeId,
    nonce: u128,
}

/// What an entry does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Begins the reign of its author.
    Reign,
    /// An encoded pack.
    Pack(Bytes),
    /// Ends the reign of its author: this node should stand at once.
    HandOver(NodeId),
    /// There is a new snapshot: the bodies that it has stored need not be in memory any more.
    Stored,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) at: Position,
    pub(super) author: Author,
    pub(super) content: Content,
}

impl Position {
    /// As the stream's entry id.
    pub(super) fn id(&self) -> String {
        format!("{}-{}", self.epoch.0, self.seq)
    }

    /// The next position of the same reign.
    pub(super) fn next(self) -> Self {
        Self { epoch: self.epoch, seq: self.seq + 1, index: Index(self.index.0 + 1) }
    }

    /// The first position of a later reign, which begins at `now` (unix seconds). A history that
    /// was lost and its successor so never share an epoch, and never a fencing token.
    pub(super) fn reign(self, now: u64) -> Self {
        let epoch = Epoch((self.epoch.0 + 1).max(now.min(CALENDAR_MAX)));
        Self { epoch, seq: 0, index: Index(self.index.0 + 1) }
    }

    /// Whether an entry at `next` may follow one at `self`, as far as their ids tell.
    pub(super) fn may_precede(self, next: Self) -> bool {
        let same_reign = next.epoch == self.epoch && next.seq == self.seq + 1;
        same_reign || (next.epoch > self.epoch && next.seq == 0)
    }
}

/// Reads `<epoch>-<seq>`.
pub(super) fn parse_id(id: &[u8]) -> Option<(Epoch, u64)> {
    let (epoch, seq) = std::str::from_utf8(id).ok()?.split_once('-')?;
    Some((Epoch(epoch.parse().ok()?), seq.parse().ok()?))
}

impl Author {
    pub(super) fn new(node: NodeId) -> Self {
        Self { node, nonce: rand::random() }
    }

    pub(super) fn text(&self) -> String {
        format!("{}:{:032x}", self.node, self.nonce)
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let (node, nonce) = std::str::from_utf8(text).ok()?.split_once(':')?;
        Some(Self { node: NodeId(node.parse().ok()?), nonce: u128::from_str_radix(nonce, 16).ok()? })
    }
}

impl Content {
    /// The kind and the payload, as two fields hold them.
    pub(super) fn fields(&self) -> (&'static str, Bytes) {
        match self {
            Self::Reign => ("reign", Bytes::new()),
            Self::Pack(bytes) => ("pack", bytes.clone()),
            Self::HandOver(to) => ("heir", to.to_string().into()),
            Self::Stored => ("stored", Bytes::new()),
        }
    }

    fn parse(kind: &[u8], payload: Vec<u8>) -> Option<Self> {
        match kind {
            b"reign" => Some(Self::Reign),
            b"stored" => Some(Self::Stored),
            b"pack" => Some(Self::Pack(payload.into())),
            b"heir" => Some(Self::HandOver(NodeId(std::str::from_utf8(&payload).ok()?.parse().ok()?))),
            _ => None,
        }
    }
}

impl Entry {
    /// Reads one element of an XRANGE. The error is the id of an entry that Lockstep did not write.
    pub(super) fn read(value: Value) -> Result<Self, String> {
        let Value::Array(pair) = value else { return Err("?".into()) };
        let mut pair = pair.into_iter();
        let (Some(Value::BulkString(id)), Some(Value::Array(fields))) = (pair.next(), pair.next()) else {
            return Err("?".into());
        };
        Self::from_fields(&id, fields).ok_or_else(|| String::from_utf8_lossy(&id).into_owned())
    }

    fn from_fields(id: &[u8], fields: Vec<Value>) -> Option<Self> {
        let mut values = fields.into_iter().map(|value| match value {
            Value::BulkString(bytes) => Some(bytes),
            _ => None,
        });
        let mut field = |name: &str| {
            let found = values.next()??;
            let value = values.next()??;
            (found == name.as_bytes()).then_some(value)
        };
        let (epoch, seq) = parse_id(id)?;
        let index = std::str::from_utf8(&field("i")?).ok()?.parse().ok()?;
        let author = Author::parse(&field("n")?)?;
        let kind = field("k")?;
        let content = Content::parse(&kind, field("p")?)?;
        Some(Self { at: Position { epoch, seq, index: Index(index) }, author, content })
    }
}

#[cfg(test)]
mod tests {
    use super::super::chunks;
    use super::*;
    use crate::store::bodies::ELSEWHERE;

    fn raw(id: &str, fields: &[(&str, &[u8])]) -> Value {
        let bulk = |bytes: &[u8]| Value::BulkString(bytes.to_vec());
        let fields = fields.iter().flat_map(|(name, value)| [bulk(name.as_bytes()), bulk(value)]);
        Value::Array(vec![bulk(id.as_bytes()), Value::Array(fields.collect())])
    }

    #[test]
    fn what_was_written_is_read_and_anything_else_is_named() {
        let author = Author::new(NodeId(3));
        for content in
            [Content::Reign, Content::Pack("pack".into()), Content::HandOver(NodeId(2)), Content::Stored]
        {
            let (kind, payload) = content.fields();
            let text = author.text();
            let fields: [(&str, &[u8]); 4] =
                [("i", b"17"), ("n", text.as_bytes()), ("k", kind.as_bytes()), ("p", &payload)];
            let entry = Entry::read(raw("5-9", &fields)).unwrap();
            assert_eq!(entry.at, Position { epoch: Epoch(5), seq: 9, index: Index(17) });
            assert_eq!((entry.author, entry.content), (author.clone(), content));
        }
        assert_eq!(
            Entry::read(raw("1764000000000-0", &[("field", b"value")])),
            Err("1764000000000-0".into())
        );
        assert_eq!(Entry::read(raw("5-9", &[])), Err("5-9".into()));
    }

    #[test]
    fn positions_follow_each_other_within_a_reign_or_begin_one() {
        let at = Position { epoch: Epoch(7), seq: 4, index: Index(100) };
        assert!(
            at.may_precede(at.next())
                && at.may_precede(at.reign(0))
                && at.may_precede(at.reign(1_764_000_000))
        );
        assert!(!at.may_precede(at));
        assert!(!at.may_precede(at.next().next()), "an entry is missing");
        assert!(!at.may_precede(Position { epoch: Epoch(9), seq: 1, ..at }), "a reign without its beginning");
        assert_eq!(at.reign(1_764_000_000).epoch, Epoch(1_764_000_000));
        assert_eq!(at.reign(3).epoch, Epoch(8), "whatever the clock says, epochs only grow");
    }

    #[test]
    fn a_clock_that_is_far_ahead_leaves_room_for_more_reigns() {
        let mut at = Position { epoch: Epoch(7), seq: 4, index: Index(100) }.reign(u64::MAX);
        let mut last = chunks::number(at.epoch, 0);
        assert!(last >= ELSEWHERE);
        for _ in 0..1_000 {
            at = at.next().reign(u64::MAX);
            let number = chunks::number(at.epoch, 0);
            assert!(number > last, "the numbers of chunks wrap");
            last = number;
        }
        assert!(at.epoch.0 + (1 << 27) < 1 << 32, "tokens stay below 2^53");
    }
}
