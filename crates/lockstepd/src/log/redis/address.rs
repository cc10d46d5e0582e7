//! Where the store is: `redis://[user[:password]@]host[:port][,host…][/db][?name=NAME&ca=FILE]`.
//!
//! What is printed of it never contains the password. It opens nothing.

use std::fmt;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;

const PORT: u16 = 6379;

/// A parsed `--store redis://…`.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// Whether connections are encrypted (`rediss://`).
    pub tls: bool,
    /// At least one. Of a Redis Cluster any of its nodes; else whichever of them is the master is used.
    pub hosts: Vec<(String, u16)>,
    /// For `AUTH`.
    pub user: Option<String>,
    /// For `AUTH`.
    pub password: Option<String>,
    /// The database number; a Redis Cluster has only 0.
    pub db: i64,
    /// Several clusters may share one Redis under different names. All keys begin with it.
    pub name: String,
    /// Whose certificates are trusted; the system's list if absent.
    pub ca: Option<PathBuf>,
}

impl Address {
    /// Reads a URL. The message of an error says what to write instead.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (tls, rest) = match (url.strip_prefix("redis://"), url.strip_prefix("rediss://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(wrong("does not begin with redis:// or rediss://")),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, db) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let hosts = hosts.split(',').map(host).collect::<Result<Vec<_>, _>>()?;
        let db = match db {
            "" => 0,
            db => db.parse::<u16>().map_err(|_| wrong("has a database that is no number"))?.into(),
        };
        let mut address = Self {
            tls,
            hosts,
            user: decoded(user)?,
            password: decoded(password)?,
            db,
            name: "default".into(),
            ca: None,
        };
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "name" => address.name = name(&value)?,
                "ca" if tls => address.ca = Some(PathBuf::from(&*value)),
                "ca" => return Err(wrong("has a ca, which only rediss:// uses")),
                other => return Err(wrong(&format!("has the unknown parameter {other:?}"))),
            }
        }
        Ok(address)
    }

    /// The first part of every key of this cluster.
    pub(super) fn prefix(&self) -> String {
        format!("lockstep:{}", self.name)
    }
}

fn host(text: &str) -> Result<(String, u16), String> {
    let bracketed = text.starts_with('[');
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !bracketed || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port = match port {
        None => PORT,
        Some(port) => {
            port.parse().ok().filter(|port| *port != 0).ok_or_else(|| wrong("has no usable port"))?
        }
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
    if host.is_empty() || !host.bytes().all(plain) {
        return Err(wrong("has no usable host"));
    }
    Ok((host.to_owned(), port))
}

/// A name becomes part of keys and must not end their hash tag.
fn name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(plain) {
        return Err(wrong(
            "has a name with other characters than letters, digits, `.`, `-` and `_`, at most 64",
        ));
    }
    Ok(text.to_owned())
}

fn decoded(text: &str) -> Result<Option<String>, String> {
    let text =
        percent_decode_str(text).decode_utf8().map_err(|_| wrong("has a password that is no UTF-8"))?;
    Ok((!text.is_empty()).then(|| text.into_owned()))
}

fn wrong(why: &str) -> String {
    format!("{why}: write redis://host:6379/0, or rediss://user:password@host:6379/0?name=NAME")
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self.hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect();
        let scheme = if self.tls { "rediss" } else { "redis" };
        write!(f, "{scheme}://{}/{}", hosts.join(","), self.db)?;
        if self.name == "default" { Ok(()) } else { write!(f, "?name={}", self.name) }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_read_and_the_password_is_never_shown() {
        let address =
            Address::parse("rediss://me:p%40ss:w@one,two:7000,[::1]:7001/3?name=prod&ca=/ca.pem").unwrap();
        assert_eq!(address.hosts, [("one".into(), 6379), ("two".into(), 7000), ("::1".into(), 7001)]);
        assert_eq!((address.user.as_deref(), address.password.as_deref()), (Some("me"), Some("p@ss:w")));
        assert_eq!((address.db, address.prefix().as_str()), (3, "lockstep:prod"));
        assert!(address.tls && address.ca == Some("/ca.pem".into()));
        assert_eq!(format!("{address} {address:?}").matches("p@ss").count(), 0);
        let plain = Address::parse("redis://localhost").unwrap();
        assert_eq!(plain.to_string(), "redis://localhost:6379/0");
        assert_eq!(Address::parse("redis://:secret@h").unwrap().password.as_deref(), Some("secret"));
    }

    #[test]
    fn what_is_no_address_is_refused_with_an_example() {
        for (url, why) in [
            ("http://localhost", "does not begin"),
            ("redis://", "no usable host"),
            ("redis://host:port", "no usable port"),
            ("redis://host:0", "no usable port"),
            ("redis://ho st", "no usable host"),
            ("redis://one,,two", "no usable host"),
            ("redis://host/zero", "no number"),
            ("redis://host?name=a}b", "a name with"),
            ("redis://host?ca=/x", "only rediss://"),
            ("redis://host?nmae=x", "\"nmae\""),
        ] {
            let error = Address::parse(url).unwrap_err();
            assert!(error.contains(why) && error.contains("redis://host:6379/0"), "{url}: {error}");
        }
    }
}
