//! Several locks together, permits, and sessions: what the client asks for, and what it believes.

mod kit;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kit::{Node, Say, Seen, eventually, fault};
use lockstep_client::{Client, Lost};
use serde_json::json;

const TTL: Duration = Duration::from_millis(900);

/// Grants everything; renews sessions for as long as `alive`.
fn script(request: &Seen, alive: bool) -> Say {
    match request.path.as_str() {
        "/session/open" => Say::Answer(200, json!({"session": "s1", "ttl_ms": 900, "expires_in_ms": 900})),
        "/session/renew" if alive => {
            Say::Answer(200, json!({"session": "s1", "ttl_ms": 900, "expires_in_ms": 900}))
        }
        "/session/renew" => Say::Answer(410, fault("session_expired")),
        "/session/close" => Say::Answer(200, json!({"closed": true})),
        "/lock/release" => Say::Answer(200, json!({"released": true})),
        _ => {
            let mut reply = json!({"acquired": true, "owner": request.body["owner"], "mode": "exclusive",
                                   "token": 9, "ttl_ms": 900, "expires_in_ms": 900});
            for field in ["name", "names", "session"] {
                if !request.body[field].is_null() {
                    reply[field] = request.body[field].clone();
                }
            }
            Say::Answer(200, reply)
        }
    }
}

async fn node() -> (Node, Arc<AtomicBool>) {
    let alive = Arc::new(AtomicBool::new(true));
    let seen = Arc::clone(&alive);
    (Node::start(move |_, request| script(request, seen.load(Ordering::Relaxed))).await, alive)
}

fn asked(node: &Node, path: &str) -> Vec<serde_json::Value> {
    node.seen().into_iter().filter(|seen| seen.path == path).map(|seen| seen.body).collect()
}

#[tokio::test]
async fn one_heartbeat_keeps_all_locks_of_a_session() {
    let (node, _) = node().await;
    let session = Client::new([&node.url]).unwrap().session("me").ttl(TTL).open().await.unwrap();
    let first = session.lock("a").acquire().await.unwrap();
    let second = session.lock("b").acquire().await.unwrap();
    eventually("heartbeats for longer than the lease", || asked(&node, "/session/renew").len() >= 4).await;
    assert_eq!((first.token(), second.token()), (Ok(9), Ok(9)));
    assert!(asked(&node, "/lock/renew").is_empty());
    let acquire = &asked(&node, "/lock/acquire")[0];
    assert_eq!((&acquire["session"], &acquire["ttl_ms"]), (&json!("s1"), &json!(null)));
    first.release().await.unwrap();
    assert_eq!(asked(&node, "/lock/release")[0]["session"], "s1");

    drop(session);
    assert!(asked(&node, "/session/close").is_empty(), "a guard still lives on it");
    drop(second);
    eventually("it is closed with its last guard", || asked(&node, "/session/close").len() == 1).await;
}

#[tokio::test]
async fn the_end_of_a_session_is_the_loss_of_its_locks() {
    let (node, alive) = node().await;
    let session = Client::new([&node.url]).unwrap().session("me").ttl(TTL).open().await.unwrap();
    let guard = session.lock("a").acquire().await.unwrap();
    alive.store(false, Ordering::Relaxed);
    let lost = guard.lost().await;
    assert!(matches!(&lost, Lost::Refused(why) if why.contains("session_expired")), "{lost}");
    assert_eq!(session.is_lost(), Some(lost));
}

#[tokio::test]
async fn a_closed_session_has_lost_its_locks_at_once() {
    let (node, _) = node().await;
    let session = Client::new([&node.url]).unwrap().session("me").ttl(TTL).open().await.unwrap();
    let guard = session.lock("a").acquire().await.unwrap();
    session.close().await.unwrap();
    assert_eq!(guard.lost().await, Lost::Released);
    assert_eq!(asked(&node, "/session/close").len(), 1);
}

#[tokio::test]
async fn several_locks_are_one_hold() {
    let (node, _) = node().await;
    let client = Client::new([&node.url]).unwrap();
    let guard = client.locks(["a", "b"]).ttl(TTL).acquire().await.unwrap();
    assert_eq!((guard.names(), guard.name()), (&["a".to_owned(), "b".to_owned()][..], "a"));
    assert_eq!((guard.token(), guard.token_of("b")), (Ok(9), Ok(9)));
    eventually("a renewal", || asked(&node, "/lock/renew").len() == 1).await;
    guard.release().await.unwrap();
    for path in ["/lock/acquire", "/lock/renew", "/lock/release"] {
        let body = &asked(&node, path)[0];
        assert_eq!((&body["names"], body.get("name")), (&json!(["a", "b"]), None), "{path}: {body}");
    }
}

#[tokio::test]
async fn a_permit_names_its_limit() {
    let (node, _) = node().await;
    let client = Client::new([&node.url]).unwrap();
    let lock = client.lock("a").permit(3).metadata(json!({"why": "test"})).lock_delay(TTL);
    drop(lock.acquire().await.unwrap());
    let body = &asked(&node, "/lock/acquire")[0];
    assert_eq!((&body["mode"], &body["limit"]), (&json!("permit"), &json!(3)));
    assert_eq!((&body["metadata"], &body["lock_delay_ms"]), (&json!({"why": "test"}), &json!(900)));
}
