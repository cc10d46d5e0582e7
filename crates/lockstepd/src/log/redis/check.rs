//! What a Redis must be to hold logs, and in what it promises less than Lockstep does.
//!
//! It only looks; what follows from it is said to people and decides nothing later.

use redis::Value;
use redis::aio::MultiplexedConnection;

use super::address::Address;
use super::link::refused;
use super::server::{Refusal, within};

/// The oldest version that can trim a stream by id (`XTRIM MINID`).
const OLDEST: (u32, u32) = (6, 2);

/// What `INFO` tells of a server.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct About {
    pub(super) version: String,
    pub(super) clustered: bool,
    role: String,
    loading: bool,
    /// Bytes in use, and how many may be; 0 when there is no limit.
    pub(super) memory: (u64, u64),
}

impl About {
    pub(super) fn parse(info: &str) -> Self {
        let value = |key: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            line.unwrap_or_default().trim().to_owned()
        };
        let number = |key: &str| value(key).parse().unwrap_or_default();
        Self {
            version: value("redis_version"),
            clustered: value("cluster_enabled") == "1",
            role: value("role"),
            loading: value("loading") == "1",
            memory: (number("used_memory"), number("maxmemory")),
        }
    }

    /// Whether a log may be kept there.
    pub(super) fn usable(&self, address: &Address) -> Result<(), Refusal> {
        if self.loading {
            return Err(Refusal::Away(format!("Redis at {address} is still loading its data")));
        }
        if self.number().is_none_or(|version| version < OLDEST) {
            return Err(Refusal::Mistake(format!(
                "Redis at {address} is version {:?}; Lockstep needs {}.{} or later (Valkey: any)",
                self.version, OLDEST.0, OLDEST.1
            )));
        }
        if self.role != "master" {
            return Err(Refusal::Mistake(format!(
                "Redis at {address} is a replica, which takes no writes. Name its master in --store"
            )));
        }
        Ok(())
    }

    fn number(&self) -> Option<(u32, u32)> {
        let mut parts = self.version.split('.').map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    }
}

/// Settings under which the Redis `at` an address may forget what it has acknowledged, each as a sentence. `None`:
/// it has not answered every question, so this look tells nothing.
pub(super) async fn weaknesses(connection: &mut MultiplexedConnection, at: &str) -> Option<Vec<String>> {
    let mut found = Vec::new();
    for (key, wanted, otherwise) in [
        ("appendonly", "yes", "a restart of Redis loses acknowledged work"),
        ("appendfsync", "always", "a crash of its machine loses the last acknowledged work"),
        (
            "no-appendfsync-on-rewrite",
            "no",
            "a crash of its machine while a file is rewritten loses acknowledged work",
        ),
        ("maxmemory-policy", "noeviction", "Redis may throw parts of a log away when memory is short"),
    ] {
        let answer = within(connection, redis::cmd("CONFIG").arg("GET").arg(key)).await;
        let value = match answer? {
            Ok(answer) => value_of(answer),
            Err(error) if refused(&error) => None,
            Err(_) => return None,
        };
        found.extend(weakness(at, key, wanted, otherwise, value.as_deref()));
    }
    Some(found)
}

fn weakness(at: &str, key: &str, wanted: &str, otherwise: &str, value: Option<&str>) -> Option<String> {
    match value {
        None => Some(format!(
            "Redis at {at} does not tell its {key} (CONFIG GET is not allowed): make sure that it is {wanted}"
        )),
        Some(value) if value == wanted => None,
        Some(value) => {
            Some(format!("Redis at {at} runs with {key} {value}: {otherwise}. Set {key} {wanted}"))
        }
    }
}

/// The value of the one setting that was asked for.
fn value_of(answer: Value) -> Option<String> {
    let Value::Array(pair) = answer else { return None };
    match pair.into_iter().nth(1) {
        Some(Value::BulkString(value)) => Some(String::from_utf8_lossy(&value).into_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(info: &str) -> String {
        let address = Address::parse("redis://host").unwrap();
        About::parse(info).usable(&address).unwrap_err().to_string()
    }

    #[test]
    fn each_weakness_is_named_with_its_server() {
        let said = |value| weakness("host:7001", "appendfsync", "always", "work is lost", value);
        assert_eq!(said(Some("always")), None);
        let weak = said(Some("everysec")).unwrap();
        assert_eq!(
            weak,
            "Redis at host:7001 runs with appendfsync everysec: work is lost. Set appendfsync always"
        );
        assert!(said(None).unwrap().contains("make sure that it is always"));
    }

    #[test]
    fn old_loading_and_subordinate_servers_are_refused() {
        let good = "redis_version:7.0.15\r\nrole:master\r\nloading:0\r\ncluster_enabled:1\r\nused_memory:10\r\nmaxmemory:99\r\n";
        let about = About::parse(good);
        about.usable(&Address::parse("redis://host").unwrap()).unwrap();
        assert_eq!((about.clustered, about.memory), (true, (10, 99)));
        assert!(refusal(&good.replace("7.0.15", "6.0.16")).contains("needs 6.2"));
        assert!(refusal(&good.replace("7.0.15", "5.0")).contains("\"5.0\""));
        assert!(refusal("").contains("needs 6.2"));
        assert!(refusal(&good.replace("role:master", "role:slave")).contains("Name its master"));
        assert!(refusal(&good.replace("loading:0", "loading:1")).contains("still loading"));
    }
}
