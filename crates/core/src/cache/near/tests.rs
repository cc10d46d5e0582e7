use super::*;
use crate::cache::lease::owed_until;
use crate::cache::message::{Forget, Order};
use crate::cache::space;
use crate::names::{Incarnation, NodeId};

const HOME: Origin = Origin { node: NodeId(1), incarnation: Incarnation(1) };
const LEFT: Millis = lease::LEASE;
const T0: Millis = Millis(100_000);

fn at(ms: u64) -> Millis {
    T0.plus(Millis(ms))
}

fn near(limits: Limits) -> Near {
    let mut near = Near::new(limits, Millis(0));
    near.open(1, T0).unwrap();
    near.open(2, T0).unwrap();
    near
}

fn order(what: Forget) -> Order {
    Order { home: HOME, seq: 1, what, moves: false }
}

fn copy(key: &str) -> Order {
    order(Forget::Copy { key: key.into() })
}

fn keep(near: &mut Near, id: ClientId, key: &str, now: Millis) -> Option<Millis> {
    near.keep(id, &key.into(), HOME, LEFT, now).unwrap()
}

fn subjects(near: &Near, id: ClientId) -> Vec<Subject> {
    near.notes(id).unwrap().into_iter().map(|note| note.subject).collect()
}

#[test]
fn an_order_is_answered_when_every_client_has_forgotten() {
    let mut near = near(Limits::default());
    assert_eq!(near.forget(1, &copy("k"), T0), [Output::Forgotten(1)], "nobody holds it");
    assert_eq!(keep(&mut near, 1, "k", T0), Some(LEASE));
    keep(&mut near, 2, "k", T0);
    assert_eq!(near.forget(2, &copy("k"), at(1)), [Output::Wake(1), Output::Wake(2)]);
    assert_eq!(near.acknowledged(1, 1, at(2)).unwrap(), []);
    assert_eq!(near.acknowledged(2, 0, at(2)).unwrap(), [], "nothing carried out yet");
    assert_eq!(near.acknowledged(2, 1, at(3)).unwrap(), [Output::Forgotten(2)]);
    assert!(!near.holds("k"));
}

#[test]
fn a_slow_client_delays_an_answer_by_its_lease_and_no_longer() {
    let mut near = near(Limits::default());
    keep(&mut near, 1, "k", T0);
    near.forget(7, &copy("k"), at(1));
    let end = owed_until(T0, LEASE);
    assert_eq!(near.next_deadline(), Some(end));
    assert_eq!(near.tick(Millis(end.0 - 1)), []);
    assert_eq!(near.tick(end), [Output::Forgotten(7)]);
    assert!(end.since(T0) < Millis(LEFT.0 / 2), "well inside the node's own lease");
}

#[test]
fn a_client_gets_a_quarter_of_what_its_node_has_left() {
    let mut near = near(Limits::default());
    let mut ask = |left: u64| near.keep(1, &"k".into(), HOME, Millis(left), T0).unwrap();
    assert_eq!(ask(400), Some(Millis(100)));
    assert_eq!(ask(10_000), Some(LEASE), "no more than a quarter of a whole lease");
    assert_eq!(ask(60), None, "too short to be of use");
}

#[test]
fn a_client_that_owes_an_acknowledgement_gets_no_lease() {
    let mut near = near(Limits::default());
    keep(&mut near, 1, "k", T0);
    near.forget(7, &copy("k"), T0);
    let renew = |near: &mut Near, now| near.renew(1, |_| Some(LEFT), now).unwrap();
    assert_eq!(renew(&mut near, Millis(T0.0 + OVERDUE.0 - 1)), [(HOME, LEASE)]);
    assert_eq!(renew(&mut near, T0.plus(OVERDUE)), []);
    assert_eq!(keep(&mut near, 1, "other", T0.plus(OVERDUE)), None);
    near.acknowledged(1, 1, T0.plus(OVERDUE)).unwrap();
    assert_eq!(renew(&mut near, T0.plus(OVERDUE)), [(HOME, LEASE)]);
}

#[test]
fn a_copy_taken_again_is_not_forgotten_by_an_earlier_acknowledgement() {
    let mut near = near(Limits::default());
    keep(&mut near, 1, "k", T0);
    near.forget(1, &copy("k"), T0);
    keep(&mut near, 1, "k", at(1));
    assert_eq!(near.acknowledged(1, 1, at(2)).unwrap(), [Output::Forgotten(1)]);
    assert_eq!(near.forget(2, &copy("k"), at(3)), [Output::Wake(1)], "it holds the new one");
}

#[test]
fn a_repeated_order_waits_for_the_same_acknowledgement() {
    let mut near = near(Limits::default());
    keep(&mut near, 1, "k", T0);
    near.forget(1, &copy("k"), T0);
    assert_eq!(near.forget(2, &copy("k"), at(1)), []);
    assert_eq!(subjects(&near, 1), [Subject::Key("k".into())]);
    let told = near.acknowledged(1, 1, at(2)).unwrap();
    assert_eq!(told, [Output::Forgotten(1), Output::Forgotten(2)]);
}

#[test]
fn a_write_behind_a_flush_waits_for_the_flush_as_well() {
    let mut near = near(Limits::default());
    keep(&mut near, 1, "k", T0);
    let flush = order(Forget::Namespace { namespace: space::DEFAULT.into() });
    assert_eq!(near.forget(1, &flush, T0), [Output::Wake(1)]);
    assert_eq!(near.forget(2, &copy("k"), at(1)), [Output::Wake(1)], "it may still read it");
    assert_eq!(near.acknowledged(1, 1, at(2)).unwrap(), [Output::Forgotten(1)]);
    assert_eq!(near.acknowledged(1, 2, at(2)).unwrap(), [Output::Forgotten(2)]);
    let other = order(Forget::Namespace { namespace: "other".into() });
    assert_eq!(near.forget(3, &other, at(3)), [Output::Forgotten(3)]);
}

#[test]
fn a_restarted_node_waits_for_clients_of_its_former_process() {
    let mut near = Near::new(Limits::default(), T0);
    assert_eq!(near.forget(1, &copy("k"), at(1)), []);
    let end = owed_until(T0, LEASE);
    assert_eq!((near.next_deadline(), near.tick(Millis(end.0 - 1))), (Some(end), Vec::new()));
    assert_eq!(near.tick(end), [Output::Forgotten(1)]);
    assert_eq!(near.forget(2, &copy("k"), end), [Output::Forgotten(2)]);
}

#[test]
fn a_client_too_slow_to_be_told_has_to_forget_everything() {
    let mut near = near(Limits::default());
    for n in 0..=UNTOLD_MAX as u64 {
        keep(&mut near, 1, &format!("k{n}"), T0);
    }
    for n in 0..=UNTOLD_MAX as u64 {
        near.forget(n, &copy(&format!("k{n}")), at(1));
    }
    assert_eq!(subjects(&near, 1), [Subject::Everything]);
    let told = near.acknowledged(1, u64::MAX, at(2)).unwrap();
    assert_eq!(told.len(), UNTOLD_MAX + 1, "every order is answered");
    assert_eq!(near.sizes(), (2, 0));
}

#[test]
fn clients_and_keys_are_bounded() {
    let limits = Limits { clients_max: 2, keys_max: 2, keys_max_total: 5 };
    let mut near = near(limits);
    assert_eq!(near.open(3, T0), Err(Refusal::TooManyClients));
    for key in ["a", "b", "c"] {
        keep(&mut near, 1, key, T0);
    }
    assert_eq!(subjects(&near, 1), [Subject::Key("a".into())], "the longest held goes first");
    near.acknowledged(1, 1, at(1)).unwrap();
    assert!(!near.holds("a") && near.holds("b") && near.holds("c"));
    for key in ["d", "e", "f"] {
        keep(&mut near, 2, key, T0);
    }
    assert_eq!(keep(&mut near, 1, "g", at(2)), None, "all together hold as much as they may");
}

#[test]
fn a_client_that_closes_or_falls_silent_is_forgotten_and_its_orders_are_answered() {
    let mut near = near(Limits::default());
    keep(&mut near, 1, "k", T0);
    near.forget(1, &copy("k"), at(1));
    assert_eq!(near.close(1), [Output::Forgotten(1)]);
    assert_eq!(near.acknowledged(1, 1, at(2)), Err(Refusal::Unknown));
    keep(&mut near, 2, "k", at(3));
    near.tick(T0.plus(GONE).plus(Millis(3)));
    assert_eq!((near.sizes(), near.notes(2)), ((0, 0), Err(Refusal::Unknown)));
}
