//! What is held of one peer's catalogue, and how its messages change that. Everything in a
//! message is hostile until it has been checked.

use std::collections::BTreeMap;

use portolan_api::peering::{CatalogueEntry as EntryMessage, CatalogueUpdate, WatchRequest};
use portolan_model::ServiceKey;
use portolan_model::sharing::{CATALOGUE_ENTRIES_MAX, CatalogueEntry};
use prost::Message as _;

/// The longest epoch, in bytes.
const EPOCH_BYTES_MAX: usize = 256;
/// The most removals in one update.
const REMOVALS_MAX: usize = 2 * CATALOGUE_ENTRIES_MAX;
/// The most bytes of one update, all its messages together; what is larger could not be kept on disk either.
const UPDATE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How much of a name that cannot be understood is repeated, in bytes.
const QUOTED_BYTES_MAX: usize = 100;

/// A peer's catalogue as it is held.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Held {
    pub(crate) epoch: String,
    pub(crate) version: u64,
    pub(crate) entries: BTreeMap<ServiceKey, CatalogueEntry>,
    /// An update of which the last message has not come yet.
    partial: Option<Update>,
}

/// A whole update, checked.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Update {
    pub(crate) full: bool,
    pub(crate) upserts: Vec<CatalogueEntry>,
    pub(crate) removals: Vec<ServiceKey>,
    /// What was not understood, a sentence each.
    pub(crate) refused: Vec<String>,
    /// How much was sent for it.
    bytes: usize,
}

/// The peer breaks the protocol: nothing more of this stream is believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("its epoch is empty or longer than {EPOCH_BYTES_MAX} bytes")]
    Epoch,
    #[error("it began another epoch without a full list")]
    NotFull,
    #[error(
        "its update holds more than {CATALOGUE_ENTRIES_MAX} entries or {UPDATE_BYTES_MAX} bytes"
    )]
    TooLarge,
}

impl Held {
    /// A catalogue that was kept on disk.
    pub(crate) fn kept(epoch: String, version: u64, entries: Vec<CatalogueEntry>) -> Self {
        let entries = entries.into_iter().map(|entry| (entry.key.clone(), entry));
        Self {
            epoch,
            version,
            entries: entries.collect(),
            partial: None,
        }
    }

    /// How a watch resumes.
    pub(crate) fn request(&mut self) -> WatchRequest {
        self.partial = None;
        WatchRequest {
            epoch: self.epoch.clone(),
            version: self.version,
        }
    }

    /// Takes one message in. `Some` when it completes an update.
    pub(crate) fn take(&mut self, message: CatalogueUpdate) -> Result<Option<Update>, Broken> {
        if message.epoch.is_empty() || message.epoch.len() > EPOCH_BYTES_MAX {
            return Err(Broken::Epoch);
        }
        let mut update = match self.partial.take() {
            Some(update) if !message.full => update,
            Some(_) | None => Update {
                full: message.full,
                ..Update::default()
            },
        };
        if !update.full && message.epoch != self.epoch {
            return Err(Broken::NotFull);
        }
        let entries = update.upserts.len() + message.upserts.len() + update.refused.len();
        let removals = update.removals.len() + message.removals.len();
        update.bytes = update.bytes.saturating_add(message.encoded_len());
        let fits = entries <= CATALOGUE_ENTRIES_MAX && removals <= REMOVALS_MAX;
        if !fits || update.bytes > UPDATE_BYTES_MAX {
            return Err(Broken::TooLarge);
        }
        add(&mut update, message.upserts, &message.removals);
        if message.version == 0 {
            self.partial = Some(update);
            return Ok(None);
        }
        self.epoch = message.epoch;
        self.version = message.version;
        self.change(&update);
        Ok(Some(update))
    }

    fn change(&mut self, update: &Update) {
        if update.full {
            self.entries.clear();
        }
        for key in &update.removals {
            self.entries.remove(key);
        }
        for entry in &update.upserts {
            let full = self.entries.len() >= CATALOGUE_ENTRIES_MAX;
            if !full || self.entries.contains_key(&entry.key) {
                self.entries.insert(entry.key.clone(), entry.clone());
            }
        }
    }
}

fn add(update: &mut Update, upserts: Vec<EntryMessage>, removals: &[String]) {
    for message in upserts {
        let name = format!("{}/{}", quoted(&message.namespace), quoted(&message.name));
        match CatalogueEntry::try_from(message) {
            Ok(entry) => update.upserts.push(entry),
            Err(invalid) => update
                .refused
                .push(format!("{}: {invalid}", name.escape_default())),
        }
    }
    for name in removals {
        match ServiceKey::parse(name) {
            Ok(key) => update.removals.push(key),
            Err(invalid) => update.refused.push(invalid.to_string()),
        }
    }
}

fn quoted(text: &str) -> &str {
    &text[..text.floor_char_boundary(QUOTED_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> EntryMessage {
        EntryMessage {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            kind: 1,
            ports: Vec::new(),
            localities: Vec::new(),
            identities: Vec::new(),
            exported_ms: 1,
            hosts: Vec::new(),
            client_ip_affinity_seconds: 0,
        }
    }

    fn message(full: bool, version: u64, names: &[&str], removals: &[&str]) -> CatalogueUpdate {
        CatalogueUpdate {
            epoch: "e".to_owned(),
            version,
            full,
            upserts: names.iter().map(|name| entry(name)).collect(),
            removals: removals.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn names(held: &Held) -> Vec<String> {
        held.entries.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn an_update_in_pieces_counts_when_it_is_whole() {
        let mut held = Held::default();
        held.take(message(true, 3, &["old"], &[])).unwrap().unwrap();
        assert_eq!(held.take(message(true, 0, &["a"], &[])).unwrap(), None);
        assert_eq!(names(&held), ["shop/old"]);
        let update = held.take(message(false, 5, &["b"], &[])).unwrap().unwrap();
        assert!(update.full);
        assert_eq!(names(&held), ["shop/a", "shop/b"]);
        assert_eq!(held.request().version, 5);
        held.take(message(false, 6, &["c"], &["shop/a"])).unwrap();
        assert_eq!(names(&held), ["shop/b", "shop/c"]);
    }

    #[test]
    fn a_broken_off_update_leaves_no_trace() {
        let mut held = Held::default();
        held.take(message(true, 3, &["old"], &[])).unwrap();
        held.take(message(true, 0, &["a"], &[])).unwrap();
        assert_eq!(held.request().version, 3);
        held.take(message(false, 4, &["b"], &[])).unwrap();
        assert_eq!(names(&held), ["shop/b", "shop/old"]);
    }

    #[test]
    fn what_cannot_be_understood_costs_no_more_than_a_line() {
        let mut held = Held::default();
        let long = "x".repeat(1_000_000);
        let update = held.take(message(true, 1, &[&long], &[])).unwrap().unwrap();
        assert!(
            update.refused[0].len() < 1_000,
            "{}",
            update.refused[0].len()
        );
        held.take(message(true, 0, &[&long], &[])).unwrap();
        let mut pieces = 1_usize;
        let broken = loop {
            match held.take(message(false, 0, &[&long], &[])) {
                Ok(_) => pieces += 1,
                Err(broken) => break broken,
            }
        };
        assert_eq!(broken, Broken::TooLarge);
        assert!((200..300).contains(&pieces), "{pieces}");
    }

    #[test]
    fn bad_entries_are_refused_one_by_one_and_bad_streams_whole() {
        let mut held = Held::default();
        let update = held
            .take(message(true, 1, &["good", "B@D"], &["x"]))
            .unwrap()
            .unwrap();
        assert_eq!(names(&held), ["shop/good"]);
        assert_eq!(update.refused.len(), 2);
        let mut other = message(false, 2, &["a"], &[]);
        other.epoch = "f".to_owned();
        assert_eq!(held.take(other), Err(Broken::NotFull));
        let mut nameless = message(true, 2, &["a"], &[]);
        nameless.epoch.clear();
        assert_eq!(held.take(nameless), Err(Broken::Epoch));
        let many = CatalogueUpdate {
            upserts: vec![entry("a"); CATALOGUE_ENTRIES_MAX + 1],
            ..message(true, 2, &[], &[])
        };
        assert_eq!(held.take(many), Err(Broken::TooLarge));
        assert_eq!(names(&held), ["shop/good"]);
    }
}
