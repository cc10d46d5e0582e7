//! Runs a script against a fresh shard and writes down what it answers.

mod queues;

use std::fmt::Write;

use lockstep_core::command::{
    Acquire, Attempt, Claimant, Command, ConfigChange, ConfigOp, Holder, Lease, LockOp, MemberOp, Mode, Op,
    RequestKey, SessionOp,
};
use lockstep_core::guards::{Guard, Proof};
use lockstep_core::names::{
    Incarnation, LockName, MessageId, NodeId, Origin, Owner, QueueName, SessionId, ShardId, Ticket, Token,
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

    fn claimant(&self) -> Claimant {
        Claimant {
            owner: Owner(self.plain[1].into()),
            session: self.get("session").map(session),
            token: self.get("token").map(|token| Token(token.parse().unwrap())),
        }
    }
}

fn settings() -> Settings {
    Settings {
        max_step: Millis(1_000_000),
        memo_max: 3,
        waiters_max: 3,
        queue_shards: 2,
        messages_max: 10,
        bytes_max: 200,
    }
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
            "history" => history(&self.shard, &Words::new(&words[1..])),
            "audit" => audit(&self.shard),
            "members" => members(&self.shard),
            "queue" => queues::stats(&self.shard, words[1]),
            "totals" => queues::totals(&self.shard, words[1]),
            "peek" => queues::peek(&self.shard, words[1]),
            "queues" => queues::names(&self.shard),
            "outbox" => queues::outbox(&self.shard),
            "ends" => (1..4).fold(String::new(), |mut text, shard| {
                let ended = self.shard.locks().untold(ShardId(shard), 10);
                let ended: Vec<_> = ended.iter().map(|session| session.0).collect();
                writeln!(text, "shard {shard} is to be told of {ended:?}").unwrap();
                text
            }),
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
    match verb {
        "acquire" => Op::Lock(LockOp::Acquire(Box::new(acquire(words, attempt)))),
        "release" => Op::Lock(LockOp::Release { names: names(words), by: words.claimant() }),
        "renew" => Op::Lock(LockOp::Renew {
            names: names(words),
            by: words.claimant(),
            ttl: words.get("ttl").map(|ttl| Millis(ttl.parse().unwrap())),
        }),
        "upgrade" => Op::Lock(LockOp::Upgrade {
            name: name(),
            by: words.claimant(),
            wait: words.millis("wait", 0),
            fail_on_deadlock: words.number("deadlock", 1) == 1,
            attempt,
        }),
        "downgrade" => Op::Lock(LockOp::Downgrade { name: name(), by: words.claimant() }),
        "break" => Op::Lock(LockOp::Break {
            name: name(),
            token: words.get("token").map(|token| Token(token.parse().unwrap())),
            reason: "stuck".into(),
            by: words.plain[1].into(),
            asked_at: 7,
        }),
        "cancel" => Op::Lock(LockOp::Cancel { ticket: Ticket(words.number("ticket", 0)), attempt }),
        "open" => Op::Session(SessionOp::Open {
            owner: Owner(words.plain[0].into()),
            ttl: words.millis("ttl", 30_000),
        }),
        "beat" => {
            Op::Session(SessionOp::Renew { sessions: words.plain.iter().map(|id| session(id)).collect() })
        }
        "enlist" => Op::Session(SessionOp::Enlist {
            session: session(words.plain[0]),
            shard: ShardId(u32::try_from(words.number("shard", 1)).unwrap()),
        }),
        "told" => Op::Session(SessionOp::Told {
            shard: ShardId(u32::try_from(words.number("shard", 1)).unwrap()),
            sessions: words.plain.iter().map(|id| session(id)).collect(),
        }),
        "close" => Op::Session(SessionOp::Close { session: session(words.plain[0]) }),
        "check" => Op::Lock(LockOp::Check { name: name(), token: Token(words.number("token", 0)) }),
        "heartbeat" => Op::Member(MemberOp::Heartbeat {
            origin: words.origin(),
            url: words.get("url").unwrap_or("http://node").into(),
            lease: words.millis("lease", 10_000),
        }),
        "leave" => Op::Member(MemberOp::Leave { origin: words.origin() }),
        "set" => Op::Config(ConfigOp {
            queue: QueueName(words.plain[0].into()),
            change: ConfigChange {
                max_attempts: words.get("attempts").map(|n| n.parse().unwrap()),
                max_messages: words.get("messages").map(|n| n.parse().unwrap()),
                dead_letter: words.get("dead").map(|name| QueueName(name.into())),
                ..ConfigChange::default()
            },
        }),
        other => Op::Queue(queues::op(other, words)),
    }
}

/// One lock, or several with commas between them.
fn names(words: &Words<'_>) -> Vec<LockName> {
    words.plain[0].split(',').map(|name| LockName(name.into())).collect()
}

fn session(id: &str) -> SessionId {
    SessionId(id.parse().unwrap())
}

fn acquire(words: &Words<'_>, attempt: Attempt) -> Acquire {
    let claimant = words.claimant();
    Acquire {
        names: names(words),
        holder: Holder { owner: claimant.owner, session: claimant.session },
        mode: match words.plain.get(2) {
            Some(&"shared") => Mode::Shared,
            Some(&"permit") => Mode::Permit,
            _ => Mode::Exclusive,
        },
        limit: u32::try_from(words.number("limit", 0)).unwrap(),
        ttl: words.millis("ttl", 30_000),
        wait: words.millis("wait", 0),
        delay: words.millis("delay", 0),
        metadata: words.get("meta").map(Into::into),
        fail_on_deadlock: words.number("deadlock", 1) == 1,
        attempt,
    }
}

fn answer(reply: &Reply) -> String {
    match reply {
        Reply::Granted(grant) => {
            let ticket = grant.ticket.map_or(String::new(), |ticket| format!(" ticket={}", ticket.0));
            let each = grant.tokens.iter().fold(String::new(), |mut text, (name, token)| {
                write!(text, " {}={}", name.0, token.0).unwrap();
                text
            });
            format!("granted token={} left={}{ticket}{each}\n", grant.token.0, grant.left.0)
        }
        Reply::Broken(holders) => holders.iter().fold(String::new(), |mut text, (holder, token)| {
            writeln!(text, "broken {} token={}", person(holder), token.0).unwrap();
            text
        }),
        Reply::Opened(lease) => opened(lease),
        Reply::Renewed(leases) => leases.iter().fold(String::new(), |mut text, lease| {
            text.push_str(&lease.as_ref().map_or_else(refused, |renewal| opened(&renewal.lease)));
            text
        }),
        Reply::Closed { .. } => "closed\n".into(),
        Reply::Enlisted(lease) => format!("enlisted {}", opened(lease)),
        Reply::Waiting { ticket } => format!("waiting ticket={}\n", ticket.0),
        Reply::Member { ring_epoch } => format!("member ring={ring_epoch}\n"),
        Reply::Namespace { settings, revision } => format!("namespace {settings:?} revision={revision}\n"),
        Reply::Refused(refusal) => refused(refusal),
        Reply::Released => "released\n".into(),
        Reply::Checked(standing) => format!("{standing:?}\n"),
        Reply::Cancelled => "cancelled\n".into(),
        other => queues::answer(other),
    }
}

fn opened(lease: &Lease) -> String {
    format!("session {} left={}\n", lease.session.0, lease.left.0)
}

fn person(holder: &Holder) -> String {
    let session = holder.session.map_or(String::new(), |session| format!("@{}", session.0));
    format!("{}{session}", holder.owner.0)
}

fn refused(refusal: &Refusal) -> String {
    let details = match refusal {
        Refusal::Held { owner, left } => format!(" by {} left={}", owner.0, left.0),
        Refusal::StaleToken { current } => format!(" current={}", current.0),
        Refusal::LimitMismatch { limit } => format!(" limit={limit}"),
        Refusal::LockDelayed { left } => format!(" left={}", left.0),
        Refusal::Deadlock { cycle } => cycle.iter().fold(String::from(":"), |mut text, (owner, name)| {
            write!(text, " {} waits for {},", owner.0, name.0).unwrap();
            text
        }),
        Refusal::Fenced { seen: Some(seen) } => format!(" seen={}", seen.0),
        Refusal::FormerIncarnation { left } => format!(" left={}", left.0),
        _ => String::new(),
    };
    format!("refused: {refusal}{details}\n")
}

fn hints(effects: &[Effect]) -> String {
    effects.iter().fold(String::new(), |mut text, effect| {
        match effect {
            Effect::WakeLock(_) => Ok(()),
            Effect::WakeTicket(ticket) => writeln!(text, "  wakes ticket {}", ticket.0),
            Effect::WakeOutbox => writeln!(text, "  wakes the outbox"),
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
    if let Some(limit) = view.limit {
        writeln!(text, "limit {limit}").unwrap();
    }
    if let Some(left) = view.delayed {
        writeln!(text, "delayed left={}", left.0).unwrap();
    }
    let meta = |meta: Option<std::sync::Arc<str>>| meta.map_or(String::new(), |meta| format!(" meta={meta}"));
    for holder in view.holders {
        let (who, mode, token, left) = (person(&holder.holder), holder.mode, holder.token.0, holder.left.0);
        writeln!(text, "holder {who} {mode:?} token={token} left={left}{}", meta(holder.metadata)).unwrap();
    }
    for waiter in view.waiters {
        let join = |names: Vec<&str>| names.join(",");
        let blocked = join(waiter.blocked_by.iter().map(|owner| &*owner.0).collect());
        let names = join(waiter.names.iter().map(|name| &*name.0).collect());
        let upgrade = if waiter.upgrade { " upgrade" } else { "" };
        let (who, mode, ticket) = (person(&waiter.holder), waiter.mode, waiter.ticket.0);
        write!(text, "waiter {who} {mode:?}{upgrade} ticket={ticket} for {names} behind {blocked}").unwrap();
        writeln!(text, "{}", meta(waiter.metadata)).unwrap();
    }
    text
}

fn history(shard: &Shard, words: &Words<'_>) -> String {
    let (name, after) = (LockName(words.plain[0].into()), words.number("after", 0));
    let Answer::History(view) = shard.query(&Query::History { name, after, limit: 100 }) else {
        panic!("no history")
    };
    let mut text = format!("last={}{}\n", view.last, if view.whole { "" } else { " with a gap" });
    for event in view.events {
        let token = event.token.map_or(String::new(), |token| format!(" token={}", token.0));
        writeln!(text, "{} {:?} {} {:?}{token}", event.id, event.kind, person(&event.holder), event.mode)
            .unwrap();
    }
    text
}

fn audit(shard: &Shard) -> String {
    let Answer::Audit(entries) = shard.query(&Query::Audit { name: None, after: 0, limit: 100 }) else {
        panic!("no audit log")
    };
    entries.iter().fold(String::new(), |mut text, entry| {
        let lost: Vec<_> = entry.holders.iter().map(|(holder, _)| person(holder)).collect();
        let (id, name, by, reason) = (entry.id, &entry.name.0, &entry.by, &entry.reason);
        writeln!(text, "{id} {name} of {} broken by {by}: {reason}", lost.join(",")).unwrap();
        text
    })
}

fn members(shard: &Shard) -> String {
    let Answer::Members { ring_epoch, members } = shard.query(&Query::Members) else { panic!("no members") };
    members.iter().fold(format!("ring {ring_epoch}\n"), |mut text, member| {
        let (node, incarnation, since) = (member.node.0, member.incarnation.0, member.since_epoch);
        writeln!(text, "node {node} incarnation={incarnation} since={since}").unwrap();
        text
    })
}
