//! Producers and consumers under crashes, pauses and cut links. What everybody was told goes into a ledger
//! ([`ledger`]), which says whether it can all be true.

mod ledger;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::kit::{Cluster, Http, eventually};
use ledger::{Counts, Delivery, Id, Ledger};

const KEYS: u64 = 5;
/// One try waits this long for an answer.
const TRY: Duration = Duration::from_secs(3);
/// A delivery lasts longer than anybody waits for the answer that brings it: so what consumers see comes
/// in the order in which it was delivered.
const VISIBILITY: Duration = Duration::from_secs(5);
/// Failures after which a message is dead. Faults cost an honest one less.
const ATTEMPTS: u64 = 6;

#[derive(Clone)]
struct Client {
    number: u64,
    nodes: Vec<Http>,
    stopping: watch::Receiver<bool>,
    ledger: Arc<Mutex<Ledger>>,
}

/// Nobody is ever done with it.
fn is_poison((_, number): Id) -> bool {
    number.is_multiple_of(13)
}

impl Client {
    async fn produce(self) {
        let key = self.number;
        for number in 1.. {
            if *self.stopping.borrow() {
                return;
            }
            let doomed = number % 10 == 0;
            let body = if doomed {
                // Its time is over before its delay is.
                json!({
                    "queue": "work", "payload": "doomed", "ttl_ms": 1, "delay_ms": 60_000,
                    "request_id": format!("doomed-{key}-{number}"),
                })
            } else {
                json!({
                    "queue": "work", "key": format!("key-{key}"), "payload": {"key": key, "number": number},
                    "request_id": format!("work-{key}-{number}"),
                })
            };
            self.note(|ledger| match doomed {
                true => ledger.doomed_asked += 1,
                false => drop(ledger.asked.insert((key, number))),
            });
            if self.insist(number, "/queue/push", &body).await {
                self.note(|ledger| match doomed {
                    true => ledger.doomed += 1,
                    false => drop(ledger.pushed.insert((key, number))),
                });
            }
        }
    }

    /// Every other consumer acknowledges with its next receive.
    async fn consume(self) {
        let mut done: Vec<(Id, Value)> = Vec::new();
        for turn in 0.. {
            if *self.stopping.borrow() {
                for (id, receipt) in done {
                    self.acknowledge(turn, id, &receipt).await;
                }
                return;
            }
            let visibility_ms = u64::try_from(VISIBILITY.as_millis()).unwrap();
            let mut body = json!({"queue": "work", "max": 3, "visibility_ms": visibility_ms, "wait_ms": 500});
            if !done.is_empty() {
                self.note(|ledger| ledger.maybe_acked.extend(done.iter().map(|(id, _)| *id)));
                body["ack"] = done.iter().map(|(_, receipt)| receipt.clone()).collect();
            }
            let asked = Instant::now();
            let Ok(answer) = self.node(turn).post("/queue/receive", &body).await else { continue };
            if answer.status == 200 {
                self.settled(&mut done, &answer.json);
                let handled = self.handle(turn, asked, &answer.json).await;
                if self.number.is_multiple_of(2) {
                    done.extend(handled);
                } else {
                    for (id, receipt) in handled {
                        self.acknowledge(turn, id, &receipt).await;
                    }
                }
            } else {
                assert!(matches!(answer.status, 503 | 504), "{}", answer.text);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Leaves in `done` what has to be asked again.
    fn settled(&self, done: &mut Vec<(Id, Value)>, answer: &Value) {
        let results = answer["acked"].as_array().cloned().unwrap_or_default();
        assert_eq!(results.len(), done.len(), "{answer}");
        let mut results = results.iter();
        done.retain(|(id, _)| match &results.next().unwrap()["error"]["code"] {
            Value::Null => {
                self.note(|ledger| ledger.acked.insert(*id));
                false
            }
            code => code != "stale_receipt",
        });
    }

    /// Takes note of everything first, then is done with it, or gives it back: poison always, others now
    /// and then. Returns what it is done with.
    async fn handle(&self, turn: u64, asked: Instant, answer: &Value) -> Vec<(Id, Value)> {
        let messages = answer["messages"].as_array().cloned().unwrap_or_default();
        let told = Instant::now();
        for message in &messages {
            let attempts = message["attempts"].as_u64().unwrap();
            self.note(|ledger| {
                ledger.receive(id_of(message), Delivery { attempts, asked, told, returned: None })
            });
        }
        let mut done = Vec::new();
        for message in &messages {
            let id = id_of(message);
            if is_poison(id) || (turn + id.1).is_multiple_of(7) {
                self.note(|ledger| ledger.give_back(id));
                let body = json!({"receipt": message["receipt"], "failed": is_poison(id)});
                let _ = self.node(turn).post("/queue/nack", &body).await;
            } else {
                done.push((id, message["receipt"].clone()));
            }
        }
        done
    }

    /// A few tries: a message that nobody acknowledges stops its key until its time-out ends.
    async fn acknowledge(&self, turn: u64, id: Id, receipt: &Value) {
        let body = json!({"receipt": receipt, "request_id": format!("ack-{}", receipt.as_str().unwrap())});
        self.note(|ledger| ledger.maybe_acked.insert(id));
        for attempt in 1..=3 {
            match self.node(turn + attempt).post("/queue/ack", &body).await {
                Ok(answer) if answer.status == 200 => {
                    self.note(|ledger| ledger.acked.insert(id));
                    return;
                }
                Ok(answer) if answer.status == 409 => return,
                Ok(answer) => assert!(matches!(answer.status, 503 | 504), "{}", answer.text),
                Err(_) => {}
            }
        }
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

    fn note<T>(&self, write: impl FnOnce(&mut Ledger) -> T) -> T {
        write(&mut self.ledger.lock().unwrap())
    }

    fn node(&self, turn: u64) -> Http {
        self.nodes[(self.number + turn) as usize % self.nodes.len()]
    }
}

fn id_of(message: &Value) -> Id {
    let payload = &message["payload"];
    (payload["key"].as_u64().unwrap_or(u64::MAX), payload["number"].as_u64().unwrap_or(u64::MAX))
}

/// Producers and consumers of one queue.
struct Load {
    client: Client,
    producing: watch::Sender<bool>,
    producers: JoinSet<()>,
    consuming: watch::Sender<bool>,
    consumers: JoinSet<()>,
}

impl Load {
    fn start(cluster: &Cluster) -> Self {
        let nodes = cluster.ids().into_iter().map(|id| cluster.http(id).patient(TRY)).collect();
        let (producing, stopping) = watch::channel(false);
        let ledger = Ledger { visibility: VISIBILITY, ..Ledger::default() };
        let client = Client { number: 0, nodes, stopping, ledger: Arc::new(Mutex::new(ledger)) };
        let producers = (0..KEYS).map(|number| Client { number, ..client.clone() }.produce()).collect();
        let mut load = Self {
            client,
            producing,
            producers,
            consuming: watch::Sender::new(false),
            consumers: JoinSet::new(),
        };
        load.consume();
        load
    }

    fn consume(&mut self) {
        self.consuming = watch::Sender::new(false);
        for number in 0..KEYS {
            let client = Client { number, stopping: self.consuming.subscribe(), ..self.client.clone() };
            self.consumers.spawn(client.consume());
        }
    }

    async fn stop_producers(&mut self) {
        self.producing.send_replace(true);
        while let Some(done) = self.producers.join_next().await {
            done.expect("a producer's own check failed");
        }
    }

    async fn stop_consumers(&mut self) {
        self.consuming.send_replace(true);
        while let Some(done) = self.consumers.join_next().await {
            done.expect("a consumer's own check failed");
        }
    }

    async fn goes_on(&self, more: usize) {
        let acked = || self.client.note(|ledger| ledger.acked.len());
        let goal = acked() + more;
        eventually("work goes on", Duration::from_secs(30), || async { (acked() >= goal).then_some(()) })
            .await;
    }

    /// Whether everything that anybody was told agrees with what is there now.
    async fn check(&self, cluster: &Cluster) -> Counts {
        let stats = eventually("the doomed are gone", Duration::from_secs(10), || async {
            Some(get(cluster, "/queue/stats?queue=work").await).filter(|stats| stats["delayed"] == 0)
        })
        .await;
        let [ready, in_flight, delayed] = ["ready", "in_flight", "delayed"].map(|name| number(&stats[name]));
        let totals = |name: &str| number(&stats["totals"][name]);
        let counts = Counts {
            pushed: totals("pushed"),
            delivered: totals("delivered"),
            expired: totals("expired"),
            dead_lettered: totals("dead_lettered"),
            waiting: ready + in_flight + delayed,
        };
        let waiting = peek(cluster, "work").await;
        let dead = peek(cluster, "work.dead").await;
        assert!(dead.iter().all(|id| is_poison(*id)), "an honest message died: {dead:?}");
        self.client.note(|ledger| {
            // What is in flight cannot be looked at; nobody consumes now, so each such was told to somebody.
            let held = |id: &Id| !ledger.acked.contains(id) && !waiting.contains(id) && !dead.contains(id);
            let held: BTreeSet<Id> = ledger.deliveries.keys().filter(|id| held(id)).copied().collect();
            let there = if in_flight > 0 { waiting.union(&held).copied().collect() } else { waiting };
            ledger.check(&counts, &there, &dead);
        });
        counts
    }
}

async fn get(cluster: &Cluster, target: &str) -> Value {
    let answer = cluster.http(1).get(target).await.expect("a healthy cluster answers");
    assert_eq!(answer.status, 200, "{target}: {}", answer.text);
    answer.json
}

async fn peek(cluster: &Cluster, queue: &str) -> BTreeSet<Id> {
    let peeked = get(cluster, &format!("/queue/peek?queue={queue}&max=1000")).await;
    peeked["messages"].as_array().unwrap().iter().map(id_of).collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a number, not {value}"))
}

#[tokio::test]
async fn consumers_lose_nothing_and_see_each_key_in_order_whatever_happens_to_nodes() {
    let mut cluster = Cluster::start(3).await;
    let config = json!({"queue": "work", "max_attempts": ATTEMPTS});
    assert_eq!(cluster.http(1).post("/queue/configure", &config).await.unwrap().status, 200);
    let mut load = Load::start(&cluster);
    load.goes_on(20).await;

    let victim = cluster.leader().await;
    cluster.node(victim).kill();
    load.goes_on(20).await;
    cluster.node(victim).start();
    cluster.ready(victim).await;

    let victim = cluster.others(victim)[0];
    cluster.isolate(victim);
    load.goes_on(20).await;
    cluster.heal();

    let victim = cluster.others(victim)[1];
    cluster.node(victim).pause();
    load.goes_on(20).await;
    cluster.node(victim).resume();
    cluster.all_ready().await;

    load.stop_producers().await;
    load.stop_consumers().await;
    load.check(&cluster).await;

    // Consumers go on until the queue is empty: what an unknown answer has left in flight comes back.
    load.consume();
    eventually("the queue is empty", Duration::from_secs(60), || async {
        let answer = cluster.http(1).patient(TRY).get("/queue/stats?queue=work").await.ok()?;
        let left = ["ready", "in_flight", "delayed"].map(|count| answer.json[count].as_u64());
        (left == [Some(0); 3]).then_some(())
    })
    .await;
    load.stop_consumers().await;
    let counts = load.check(&cluster).await;
    assert_eq!(counts.waiting, 0);
    for (what, count) in [("expired", counts.expired), ("dead", counts.dead_lettered)] {
        assert!(count > 0, "nothing {what}: the load proves nothing: {counts:?}");
    }
    let (returns, time_outs) = load.client.note(|ledger| ledger.explain_duplicates());
    println!("{counts:?}; delivered again after {returns} returns and {time_outs} time-outs");
    assert!(returns > 0, "nothing came back: the load proves nothing");
}
