//! Purges: dropping what waits, in steps that are each short enough for everybody else.

use super::{End, Queues};
use crate::command::Reply;
use crate::context::Context;
use crate::names::{MessageId, QueueName};

impl Queues {
    /// Drops up to `max` messages that wait and are not newer than `up_to`. What is in flight stays
    /// with its consumer. The first step answers what the others must pass as `up_to`.
    pub(super) fn purge(
        &mut self,
        ctx: &mut Context<'_>,
        name: &QueueName,
        up_to: Option<MessageId>,
        max: u32,
    ) -> Reply {
        let up_to = up_to.unwrap_or_else(|| MessageId(ctx.counter.next()));
        let mut purged = 0;
        let Some(at) = self.registry.find(name) else {
            return Reply::Purged { purged, up_to, more: false };
        };
        while purged < max {
            let Some(id) = self.next_to_purge(at, up_to.0) else { break };
            self.end(ctx, id, End::Purged);
            purged += 1;
        }
        Reply::Purged { purged, up_to, more: self.next_to_purge(at, up_to.0).is_some() }
    }

    /// What is deliverable first, then what is delayed, then what waits behind something in flight,
    /// delayed or parked.
    fn next_to_purge(&self, at: u32, up_to: u64) -> Option<u64> {
        let queue = self.registry.get(at)?;
        let offered = queue.ready.firsts().find(|id| *id <= up_to);
        let delayed = || queue.delayed_loose.first().filter(|id| *id <= up_to);
        let behind = || {
            let keys = self.groups.of(at).filter(|(_, group)| group.key.is_some());
            keys.map(|(_, group)| group.first()).find(|id| *id != 0 && *id <= up_to)
        };
        offered.or_else(delayed).or_else(behind)
    }
}
