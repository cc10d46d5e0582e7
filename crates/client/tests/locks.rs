//! A held lock against nodes that answer late, wrongly or not at all.

mod kit;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kit::{Node, Say, acquired, eventually, fault};
use lockstep_client::{Client, Error, Lost};
use serde_json::json;

const TTL: Duration = Duration::from_millis(900);

fn client(node: &Node) -> Client {
    Client::new([&node.url]).unwrap()
}

fn released() -> Say {
    Say::Answer(200, json!({"released": true}))
}

#[tokio::test]
async fn a_held_lock_is_renewed_and_released_with_its_token() {
    let node = Node::start(|_, request| match request.path.as_str() {
        "/lock/release" => released(),
        _ => acquired(request, 41),
    })
    .await;
    let guard = client(&node).lock("a").ttl(TTL).owner("me").acquire().await.unwrap();
    let start = Instant::now();
    eventually("three renewals", || node.seen().len() >= 4).await;
    assert!(start.elapsed() >= TTL * 9 / 10, "not sooner than at a third of the lease each");
    assert_eq!((guard.token(), guard.name(), guard.owner()), (Ok(41), "a", "me"));
    let hold = guard.clone();
    guard.release().await.unwrap();
    assert_eq!(hold.token(), Err(Lost::Released));
    let seen = node.seen();
    assert!(seen[1..seen.len() - 1].iter().all(|request| request.path == "/lock/renew"), "{seen:?}");
    let last = &seen[seen.len() - 1];
    assert_eq!((last.path.as_str(), &last.body["token"]), ("/lock/release", &json!(41)));
}

#[tokio::test]
async fn a_dropped_guard_releases() {
    let node = Node::start(|_, request| match request.path.as_str() {
        "/lock/release" => released(),
        _ => acquired(request, 7),
    })
    .await;
    drop(client(&node).lock("a").acquire().await.unwrap());
    eventually("a release", || node.paths().contains(&"/lock/release".to_owned())).await;
    assert_eq!(node.seen()[1].body["token"], 7);
}

#[tokio::test]
async fn a_lock_that_cannot_be_renewed_is_lost_before_its_lease_can_have_ended() {
    let silent = Arc::new(AtomicBool::new(false));
    let node = {
        let silent = Arc::clone(&silent);
        Node::start(move |_, request| match silent.load(Ordering::Relaxed) {
            true => Say::Nothing,
            false => acquired(request, 1),
        })
        .await
    };
    let guard = client(&node).lock("a").ttl(TTL).acquire().await.unwrap();
    eventually("a renewal", || node.seen().len() == 2).await;
    silent.store(true, Ordering::Relaxed);
    let renewed = node.seen()[1].at;
    assert_eq!(guard.lost().await, Lost::Expired);
    assert!(renewed.elapsed() < TTL + Duration::from_millis(200), "{:?}", renewed.elapsed());
    assert!(renewed.elapsed() > TTL / 2, "not without need: {:?}", renewed.elapsed());
    assert_eq!(guard.token(), Err(Lost::Expired));
    // What comes too late does not bring it back.
    silent.store(false, Ordering::Relaxed);
    tokio::time::sleep(TTL / 2).await;
    assert_eq!(guard.token(), Err(Lost::Expired));
    assert!(matches!(guard.release().await, Err(Error::Lost(Lost::Expired))));
}

#[tokio::test]
async fn a_blocked_runtime_does_not_make_a_lost_lock_look_held() {
    let node = Node::start(|_, request| acquired(request, 1)).await;
    let guard = client(&node).lock("a").ttl(Duration::from_millis(300)).acquire().await.unwrap();
    std::thread::sleep(Duration::from_millis(310));
    assert_eq!(guard.token(), Err(Lost::Expired));
}

#[tokio::test]
async fn a_lock_that_the_cluster_says_is_gone_is_lost_at_once() {
    let node = Node::start(|_, request| match request.path.as_str() {
        "/lock/renew" => Say::Answer(409, fault("stale_token")),
        _ => acquired(request, 1),
    })
    .await;
    let guard = client(&node).lock("a").ttl(TTL).acquire().await.unwrap();
    let lost = guard.lost().await;
    assert!(matches!(&lost, Lost::Refused(why) if why.contains("stale_token")), "{lost}");
    assert!(guard.lease_left() > Duration::ZERO, "known before the lease is over");
    drop(guard);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!node.paths().contains(&"/lock/release".to_owned()), "there is nothing to release");
}

#[tokio::test]
async fn a_stop_margin_calls_the_lock_lost_early() {
    let node =
        Node::start(|number, request| if number == 0 { acquired(request, 1) } else { Say::Nothing }).await;
    let lock = client(&node).lock("a").ttl(TTL).stop_margin(TTL / 2);
    let guard = lock.acquire().await.unwrap();
    assert_eq!(guard.lost().await, Lost::Expired);
    let left = guard.lease_left();
    assert!(left > TTL / 4 && left <= TTL / 2, "{left:?}");
    let too_much = client(&node).lock("a").ttl(TTL).stop_margin(TTL).acquire().await;
    assert!(matches!(too_much, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn a_grant_after_a_long_wait_is_renewed_before_it_is_believed() {
    let node = Node::start(|_, request| {
        if request.path == "/lock/acquire" {
            std::thread::sleep(Duration::from_millis(500));
        }
        acquired(request, 1)
    });
    let node = node.await;
    let lock = client(&node).lock("a").ttl(Duration::from_millis(600)).wait(Duration::from_secs(5));
    let guard = lock.acquire().await.unwrap();
    assert_eq!(node.paths()[..2], ["/lock/acquire", "/lock/renew"]);
    assert_eq!(guard.token(), Ok(1));
}

#[tokio::test]
async fn a_caller_that_gives_up_waiting_hangs_up_and_gives_back() {
    let node = Node::start(|_, request| match request.path.as_str() {
        "/lock/acquire" => Say::Nothing,
        _ => released(),
    })
    .await;
    let lock = client(&node).lock("a").wait(Duration::from_secs(30));
    let waiting = tokio::spawn(lock.acquire());
    eventually("the request arrives", || node.seen().len() == 1).await;
    waiting.abort();
    eventually("the connection closes", || node.hung_up() == 1).await;
    eventually("a release", || node.paths().contains(&"/lock/release".to_owned())).await;
}
