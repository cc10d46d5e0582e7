//! Namespaces: what a key's name says, and how the keys of one namespace are kept.
//!
//! Inside the machines a key carries its namespace in front, divided by a character that no name
//! may contain; keys of `default` stand alone. It does not say who may configure what.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Key;
use crate::command::{Effect, NamespaceOp, Refusal, Reply};
use crate::stamp::Millis;

/// The namespace that always exists.
pub const DEFAULT: &str = "default";

/// Namespaces beyond this many are refused ([`Refusal::TooManyNamespaces`]).
pub const NAMESPACES_MAX: usize = 1024;

const DIVIDER: char = '\0';

/// The key as the machines know it.
#[must_use]
pub fn join(namespace: &str, key: &str) -> Key {
    if namespace == DEFAULT { key.into() } else { format!("{namespace}{DIVIDER}{key}").into() }
}

/// Namespace and name of a key that [`join`] made.
#[must_use]
pub fn split(key: &str) -> (&str, &str) {
    key.split_once(DIVIDER).unwrap_or((DEFAULT, key))
}

/// The namespace of a key that [`join`] made.
#[must_use]
pub fn of(key: &str) -> &str {
    split(key).0
}

/// How the keys of a namespace are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// A sole reader owns the line and writes it without asking the home; its crash loses those
    /// writes as a miss.
    pub write_back: bool,
    /// Bytes over all homes, keys and directory counted; `None`: as much as there is.
    pub bytes_max: Option<u64>,
    /// Time to live of writes that say none; `None`: for ever.
    pub ttl: Option<Millis>,
}

/// Every namespace and its settings, as the coordination shard's log has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spaces {
    revision: u64,
    by_name: BTreeMap<Arc<str>, Settings>,
}

impl Spaces {
    /// Applies one command.
    pub fn apply(&mut self, op: &NamespaceOp, effects: &mut Vec<Effect>) -> Reply {
        let NamespaceOp::Configure { name, write_back, bytes_max, ttl } = op;
        let is_new = self.get(name).is_none();
        if is_new && self.by_name.len() >= NAMESPACES_MAX {
            return Reply::Refused(Refusal::TooManyNamespaces);
        }
        let settings = self.by_name.entry(name.clone()).or_default();
        settings.write_back = write_back.unwrap_or(settings.write_back);
        settings.bytes_max = bytes_max.or(settings.bytes_max);
        settings.ttl = ttl.or(settings.ttl);
        let settings = *settings;
        self.revision += 1;
        effects.push(Effect::NamespacesChanged);
        Reply::Namespace { settings, revision: self.revision }
    }

    /// How often anything has changed.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The settings of a namespace, if it exists.
    #[must_use]
    pub fn get(&self, namespace: &str) -> Option<Settings> {
        let known = self.by_name.get(namespace).copied();
        known.or_else(|| (namespace == DEFAULT).then(Settings::default))
    }

    /// Every namespace that was configured, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Settings)> {
        self.by_name.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_finds_its_namespace_again_and_default_adds_nothing() {
        assert_eq!(split(&join("orders", "a")), ("orders", "a"));
        assert_eq!(split(&join(DEFAULT, "a")), (DEFAULT, "a"));
        assert_eq!(&*join(DEFAULT, "a"), "a");
    }

    #[test]
    fn what_is_left_out_stays_and_default_exists_unconfigured() {
        let mut spaces = Spaces::default();
        assert_eq!(spaces.get(DEFAULT), Some(Settings::default()));
        assert_eq!(spaces.get("a"), None);
        let op =
            |write_back, ttl| NamespaceOp::Configure { name: "a".into(), write_back, bytes_max: None, ttl };
        spaces.apply(&op(Some(true), None), &mut Vec::new());
        spaces.apply(&op(None, Some(Millis(5))), &mut Vec::new());
        let settings = Settings { write_back: true, bytes_max: None, ttl: Some(Millis(5)) };
        assert_eq!((spaces.get("a"), spaces.revision()), (Some(settings), 2));
    }
}
