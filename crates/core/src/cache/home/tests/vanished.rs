//! Values that a home loses without anybody's doing: whoever watches is told, before anything else.

use super::*;
use crate::cache::feed::{Change, News};

const FOR_EVER: Millis = Millis(1_000_000);

fn gaps(outputs: &[Output]) -> usize {
    outputs.iter().filter(|output| **output == Output::Gap).count()
}

fn both(epoch: u64) -> View {
    view(epoch, Some((1, 1)), &[(HOME, 1), (OTHER, 1)], FOR_EVER)
}

/// The new home's view of the same ring.
fn new_homes(epoch: u64, others: &[(NodeId, u64)]) -> View {
    let members: Vec<_> = [(HOME, 1), (OTHER, 1)].iter().chain(others).copied().collect();
    view(epoch, Some((1, 2)), &members, FOR_EVER)
}

/// A line that goes from [`HOME`] to [`OTHER`], which has asked for it; the answer is on its way.
fn handed_over() -> (Home, Home, Vec<Output>) {
    let (mut old, mut new) = (home(), Home::new(OTHER, 1 << 20));
    old.write_own(1, set(&moving_key(), "a"), T0);
    assert_eq!(gaps(&new.set_view(&new_homes(2, &[]), T0)), 0, "it has just come");
    assert_eq!(gaps(&old.set_view(&both(2), T0)), 0, "it hands over what leaves");
    let answer = old.seal(7, OTHER, Addressee { ring_epoch: 2, ..TO }, 0, T0);
    (old, new, answer)
}

fn arrive(new: &mut Home, answer: &[Output], now: Millis) -> Vec<Output> {
    let [(_, Answer::Sealed { ring_epoch, first, lines, more })] = &answers(answer)[..] else {
        panic!("{answer:?}")
    };
    new.sealed(HOME, *ring_epoch, *first, lines.clone(), *more, now)
}

#[test]
fn a_home_that_starts_empty_says_so_and_one_that_had_nothing_does_not() {
    for had_line in [true, false] {
        let mut home = Home::new(HOME, 1 << 20);
        let first = home.set_view(&view(1, Some((1, 1)), &[(HOME, 1)], at(500)), T0);
        assert_eq!(gaps(&first), 0, "it had nothing");
        if had_line {
            home.write_own(1, set("k", "a"), T0);
        }
        // Its lease has ended, and the log, which counts time without a leader as none, knows it still.
        home.membership_renewed(at(9_000), 2, at(600));
        let outputs = home.set_view(&view(2, Some((1, 1)), &[(HOME, 1), (OTHER, 1)], at(9_000)), at(601));
        assert_eq!(home.len(), 0);
        assert_eq!(gaps(&outputs), usize::from(had_line));
        let before_seals = outputs.iter().take_while(|output| !matches!(output, Output::Seal { .. })).count();
        assert!(outputs.iter().position(|output| *output == Output::Gap).is_none_or(|at| at < before_seals));
    }
}

#[test]
fn a_line_that_two_rings_in_a_row_leave_with_nobody_is_told_by_whom_it_was_for() {
    let (mut old, mut new, answer) = handed_over();
    let third = (READER, 1);
    // The answer is lost, or comes and is not served before the ring has changed again.
    for arrives in [false, true] {
        let mut new = new.clone();
        if arrives {
            new.tenure.sealed(HOME, 1);
            let Answer::Sealed { first, lines, .. } = answers(&answer)[0].1.clone() else { panic!("sealed") };
            new.sealed(HOME, 2, first, lines, true, at(1));
            assert_eq!(new.len(), 1);
        }
        assert_eq!(gaps(&new.set_view(&new_homes(3, &[third]), at(2))), 1);
        assert_eq!(new.len(), 0, "its sender decides where it goes");
    }
    let view = view(3, Some((1, 1)), &[(HOME, 1), (OTHER, 1), third], FOR_EVER);
    assert_eq!(
        gaps(&old.set_view(&view, at(2))),
        1,
        "lines of the new one's may have been on their way, too"
    );
    arrive(&mut new, &answer, at(1));
    assert_eq!(text(new.read_own(&moving_key(), at(1)).unwrap()), Some("a".into()));
    assert_eq!(gaps(&new.set_view(&new_homes(3, &[third]), at(2))), 0, "it has served it");
}

#[test]
fn lines_that_their_new_home_asks_for_when_they_are_forgotten_are_a_gap_before_its_answer() {
    let (mut old, mut new, _lost) = handed_over();
    let later = at(31_000);
    old.tick(later);
    let outputs = old.seal(8, OTHER, Addressee { ring_epoch: 2, ..TO }, 0, later);
    assert!(matches!(outputs[..], [Output::Gap, Output::Answer { tag: 8, .. }]), "{outputs:?}");
    arrive(&mut new, &outputs, later);
    assert_eq!(new.read_own(&moving_key(), later), Ok(None), "it goes on without them");
    let outputs = old.seal(9, OTHER, Addressee { ring_epoch: 2, ..TO }, 1, later);
    assert_eq!(gaps(&outputs), 0, "whoever has them misses nothing");
}

#[test]
fn a_home_that_leaves_hands_a_line_over_again_whose_receipt_nobody_has_confirmed() {
    let (mut old, mut new, _lost) = handed_over();
    old.retire(at(1));
    let again = old.seal(8, OTHER, Addressee { ring_epoch: 2, ..TO }, 0, at(1));
    arrive(&mut new, &again, at(1));
    assert_eq!(text(new.read_own(&moving_key(), at(1)).unwrap()), Some("a".into()));
}

#[test]
fn the_last_home_that_leaves_tells_of_every_line() {
    let mut home = home();
    home.write_own(1, set("k", "a"), T0);
    let version = Version { epoch: 1, counter: 1 };
    let lost = News::Changed { key: "k".into(), version, how: Change::Lost };
    assert_eq!(home.retire(at(1)), [Output::News(lost)]);
}
