//! What a home that retires hands on.

use super::*;
use crate::ring::HomeRing;

/// This process is a member of a ring of these.
fn view_of(ring_epoch: u64, members: &[u64]) -> View {
    let member = |node: &u64| Origin { node: NodeId(*node), incarnation: Incarnation(1) };
    View {
        ring_epoch,
        me: Some((Incarnation(1), 1)),
        members: members.iter().map(member).collect(),
        spaces: Arc::default(),
        until: Millis(1_000_000),
    }
}

#[test]
fn what_a_leaver_would_send_ahead_goes_to_whoever_is_home_by_then() {
    let is_of = |members: &[u64], key: &str, node: u64| {
        let nodes: Vec<NodeId> = members.iter().map(|node| NodeId(*node)).collect();
        HomeRing::new(&nodes).home(key) == Some(NodeId(node))
    };
    let key = (0..).map(|n| Key::from(format!("k{n}")));
    let key = key.clone().find(|key| is_of(&[1, 2], key, 1) && is_of(&[1, 2, 3], key, 3)).unwrap();
    let mut home = Home::new(NodeId(1), 1 << 20);
    home.set_view(&view_of(1, &[1, 2]), T0);
    home.sealed(NodeId(2), 1, 0, Vec::new(), false, T0);
    home.write_own(1, set(&key, "old"), T0);
    home.retire(T0);
    assert_eq!(home.bequests(T0).len(), 1);
    home.set_view(&view_of(2, &[1, 2, 3]), T0);
    assert!(home.bequests(T0).is_empty(), "node 3 is home now, and gets it with the seal");
    let meant = Addressee { incarnation: Incarnation(1), ring_epoch: 2 };
    let sealed = home.seal(2, NodeId(3), meant, 0, T0);
    assert!(
        matches!(&sealed[..], [Output::Answer { answer: Answer::Sealed { lines, .. }, .. }] if lines.len() == 1)
    );
    // It may have written since, and have left.
    home.set_view(&view_of(3, &[1, 2]), T0);
    assert!(home.bequests(T0).is_empty());
}

#[test]
fn time_goes_on_for_what_was_sent_ahead() {
    let mut heir = Home::new(NodeId(2), 1 << 20);
    heir.set_view(&view_of(1, &[1, 2]), T0);
    let leaver = Origin { node: NodeId(1), incarnation: Incarnation(1) };
    let held = |left| Held {
        version: Version { epoch: 1, counter: 1 },
        value: "v".into(),
        left: Some(Millis(left)),
    };
    let lines = [("short", 1_000), ("long", 9_000)];
    let lines = lines.map(|(key, left)| Moved { key: key.into(), held: held(left) }).to_vec();
    heir.inherit(leaver, 1, lines, T0);
    let later = T0.plus(Millis(5_000));
    heir.set_view(&view_of(2, &[2]), later);
    let left = |key| heir.read_own(key, later).unwrap().map(|held| held.left);
    assert_eq!((left("short"), left("long")), (None, Some(Some(Millis(4_000)))));
}

#[test]
fn a_seal_that_is_asked_for_again_is_answered_once_and_an_older_one_not_at_all() {
    let mut home = Home::new(HOME, 1 << 20);
    home.set_view(&view_of(3, &[1, 2]), T0);
    let mut seal = |tag, ring_epoch| {
        let meant = Addressee { incarnation: Incarnation(1), ring_epoch };
        answers(&home.seal(tag, READER, meant, 0, T0))
    };
    let refused = |tag| (tag, Answer::Refused(Refusal::NotHome));
    // This home does not know that ring yet.
    assert_eq!(seal(1, 5), []);
    assert_eq!(seal(2, 5), [refused(1)], "whoever asks again no longer waits for the first answer");
    assert_eq!(seal(3, 3), [(3, Answer::Sealed { ring_epoch: 3, first: 0, lines: Vec::new(), more: false })]);
    assert_eq!(seal(4, 5), [refused(2)], "the late one has taken no place");
}
