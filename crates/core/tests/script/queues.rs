//! The words of scripts about queues.

use std::fmt::Write;

use bytes::Bytes;
use lockstep_core::Millis;
use lockstep_core::command::{
    Cargo, Delivered, Forwarded, InSession, Letter, NewMessage, Onward, Placed, QueueOp, Reply, Room,
};
use lockstep_core::names::{MessageId, MessageKey, QueueName, Receipt, ShardId};
use lockstep_core::query::{Answer, Query, QueueView};
use lockstep_core::queue::{OnPoison, QueueConfig};
use lockstep_core::shard::Shard;

use super::{Words, refused};

pub fn op(verb: &str, words: &Words<'_>) -> QueueOp {
    let queue = QueueName(words.get("queue").unwrap_or("q").into());
    let max = u32::try_from(words.number("max", 1)).unwrap();
    let is_receipt = |word: &&&str| word.contains('/');
    let receipts = || words.plain.iter().filter(is_receipt).map(|word| receipt(word)).collect();
    match verb {
        "push" => {
            QueueOp::Push { queue, messages: words.plain.iter().map(|body| message(body, words)).collect() }
        }
        "pop" => QueueOp::Pop { queue },
        "receive" => QueueOp::Receive {
            queue,
            max,
            visibility: words.get("visibility").map(|ms| Millis(ms.parse().unwrap())),
            session: words
                .get("session")
                .map(|id| InSession { session: super::session(id), proven: words.number("proven", 0) == 1 }),
        },
        "keep" => {
            QueueOp::RenewSessions { sessions: words.plain.iter().map(|id| super::session(id)).collect() }
        }
        "end" => QueueOp::EndSessions { sessions: words.plain.iter().map(|id| super::session(id)).collect() },
        "ack" => QueueOp::Ack { receipts: receipts() },
        // `ack-push 1/2 1>body 2>k:body`: the shard that each belongs to, then as in a push.
        "ack-push" => QueueOp::AckPush {
            receipts: receipts(),
            push: words
                .plain
                .iter()
                .filter_map(|word| word.split_once('>'))
                .map(|(shard, text)| Onward {
                    shard: ShardId(shard.parse().unwrap()),
                    queue: queue.clone(),
                    message: message(text, words),
                })
                .collect(),
        },
        "nack" => QueueOp::Nack {
            receipts: receipts(),
            delay: words.millis("delay", 0),
            failed: words.number("failed", 1) == 1,
        },
        "extend" => QueueOp::Extend { receipts: receipts(), visibility: words.millis("visibility", 30_000) },
        "configure" => QueueOp::Configure {
            queue,
            version: words.number("version", 1),
            config: QueueConfig {
                max_attempts: u32::try_from(words.number("attempts", 5)).unwrap(),
                max_messages: words.get("messages").map(|n| n.parse().unwrap()),
                on_poison: match words.get("poison") {
                    Some("park") => OnPoison::ParkKey,
                    Some("block") => OnPoison::Block,
                    _ => OnPoison::Skip,
                },
                ..QueueConfig::default()
            },
        },
        "lend" => QueueOp::Lend {
            queue,
            version: words.number("version", 0),
            to: ShardId(u32::try_from(words.number("to", 2)).unwrap()),
            room: Room { messages: words.number("messages", 0), bytes: words.number("bytes", 0) },
        },
        "purge" => QueueOp::Purge {
            queue,
            up_to: words.get("up_to").map(|id| MessageId(id.parse().unwrap())),
            max: u32::try_from(words.number("max", 100)).unwrap(),
        },
        "redrive" => QueueOp::Redrive { queue, max: u32::try_from(words.number("max", 100)).unwrap() },
        "resume" => QueueOp::Resume { queue, key: words.get("key").map(|key| MessageKey(key.into())) },
        // `arrive 1 k:body 2 room=5`: numbers before what they carry.
        "arrive" => QueueOp::Arrive {
            from: ShardId(u32::try_from(words.number("from", 2)).unwrap()),
            letters: words
                .plain
                .chunks(2)
                .map(|pair| Letter {
                    seq: pair[0].parse().unwrap(),
                    queue: queue.clone(),
                    cargo: match pair[1].strip_prefix("room:") {
                        Some(messages) => Cargo::Room {
                            version: words.number("version", 0),
                            room: Room { messages: messages.parse().unwrap(), bytes: 0 },
                        },
                        None => Cargo::Message(message(pair[1], words)),
                    },
                })
                .collect(),
        },
        "confirm" => QueueOp::Confirm {
            to: ShardId(u32::try_from(words.number("to", 2)).unwrap()),
            up_to: words.number("up_to", 1),
        },
        other => panic!("unknown verb {other}"),
    }
}

fn receipt(word: &str) -> Receipt {
    let (message, delivery) = word.split_once('/').expect("message/delivery");
    Receipt { message: MessageId(message.parse().unwrap()), delivery: delivery.parse().unwrap() }
}

/// `key:body`, or `body` alone.
fn message(text: &str, words: &Words<'_>) -> NewMessage {
    let (key, body) = match text.split_once(':') {
        Some((key, body)) => (Some(MessageKey(key.into())), body),
        None => (None, text),
    };
    NewMessage {
        key,
        body: Bytes::from(body.to_owned()),
        delay: words.millis("delay", 0),
        ttl: words.get("ttl").map(|ms| Millis(ms.parse().unwrap())),
        priority: u8::try_from(words.number("priority", 0)).unwrap(),
        dedup: words.get("dedup").map(Into::into),
        enqueued_at: words.number("at", 0),
    }
}

pub fn answer(reply: &Reply) -> String {
    match reply {
        Reply::Pushed(placed) => placed.iter().fold(String::new(), |text, one| text + &place(one)),
        Reply::Forwarded(places) => places.iter().fold("acknowledged\n".into(), |text, one| {
            text + &match one {
                Forwarded::Here(placed) => place(&Ok(*placed)),
                Forwarded::Sent { to, seq, .. } => format!("sent {seq} to shard {to}\n"),
            }
        }),
        Reply::Popped(None) => "nothing\n".into(),
        Reply::Popped(Some(one)) => format!("popped {} attempts={}\n", one.id.0, one.attempts),
        Reply::Received(many) if many.is_empty() => "nothing\n".into(),
        Reply::Received(many) => many.iter().fold(String::new(), |mut text, one| {
            writeln!(text, "received {}/{} attempts={}{}", one.id.0, one.delivery, one.attempts, key(one))
                .unwrap();
            text
        }),
        Reply::Settled(results) => results.iter().fold(String::new(), |text, result| {
            text + &match result {
                Ok(()) => "done\n".into(),
                Err(refusal) => refused(refusal),
            }
        }),
        Reply::Configured { version, config } => {
            let (attempts, messages) = (config.max_attempts, config.max_messages);
            format!("configured version={version} attempts={attempts} messages={messages:?}\n")
        }
        Reply::Lent { room, .. } => format!("lent messages={} bytes={}\n", room.messages, room.bytes),
        Reply::Purged { purged, up_to, more } => format!("purged {purged} up_to={} more={more}\n", up_to.0),
        Reply::Redriven { moved, left } => format!("redriven {moved} left={left}\n"),
        Reply::Resumed { keys } => format!("resumed {keys} keys\n"),
        Reply::Arrived { up_to, placed } => {
            let placed: Vec<_> = placed.iter().map(|id| id.map_or(0, |id| id.0)).collect();
            format!("arrived up_to={up_to} {placed:?}\n")
        }
        Reply::Confirmed => "confirmed\n".into(),
        Reply::Kept(receipts) => format!("kept {receipts:?}\n"),
        Reply::Ended { returned } => format!("ended, {returned} returned\n"),
        other => panic!("no words for {other:?}"),
    }
}

fn place(placed: &Result<Placed, lockstep_core::Refusal>) -> String {
    match placed {
        Ok(Placed { id, duplicate: false }) => format!("pushed {}\n", id.0),
        Ok(Placed { id, duplicate: true }) => format!("pushed before as {}\n", id.0),
        Err(refusal) => refused(refusal),
    }
}

fn key(one: &Delivered) -> String {
    one.key.as_ref().map_or(String::new(), |key| format!(" key={}", key.0))
}

fn view(shard: &Shard, name: &str) -> QueueView {
    match shard.query(&Query::Queue { queue: QueueName(name.into()) }) {
        Answer::Queue(view) => view,
        other => panic!("no queue: {other:?}"),
    }
}

pub fn stats(shard: &Shard, name: &str) -> String {
    let view = view(shard, name);
    let mut text = format!(
        "ready={} deliverable={} in_flight={} delayed={} dead={} bytes={} room={}",
        view.ready, view.deliverable, view.in_flight, view.delayed, view.dead, view.bytes, view.room.messages
    );
    if view.parked_keys > 0 {
        write!(text, " parked={}", view.parked_keys).unwrap();
    }
    if view.blocked {
        text.push_str(" blocked");
    }
    text + "\n"
}

pub fn totals(shard: &Shard, name: &str) -> String {
    format!("{:?}\n", view(shard, name).totals)
}

pub fn peek(shard: &Shard, name: &str) -> String {
    let Answer::Peeked(many) = shard.query(&Query::Peek { queue: QueueName(name.into()), max: 10 }) else {
        panic!("no queue")
    };
    many.iter().fold(String::new(), |mut text, one| {
        let (id, attempts, failures) = (one.id.0, one.attempts, one.failures);
        writeln!(text, "waits {id} attempts={attempts} failures={failures}{}", key(one)).unwrap();
        text
    })
}

pub fn names(shard: &Shard) -> String {
    let Answer::Queues(names) = shard.query(&Query::Queues { after: None, limit: 100 }) else {
        panic!("no queues")
    };
    format!("{:?}\n", names.iter().map(|name| &*name.0).collect::<Vec<_>>())
}

pub fn outbox(shard: &Shard) -> String {
    shard.queues().outbox(10).iter().fold(String::new(), |mut text, (to, letters)| {
        for (letter, body) in letters {
            let body = body.map_or(0, |id| id.0);
            writeln!(text, "letter {} to shard {to}, body {body}", letter.seq).unwrap();
        }
        text
    })
}
