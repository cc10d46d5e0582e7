//! What a watcher at one node hears of what others change.

use lockstep_core::cache::feed::{Change as Became, News};
use lockstep_core::cache::watch::Gap;
use tokio::sync::watch;

use super::*;

/// Never stops.
fn stopping() -> watch::Receiver<bool> {
    static STOPPING: std::sync::OnceLock<watch::Sender<bool>> = std::sync::OnceLock::new();
    STOPPING.get_or_init(|| watch::Sender::new(false)).subscribe()
}

fn everything() -> Only {
    Only { namespace: DEFAULT.into(), ..Only::default() }
}

async fn watch(cluster: &Cluster, node: u64, only: Only, after: Option<EventId>) -> Watch {
    cluster.nodes[&node].watch(only, after, stopping()).await.unwrap()
}

/// The next events, until there is nothing for 50 ms.
async fn all(watch: &mut Watch) -> Vec<(EventId, Event)> {
    let mut events = Vec::new();
    while let Ok(Some(more)) = tokio::time::timeout(Duration::from_millis(50), watch.next()).await {
        events.extend(more);
    }
    events
}

fn changed(key: &str, version: Option<Version>, how: Became) -> Event {
    Event::News(News::Changed { key: key.into(), version: version.unwrap(), how })
}

fn words(events: &[(EventId, Event)]) -> Vec<Event> {
    events.iter().map(|(_, event)| event.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_watcher_hears_of_every_change_whoever_makes_it_and_wherever_its_home_is() {
    let cluster = Cluster::new().await;
    let mut watch = watch(&cluster, 1, everything(), None).await;
    assert_eq!(words(&all(&mut watch).await), [Event::Reset(Why::Start)]);
    let mut last = EventId { process: 0, seq: 0 };
    for home in 1..=3 {
        let key = cluster.key_at(home);
        for writer in 1..=3 {
            let version = cluster.set(writer, &key, "a").await.unwrap();
            let [(id, event)] = &all(&mut watch).await[..] else { panic!("one event") };
            assert_eq!(*event, changed(&key, version, Became::Set), "home {home}, writer {writer}");
            assert!(*id > last, "ids grow");
            last = *id;
        }
        let delete = Write::new(key.as_str().into(), Change::Delete);
        let version = cluster.nodes[&2].write(delete, SECOND).await.unwrap().version;
        assert_eq!(words(&all(&mut watch).await), [changed(&key, version, Became::Deleted)]);
    }
    cluster.nodes[&3].flush(DEFAULT, None, SECOND).await.unwrap();
    let flushed = Event::News(News::Flushed { namespace: DEFAULT.into() });
    assert_eq!(words(&all(&mut watch).await), vec![flushed; 3], "once for each home");
    cluster.nodes[&3].flush("back", None, SECOND).await.unwrap();
    assert_eq!(all(&mut watch).await, [], "another namespace");
    // Nothing is said for a while.
    let quiet = tokio::time::timeout(6 * SECOND, watch.next()).await.unwrap().unwrap();
    assert_eq!(words(&quiet), [Event::Alive]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_a_quiet_key_hears_that_it_lives_while_another_key_changes_all_the_time() {
    let cluster = Cluster::new().await;
    let only = Only { key: Some("quiet".into()), ..everything() };
    let mut watch = watch(&cluster, 1, only, None).await;
    all(&mut watch).await;
    let busy = async {
        loop {
            cluster.set(2, "busy", "a").await.unwrap();
            tokio::time::sleep(SECOND / 10).await;
        }
    };
    let heard = tokio::select! {
        heard = tokio::time::timeout(6 * SECOND, watch.next()) => heard,
        () = busy => unreachable!("it writes for ever"),
    };
    let heard = heard.expect("it says in time that it lives").unwrap();
    let [(id, Event::Alive)] = heard[..] else { panic!("{heard:?}") };
    assert!(id.seq > 40, "it says how far it has looked: {id}");
}

#[tokio::test(start_paused = true)]
async fn what_an_owner_writes_without_a_word_to_the_home_is_told_and_so_is_its_loss() {
    let cluster = Cluster::new().await;
    let key = (0..).map(|n| format!("back\0k{n}"));
    let key = key
        .clone()
        .find(|key| cluster.nodes[&1].lock().home.home_of(key).is_some_and(|home| home.node.0 == 1));
    let key = key.unwrap();
    cluster.set(1, &key, "a").await.unwrap();
    cluster.get(2, &key).await;
    let only = Only { namespace: "back".into(), prefix: Some("k".into()), key: None };
    let mut watch = watch(&cluster, 3, only, None).await;
    all(&mut watch).await;
    let version = cluster.set(2, &key, "b").await.unwrap();
    assert_eq!(cluster.nodes[&2].lock().copies.stats().owned_writes, 1);
    assert_eq!(words(&all(&mut watch).await), [changed(&key, version, Became::Set)]);
    cluster.net.isolate(2);
    assert_eq!(cluster.get(1, &key).await, None, "the owner is silent: a miss");
    let heard = words(&all(&mut watch).await);
    let lost = heard.iter().find_map(|event| match event {
        Event::News(News::Changed { version, how: Became::Lost, .. }) => Some(*version),
        _ => None,
    });
    assert!(lost >= version, "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_behind_an_event_at_its_node_and_is_reset_at_another() {
    let cluster = Cluster::new().await;
    let (one, two) = (cluster.key_at(1), cluster.key_at(2));
    let only = Only { key: Some(two.clone()), ..everything() };
    let mut first = watch(&cluster, 1, only.clone(), None).await;
    let (began, _) = all(&mut first).await[0].clone();
    drop(first);
    cluster.set(3, &one, "not asked for").await.unwrap();
    let mut versions = Vec::new();
    for value in ["a", "b", "c"] {
        versions.push(cluster.set(3, &two, value).await.unwrap());
    }
    let mut again = watch(&cluster, 1, only.clone(), Some(began)).await;
    let heard = all(&mut again).await;
    let expected: Vec<Event> = versions.iter().map(|version| changed(&two, *version, Became::Set)).collect();
    assert_eq!(words(&heard), expected);
    for (node, id) in [
        (2, heard[0].0),
        (1, EventId { seq: 1_000, ..began }),
        (1, EventId { process: began.process.wrapping_add(1), seq: began.seq }),
    ] {
        let events = all(&mut watch(&cluster, node, only.clone(), Some(id)).await).await;
        assert_eq!(words(&events)[0], Event::Reset(Why::UnknownId), "{id:?} at {node}");
    }
}

#[tokio::test(start_paused = true)]
async fn while_a_home_cannot_be_heard_its_watchers_are_reset_every_second() {
    let cluster = Cluster::new().await;
    let mut watch = watch(&cluster, 1, everything(), None).await;
    all(&mut watch).await;
    cluster.net.cut(2, 1);
    let began = cluster.clock.now();
    let key = cluster.key_at(2);
    // Its answer is lost as well, but it is done.
    let _ = cluster.set(3, &key, "a").await;
    let (_, first) = tokio::time::timeout(5 * SECOND, watch.next()).await.unwrap().unwrap().remove(0);
    assert_eq!(first, Event::Reset(Why::Gap(Gap::Away)));
    assert!(cluster.clock.now() - began < 4 * SECOND + Duration::from_millis(200));
    let again = cluster.clock.now();
    assert_eq!(words(&watch.next().await.unwrap()), [Event::Reset(Why::Gap(Gap::Away))]);
    assert!(cluster.clock.now() - again < SECOND + Duration::from_millis(200));
    cluster.net.heal();
    tokio::time::sleep(3 * SECOND).await;
    let rest = words(&all(&mut watch).await);
    assert!(rest.iter().any(|event| matches!(event, Event::News(_))), "nothing was forgotten: {rest:?}");
    tokio::time::sleep(3 * SECOND).await;
    assert!(!all(&mut watch).await.iter().any(|(_, event)| matches!(event, Event::Reset(_))));
}

#[tokio::test(start_paused = true)]
async fn a_home_that_leaves_the_ring_or_starts_anew_is_a_reset_and_one_that_joins_is_none() {
    let cluster = Cluster::new().await;
    let mut watch = watch(&cluster, 1, everything(), None).await;
    all(&mut watch).await;
    cluster.show(2, &[1, 2], FOR_EVER);
    cluster.settle().await;
    assert_eq!(words(&all(&mut watch).await), [Event::Reset(Why::Gap(Gap::Ring))]);
    cluster.show(3, &[1, 2, 3], FOR_EVER);
    cluster.settle().await;
    let key = cluster.key_at(3);
    let version = cluster.set(2, &key, "a").await.unwrap();
    assert_eq!(words(&all(&mut watch).await), [changed(&key, version, Became::Set)]);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_does_not_read_is_reset_and_keeps_nothing_in_memory() {
    let cluster = Cluster::new().await;
    let mut watch = watch(&cluster, 1, everything(), None).await;
    all(&mut watch).await;
    let key = cluster.key_at(1);
    for n in 0..60_000 {
        let news = News::Changed {
            key: key.as_str().into(),
            version: Version { epoch: 1, counter: 1_000_000 + n },
            how: Became::Set,
        };
        let cache = &cluster.nodes[&1];
        cache.tell(&mut cache.lock(), news);
    }
    assert_eq!(words(&watch.next().await.unwrap()), [Event::Reset(Why::Slow)]);
    let version = cluster.set(2, &key, "a").await.unwrap();
    assert_eq!(words(&watch.next().await.unwrap()), [changed(&key, version, Became::Set)], "and goes on");
}

fn news(n: u64) -> News {
    News::Changed { key: "k".into(), version: Version { epoch: 1, counter: 1_000_000 + n }, how: Became::Set }
}

fn tell(cluster: &Cluster, node: u64, numbers: std::ops::Range<u64>) {
    let cache = &cluster.nodes[&node];
    let mut state = cache.lock();
    numbers.for_each(|n| cache.tell(&mut state, news(n)));
}

#[tokio::test(start_paused = true)]
async fn what_changes_within_a_moment_wakes_a_watcher_once() {
    let cluster = Cluster::new().await;
    let mut watch = watch(&cluster, 1, everything(), None).await;
    all(&mut watch).await;
    tell(&cluster, 1, 0..1);
    assert_eq!(words(&watch.next().await.unwrap()), [Event::News(news(0))], "at once, after a quiet time");
    let more = async {
        for n in 1..3 {
            tell(&cluster, 1, n..n + 1);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let (events, ()) = tokio::join!(watch.next(), more);
    assert_eq!(words(&events.unwrap()), (1..3).map(|n| Event::News(news(n))).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_member_with_much_to_tell_is_asked_again_at_once() {
    const MANY: u64 = 5_000;
    let cluster = Cluster::new().await;
    let mut watch = watch(&cluster, 1, everything(), None).await;
    all(&mut watch).await;
    let began = Instant::now();
    tell(&cluster, 2, 0..MANY);
    let mut heard = 0;
    while heard < MANY {
        heard += watch.next().await.unwrap().len() as u64;
    }
    // Twenty answers, for each of which a question and an answer are a millisecond under way.
    assert!(began.elapsed() <= Duration::from_millis(50), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn one_watcher_too_many_is_refused_until_another_has_gone() {
    let cluster = Cluster::with(FOR_EVER, Limits { watchers_max: 2, ..Limits::default() }).await;
    let first = watch(&cluster, 1, everything(), None).await;
    let _second = watch(&cluster, 1, everything(), None).await;
    let third = || cluster.nodes[&1].watch(everything(), None, stopping());
    assert_eq!(third().await.err(), Some(Error::TooManyWatchers));
    assert_eq!(cluster.figure(1, "watchers"), 2);
    drop(first);
    assert!(third().await.is_ok());
}
