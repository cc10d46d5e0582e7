//! A worker against a node that a test scripts: what it does with each message, and when it stops.

mod kit;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kit::{Node, Say, eventually, fault};
use lockstep_client::queue::{Delivery, Message, Queue, Summary};
use lockstep_client::{Client, Code, Error};
use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot};

fn queue(node: &Node) -> Queue {
    Client::new([&node.url]).unwrap().queue("q")
}

fn message(number: usize) -> Value {
    json!({"id": number.to_string(), "queue": "q", "key": null, "payload": number, "attempts": 1,
           "enqueued_at_ms": 0, "receipt": format!("r{number}"), "visible_in_ms": 30_000})
}

/// Gives `count` messages away, as many as each receive asks for; then it is silent.
async fn node_with(count: usize) -> Node {
    let given = Mutex::new(0);
    Node::start(move |_, request| match request.path.as_str() {
        "/queue/receive" => {
            let mut given = given.lock().unwrap();
            let max = usize::try_from(request.body["max"].as_u64().unwrap()).unwrap();
            let messages: Vec<Value> = (*given..count).take(max).map(message).collect();
            *given += messages.len();
            if messages.is_empty() { Say::Nothing } else { Say::Answer(200, json!({"messages": messages})) }
        }
        "/queue/ack" => Say::Answer(200, json!({"acknowledged": true})),
        "/queue/nack" => Say::Answer(200, json!({"returned": true})),
        "/queue/extend" => Say::Answer(200, json!({"visible_in_ms": 1})),
        _ => Say::Answer(404, fault("not_found")),
    })
    .await
}

fn asked(node: &Node, path: &str) -> Vec<Value> {
    node.seen().into_iter().filter(|seen| seen.path == path).map(|seen| seen.body).collect()
}

async fn ok(_: Delivery) -> Result<(), Error> {
    Ok(())
}

#[tokio::test]
async fn a_worker_acknowledges_what_succeeds_and_gives_back_what_fails_or_panics() {
    let node = node_with(3).await;
    let (stop, stopped) = oneshot::channel::<()>();
    let handler = |delivery: Delivery| async move {
        match delivery.payload::<u32>().unwrap() {
            0 => Ok(()),
            1 => Err("no"),
            _ => panic!("a handler may panic"),
        }
    };
    let worker = queue(&node).worker(2).retry_delay(Duration::from_secs(5));
    let worker = tokio::spawn(worker.until(async { drop(stopped.await) }).run(handler));
    eventually("all are settled", || {
        asked(&node, "/queue/ack").len() + asked(&node, "/queue/nack").len() == 3
    })
    .await;
    stop.send(()).unwrap();
    let summary = worker.await.unwrap().unwrap();
    assert_eq!(summary, Summary { done: 1, failed: 2, ..Summary::default() });
    assert_eq!(asked(&node, "/queue/ack")[0]["receipt"], "r0");
    for nack in asked(&node, "/queue/nack") {
        assert_eq!((&nack["failed"], &nack["delay_ms"]), (&json!(true), &json!(5000)), "{nack}");
    }
}

#[tokio::test]
async fn no_more_handlers_run_at_once_than_were_asked_for() {
    let node = node_with(40).await;
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let handler = {
        let (running, most) = (Arc::clone(&running), Arc::clone(&most));
        move |_: Delivery| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            async move {
                most.fetch_max(1 + running.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(2)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                Ok::<(), Error>(())
            }
        }
    };
    let worker = tokio::spawn(queue(&node).worker(3).run(handler));
    eventually("all are acknowledged", || asked(&node, "/queue/ack").len() == 40).await;
    assert_eq!(most.load(Ordering::SeqCst), 3);
    assert!(asked(&node, "/queue/receive").iter().all(|receive| receive["max"].as_u64() <= Some(3)));
    worker.abort();
}

#[tokio::test]
async fn a_message_is_extended_for_as_long_as_its_handler_runs() {
    let node = node_with(1).await;
    let go_on = Arc::new(Notify::new());
    let handler = {
        let go_on = Arc::clone(&go_on);
        move |_: Delivery| {
            let go_on = Arc::clone(&go_on);
            async move {
                go_on.notified().await;
                Ok::<(), Error>(())
            }
        }
    };
    let worker = queue(&node).worker(1).visibility(Duration::from_millis(300)).run(handler);
    let worker = tokio::spawn(worker);
    eventually("three extensions", || asked(&node, "/queue/extend").len() >= 3).await;
    assert_eq!(asked(&node, "/queue/extend")[0]["visibility_ms"], 300);
    go_on.notify_one();
    eventually("an acknowledgement", || asked(&node, "/queue/ack").len() == 1).await;
    worker.abort();
}

#[tokio::test]
async fn a_stopped_worker_finishes_what_runs_and_puts_back_what_it_has_not_begun() {
    let late = Arc::new(Notify::new());
    let node = Node::start(|number, request| match request.path.as_str() {
        "/queue/receive" if number == 0 => Say::Answer(200, json!({"messages": [message(0)]})),
        "/queue/receive" => Say::Late(Duration::from_millis(100), 200, json!({"messages": [message(1)]})),
        "/queue/ack" => Say::Answer(200, json!({"acknowledged": true})),
        _ => Say::Answer(200, json!({"returned": true})),
    })
    .await;
    let (stop, stopped) = oneshot::channel::<()>();
    let handler = {
        let late = Arc::clone(&late);
        move |_: Delivery| {
            let late = Arc::clone(&late);
            async move {
                late.notified().await;
                Ok::<(), Error>(())
            }
        }
    };
    // The stop comes while the second receive is on its way.
    let stop_when = async move {
        let _ = stopped.await;
    };
    let worker = tokio::spawn(queue(&node).worker(2).until(stop_when).run(handler));
    eventually("the first is received", || asked(&node, "/queue/receive").len() == 2).await;
    stop.send(()).unwrap();
    eventually("the second is put back", || asked(&node, "/queue/nack").len() == 1).await;
    let nack = &asked(&node, "/queue/nack")[0];
    assert_eq!((&nack["receipt"], &nack["failed"]), (&json!("r1"), &json!(false)));
    assert!(!worker.is_finished(), "it waits for the handler");
    late.notify_one();
    let summary = worker.await.unwrap().unwrap();
    assert_eq!(summary, Summary { done: 1, put_back: 1, ..Summary::default() });
}

#[tokio::test]
async fn a_worker_outlives_a_cluster_that_is_away_but_not_a_wrong_request() {
    let node = Node::start(|number, _| match number {
        0..3 => Say::Answer(503, fault("overloaded")),
        _ => Say::Answer(400, fault("bad_request")),
    })
    .await;
    let client = Client::builder([&node.url]).timeout(Duration::from_millis(60)).build().unwrap();
    let error = client.queue("q").worker(1).run(ok).await.unwrap_err();
    assert!(error.is(Code::BadRequest), "{error}");
    assert!(node.seen().len() == 4, "{:?}", node.paths());
}

#[tokio::test]
async fn a_batch_tries_items_that_failed_in_passing_again_under_the_same_id() {
    let done = json!({"id": "1-1", "queue": "q", "shard": 1});
    let node = {
        let done = done.clone();
        Node::start(move |number, _| {
            let second = if number == 0 { fault("no_leader") } else { done.clone() };
            Say::Answer(200, json!({"results": [done, second, fault("payload_too_large")]}))
        })
        .await
    };
    let messages = (0..3).map(|number| Message::new(&number).unwrap()).collect();
    let results = queue(&node).push_batch(messages).await.unwrap();
    assert!(results[0].is_ok() && results[1].is_ok(), "{results:?}");
    assert!(results[2].as_ref().unwrap_err().is(Code::PayloadTooLarge));
    let seen = node.seen();
    assert_eq!((seen.len(), &seen[0].body), (2, &seen[1].body));
}

/// Two messages, and a session that the node ends when it is told to.
async fn node_with_session(over: Arc<std::sync::atomic::AtomicBool>) -> Node {
    let given = AtomicUsize::new(0);
    Node::start(move |_, request| match request.path.as_str() {
        "/session/open" => Say::Answer(200, json!({"session": "s7", "ttl_ms": 600, "expires_in_ms": 600})),
        "/session/renew" if over.load(Ordering::SeqCst) => Say::Answer(410, fault("session_expired")),
        "/session/renew" => {
            Say::Answer(200, json!({"session": "s7", "ttl_ms": 600, "expires_in_ms": 600, "receipts": 2}))
        }
        "/queue/receive" => match given.fetch_add(1, Ordering::SeqCst) {
            number @ 0..2 => Say::Answer(200, json!({"messages": [message(number)]})),
            _ => Say::Nothing,
        },
        "/session/close" => Say::Answer(200, json!({"closed": true})),
        _ => Say::Answer(200, json!({"acknowledged": true})),
    })
    .await
}

#[tokio::test]
async fn a_worker_in_a_session_extends_nothing_itself_and_ends_with_the_session() {
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let node = node_with_session(Arc::clone(&over)).await;
    let client = Client::new([&node.url]).unwrap();
    let session = client.session("worker").ttl(Duration::from_millis(600)).open().await.unwrap();
    let go_on = Arc::new(Notify::new());
    let handler = {
        let go_on = Arc::clone(&go_on);
        move |_: Delivery| {
            let go_on = Arc::clone(&go_on);
            async move {
                go_on.notified().await;
                Ok::<(), Error>(())
            }
        }
    };
    let worker = client.queue("q").worker(3).visibility(Duration::from_millis(90)).session(&session);
    let worker = tokio::spawn(worker.run(handler));
    eventually("both are received, and heartbeats go on", || {
        asked(&node, "/queue/receive").len() == 3 && asked(&node, "/session/renew").len() >= 2
    })
    .await;
    let receive = &asked(&node, "/queue/receive")[0];
    assert_eq!((&receive["session"], &receive["visibility_ms"]), (&json!("s7"), &json!(600)), "{receive}");
    assert_eq!(asked(&node, "/queue/extend").len(), 0);
    over.store(true, Ordering::SeqCst);
    session.lost().await;
    go_on.notify_one();
    go_on.notify_one();
    let error = worker.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Lost(_)), "{error}");
    assert_eq!(asked(&node, "/queue/ack").len(), 2, "what runs is finished");
}
