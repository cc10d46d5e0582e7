//! Which node to ask next: the leader where that saves a step, otherwise one node for as long as it
//! answers, and the others when it does not.
//!
//! It sends nothing, and time comes in as an argument.

use std::sync::Arc;
use std::time::Duration;

/// Where a node is reached: `http://host:port`, without a slash at the end.
pub(crate) type Url = Arc<str>;

/// A node that failed is not asked for so long, unless all have.
const REST: Duration = Duration::from_secs(3);

/// Whom a request is best sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Toward {
    /// The leader of the coordination shard, where locks live.
    Leader,
    /// Any node: the same one while it answers, so that its memory is warm for this client.
    Any,
}

/// The nodes of a cluster as one client knows them.
pub(crate) struct Nodes {
    configured: Vec<Url>,
    /// Which of them is asked first.
    first: usize,
    leader: Option<Url>,
    resting: Vec<(Url, Duration)>,
}

impl Nodes {
    /// At least one node; `first` spreads clients over them.
    pub(crate) fn new(configured: Vec<Url>, first: usize) -> Self {
        let first = first % configured.len().max(1);
        Self { configured, first, leader: None, resting: Vec::new() }
    }

    /// Whom to ask after those that were `tried`; nobody when all were.
    pub(crate) fn next(&self, toward: Toward, tried: &[Url], now: Duration) -> Option<Url> {
        let rests = |url: &Url| self.resting.iter().any(|(of, until)| of == url && now < *until);
        let open: Vec<&Url> = self.in_order(toward).filter(|url| !tried.contains(url)).collect();
        open.iter().find(|url| !rests(url)).or_else(|| open.first()).map(|url| Url::clone(url))
    }

    /// A node has answered, and said who leads.
    pub(crate) fn answered(&mut self, url: &Url, leader: Option<Url>) {
        self.resting.retain(|(of, _)| of != url);
        if leader.is_some() {
            self.leader = leader;
        }
    }

    /// A node did not answer, or is going away.
    pub(crate) fn failed(&mut self, url: &Url, now: Duration) {
        self.resting.retain(|(of, until)| of != url && now < *until);
        self.resting.push((url.clone(), now + REST));
        if self.leader.as_ref() == Some(url) {
            self.leader = None;
        }
        if self.configured.get(self.first) == Some(url) {
            self.first = (self.first + 1) % self.configured.len();
        }
    }

    fn in_order(&self, toward: Toward) -> impl Iterator<Item = &Url> {
        let (before, after) = self.configured.split_at(self.first);
        let (early, late) = match toward {
            Toward::Leader => (self.leader.as_ref(), None),
            Toward::Any => (None, self.leader.as_ref()),
        };
        early.into_iter().chain(after).chain(before).chain(late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn url(name: &str) -> Url {
        name.into()
    }

    fn nodes() -> Nodes {
        Nodes::new(vec![url("a"), url("b"), url("c")], 1)
    }

    fn order(nodes: &Nodes, toward: Toward, now: Duration) -> String {
        let mut tried = Vec::new();
        while let Some(next) = nodes.next(toward, &tried, now) {
            tried.push(next);
        }
        tried.iter().map(|url| &**url).collect()
    }

    #[test]
    fn every_node_is_asked_once_in_a_round() {
        assert_eq!(order(&nodes(), Toward::Any, NOW), "bca");
    }

    #[test]
    fn the_leader_that_a_reply_names_comes_first_for_locks_even_if_it_was_not_configured() {
        let mut nodes = nodes();
        nodes.answered(&url("b"), Some(url("d")));
        assert_eq!(order(&nodes, Toward::Leader, NOW), "dbca");
        assert_eq!(order(&nodes, Toward::Any, NOW), "bcad");
        nodes.answered(&url("b"), Some(url("a")));
        assert_eq!(order(&nodes, Toward::Leader, NOW), "abc");
    }

    #[test]
    fn a_node_that_failed_comes_last_until_it_has_rested_or_answered() {
        let mut nodes = nodes();
        nodes.answered(&url("b"), Some(url("b")));
        nodes.failed(&url("b"), NOW);
        assert_eq!(order(&nodes, Toward::Leader, NOW), "cab");
        nodes.failed(&url("c"), NOW);
        assert_eq!(order(&nodes, Toward::Any, NOW), "abc");
        assert_eq!(order(&nodes, Toward::Any, NOW + REST), "abc");
        nodes.failed(&url("a"), NOW + REST);
        nodes.answered(&url("b"), None);
        assert_eq!(order(&nodes, Toward::Any, NOW + REST), "bca");
    }
}
