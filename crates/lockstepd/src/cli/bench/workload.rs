//! What one connection does over and over. Requests are made ready beforehand; of an answer only the
//! status is read, and a token or receipt where the next request needs it.

use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::Args;
use super::sharers::{Plan, Sharers};
use crate::cli::http1::{Address, Connection, Response};

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Workload {
    /// Acquire and release, each connection a lock of its own; counted in pairs
    Locks,
    /// Acquire and release one lock that every connection waits for; counted in hand-overs
    HandOver,
    /// Keep as many sessions as --keys, each renewed every ten seconds
    Sessions,
    /// Push messages without a key, one or a batch at a time; counted in messages
    QueuePush,
    /// Push, receive and acknowledge; counted in cycles
    QueueCycle,
    /// Push, and receive with the acknowledgement of the message before; counted in cycles
    QueueNext,
    /// Read keys that exist
    CacheGet,
    /// Write keys, of which --sharers nodes hold a copy
    CacheSet,
    /// Read keys from a near cache in this process
    CacheNear,
    /// A plain GET: what HTTP itself costs here
    HttpGet,
}

impl Workload {
    /// Whether one operation may be a batch.
    pub(super) const fn takes_batches(self) -> bool {
        matches!(self, Self::QueuePush)
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = clap::ValueEnum::to_possible_value(self);
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// Why one operation did not succeed.
pub(super) enum StepError {
    /// The connection is of no more use.
    Connection(io::Error),
    /// The answer was an error: its status and code.
    Refused(String),
}

impl StepError {
    /// What it is counted under.
    pub(super) fn code(&self) -> &str {
        match self {
            Self::Connection(error) if error.kind() == io::ErrorKind::InvalidData => "unreadable answer",
            Self::Connection(_) => "connection lost",
            Self::Refused(code) => code,
        }
    }

    /// Whether to connect anew.
    pub(super) fn connection_is_lost(&self) -> bool {
        matches!(self, Self::Connection(_))
    }
}

impl From<io::Error> for StepError {
    fn from(error: io::Error) -> Self {
        Self::Connection(error)
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(error) => error.fmt(f),
            Self::Refused(code) => f.write_str(code),
        }
    }
}

/// How often a session is renewed.
const HEARTBEAT: Duration = Duration::from_secs(10);

type Requests = Rc<Vec<Vec<u8>>>;

/// What all connections share.
pub(super) struct Prepared {
    workload: Workload,
    /// Tells this run's locks and owners from another's.
    run: u32,
    /// Per address: the requests that walk over all keys.
    walks: Vec<(String, Requests)>,
    /// What must be written before anything can be read.
    fill: Vec<Vec<u8>>,
    /// Who takes a copy before each write.
    pub(super) sharers: Rc<Plan>,
}

impl Prepared {
    /// Makes the requests that connections to one address share.
    pub(super) fn new(args: &Args, addresses: &[Address]) -> Self {
        let request = |address: &Address, key| match args.workload {
            Workload::CacheGet => Some(address.get(&format!("/cache/get?k=bench-{key}"))),
            Workload::CacheSet => Some(set(args, address, key)),
            _ => None,
        };
        let walk = |address: &Address| {
            (address.host.clone(), Rc::new((0..args.keys).map_while(|key| request(address, key)).collect()))
        };
        let reads = args.workload == Workload::CacheGet;
        Self {
            workload: args.workload,
            run: std::process::id(),
            walks: addresses.iter().map(walk).collect(),
            fill: (0..args.keys).filter(|_| reads).map(|key| set(args, &addresses[0], key)).collect(),
            sharers: Rc::default(),
        }
    }

    /// Writes what the run will read.
    pub(super) async fn fill(&self, connection: &mut Connection) -> Result<(), StepError> {
        for request in &self.fill {
            ok(connection.request(request).await?)?;
        }
        Ok(())
    }

    fn walk(&self, address: &Address) -> Requests {
        let found = self.walks.iter().find(|(host, _)| *host == address.host);
        found.map(|(_, walk)| Rc::clone(walk)).unwrap_or_default()
    }
}

/// One connection's part.
pub(super) struct Worker {
    address: Address,
    /// Requests that are sent as they are, in turn.
    ready: Requests,
    next: usize,
    then: Then,
    sharers: Sharers,
}

/// What follows the ready-made request.
enum Then {
    Nothing,
    Release {
        name: String,
        owner: String,
    },
    /// Opens sessions until there are so many, then renews them in turn.
    Keep {
        renewals: Vec<Vec<u8>>,
        sessions: usize,
    },
    ReceiveAndAck {
        receive: Vec<u8>,
    },
    ReceiveNext {
        queue: String,
        /// Of the message before.
        receipt: Option<String>,
    },
}

impl Worker {
    /// Connection `number` of the run.
    pub(super) fn new(args: &Args, prepared: &Prepared, address: &Address, number: u32) -> Self {
        let name = format!("bench-{}-{number}", prepared.run);
        let mut then = Then::Nothing;
        let ready = match prepared.workload {
            Workload::Locks => {
                let body = format!(r#"{{"name":"{name}","mode":"exclusive","owner":"{name}"}}"#);
                then = Then::Release { owner: name.clone(), name };
                Rc::new(vec![address.post("/lock/acquire", &body)])
            }
            Workload::HandOver => {
                let lock = format!("bench-{}", prepared.run);
                let body = format!(r#"{{"name":"{lock}","owner":"{name}","wait_ms":60000}}"#);
                then = Then::Release { name: lock, owner: name };
                Rc::new(vec![address.post("/lock/acquire", &body)])
            }
            Workload::Sessions => {
                let body = format!(r#"{{"owner":"{name}","ttl_ms":60000}}"#);
                let sessions = args.keys.div_ceil(args.connections) as usize;
                then = Then::Keep { renewals: Vec::new(), sessions };
                Rc::new(vec![address.post("/session/open", &body)])
            }
            Workload::QueuePush => Rc::new(vec![push(args, address)]),
            Workload::QueueCycle => {
                let body = format!(r#"{{"queue":"{}","max":1,"wait_ms":1000}}"#, args.queue);
                then = Then::ReceiveAndAck { receive: address.post("/queue/receive", &body) };
                Rc::new(vec![push(args, address)])
            }
            Workload::QueueNext => {
                then = Then::ReceiveNext { queue: args.queue.clone(), receipt: None };
                Rc::new(vec![push(args, address)])
            }
            Workload::CacheGet | Workload::CacheSet => prepared.walk(address),
            Workload::CacheNear => Rc::default(),
            Workload::HttpGet => Rc::new(vec![address.get(&args.path)]),
        };
        // Connections start at different keys, so that they do not walk in step.
        let sharers = Sharers::new(&prepared.sharers);
        Self { address: address.clone(), next: number as usize * 7919, ready, then, sharers }
    }

    /// What has to be so before the next operation, and is not measured.
    pub(super) async fn share(&mut self) -> Result<(), StepError> {
        self.sharers.read((self.next + 1) % self.ready.len().max(1)).await
    }

    /// How long to do nothing before the next operation.
    pub(super) fn pause(&self) -> Option<Duration> {
        match &self.then {
            Then::Keep { renewals, sessions } if renewals.len() >= *sessions => {
                Some(HEARTBEAT / u32::try_from(*sessions).unwrap_or(u32::MAX).max(1))
            }
            _ => None,
        }
    }

    /// One operation.
    pub(super) async fn step(&mut self, connection: &mut Connection) -> Result<(), StepError> {
        if let Then::Keep { renewals, sessions } = &mut self.then
            && renewals.len() >= *sessions
        {
            self.next = (self.next + 1) % renewals.len();
            return ok(connection.request(&renewals[self.next]).await?).map(drop);
        }
        self.next = (self.next + 1) % self.ready.len();
        let response = ok(connection.request(&self.ready[self.next]).await?)?;
        match &mut self.then {
            Then::Nothing => Ok(()),
            Then::Keep { renewals, .. } => {
                let session = after(response.body, br#""session":""#, |byte| byte != b'"')?;
                let body = format!(r#"{{"session":"{session}"}}"#);
                renewals.push(self.address.post("/session/renew", &body));
                Ok(())
            }
            Then::Release { name, owner } => {
                let token = after(response.body, br#""token":"#, |byte| byte.is_ascii_digit())?;
                let body = format!(r#"{{"name":"{name}","owner":"{owner}","token":{token}}}"#);
                ok(connection.request(&self.address.post("/lock/release", &body)).await?).map(drop)
            }
            Then::ReceiveAndAck { receive } => {
                let response = ok(connection.request(receive).await?)?;
                let receipt = after(response.body, br#""receipt":""#, |byte| byte != b'"')?;
                let body = format!(r#"{{"receipt":"{receipt}"}}"#);
                ok(connection.request(&self.address.post("/queue/ack", &body)).await?).map(drop)
            }
            Then::ReceiveNext { queue, receipt } => {
                let ack =
                    receipt.take().map(|receipt| format!(r#""ack":["{receipt}"],"#)).unwrap_or_default();
                let body = format!(r#"{{{ack}"queue":"{queue}","max":1,"wait_ms":1000}}"#);
                let response = ok(connection.request(&self.address.post("/queue/receive", &body)).await?)?;
                if has_error(response.body) {
                    return Err(StepError::Refused("200 not acknowledged".into()));
                }
                *receipt = Some(after(response.body, br#""receipt":""#, |byte| byte != b'"')?);
                Ok(())
            }
        }
    }
}

fn push(args: &Args, address: &Address) -> Vec<u8> {
    let message = format!(r#""payload":"{}""#, "x".repeat(args.payload_bytes));
    let body = match args.batch {
        1 => format!(r#"{{"queue":"{}",{message}}}"#, args.queue),
        batch => {
            let messages = vec![format!("{{{message}}}"); batch as usize].join(",");
            format!(r#"{{"queue":"{}","messages":[{messages}]}}"#, args.queue)
        }
    };
    address.post("/queue/push", &body)
}

fn set(args: &Args, address: &Address, key: u32) -> Vec<u8> {
    let body = format!(r#"{{"key":"bench-{key}","value":"{}"}}"#, "x".repeat(args.payload_bytes));
    address.post("/cache/set", &body)
}

/// An answer without any error in it, that of a batch's items included.
pub(super) fn ok(response: Response<'_>) -> Result<Response<'_>, StepError> {
    let is_batch = response.body.starts_with(br#"{"results":"#);
    if (200..300).contains(&response.status) && !(is_batch && has_error(response.body)) {
        return Ok(response);
    }
    let code = after(response.body, br#""code":""#, |byte| byte != b'"').unwrap_or_default();
    Err(StepError::Refused(format!("{} {code}", response.status)))
}

fn has_error(body: &[u8]) -> bool {
    const MARK: &[u8] = br#"{"error":"#;
    body.windows(MARK.len()).any(|window| window == MARK)
}

/// The text that follows `mark`, as long as `belongs`.
pub(super) fn after(body: &[u8], mark: &[u8], belongs: impl Fn(u8) -> bool) -> Result<String, StepError> {
    let missing = || StepError::Refused(format!("no {} in the answer", String::from_utf8_lossy(mark)));
    let start = body.windows(mark.len()).position(|window| window == mark).ok_or_else(missing)? + mark.len();
    let length = body[start..].iter().position(|byte| !belongs(*byte)).unwrap_or(body.len() - start);
    Ok(String::from_utf8_lossy(&body[start..start + length]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_ends_where_its_digits_end() {
        let digits = |byte: u8| byte.is_ascii_digit();
        assert_eq!(after(br#"{"token":41,"ttl_ms":1}"#, br#""token":"#, digits).ok().as_deref(), Some("41"));
        assert_eq!(after(br#"{"token":7"#, br#""token":"#, digits).ok().as_deref(), Some("7"));
        assert!(after(b"{}", br#""token":"#, digits).is_err());
    }

    #[test]
    fn one_refused_item_spoils_a_batch() {
        let good = br#"{"results":[{"id":"1","queue":"q","shard":1}]}"#;
        assert!(ok(Response { status: 200, body: good }).is_ok());
        let bad = br#"{"results":[{"id":"1"},{"error":{"code":"queue_full","message":"m"}}]}"#;
        let Err(error) = ok(Response { status: 200, body: bad }) else { panic!("an item was refused") };
        assert_eq!(error.code(), "200 queue_full");
    }

    #[test]
    fn an_error_is_counted_under_its_status_and_code() {
        let body = br#"{"error":{"code":"held","message":"m"}}"#;
        let Err(error) = ok(Response { status: 409, body }) else { panic!("409 is an error") };
        assert_eq!(error.code(), "409 held");
        assert!(!error.connection_is_lost());
    }
}
