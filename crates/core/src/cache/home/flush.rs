//! Flushes: a namespace is emptied at once, when no node can read any copy of it.
//!
//! Its lines are not visited: they are found empty when somebody next looks at them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Home, Output};
use crate::cache::Tag;
use crate::cache::feed::News;
use crate::cache::message::{Addressee, Answer, Forget, Order, Refusal};
use crate::guards::Guard;
use crate::names::NodeId;
use crate::stamp::Millis;

/// Flushes that wait for sharers.
#[derive(Clone, Debug, Default)]
pub(super) struct Flushes(BTreeMap<Arc<str>, Flush>);

#[derive(Clone, Debug)]
struct Flush {
    seq: u64,
    ring_epoch: u64,
    awaiting: BTreeSet<NodeId>,
    /// Who asked for it, and under what.
    asked: Vec<(Tag, Option<Guard>)>,
}

impl Flushes {
    /// Whether nobody may keep new copies of this namespace for now.
    pub(super) fn is_flushing(&self, namespace: &str) -> bool {
        self.0.contains_key(namespace)
    }

    /// `node` need not be waited for any more. Whether `seq` is a flush.
    pub(super) fn release(&mut self, node: NodeId, seq: u64) -> bool {
        let flush = self.0.values_mut().find(|flush| flush.seq == seq);
        flush.map(|flush| flush.awaiting.remove(&node)).is_some()
    }
}

impl Home {
    /// Empties a namespace, for somebody who knows the very ring that we know. Answered under `tag`
    /// when no copy of what was there can be read.
    pub fn flush(&mut self, tag: Tag, to: Addressee, namespace: &Arc<str>, now: Millis) -> Vec<Output> {
        self.flush_under(None, tag, to, namespace, now)
    }

    /// Like [`Self::flush`], unless a newer token of the guard's lock is seen here before it is done.
    pub fn flush_under(
        &mut self,
        guard: Option<Guard>,
        tag: Tag,
        to: Addressee,
        namespace: &Arc<str>,
        now: Millis,
    ) -> Vec<Output> {
        let mut outputs = Vec::new();
        let is_ready = self.tenure.is_meant(to)
            && to.ring_epoch == self.tenure.ring_epoch()
            && self.tenure.is_settled()
            && self.tenure.is_open(now);
        if !is_ready || self.spaces.get(namespace).is_none() {
            let refusal = if is_ready { Refusal::NoNamespace } else { Refusal::NotHome };
            outputs.push(Output::Answer { tag, answer: Answer::Refused(refusal) });
            return outputs;
        }
        if let Some(flush) = self.flushes.0.get_mut(namespace) {
            flush.asked.push((tag, guard));
            return outputs;
        }
        self.next_seq += 1;
        let (seq, home) = (self.next_seq, self.tenure.origin());
        let awaiting = self.peers.readers(now);
        for to in &awaiting {
            self.peers.sent(*to, seq, now);
            let what = Forget::Namespace { namespace: namespace.clone() };
            outputs.push(Output::Forget { to: *to, order: Order { home, seq, what, moves: false } });
        }
        let flush = Flush { seq, ring_epoch: to.ring_epoch, awaiting, asked: vec![(tag, guard)] };
        self.flushes.0.insert(namespace.clone(), flush);
        self.complete_flushes(now, &mut outputs);
        outputs
    }

    /// Carries out what nobody has to be waited for any more; refuses what another ring overtook.
    pub(super) fn complete_flushes(&mut self, now: Millis, outputs: &mut Vec<Output>) {
        let (ring_epoch, is_open) = (self.tenure.ring_epoch(), self.tenure.is_open(now));
        let is_over =
            |flush: &Flush| flush.ring_epoch != ring_epoch || (flush.awaiting.is_empty() && is_open);
        let over = |(name, flush): (&Arc<str>, &Flush)| is_over(flush).then(|| name.clone());
        let over: Vec<Arc<str>> = self.flushes.0.iter().filter_map(over).collect();
        for namespace in over {
            let Some(flush) = self.flushes.0.remove(&namespace) else { continue };
            let mut answers: Vec<(Tag, Answer)> = Vec::new();
            for (tag, guard) in flush.asked {
                let answer = match guard.map_or(Ok(()), |guard| self.marks.check(&guard)) {
                    _ if flush.ring_epoch != ring_epoch => Answer::Refused(Refusal::NotHome),
                    Ok(()) => Answer::Flushed,
                    Err(refusal) => Answer::Refused(Refusal::Guard(refusal)),
                };
                answers.push((tag, answer));
            }
            if answers.iter().any(|(_, answer)| *answer == Answer::Flushed) {
                self.lines.flush(&namespace);
                outputs.push(Output::News(News::Flushed { namespace: namespace.clone() }));
                self.stats.flushes += 1;
            }
            outputs.extend(answers.into_iter().map(|(tag, answer)| Output::Answer { tag, answer }));
        }
    }

    /// Everything is forgotten anyway, or another process has to be asked.
    pub(super) fn abandon_flushes(&mut self, outputs: &mut Vec<Output>) {
        for flush in std::mem::take(&mut self.flushes.0).into_values() {
            let answer = Answer::Refused(Refusal::NotHome);
            let told = flush.asked.into_iter();
            outputs.extend(told.map(|(tag, _)| Output::Answer { tag, answer: answer.clone() }));
        }
    }
}
