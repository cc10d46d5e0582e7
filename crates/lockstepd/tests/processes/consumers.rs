//! Producers and consumers under crashes, pauses and cut links: nothing acknowledged is lost, nothing
//! done comes back, and each key's messages come in order, one at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::kit::{Cluster, Http, eventually};

const KEYS: u64 = 5;
/// One try waits this long for an answer.
const TRY: Duration = Duration::from_secs(3);
/// A delivery lasts longer than anybody waits for the answer that brings it: so what consumers see comes
/// in the order in which it was delivered.
const VISIBILITY_MS: u64 = 5_000;

/// What everybody was told, in the order of the answers.
#[derive(Default)]
struct Told {
    /// By key, in push order.
    pushed: BTreeMap<u64, Vec<u64>>,
    /// By key, whoever received it.
    received: BTreeMap<u64, Vec<u64>>,
    acknowledged: BTreeSet<(u64, u64)>,
}

impl Told {
    fn receive(&mut self, key: u64, number: u64) {
        assert!(!self.acknowledged.contains(&(key, number)), "{key}/{number} was done, and came back");
        let before = self.received.entry(key).or_default();
        if let Some(last) = before.last() {
            assert!(*last <= number, "key {key}: {number} came after {last}");
        }
        before.push(number);
    }

    /// After everything was taken out.
    fn check(&self) {
        for (key, pushed) in &self.pushed {
            let received: BTreeSet<&u64> = self.received.get(key).into_iter().flatten().collect();
            let lost: Vec<&u64> = pushed.iter().filter(|number| !received.contains(number)).collect();
            assert!(lost.is_empty(), "key {key}: acknowledged and lost: {lost:?} of {}", pushed.len());
        }
        assert!(!self.pushed.is_empty() && !self.acknowledged.is_empty(), "the load proves nothing");
    }
}

#[derive(Clone)]
struct Client {
    number: u64,
    nodes: Vec<Http>,
    stopping: watch::Receiver<bool>,
    told: Arc<Mutex<Told>>,
}

impl Client {
    async fn produce(self) {
        let key = self.number;
        let mut number = 0;
        while !*self.stopping.borrow() {
            number += 1;
            let body = json!({
                "queue": "work", "key": format!("key-{key}"), "payload": {"key": key, "number": number},
                "request_id": format!("work-{key}-{number}"),
            });
            if self.insist(number, "/queue/push", &body).await {
                self.told.lock().unwrap().pushed.entry(key).or_default().push(number);
            }
        }
    }

    async fn consume(self) {
        for turn in 0.. {
            if *self.stopping.borrow() {
                return;
            }
            let body = json!({"queue": "work", "max": 3, "visibility_ms": VISIBILITY_MS, "wait_ms": 500});
            let Ok(answer) = self.node(turn).post("/queue/receive", &body).await else { continue };
            if answer.status == 200 {
                self.handle(turn, &answer.json).await;
            } else {
                assert!(matches!(answer.status, 503 | 504), "{}", answer.text);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Takes note of everything first, then is done with it, or gives it back now and then.
    async fn handle(&self, turn: u64, answer: &Value) {
        let messages = answer["messages"].as_array().cloned().unwrap_or_default();
        let what = |message: &Value| {
            let payload = &message["payload"];
            (payload["key"].as_u64().unwrap(), payload["number"].as_u64().unwrap())
        };
        for message in &messages {
            let (key, number) = what(message);
            self.told.lock().unwrap().receive(key, number);
        }
        for message in &messages {
            let (key, number) = what(message);
            if (turn + number).is_multiple_of(7) {
                let body = json!({"receipt": message["receipt"], "failed": false});
                let _ = self.node(turn).post("/queue/nack", &body).await;
                continue;
            }
            if self.acknowledge(turn, &message["receipt"]).await {
                self.told.lock().unwrap().acknowledged.insert((key, number));
            }
        }
    }

    /// A few tries: a message that nobody acknowledges stops its key until its time-out ends.
    async fn acknowledge(&self, turn: u64, receipt: &Value) -> bool {
        let body = json!({"receipt": receipt, "request_id": format!("ack-{}", receipt.as_str().unwrap())});
        for attempt in 1..=3 {
            match self.node(turn + attempt).post("/queue/ack", &body).await {
                Ok(answer) if answer.status == 200 => return true,
                Ok(answer) if answer.status == 409 => return false,
                Ok(answer) => assert!(matches!(answer.status, 503 | 504), "{}", answer.text),
                Err(_) => {}
            }
        }
        false
    }

    /// Asks under one id until there is an answer. `false` when the test stops meanwhile without one.
    async fn insist(&self, turn: u64, route: &str, body: &Value) -> bool {
        for attempt in 0.. {
            match self.node(turn + attempt).post(route, body).await {
                Ok(answer) if answer.status == 200 => return true,
                Ok(answer) => assert!(matches!(answer.status, 503 | 504), "{route}: {}", answer.text),
                Err(_) => {}
            }
            if *self.stopping.borrow() {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    fn node(&self, turn: u64) -> Http {
        self.nodes[(self.number + turn) as usize % self.nodes.len()]
    }
}

async fn goes_on(told: &Mutex<Told>, more: usize) {
    let goal = told.lock().unwrap().acknowledged.len() + more;
    eventually("work goes on", Duration::from_secs(30), || async {
        (told.lock().unwrap().acknowledged.len() >= goal).then_some(())
    })
    .await;
}

#[tokio::test]
async fn consumers_lose_nothing_and_see_each_key_in_order_whatever_happens_to_nodes() {
    let mut cluster = Cluster::start(3).await;
    let config = json!({"queue": "work", "max_attempts": 0});
    assert_eq!(cluster.http(1).post("/queue/configure", &config).await.unwrap().status, 200);
    let nodes: Vec<Http> = cluster.ids().into_iter().map(|id| cluster.http(id).patient(TRY)).collect();
    let (stop, stopping) = watch::channel(false);
    let told = Arc::new(Mutex::new(Told::default()));
    let mut producers = JoinSet::new();
    let mut consumers = JoinSet::new();
    let (stop_consumers, consuming) = watch::channel(false);
    for number in 0..KEYS {
        let client =
            Client { number, nodes: nodes.clone(), stopping: stopping.clone(), told: Arc::clone(&told) };
        producers.spawn(client.clone().produce());
        consumers.spawn(Client { stopping: consuming.clone(), ..client }.consume());
    }
    goes_on(&told, 20).await;

    let victim = cluster.leader().await;
    cluster.node(victim).kill();
    goes_on(&told, 20).await;
    cluster.node(victim).start();
    cluster.ready(victim).await;

    let victim = cluster.others(victim)[0];
    cluster.isolate(victim);
    goes_on(&told, 20).await;
    cluster.heal();

    let victim = cluster.others(victim)[1];
    cluster.node(victim).pause();
    goes_on(&told, 20).await;
    cluster.node(victim).resume();
    cluster.all_ready().await;

    stop.send_replace(true);
    while let Some(done) = producers.join_next().await {
        done.expect("a producer's own check failed");
    }
    // Consumers go on until the queue is empty: what an unknown answer has left in flight comes back.
    let stats = eventually("the queue is empty", Duration::from_secs(30), || async {
        let answer = cluster.http(1).patient(TRY).get("/queue/stats?queue=work").await.ok()?;
        let left = ["ready", "in_flight", "delayed"].map(|count| answer.json[count].as_u64());
        (left == [Some(0); 3]).then_some(answer.json)
    })
    .await;
    stop_consumers.send_replace(true);
    while let Some(done) = consumers.join_next().await {
        done.expect("a consumer's own check failed");
    }
    let told = told.lock().unwrap();
    told.check();
    let totals = &stats["totals"];
    let acknowledged: usize = told.pushed.values().map(Vec::len).sum();
    assert_eq!(totals["pushed"], totals["delivered"], "everything that came has gone by delivery: {stats}");
    assert!(totals["pushed"].as_u64().unwrap() >= acknowledged as u64, "{stats}");
}

/// The checks must be able to fail.
mod checks {
    use super::*;

    #[test]
    #[should_panic = "1 came after 2"]
    fn a_reordered_key_fails() {
        let mut told = Told::default();
        [2, 1].into_iter().for_each(|number| told.receive(0, number));
    }

    #[test]
    #[should_panic = "was done, and came back"]
    fn a_message_that_was_done_fails() {
        let mut told = Told { acknowledged: BTreeSet::from([(0, 1)]), ..Told::default() };
        told.receive(0, 1);
    }

    #[test]
    #[should_panic = "acknowledged and lost: [2]"]
    fn a_lost_message_fails() {
        let mut told = Told { pushed: BTreeMap::from([(0, vec![1, 2])]), ..Told::default() };
        told.receive(0, 1);
        told.check();
    }
}
