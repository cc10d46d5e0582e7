//! Clients that push messages and take locks while a test breaks things, and what they were promised.
//!
//! Each client retries under the same request id until it has an answer, as the contract tells
//! clients to do, and writes down what was acknowledged. It never guesses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::kit::{Answer, Cluster, Http};

/// What the clients were told.
#[derive(Default)]
pub struct Told {
    /// Acknowledged pushes, in the order of their client.
    pushed: BTreeMap<u32, Vec<u64>>,
    grants: Vec<Grant>,
}

struct Grant {
    lock: String,
    token: u64,
    asked: Instant,
    told: Instant,
}

/// Clients at work.
pub struct Load {
    clients: JoinSet<()>,
    stop: watch::Sender<bool>,
    told: Arc<Mutex<Told>>,
}

/// One try waits this long for an answer before the client asks again.
const TRY: Duration = Duration::from_secs(3);

impl Load {
    /// Lets `clients` clients loose on every node of the cluster.
    pub fn start(cluster: &Cluster, clients: u32) -> Self {
        let nodes: Vec<Http> = cluster.ids().into_iter().map(|id| cluster.http(id).patient(TRY)).collect();
        let (stop, stopping) = watch::channel(false);
        let told = Arc::new(Mutex::new(Told::default()));
        let mut tasks = JoinSet::new();
        for number in 0..clients {
            let client =
                Client { number, nodes: nodes.clone(), stopping: stopping.clone(), told: Arc::clone(&told) };
            tasks.spawn(client.run());
        }
        Self { clients: tasks, stop, told }
    }

    /// How many pushes have been acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.told.lock().unwrap().pushed.values().map(Vec::len).sum()
    }

    /// Waits for `more` acknowledged pushes. Panics at the deadline.
    pub async fn goes_on(&self, more: usize, deadline: Duration) {
        let goal = self.acknowledged() + more;
        crate::kit::eventually("the load goes on", deadline, || async {
            (self.acknowledged() >= goal).then_some(())
        })
        .await;
    }

    /// Stops all clients, each after the request that it has in flight, and says what they were told.
    pub async fn stop(mut self) -> Told {
        self.stop.send_replace(true);
        while let Some(client) = self.clients.join_next().await {
            client.expect("a client's own check failed");
        }
        let told = std::mem::take(&mut *self.told.lock().unwrap());
        told.tokens_only_grow();
        told
    }
}

struct Client {
    number: u32,
    nodes: Vec<Http>,
    stopping: watch::Receiver<bool>,
    told: Arc<Mutex<Told>>,
}

impl Client {
    async fn run(self) {
        let mut turn = 0;
        while !*self.stopping.borrow() {
            turn += 1;
            self.push(turn).await;
            let lock = if turn % 2 == 0 { "shared".to_owned() } else { format!("own-{}", self.number) };
            self.lock_and_release(turn, &lock).await;
        }
    }

    async fn push(&self, turn: u64) {
        let number = self.number;
        let body = json!({
            "payload": {"client": number, "turn": turn}, "key": format!("client-{number}"),
            "request_id": format!("push-{number}-{turn}"),
        });
        let Some(answer) = self.ask(turn, "/queue/push", &body).await else { return };
        assert_eq!(answer.status, 200, "push: {}", answer.text);
        self.told.lock().unwrap().pushed.entry(number).or_default().push(turn);
    }

    async fn lock_and_release(&self, turn: u64, lock: &str) {
        let owner = format!("client-{}-{turn}", self.number);
        let body = json!({
            "name": lock, "owner": owner, "mode": "exclusive", "ttl_ms": 2_000, "wait_ms": 500,
            "request_id": format!("lock-{owner}"),
        });
        let asked = Instant::now();
        let Some(answer) = self.ask(turn, "/lock/acquire", &body).await else { return };
        if answer.status == 409 {
            let expected = ["held", "wait_timeout", "lock_lost"];
            assert!(expected.contains(&answer.code()), "acquire: {}", answer.text);
            return;
        }
        assert_eq!(answer.status, 200, "acquire: {}", answer.text);
        let token = answer.json["token"].as_u64().expect("a token");
        let grant = Grant { lock: lock.to_owned(), token, asked, told: Instant::now() };
        self.told.lock().unwrap().grants.push(grant);
        let body =
            json!({"name": lock, "owner": owner, "token": token, "request_id": format!("release-{owner}")});
        let Some(answer) = self.ask(turn, "/lock/release", &body).await else { return };
        // The lease may have run out while nobody led.
        assert!(matches!(answer.status, 200 | 404 | 409), "release: {}", answer.text);
    }

    /// Asks until there is an answer, each time another node. `None` when the test stops meanwhile
    /// without one: then nothing is known, and nothing is written down.
    async fn ask(&self, turn: u64, target: &str, body: &Value) -> Option<Answer> {
        for attempt in 0_u64.. {
            let at = (u64::from(self.number) + turn + attempt) as usize % self.nodes.len();
            match self.nodes[at].post(target, body).await {
                Ok(answer) if answer.status < 500 => return Some(answer),
                Ok(answer) => assert!(matches!(answer.status, 503 | 504), "{target}: {}", answer.text),
                Err(_) => {}
            }
            if *self.stopping.borrow() {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }
}

impl Told {
    /// A grant that was asked for after another had been told has a larger token, whatever the lock.
    fn tokens_only_grow(&self) {
        let mut seen = BTreeMap::new();
        for grant in &self.grants {
            if let Some(other) = seen.insert(grant.token, &grant.lock) {
                panic!("token {} was granted twice: for {other} and for {}", grant.token, grant.lock);
            }
        }
        let mut told: Vec<&Grant> = self.grants.iter().collect();
        told.sort_by_key(|grant| grant.told);
        let mut asked: Vec<&Grant> = self.grants.iter().collect();
        asked.sort_by_key(|grant| grant.asked);
        let (mut largest, mut next) = (0, 0);
        for grant in asked {
            while next < told.len() && told[next].told < grant.asked {
                largest = largest.max(told[next].token);
                next += 1;
            }
            assert!(grant.token > largest, "token {} came after {largest} had been told", grant.token);
        }
        assert!(!self.grants.is_empty(), "no lock was granted: the load proves nothing");
    }

    /// The largest token that anybody was told.
    pub fn largest_token(&self) -> u64 {
        self.grants.iter().map(|grant| grant.token).max().unwrap_or_default()
    }

    /// Takes everything out of the queue: every acknowledged push must be there, once, and each
    /// client's in their order. Messages whose acknowledgement never arrived may be there too.
    pub async fn all_delivered(&self, cluster: &Cluster, through: &[u64]) {
        let mut delivered: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for turn in 0_usize.. {
            let node = cluster.http(through[turn % through.len()]);
            let batch = receive_and_ack(node).await;
            if batch.is_empty() {
                break;
            }
            for payload in batch {
                let client = payload["client"].as_u64().expect("our payload") as u32;
                delivered.entry(client).or_default().push(payload["turn"].as_u64().expect("our payload"));
            }
        }
        self.check(&delivered);
    }

    fn check(&self, delivered: &BTreeMap<u32, Vec<u64>>) {
        for (client, turns) in delivered {
            assert!(turns.is_sorted_by(|a, b| a < b), "client {client}: out of order or twice: {turns:?}");
        }
        for (client, turns) in &self.pushed {
            let there: BTreeSet<&u64> = delivered.get(client).into_iter().flatten().collect();
            let lost: Vec<&u64> = turns.iter().filter(|turn| !there.contains(turn)).collect();
            assert!(lost.is_empty(), "client {client}: acknowledged and lost: {lost:?} of {}", turns.len());
        }
        assert!(!self.pushed.is_empty(), "no push was acknowledged: the load proves nothing");
    }
}

/// One batch, acknowledged before it is returned. Empty when the queue proved empty.
async fn receive_and_ack(node: Http) -> Vec<Value> {
    let body = json!({"max": 100, "visibility_ms": 60_000});
    let answer = node.post("/queue/receive", &body).await.expect("a healthy cluster answers");
    assert_eq!(answer.status, 200, "receive: {}", answer.text);
    let messages = answer.json["messages"].as_array().cloned().unwrap_or_default();
    if messages.is_empty() {
        return Vec::new();
    }
    let receipts: Vec<&Value> = messages.iter().map(|message| &message["receipt"]).collect();
    let answer =
        node.post("/queue/ack", &json!({"receipts": receipts})).await.expect("a healthy cluster answers");
    assert_eq!(answer.status, 200, "ack: {}", answer.text);
    let failed =
        answer.json["results"].as_array().into_iter().flatten().find(|result| !result["error"].is_null());
    assert!(failed.is_none(), "ack: {}", answer.text);
    messages.into_iter().map(|message| message["payload"].clone()).collect()
}

/// The checks must be able to fail.
mod checks {
    use super::*;

    fn told(pushed: &[u64], tokens: &[u64]) -> Told {
        let start = Instant::now();
        let at = |step: usize| start + Duration::from_millis(step as u64);
        let grant = |(step, token): (usize, &u64)| Grant {
            lock: "lock".into(),
            token: *token,
            asked: at(2 * step),
            told: at(2 * step + 1),
        };
        Told {
            pushed: BTreeMap::from([(1, pushed.to_vec())]),
            grants: tokens.iter().enumerate().map(grant).collect(),
        }
    }

    #[test]
    fn growing_tokens_and_whole_deliveries_pass() {
        told(&[], &[3, 4, 9]).tokens_only_grow();
        told(&[1, 3], &[]).check(&BTreeMap::from([(1, vec![1, 2, 3])]));
    }

    #[test]
    #[should_panic = "came after 4"]
    fn a_token_that_goes_back_fails() {
        told(&[], &[4, 3]).tokens_only_grow();
    }

    #[test]
    #[should_panic = "granted twice"]
    fn a_repeated_token_fails() {
        told(&[], &[4, 4]).tokens_only_grow();
    }

    #[test]
    #[should_panic = "acknowledged and lost: [2]"]
    fn a_lost_message_fails() {
        told(&[1, 2, 3], &[]).check(&BTreeMap::from([(1, vec![1, 3])]));
    }

    #[test]
    #[should_panic = "out of order or twice"]
    fn a_repeated_or_reordered_message_fails() {
        told(&[1, 2], &[]).check(&BTreeMap::from([(1, vec![2, 1])]));
    }
}
