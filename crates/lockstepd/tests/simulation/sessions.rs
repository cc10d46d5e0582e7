//! Consumers that receive in a session: its heartbeats keep their messages, its end brings them back.

use std::time::Duration;

use lockstep_core::command::{Lease, SessionOp};
use lockstep_core::names::{Owner, SessionId};
use lockstep_core::{Millis, Reply};
use rand::RngExt;
use rand::rngs::SmallRng;

use super::workload::{ASKED, Clients, now};

/// Shorter than a message may stay invisible, and longer than an election.
const TTL: Millis = Millis(3_000);
const BEAT: Duration = Duration::from_millis(600);

impl Clients {
    /// Takes messages, keeps them for some heartbeats, and finishes them, closes the session over them, or
    /// walks away: then the session ends by itself.
    pub(super) async fn consume_in_a_session(&self, rng: &mut SmallRng) {
        let Some(session) = self.open().await else { return };
        let messages = self.receive(Some(session)).await;
        for _ in 0..rng.random_range(0..8u32) {
            tokio::time::sleep(BEAT).await;
            let op = SessionOp::Renew { sessions: vec![session] };
            let begun = now();
            if let Err(error) = self.node.router.session(op, &ASKED).await {
                self.failed("renew", begun, &error);
            }
        }
        match rng.random_range(0..4u32) {
            0..2 => {
                for message in messages {
                    self.finish(message).await;
                }
                self.close(session).await;
            }
            2 => self.close(session).await,
            _ => {}
        }
    }

    async fn open(&self) -> Option<SessionId> {
        let begun = now();
        let op = SessionOp::Open { owner: Owner("consumer".into()), ttl: TTL };
        match self.node.router.session(op, &ASKED).await {
            Ok(Reply::Opened(Lease { session, .. })) => Some(session),
            Ok(_) => None,
            Err(error) => {
                self.failed("open", begun, &error);
                None
            }
        }
    }

    async fn close(&self, session: SessionId) {
        let begun = now();
        if let Err(error) = self.node.router.session(SessionOp::Close { session }, &ASKED).await {
            self.failed("close", begun, &error);
        }
    }
}
