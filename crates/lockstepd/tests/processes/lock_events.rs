//! What a lock's own history says of it: the order in which its log has it.
//!
//! It judges order and modes; whether clients were told the same is for others to judge.

use std::time::Duration;

use serde_json::Value;

use crate::kit::{Events, Http};

/// After which a stream that has said nothing has nothing more to say.
const QUIET: Duration = Duration::from_secs(2);

/// One event: its name, id and data.
pub type Event = (String, u64, Value);

/// A stream of a lock's events.
pub struct Stream(Events);

impl Stream {
    /// Opens a stream, to go on after an event if one is given.
    pub async fn open(http: Http, target: &str, after: Option<u64>) -> Self {
        let after = after.map(|id| id.to_string());
        Self(Events::open(http, target, after.as_deref()).await)
    }

    /// The next event.
    pub async fn next(&mut self) -> Event {
        let (event, id, data) = self.0.next().await;
        (event, id.parse().unwrap(), data)
    }
}

/// Everything that ever happened to a lock that is free by now.
pub async fn history(http: Http, name: &str) -> Vec<Event> {
    let target = format!("/lock/watch?name={name}");
    let (kind, _, state) = Stream::open(http, &target, None).await.next().await;
    assert_eq!((kind.as_str(), &state["holders"]), ("state", &Value::Array(Vec::new())), "it is free");
    let mut stream = Stream::open(http, &target, Some(0)).await;
    let mut events: Vec<Event> = Vec::new();
    let mut rules = Rules::default();
    loop {
        // What a stream has to say, it says at once.
        let Ok(event) = tokio::time::timeout(QUIET, stream.next()).await else {
            assert!(rules.is_idle(), "{rules:?} after {:?}", &events[events.len().saturating_sub(30)..]);
            return events;
        };
        assert_ne!(event.0, "reset", "the history is whole");
        assert!(events.last().is_none_or(|last| last.1 < event.1), "ids grow");
        rules.judge(&event);
        events.push(event);
    }
}

/// Who holds and who waits, as the events so far have it.
#[derive(Debug, Default)]
struct Rules {
    holders: Vec<(String, String)>,
    waiting: Vec<(String, String)>,
    largest: u64,
}

impl Rules {
    fn is_idle(&self) -> bool {
        self.holders.is_empty() && self.waiting.is_empty()
    }

    fn judge(&mut self, event: &Event) {
        let text = |field: &str| event.2[field].as_str().unwrap_or_default().to_owned();
        let (owner, mode) = (text("owner"), text("mode"));
        match event.0.as_str() {
            "waiting" => self.waiting.push((owner, mode)),
            "left" => self.waiting.retain(|waiter| waiter.0 != owner),
            "granted" => self.granted(owner, mode, event),
            "released" => self.holders.retain(|holder| holder.0 != owner),
            other => panic!("{other}: nothing here ends by itself"),
        }
    }

    fn granted(&mut self, owner: String, mode: String, event: &Event) {
        let converts = self.holders.iter().any(|holder| holder.0 == owner);
        let place = self.waiting.iter().position(|waiter| waiter.0 == owner);
        if !converts {
            // Those who hold it and want more go ahead; of all others the first comes first.
            let holds = |waiter: &(String, String)| self.holders.iter().any(|holder| holder.0 == waiter.0);
            let first = self.waiting.iter().position(|waiter| !holds(waiter));
            assert_eq!(place, first, "{owner} has passed somebody: {event:?}, waiting {:?}", self.waiting);
        }
        if let Some(place) = place {
            self.waiting.remove(place);
        }
        self.holders.retain(|holder| holder.0 != owner);
        let beside = self.holders.iter().all(|holder| holder.1 == mode) && mode != "exclusive";
        assert!(self.holders.is_empty() || beside, "{event:?} beside {:?}", self.holders);
        self.holders.push((owner, mode.clone()));
        let token = event.2["token"].as_u64().unwrap_or_default();
        assert!(mode == "shared" || token > self.largest, "a token went back: {event:?}");
        self.largest = self.largest.max(token);
    }
}
