//! The way to Redis: opens connections to the master that holds a key, and looks at what it is told.
//!
//! One for each node of a cluster; connections are its users' own. It sends nothing of a log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    RedisConnectionInfo, TlsCertificates, Value,
};

use super::address::Address;
use super::check::{self, About};

/// The longest that a connection may take to open.
const CONNECT: Duration = Duration::from_secs(2);
/// The longest wait for an answer to a question about the server itself.
const ANSWER: Duration = Duration::from_secs(2);

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody answers there, or not yet.
    #[error("{0}")]
    Away(String),
    /// Waiting does not help: somebody has to change something.
    #[error("{0}")]
    Mistake(String),
}

/// Where the store is, and what is known of it.
pub struct Server {
    address: Address,
    ca: Option<Vec<u8>>,
    /// Of each server, as it was when it last told.
    warnings: Mutex<BTreeMap<(String, u16), Vec<String>>>,
}

impl Server {
    /// Opens nothing yet, but reads the certificates.
    pub fn new(address: Address) -> Result<Arc<Self>, Refusal> {
        let ca = match &address.ca {
            Some(path) => Some(std::fs::read(path).map_err(|error| {
                Refusal::Mistake(format!(
                    "cannot read the certificates {}: {error}. Correct `ca` in --store",
                    path.display()
                ))
            })?),
            None => None,
        };
        if address.tls {
            // Another part of this process may have chosen already, which is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        Ok(Arc::new(Self { address, ca, warnings: Mutex::default() }))
    }

    /// Where it is, for people.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// In what respect Redis promises less than Lockstep does; empty when all is well.
    pub fn warnings(&self) -> Vec<String> {
        let known = self.warnings.lock().expect("nothing panics while it holds this");
        known.values().flatten().cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// A connection to the master that holds `key`.
    pub(super) async fn connect(&self, key: &str) -> Result<MultiplexedConnection, Refusal> {
        let mut refusals = Vec::new();
        for (host, port) in &self.address.hosts {
            match self.connect_by(host, *port, key).await {
                Ok(connection) => return Ok(connection),
                Err(refusal) => refusals.push(refusal),
            }
        }
        // One host that is merely away makes it worth trying again.
        let away = refusals.iter().position(|refusal| matches!(refusal, Refusal::Away(_)));
        Err(refusals.swap_remove(away.unwrap_or(0)))
    }

    async fn connect_by(&self, host: &str, port: u16, key: &str) -> Result<MultiplexedConnection, Refusal> {
        let (mut connection, mut about) = self.open(host, port).await?;
        let mut at = (host.to_owned(), port);
        if about.clustered {
            let owner = owner(&mut connection, host, key).await?;
            if owner != at {
                (connection, about) = self.open(&owner.0, owner.1).await?;
                at = owner;
            }
        }
        about.usable(&self.address)?;
        if let Some(warnings) = check::weaknesses(&mut connection, &format!("{}:{}", at.0, at.1)).await {
            self.warn(at, warnings);
        }
        Ok(connection)
    }

    async fn open(&self, host: &str, port: u16) -> Result<(MultiplexedConnection, About), Refusal> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(None);
        let client = self.client(host, port).map_err(|error| self.refusal(host, port, &error))?;
        let opening = client.get_multiplexed_async_connection_with_config(&config);
        let opened = match tokio::time::timeout(CONNECT + ANSWER, opening).await {
            Ok(opened) => opened.map_err(|error| self.refusal(host, port, &error))?,
            Err(_) => return Err(self.silent(host, port)),
        };
        let mut connection = opened;
        let about = self.info(&mut connection, host, port).await?;
        Ok((connection, about))
    }

    async fn info(
        &self,
        connection: &mut MultiplexedConnection,
        host: &str,
        port: u16,
    ) -> Result<About, Refusal> {
        match within(connection, &redis::cmd("INFO")).await {
            Some(Ok(Value::BulkString(text))) => Ok(About::parse(&String::from_utf8_lossy(&text))),
            Some(Ok(Value::VerbatimString { text, .. })) => Ok(About::parse(&text)),
            Some(Ok(_)) => Err(Refusal::Mistake(format!("{host}:{port} answers, but not as Redis does"))),
            Some(Err(error)) => Err(self.refusal(host, port, &error)),
            None => Err(self.silent(host, port)),
        }
    }

    fn client(&self, host: &str, port: u16) -> redis::RedisResult<Client> {
        let host = host.to_owned();
        let address = match self.address.tls {
            true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            false => ConnectionAddr::Tcp(host, port),
        };
        let mut login = RedisConnectionInfo::default().set_db(self.address.db).set_skip_set_lib_name();
        if let Some(user) = &self.address.user {
            login = login.set_username(user);
        }
        if let Some(password) = &self.address.password {
            login = login.set_password(password);
        }
        let info: ConnectionInfo = address
            .into_connection_info()?
            .set_tcp_settings(TcpSettings::default().set_nodelay(true))
            .set_redis_settings(login);
        match &self.ca {
            Some(ca) => Client::build_with_tls(
                info,
                TlsCertificates { client_tls: None, root_cert: Some(ca.clone()) },
            ),
            None => Client::open(info),
        }
    }

    /// What an error on the way to `host` means for whoever runs this node.
    fn refusal(&self, host: &str, port: u16, error: &redis::RedisError) -> Refusal {
        let code = error.code().unwrap_or_default();
        let text = error.to_string();
        if error.kind() == ErrorKind::AuthenticationFailed
            || ["NOAUTH", "WRONGPASS", "NOPERM"].contains(&code)
        {
            return Refusal::Mistake(format!(
                "Redis at {host}:{port} refuses the login ({text}). Put user and password into --store or \
                 LOCKSTEP_STORE: redis://user:password@{host}:{port}; docs/stores.md has the permissions"
            ));
        }
        if text.contains("certificate") || text.contains("CertificateError") {
            return Refusal::Mistake(format!(
                "the certificate of Redis at {host}:{port} is not accepted ({text}). Name the file of its \
                 authority as `ca` in --store: rediss://{host}:{port}?ca=/path/ca.pem"
            ));
        }
        if text.contains("in cluster mode") {
            return Refusal::Mistake(format!(
                "Redis at {host}:{port} is part of a Redis Cluster, which has only database 0. Leave the database out \
                 of --store"
            ));
        }
        if error.kind() == ErrorKind::Parse {
            return Refusal::Mistake(format!(
                "{host}:{port} answers, but not as Redis does. Correct host and port in --store"
            ));
        }
        if text.contains("DB index") {
            return Refusal::Mistake(format!(
                "Redis at {host}:{port} has no database {} ({text}). Use another one in --store",
                self.address.db
            ));
        }
        let tls =
            if self.address.tls { " (rediss:// asks for TLS: is that what its port speaks?)" } else { "" };
        Refusal::Away(format!("cannot reach Redis at {host}:{port}: {text}{tls}"))
    }

    fn silent(&self, host: &str, port: u16) -> Refusal {
        Refusal::Away(format!("Redis at {host}:{port} does not answer"))
    }

    /// Says each new weakness of a server once.
    fn warn(&self, at: (String, u16), now: Vec<String>) {
        let mut known = self.warnings.lock().expect("nothing panics while it holds this");
        let before = known.get(&at).map(Vec::as_slice).unwrap_or_default();
        for warning in now.iter().filter(|warning| !before.contains(warning)) {
            tracing::warn!(store = %self.address, "{warning}");
        }
        known.insert(at, now);
    }
}

/// Asks, at most for a while; `None` if nobody answered.
pub(super) async fn within(
    connection: &mut MultiplexedConnection,
    command: &Cmd,
) -> Option<redis::RedisResult<Value>> {
    tokio::time::timeout(ANSWER, connection.send_packed_command(command))
        .await
        .ok()
        .map(|answer| answer.and_then(Value::extract_error))
}

/// Which node of a Redis Cluster holds `key`, as the node at `host` says.
async fn owner(
    connection: &mut MultiplexedConnection,
    host: &str,
    key: &str,
) -> Result<(String, u16), Refusal> {
    let slot = within(connection, redis::cmd("CLUSTER").arg("KEYSLOT").arg(key)).await;
    let slots = within(connection, redis::cmd("CLUSTER").arg("SLOTS")).await;
    let (Some(Ok(Value::Int(slot))), Some(Ok(Value::Array(ranges)))) = (slot, slots) else {
        return Err(Refusal::Away(format!("the Redis Cluster at {host} does not say who holds {key}")));
    };
    let owner = ranges.into_iter().find_map(|range| match range {
        Value::Array(parts) => match parts.as_slice() {
            [Value::Int(first), Value::Int(last), Value::Array(master), ..]
                if (*first..=*last).contains(&slot) =>
            {
                node(master, host)
            }
            _ => None,
        },
        _ => None,
    });
    owner.ok_or_else(|| {
        Refusal::Away(format!("nobody in the Redis Cluster at {host} holds slot {slot}: it is not complete"))
    })
}

fn node(master: &[Value], asked: &str) -> Option<(String, u16)> {
    let [Value::BulkString(host), Value::Int(port), ..] = master else { return None };
    let host = String::from_utf8_lossy(host).into_owned();
    // A node that does not know its own address means the one by which it was reached.
    let host = if host.is_empty() || host == "?" { asked.to_owned() } else { host };
    Some((host, u16::try_from(*port).ok()?))
}
