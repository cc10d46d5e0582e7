//! The client crate against real nodes: what it promises its users must hold through crashes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lockstep_client::queue::Message;
use lockstep_client::{Client, Code, Lost};
use serde_json::json;

use crate::kit::{Cluster, eventually, within};

const SOON: Duration = Duration::from_secs(20);

fn client(cluster: &Cluster) -> Client {
    let urls = cluster.ids().into_iter().map(|id| format!("http://127.0.0.1:{}", cluster.http(id).port));
    let client = Client::builder(urls).attempt_timeout(Duration::from_secs(2));
    client.build().unwrap()
}

#[tokio::test]
async fn a_lock_outlives_a_killed_leader_and_excludes_until_it_is_released() {
    let mut cluster = Cluster::start(3).await;
    let client = client(&cluster);
    let lock = || client.lock("resource").ttl(Duration::from_secs(6));
    let guard = lock().acquire().await.unwrap();
    let token = guard.token().unwrap();
    assert!(lock().acquire().await.unwrap_err().is(Code::Held));

    let leader = cluster.leader().await;
    cluster.node(leader).kill();
    let killed = Instant::now();
    // Longer than the lease: only renewals at the new leader keep it alive.
    while killed.elapsed() < Duration::from_secs(8) {
        assert_eq!(guard.token(), Ok(token));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let waiting = tokio::spawn(lock().wait(SOON).acquire());
    eventually("one waits", SOON, || async {
        client.lock_info("resource").await.ok().filter(|lock| lock.waiters.len() == 1).map(drop)
    })
    .await;
    guard.release().await.unwrap();
    let next = within("the next holder", SOON, waiting).await.unwrap().unwrap();
    assert!(next.token().unwrap() > token);
}

#[tokio::test]
async fn a_broken_lock_is_noticed_and_a_dropped_wait_leaves_the_queue() {
    let cluster = Cluster::start(3).await;
    let client = client(&cluster);
    let lock = || client.lock("resource").ttl(Duration::from_secs(3));
    let guard = lock().owner("holder").acquire().await.unwrap();
    let waiting = tokio::spawn(lock().wait(Duration::from_secs(60)).acquire());
    let waiters = |count: usize| {
        let client = client.clone();
        eventually("so many wait", SOON, move || {
            let client = client.clone();
            async move {
                client.lock_info("resource").await.ok().filter(|lock| lock.waiters.len() == count).map(drop)
            }
        })
    };
    waiters(1).await;
    waiting.abort();
    waiters(0).await;

    let release = json!({"name": "resource", "owner": "holder"});
    assert_eq!(client.post("/lock/release", release).await.unwrap().status, 200);
    let lost = within("the loss is noticed", SOON, guard.lost()).await;
    assert!(matches!(&lost, Lost::Refused(why) if why.contains("not_held")), "{lost}");
}

#[tokio::test]
async fn workers_handle_every_message_through_a_crash() {
    const MESSAGES: u64 = 200;
    let mut cluster = Cluster::start(3).await;
    let client = client(&cluster);
    let queue = client.queue("work");
    let messages = (0..MESSAGES).map(|number| Message::new(&number).unwrap().key((number % 7).to_string()));
    for pushed in queue.push_batch(messages.collect()).await.unwrap() {
        pushed.unwrap();
    }
    let handled = Arc::new(std::sync::Mutex::new(std::collections::BTreeSet::new()));
    let runs = Arc::new(AtomicU64::new(0));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let handler = {
        let (handled, runs) = (Arc::clone(&handled), Arc::clone(&runs));
        move |delivery: lockstep_client::queue::Delivery| {
            let (handled, runs) = (Arc::clone(&handled), Arc::clone(&runs));
            async move {
                runs.fetch_add(1, Ordering::Relaxed);
                let number: u64 = delivery.payload()?;
                // Every tenth message fails once, and comes back.
                if number.is_multiple_of(10) && delivery.message().attempts == 1 {
                    return Err(lockstep_client::Error::Invalid("try again".into()));
                }
                handled.lock().unwrap().insert(number);
                Ok(())
            }
        }
    };
    let worker = queue.worker(8).visibility(Duration::from_secs(3)).until(async {
        let _ = stopped.await;
    });
    let worker = tokio::spawn(worker.run(handler));
    let count = || handled.lock().unwrap().len() as u64;
    eventually("some are handled", SOON, || async { (count() > 20).then_some(()) }).await;
    let leader = cluster.leader().await;
    cluster.node(leader).kill();
    eventually("all are handled", SOON * 2, || async { (count() == MESSAGES).then_some(()) }).await;
    eventually("nothing is left", SOON, || async {
        let stats = queue.stats().await.ok()?;
        (stats.ready + stats.in_flight + stats.delayed == 0).then_some(())
    })
    .await;
    stop.send(()).unwrap();
    let summary = within("the worker stops", SOON, worker).await.unwrap().unwrap();
    assert_eq!(
        summary.done + summary.failed + summary.unsure + summary.put_back,
        runs.load(Ordering::Relaxed)
    );
    assert!(summary.failed >= MESSAGES / 10, "{summary:?}");
}

#[tokio::test]
async fn cached_values_are_typed_conditional_and_gone_when_deleted() {
    let cluster = Cluster::start(3).await;
    let cache = client(&cluster).cache();
    assert_eq!(cache.get::<u32>("k").await.unwrap(), None);
    let first = cache.set("k", &1).if_absent().send().await.unwrap();
    assert!(cache.set("k", &2).if_absent().send().await.unwrap_err().is(Code::VersionMismatch));
    cache.set("k", &2).if_version(&first).ttl(Duration::from_secs(60)).send().await.unwrap();
    assert!(cache.set("k", &3).if_version(&first).send().await.unwrap_err().is(Code::VersionMismatch));
    let entry = cache.get::<u32>("k").await.unwrap().unwrap();
    assert_eq!(entry.value, 2);
    assert!(entry.expires_in.is_some_and(|left| left <= Duration::from_secs(60)), "{entry:?}");
    assert!(cache.get::<String>("k").await.is_err(), "a number is no text");
    assert!(cache.delete("k").await.unwrap());
    assert!(!cache.delete("k").await.unwrap());
}
