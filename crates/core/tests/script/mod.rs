//! Runs a script against a fresh shard and writes down what it answers.

use std::fmt::Write;

use bytes::Bytes;
use lockstep_core::command::{Attempt, Command, LockOp, MemberOp, Mode, NewMessage, Op, QueueOp, RequestKey};
use lockstep_core::guards::{Guard, Proof};
use lockstep_core::names::{
    Incarnation, LockName, MessageId, MessageKey, NodeId, Origin, Owner, QueueName, Receipt, ShardId, Ticket,
    Token,
};
use lockstep_core::query::{Answer, Outcome, Query};
use lockstep_core::shard::{Settings, Shard};
use lockstep_core::{Effect, Epoch, Index, Millis, Refusal, Reply, Stamp};

/// The text with every expectation replaced by what really happens.
pub fn run(text: &str) -> String {
    let mut runner = Runner::new();
    let mut out = String::new();
    let mut expecting = false;
    let mut pending = Vec::new();
    for line in text.lines() {
        if line == "----" {
            out.push_str("----\n");
            for command in pending.drain(..) {
                out.push_str(&runner.run(command));
            }
            expecting = true;
        } else if line.is_empty() {
            expecting = false;
            out.push('\n');
        } else if !expecting {
            out.push_str(line);
            out.push('\n');
            if !line.starts_with('#') {
                pending.push(line);
            }
        }
    }
    out
}

struct Runner {
    shard: Shard,
    index: u64,
    epoch: u64,
    seq: u64,
}

/// The words of one command: positional ones, and `name=value`.
struct Words<'a> {
    plain: Vec<&'a str>,
    named: Vec<(&'a str, &'a str)>,
}

impl<'a> Words<'a> {
    fn new(words: &[&'a str]) -> Self {
        let named = words.iter().filter_map(|word| word.split_once('=')).collect();
        Self { plain: words.iter().copied().filter(|word| !word.contains('=')).collect(), named }
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.named.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    fn number(&self, name: &str, default: u64) -> u64 {
        self.get(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value}")))
    }

    fn millis(&self, name: &str, default: u64) -> Millis {
        Millis(self.number(name, default))
    }

    fn origin(&self) -> Origin {
        Origin {
            node: NodeId(self.number("node", 1)),
            incarnation: Incarnation(self.number("incarnation", 1)),
        }
    }

    /// `guard=LOCK/TOKEN`, and `proof=held` or `proof=permit`.
    fn guard(&self) -> Option<Guard> {
        let (lock, token) = self.get("guard")?.split_once('/').expect("lock/token");
        let proof = match self.get("proof") {
            Some("held") => Proof::Held,
            Some("permit") => Proof::HeldPermit,
            _ => Proof::Issued,
        };
        Some(Guard { lock: LockName(lock.into()), token: Token(token.parse().unwrap()), proof })
    }

    fn receipt(&self) -> Receipt {
        let (message, delivery) = self.plain[0].split_once('/').expect("message/delivery");
        Receipt { message: MessageId(message.parse().unwrap()), delivery: delivery.parse().unwrap() }
    }
}

fn settings() -> Settings {
    Settings { max_step: Millis(1_000_000), memo_max: 3, waiters_max: 3, messages_max: 5, bytes_max: 100 }
}

impl Runner {
    fn new() -> Self {
        Self { shard: Shard::new(ShardId(0), settings()), index: 0, epoch: 1, seq: 0 }
    }

    fn run(&mut self, line: &str) -> String {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[0] {
            "shard" => {
                let max_step = Words::new(&words).millis("max_step", 1_000_000);
                let settings = Settings { max_step, ..settings() };
                *self = Self::new();
                self.shard = Shard::new(ShardId(words[1].parse().unwrap()), settings);
                String::new()
            }
            "epoch" => {
                self.epoch = words[1].parse().unwrap();
                String::new()
            }
            "at" => self.at(words[1].parse().unwrap(), words[2], &Words::new(&words[3..])),
            "outcome" => outcome(&self.shard.outcome(Ticket(words[1].parse().unwrap()))),
            "show" => show(&self.shard, words[1]),
            "members" => members(&self.shard),
            "queue" => queue(&self.shard, words[1]),
            "lives" => format!("{}\n", self.shard.body_lives(MessageId(words[1].parse().unwrap()))),
            "dead" => {
                format!("{:?}\n", self.shard.take_dead_bodies().iter().map(|id| id.0).collect::<Vec<_>>())
            }
            "restart" => {
                let again = Shard::restore(&self.shard.snapshot()).unwrap();
                assert_eq!(again, self.shard, "a snapshot holds everything");
                self.shard = again;
                String::new()
            }
            other => panic!("unknown command {other}"),
        }
    }

    fn at(&mut self, now: u64, verb: &str, words: &Words<'_>) -> String {
        self.index += 1;
        let stamp = Stamp { index: Index(self.index), epoch: Epoch(self.epoch), now: Millis(now) };
        if verb == "tick" {
            let effects = self.shard.advance(stamp);
            return format!("now {}\n{}", self.shard.now().0, hints(&effects));
        }
        let op = op(verb, words);
        let command = self.command(words, op);
        let (reply, effects) = self.shard.apply(stamp, &command);
        format!("{}{}", answer(&reply), hints(&effects))
    }

    fn command(&mut self, words: &Words<'_>, op: Op) -> Command {
        let request = match words.get("id") {
            Some(id) => RequestKey::Named { id: id.into(), fingerprint: words.number("print", 0) },
            None => {
                self.seq += 1;
                let seq = words.number("seq", self.seq);
                let settled_below = words.number("settled", seq);
                RequestKey::Node {
                    origin: Origin { node: NodeId(99), incarnation: Incarnation(1) },
                    seq,
                    settled_below,
                }
            }
        };
        let not_after = words.millis("not_after", self.shard.now().0 + 60_000);
        Command { request, not_after, guard: words.guard(), op }
    }
}

fn op(verb: &str, words: &Words<'_>) -> Op {
    let attempt = Attempt { origin: words.origin(), number: words.number("attempt", 1) };
    let name = || LockName(words.plain[0].into());
    let owner = || Owner(words.plain[1].into());
    let named_queue = || QueueName(words.get("queue").unwrap_or("q").into());
    match verb {
        "acquire" => Op::Lock(LockOp::Acquire {
            name: name(),
            owner: owner(),
            mode: if words.plain.get(2) == Some(&"shared") { Mode::Shared } else { Mode::Exclusive },
            ttl: words.millis("ttl", 30_000),
            wait: words.millis("wait", 0),
            attempt,
        }),
        "release" => Op::Lock(LockOp::Release {
            name: name(),
            owner: owner(),
            token: words.get("token").map(|token| Token(token.parse().unwrap())),
        }),
        "renew" => Op::Lock(LockOp::Renew {
            name: name(),
            owner: owner(),
            token: Token(words.number("token", 0)),
            ttl: words.get("ttl").map(|ttl| Millis(ttl.parse().unwrap())),
        }),
        "cancel" => {
            Op::Lock(LockOp::Cancel { name: name(), ticket: Ticket(words.number("ticket", 0)), attempt })
        }
        "check" => Op::Lock(LockOp::Check { name: name(), token: Token(words.number("token", 0)) }),
        "heartbeat" => Op::Member(MemberOp::Heartbeat {
            origin: words.origin(),
            url: words.get("url").unwrap_or("http://node").into(),
            lease: words.millis("lease", 10_000),
        }),
        "leave" => Op::Member(MemberOp::Leave { origin: words.origin() }),
        "push" => Op::Queue(QueueOp::Push {
            queue: named_queue(),
            messages: words.plain.iter().map(|body| new_message(body, words)).collect(),
        }),
        "pop" => Op::Queue(QueueOp::Pop { queue: named_queue() }),
        "receive" => Op::Queue(QueueOp::Receive {
            queue: named_queue(),
            max: u32::try_from(words.number("max", 1)).unwrap(),
            visibility: words.millis("visibility", 30_000),
        }),
        "ack" => Op::Queue(QueueOp::Ack { receipts: vec![words.receipt()] }),
        "nack" => Op::Queue(QueueOp::Nack {
            receipt: words.receipt(),
            delay: words.millis("delay", 0),
            failed: words.number("failed", 1) == 1,
        }),
        "extend" => Op::Queue(QueueOp::Extend {
            receipt: words.receipt(),
            visibility: words.millis("visibility", 30_000),
        }),
        other => panic!("unknown verb {other}"),
    }
}

/// `key:body`, or `body` alone.
fn new_message(text: &str, words: &Words<'_>) -> NewMessage {
    let (key, body) = match text.split_once(':') {
        Some((key, body)) => (Some(MessageKey(key.into())), body),
        None => (None, text),
    };
    let body = Bytes::from(body.to_owned());
    NewMessage { key, body, delay: words.millis("delay", 0), enqueued_at: 0 }
}

fn answer(reply: &Reply) -> String {
    match reply {
        Reply::Granted(grant) => {
            let ticket = grant.ticket.map_or(String::new(), |ticket| format!(" ticket={}", ticket.0));
            format!("granted token={} left={}{ticket}\n", grant.token.0, grant.left.0)
        }
        Reply::Waiting { ticket } => format!("waiting ticket={}\n", ticket.0),
        Reply::Pushed(ids) => format!("pushed {:?}\n", ids.iter().map(|id| id.0).collect::<Vec<_>>()),
        Reply::Popped(None) => "nothing\n".into(),
        Reply::Popped(Some(one)) => format!("popped {} attempts={}\n", one.id.0, one.attempts),
        Reply::Received(many) if many.is_empty() => "nothing\n".into(),
        Reply::Received(many) => many.iter().fold(String::new(), |mut text, one| {
            let key = one.key.as_ref().map_or(String::new(), |key| format!(" key={}", key.0));
            writeln!(text, "received {}/{} attempts={}{key}", one.id.0, one.delivery, one.attempts).unwrap();
            text
        }),
        Reply::Acked(results) => results.iter().fold(String::new(), |mut text, result| {
            match result {
                Ok(()) => text.push_str("acknowledged\n"),
                Err(refusal) => text.push_str(&refused(refusal)),
            }
            text
        }),
        Reply::Member { ring_epoch } => format!("member ring={ring_epoch}\n"),
        Reply::Namespace { settings, revision } => format!("namespace {settings:?} revision={revision}\n"),
        Reply::Extended { visibility } => format!("extended by {}\n", visibility.0),
        Reply::Refused(refusal) => refused(refusal),
        Reply::Released => "released\n".into(),
        Reply::Checked(standing) => format!("{standing:?}\n"),
        Reply::Cancelled => "cancelled\n".into(),
        Reply::Nacked => "returned\n".into(),
    }
}

fn refused(refusal: &Refusal) -> String {
    let details = match refusal {
        Refusal::Held { owner, left } => format!(" by {} left={}", owner.0, left.0),
        Refusal::StaleToken { current } => format!(" current={}", current.0),
        Refusal::Fenced { seen: Some(seen) } => format!(" seen={}", seen.0),
        Refusal::FormerIncarnation { left } => format!(" left={}", left.0),
        _ => String::new(),
    };
    format!("refused: {refusal}{details}\n")
}

fn hints(effects: &[Effect]) -> String {
    effects.iter().fold(String::new(), |mut text, effect| {
        match effect {
            Effect::WakeTicket(ticket) => writeln!(text, "  wakes ticket {}", ticket.0),
            Effect::WakeQueue(queue) => writeln!(text, "  wakes queue {}", queue.0),
            Effect::RingChanged { epoch } => writeln!(text, "  ring changed to {epoch}"),
            Effect::NamespacesChanged => writeln!(text, "  namespaces changed"),
        }
        .unwrap();
        text
    })
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Waiting => "waiting\n".into(),
        Outcome::Granted(grant) => format!("granted token={} left={}\n", grant.token.0, grant.left.0),
        Outcome::Refused(refusal) => refused(refusal),
    }
}

fn show(shard: &Shard, name: &str) -> String {
    let Answer::Lock(view) = shard.query(&Query::Lock { name: LockName(name.into()) }) else {
        panic!("no lock")
    };
    let Some(view) = view else { return "free\n".into() };
    let mut text = String::new();
    for holder in view.holders {
        let (owner, mode, token, left) = (holder.owner.0, holder.mode, holder.token.0, holder.left.0);
        writeln!(text, "holder {owner} {mode:?} token={token} left={left}").unwrap();
    }
    for waiter in view.waiters {
        writeln!(text, "waiter {} {:?} ticket={}", waiter.owner.0, waiter.mode, waiter.ticket.0).unwrap();
    }
    text
}

fn members(shard: &Shard) -> String {
    let Answer::Members { ring_epoch, members } = shard.query(&Query::Members) else { panic!("no members") };
    members.iter().fold(format!("ring {ring_epoch}\n"), |mut text, member| {
        let (node, incarnation, since) = (member.node.0, member.incarnation.0, member.since_epoch);
        writeln!(text, "node {node} incarnation={incarnation} since={since}").unwrap();
        text
    })
}

fn queue(shard: &Shard, name: &str) -> String {
    let Answer::Queue(view) = shard.query(&Query::Queue { queue: QueueName(name.into()) }) else {
        panic!("no queue")
    };
    format!(
        "ready={} in_flight={} delayed={} bytes={}\n",
        view.ready, view.in_flight, view.delayed, view.bytes
    )
}
