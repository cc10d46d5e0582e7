//! One connection to where a key lives, opened when it is needed and again after it broke.
//!
//! It tells what was certainly not done from what may have been. It retries nothing.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, Value};

use super::room;
use super::server::Server;

/// Why a command has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// Never sent, or refused by Redis in so many words: certainly not done.
    Not(String),
    /// Sent, and not answered: it may be done, or may still be.
    Maybe(String),
}

impl Failed {
    pub(super) fn why(self) -> String {
        match self {
            Self::Not(why) | Self::Maybe(why) => why,
        }
    }
}

pub(super) struct Link {
    server: Arc<Server>,
    key: String,
    patience: Duration,
    connection: Option<MultiplexedConnection>,
}

impl Link {
    /// A link to wherever `key` lives. An answer may take `patience`.
    pub(super) fn new(server: &Arc<Server>, key: String, patience: Duration) -> Self {
        Self { server: Arc::clone(server), key, patience, connection: None }
    }

    /// Another connection to the same place.
    pub(super) fn another(&self) -> Self {
        Self::new(&self.server, self.key.clone(), self.patience)
    }

    pub(super) async fn ask(&mut self, command: &Cmd) -> Result<Value, Failed> {
        self.ask_within(command, self.patience).await
    }

    /// Asks something that Redis itself may wait over.
    pub(super) async fn ask_within(&mut self, command: &Cmd, patience: Duration) -> Result<Value, Failed> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                self.server.connect(&self.key).await.map_err(|refusal| Failed::Not(refusal.to_string()))?
            }
        };
        let answer = tokio::time::timeout(patience, connection.send_packed_command(command)).await;
        match answer.map(|answer| answer.and_then(Value::extract_error)) {
            Ok(Ok(value)) => {
                self.connection = Some(connection);
                Ok(value)
            }
            // After any other trouble the key may live elsewhere: the connection is not used again.
            Ok(Err(error)) if refused(&error) => {
                let why = format!("Redis refuses: {error}");
                self.connection = room::is_out_of_memory(&why).then_some(connection);
                Err(Failed::Not(why))
            }
            Ok(Err(error)) => Err(Failed::Maybe(format!("the connection to Redis broke: {error}"))),
            Err(_) => Err(Failed::Maybe(format!("Redis did not answer within {} ms", patience.as_millis()))),
        }
    }
}

/// Whether Redis itself has said no.
pub(super) fn refused(error: &redis::RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
}
