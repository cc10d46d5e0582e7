//! Keeps a near cache open at a node: asks for news all the time, forgets what it is told to, says so
//! with the next question, and opens elsewhere when the node does not answer.
//!
//! It decides nothing about values.

use std::sync::{Arc, Weak};
use std::time::Duration;

use hyper::Method;

use super::Inner;
use super::lease::Leases;
use crate::backoff::Backoff;
use crate::client::{Client, json};
use crate::clock;
use crate::nodes::{Toward, Url};
use crate::wire;

/// How long a node may think before it answers a question for news; it says itself when it must.
const WAIT: Duration = Duration::from_secs(1);
/// No news for so long: the node is away, and every lease over.
const PATIENCE: Duration = Duration::from_secs(2);

/// A near cache at a node.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) url: Url,
    pub(super) client: String,
    pub(super) leases: Leases,
}

/// Runs until the near cache is dropped.
pub(super) async fn follow<T: Send + Sync>(near: Weak<Inner<T>>) {
    let mut backoff = Backoff::default();
    loop {
        let Some(inner) = near.upgrade() else { return };
        let session = inner.open().await;
        let client = inner.cache.client().clone();
        drop(inner);
        match session {
            Some(session) => {
                backoff = Backoff::default();
                attend(&near, &session).await;
                if near.strong_count() == 0 {
                    close(&client, &session).await;
                }
            }
            None => tokio::time::sleep(backoff.pause()).await,
        }
    }
}

/// Follows one session to its end.
async fn attend<T: Send + Sync>(near: &Weak<Inner<T>>, session: &Arc<Session>) {
    let mut acked = 0;
    // Between two questions nothing keeps a near cache alive that was dropped.
    while let Some(inner) = near.upgrade() {
        let asked = clock::now();
        let client = session.client.clone();
        let body = wire::NearSync { client, acked, wait_ms: clock::millis(WAIT), request_id: None };
        let Some(news) = inner.post::<wire::NearNews>(session, "/cache/near/sync", &body, PATIENCE).await
        else {
            // Unknown there, or the node is away: whatever is kept ends with its lease.
            *inner.session() = None;
            inner.cache.client().nodes().failed(&session.url, clock::now());
            return;
        };
        acked = inner.take(session, news, acked, asked);
    }
}

/// Spares the node the wait for our leases to end. If this is lost, it waits.
async fn close(client: &Client, session: &Session) {
    let close = wire::NearClose { client: session.client.clone(), request_id: None };
    let Ok(body) = json(&close) else { return };
    let _ =
        client.transport().exchange(&session.url, &Method::POST, "/cache/near/close", body, PATIENCE).await;
}

impl<T> Inner<T> {
    async fn open(&self) -> Option<Arc<Session>> {
        let client = self.cache.client();
        let url = client.nodes().next(Toward::Any, &[], clock::now())?;
        let body = json(&wire::NearOpen::default()).ok()?;
        let patience = client.patience().attempt.min(PATIENCE);
        let exchange = client.transport().exchange(&url, &Method::POST, "/cache/near/open", body, patience);
        let answer = exchange.await.ok().filter(|answer| answer.status == 200);
        let Some(answer) = answer else {
            client.nodes().failed(&url, clock::now());
            return None;
        };
        let opened: wire::NearOpened = serde_json::from_slice(&answer.body).ok()?;
        let session = Arc::new(Session { url, client: opened.client, leases: Leases::default() });
        self.stats().opened += 1;
        *self.session() = Some(Arc::clone(&session));
        Some(session)
    }

    /// Forgets first, then takes the leases; returns what may be acknowledged.
    fn take(&self, session: &Session, news: wire::NearNews, acked: u64, asked: Duration) -> u64 {
        let mut done = acked;
        for note in news.forget.into_iter().filter(|note| note.seq > acked) {
            match &note.key {
                Some(key) if self.is_ours(note.namespace.as_deref()) => self.table.forget(key),
                Some(_) => {}
                None => self.table.forget_all(),
            }
            self.stats().forgotten += 1;
            done = note.seq;
        }
        for lease in &news.leases {
            session.leases.extend(lease, asked);
        }
        done
    }

    fn is_ours(&self, namespace: Option<&str>) -> bool {
        let ours = self.cache.namespace_name();
        namespace.unwrap_or("default") == ours.as_deref().unwrap_or("default")
    }
}
