//! `lockstep lock …`

use lockstep_client::Client;
use serde_json::{Value, json};

use super::{Ask, Request, list, one_request, plain, run, table, watch};
use crate::cli::Failure;

/// Operations on locks.
#[derive(clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) enum Command {
    /// Take a lock, or several together, and print the fencing token
    Acquire {
        #[arg(required = true)]
        names: Vec<String>,
        /// Who holds it: one worker, not a team
        #[arg(long, env = "LOCKSTEP_OWNER")]
        owner: String,
        /// `exclusive`, `shared` or `permit`
        #[arg(long, default_value = "exclusive")]
        mode: String,
        /// For permits: how many there are
        #[arg(long)]
        limit: Option<u32>,
        /// The lease's length [default: 30000]
        #[arg(long, conflicts_with = "session")]
        ttl_ms: Option<u64>,
        /// The session that keeps it, instead of a lease of its own
        #[arg(long, env = "LOCKSTEP_SESSION")]
        session: Option<String>,
        /// How long to queue for it; 0 fails at once if it is held
        #[arg(long)]
        wait_ms: Option<u64>,
        /// If it is lost, how long nobody gets it
        #[arg(long)]
        lock_delay_ms: Option<u64>,
        /// Shown to whoever looks at the lock: JSON, or text
        #[arg(long)]
        metadata: Option<String>,
        /// Wait even where everybody waits for the next
        #[arg(long)]
        allow_deadlock: bool,
        /// Makes asking again harmless
        #[arg(long)]
        request_id: Option<String>,
    },
    /// Give locks back
    Release {
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        of: Of,
        /// The token of the hold that is meant; without one, whichever the owner has
        #[arg(long, env = "LOCKSTEP_TOKEN")]
        token: Option<u64>,
    },
    /// Start the lease of locks anew
    Renew {
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        of: Of,
        #[arg(long, env = "LOCKSTEP_TOKEN")]
        token: u64,
        /// The lease's new length [default: as before]
        #[arg(long)]
        ttl_ms: Option<u64>,
    },
    /// Run a program while holding a lock; stop it if the lock is lost
    #[command(after_help = run::EXIT_CODES)]
    Run(run::Args),
    /// Make a shared hold exclusive, ahead of everybody who waits
    Upgrade {
        name: String,
        #[command(flatten)]
        of: Of,
        #[arg(long, env = "LOCKSTEP_TOKEN")]
        token: u64,
        /// How long to wait for the other holders; 0 fails at once if there are any
        #[arg(long)]
        wait_ms: Option<u64>,
    },
    /// Make an exclusive hold shared, under the same token
    Downgrade {
        name: String,
        #[command(flatten)]
        of: Of,
        #[arg(long, env = "LOCKSTEP_TOKEN")]
        token: u64,
    },
    /// Free a lock whoever holds it; who did it and why is kept in the audit log
    Break {
        name: String,
        /// Why
        #[arg(long)]
        reason: String,
        /// Who does it
        #[arg(long, env = "USER")]
        by: String,
        /// Only the hold with this token [default: every hold]
        #[arg(long)]
        token: Option<u64>,
    },
    /// Which locks were broken, by whom and why
    Audit {
        /// Only this lock
        name: Option<String>,
        /// At most this many
        #[arg(long)]
        limit: Option<u32>,
        /// Only entries after this one
        #[arg(long)]
        after: Option<u64>,
    },
    /// Sessions: one heartbeat keeps any number of locks
    #[command(subcommand)]
    Session(Session),
    /// Who holds a lock, and who waits for it
    Get { name: String },
    /// Print what happens to a lock as it happens, until it is stopped
    Watch {
        name: String,
        /// Go on after this event instead of beginning with who holds it
        #[arg(long, value_name = "ID")]
        after: Option<u64>,
    },
    /// The locks that are held or waited for
    List {
        /// Only names that start with this
        #[arg(long)]
        prefix: Option<String>,
        /// At most this many
        #[arg(long)]
        limit: Option<u32>,
        /// Only names after this one
        #[arg(long)]
        after: Option<String>,
    },
}

/// Whose hold is meant.
#[derive(clap::Args)]
pub(in crate::cli) struct Of {
    #[arg(long, env = "LOCKSTEP_OWNER")]
    owner: String,
    /// The owner's session, where it has several
    #[arg(long, env = "LOCKSTEP_SESSION")]
    session: Option<String>,
    /// Makes asking again harmless
    #[arg(long)]
    request_id: Option<String>,
}

/// `lockstep lock session …`
#[derive(clap::Subcommand)]
pub(in crate::cli) enum Session {
    /// Open one, and print its id
    Open {
        /// Whose it is
        #[arg(long, env = "LOCKSTEP_OWNER")]
        owner: String,
        /// It ends when it is not renewed for so long [default: 30000]
        #[arg(long)]
        ttl_ms: Option<u64>,
    },
    /// Start its time anew
    Renew { session: String },
    /// End it, and everything in it
    Close { session: String },
}

const EXAMPLES: &str = "\
Examples:
  lockstep lock acquire resA --owner worker-1 --ttl-ms 10000 --wait-ms 5000
  lockstep lock release resA --owner worker-1 --token 41
  lockstep lock run nightly --ttl-ms 10000 -- ./backup.sh
  lockstep lock acquire db gpu --owner worker-1 --mode permit --limit 5
  lockstep lock break resA --reason gone --by ann
  lockstep lock list --prefix res --json
  lockstep lock watch resA --json | jq .event";

impl Ask for Command {
    async fn run(&self, client: &Client, json: bool) -> Result<(), Failure> {
        match self {
            Self::Run(args) => run::run(client, args).await,
            Self::Watch { name, after } => watch::run(client, name, *after, json).await,
            command => one_request(command, client, json).await,
        }
    }

    fn request(&self) -> Result<Request, Failure> {
        Ok(match self {
            Self::Acquire { .. } => self.acquire()?,
            Self::Release { names, of, token } => {
                Request::post("/lock/release", of.with(names, json!({"token": token})))
            }
            Self::Renew { names, of, token, ttl_ms } => {
                Request::post("/lock/renew", of.with(names, json!({"token": token, "ttl_ms": ttl_ms})))
            }
            Self::Upgrade { name, of, token, wait_ms } => {
                let names = std::slice::from_ref(name);
                Request::post("/lock/upgrade", of.with(names, json!({"token": token, "wait_ms": wait_ms})))
            }
            Self::Downgrade { name, of, token } => {
                Request::post("/lock/downgrade", of.with(std::slice::from_ref(name), json!({"token": token})))
            }
            Self::Break { name, reason, by, token } => Request::post(
                "/lock/break",
                json!({"name": name, "reason": reason, "by": by, "token": token}),
            ),
            Self::Audit { name, limit, after } => Request::get(
                "/lock/audit",
                &[
                    ("name", name.clone()),
                    ("limit", limit.map(|limit| limit.to_string())),
                    ("after", after.map(|after| after.to_string())),
                ],
            ),
            Self::Run(_) | Self::Watch { .. } => return Err(Failure::new("more than one request")),
            Self::Session(Session::Open { owner, ttl_ms }) => {
                Request::post("/session/open", json!({"owner": owner, "ttl_ms": ttl_ms}))
            }
            Self::Session(Session::Renew { session }) => {
                Request::post("/session/renew", json!({"session": session}))
            }
            Self::Session(Session::Close { session }) => {
                Request::post("/session/close", json!({"session": session}))
            }
            Self::Get { name } => Request::get("/lock/get", &[("name", Some(name.clone()))]),
            Self::List { prefix, limit, after } => Request::get(
                "/lock/list",
                &[
                    ("prefix", prefix.clone()),
                    ("limit", limit.map(|limit| limit.to_string())),
                    ("after", after.clone()),
                ],
            ),
        })
    }

    fn show(&self, answer: &Value) -> Result<String, Failure> {
        Ok(match self {
            Self::Acquire { .. } | Self::Renew { .. } | Self::Upgrade { .. } | Self::Downgrade { .. } => {
                format!("token {}, {} ms left", answer["token"], answer["expires_in_ms"])
            }
            Self::Run(_) | Self::Watch { .. } => String::new(),
            Self::Break { .. } => {
                let lost = list(answer, "holders").map(|holder| plain(&holder["owner"]));
                format!("broken; lost by {}", lost.collect::<Vec<_>>().join(", "))
            }
            Self::Audit { .. } => audit(answer),
            Self::Session(Session::Close { .. }) => "closed".to_owned(),
            Self::Session(_) => {
                format!("session {}, {} ms left", plain(&answer["session"]), answer["expires_in_ms"])
            }
            Self::Release { .. } => "released".to_owned(),
            Self::Get { .. } => people(std::iter::once(answer)),
            Self::List { .. } => people(list(answer, "locks")),
        })
    }
}

impl Command {
    fn acquire(&self) -> Result<Request, Failure> {
        let Self::Acquire {
            names,
            owner,
            mode,
            limit,
            ttl_ms,
            session,
            wait_ms,
            lock_delay_ms,
            metadata,
            allow_deadlock,
            request_id,
        } = self
        else {
            unreachable!("called for an acquire alone")
        };
        let of = Of { owner: owner.clone(), session: session.clone(), request_id: request_id.clone() };
        let metadata = metadata.as_deref().map(super::value).transpose()?;
        let fail_on_deadlock = allow_deadlock.then_some(false);
        let fields = json!({"mode": mode, "limit": limit, "ttl_ms": ttl_ms, "wait_ms": wait_ms,
            "lock_delay_ms": lock_delay_ms, "metadata": metadata, "fail_on_deadlock": fail_on_deadlock});
        Ok(Request::post("/lock/acquire", of.with(names, fields)))
    }
}

impl Of {
    /// A request's body: one lock by its name, several by their names.
    fn with(&self, names: &[String], mut body: Value) -> Value {
        match names {
            [name] => body["name"] = json!(name),
            names => body["names"] = json!(names),
        }
        body["owner"] = json!(self.owner);
        body["session"] = json!(self.session);
        body["request_id"] = json!(self.request_id);
        body
    }
}

/// Broken locks, one a line.
fn audit(answer: &Value) -> String {
    let row = |entry: &Value| {
        let lost: Vec<_> = list(entry, "holders").map(|holder| plain(&holder["owner"])).collect();
        vec![
            plain(&entry["id"]),
            plain(&entry["name"]),
            lost.join(", "),
            plain(&entry["by"]),
            plain(&entry["reason"]),
        ]
    };
    let rows: Vec<_> = list(answer, "entries").map(row).collect();
    if rows.is_empty() {
        return "no lock was broken".to_owned();
    }
    table(&["", "LOCK", "LOST BY", "BROKEN BY", "WHY"], &rows)
}

/// Holders and waiters, one a line.
fn people<'a>(locks: impl Iterator<Item = &'a Value>) -> String {
    let mut rows = Vec::new();
    for lock in locks {
        for (list_name, what) in [("holders", "holds"), ("waiters", "waits")] {
            for person in list(lock, list_name) {
                let cell =
                    |name: &str| if person[name].is_null() { String::new() } else { plain(&person[name]) };
                rows.push(vec![
                    plain(&lock["name"]),
                    what.to_owned(),
                    cell("owner"),
                    cell("mode"),
                    cell("token"),
                    cell("expires_in_ms"),
                ]);
            }
        }
    }
    if rows.is_empty() {
        return "nobody holds or waits".to_owned();
    }
    table(&["LOCK", "", "OWNER", "MODE", "TOKEN", "LEFT MS"], &rows)
}
