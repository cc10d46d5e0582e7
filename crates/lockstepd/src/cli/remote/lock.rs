//! `lockstep lock …`

use lockstep_client::Client;
use serde_json::{Value, json};

use super::{Ask, Request, list, one_request, plain, run, table};
use crate::cli::Failure;

/// Operations on locks.
#[derive(clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) enum Command {
    /// Take a lock, and print its fencing token
    Acquire {
        name: String,
        /// Who holds it: one worker, not a team
        #[arg(long, env = "LOCKSTEP_OWNER")]
        owner: String,
        /// `exclusive` or `shared`
        #[arg(long, default_value = "exclusive")]
        mode: String,
        /// The lease's length [default: 30000]
        #[arg(long)]
        ttl_ms: Option<u64>,
        /// How long to queue for it; 0 fails at once if it is held
        #[arg(long)]
        wait_ms: Option<u64>,
        /// Makes asking again harmless
        #[arg(long)]
        request_id: Option<String>,
    },
    /// Give a lock back
    Release {
        name: String,
        #[arg(long, env = "LOCKSTEP_OWNER")]
        owner: String,
        /// The token of the hold that is meant; without one, whichever the owner has
        #[arg(long, env = "LOCKSTEP_TOKEN")]
        token: Option<u64>,
        /// Makes asking again harmless
        #[arg(long)]
        request_id: Option<String>,
    },
    /// Start a lock's lease anew
    Renew {
        name: String,
        #[arg(long, env = "LOCKSTEP_OWNER")]
        owner: String,
        #[arg(long, env = "LOCKSTEP_TOKEN")]
        token: u64,
        /// The lease's new length [default: as before]
        #[arg(long)]
        ttl_ms: Option<u64>,
        /// Makes asking again harmless
        #[arg(long)]
        request_id: Option<String>,
    },
    /// Run a program while holding a lock; stop it if the lock is lost
    #[command(after_help = run::EXIT_CODES)]
    Run(run::Args),
    /// Who holds a lock, and who waits for it
    Get { name: String },
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

const EXAMPLES: &str = "\
Examples:
  lockstep lock acquire resA --owner worker-1 --ttl-ms 10000 --wait-ms 5000
  lockstep lock release resA --owner worker-1 --token 41
  lockstep lock run nightly --ttl-ms 10000 -- ./backup.sh
  lockstep lock list --prefix res --json";

impl Ask for Command {
    async fn run(&self, client: &Client, json: bool) -> Result<(), Failure> {
        match self {
            Self::Run(args) => run::run(client, args).await,
            command => one_request(command, client, json).await,
        }
    }

    fn request(&self) -> Result<Request, Failure> {
        Ok(match self {
            Self::Acquire { name, owner, mode, ttl_ms, wait_ms, request_id } => Request::post(
                "/lock/acquire",
                json!({"name": name, "owner": owner, "mode": mode, "ttl_ms": ttl_ms, "wait_ms": wait_ms,
                       "request_id": request_id}),
            ),
            Self::Release { name, owner, token, request_id } => Request::post(
                "/lock/release",
                json!({"name": name, "owner": owner, "token": token, "request_id": request_id}),
            ),
            Self::Renew { name, owner, token, ttl_ms, request_id } => Request::post(
                "/lock/renew",
                json!({"name": name, "owner": owner, "token": token, "ttl_ms": ttl_ms, "request_id": request_id}),
            ),
            Self::Run(_) => return Err(Failure::new("more than one request")),
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
            Self::Acquire { .. } | Self::Renew { .. } => {
                format!("token {}, {} ms left", answer["token"], answer["expires_in_ms"])
            }
            Self::Run(_) => String::new(),
            Self::Release { .. } => "released".to_owned(),
            Self::Get { .. } => people(std::iter::once(answer)),
            Self::List { .. } => people(list(answer, "locks")),
        })
    }
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
