//! What one stream wants of one type, and how far it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portolan_api::resource::Encoded;

use crate::view::{ResourceTable, ResourceType};

/// The most names that one stream may subscribe to one by one; more need the wildcard.
const NAMES_MAX: usize = 100_000;
/// The longest name that is remembered, in bytes; there are no longer ones.
const NAME_BYTES_MAX: usize = 512;
/// The most resources that a client may claim to hold.
const HELD_MAX: usize = 200_000;
const WILDCARD: &str = "*";

/// A difference.
#[derive(Debug, Clone, Default)]
pub(super) struct Update {
    pub(super) resources: Vec<Arc<Encoded>>,
    pub(super) removed: Vec<String>,
}

/// The stream was slow for so long that nobody remembers any more what is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream is too far behind; open it again with the versions that are held")]
pub(super) struct TooFarBehind;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Subscription {
    kind: ResourceType,
    wildcard: bool,
    names: BTreeSet<Arc<str>>,
    /// What was subscribed to and not answered yet.
    fresh: Fresh,
    /// The table's version that the stream has.
    seen: u64,
}

#[derive(Debug)]
enum Fresh {
    /// The first request of the type is not answered: the client holds these versions.
    All(BTreeMap<String, String>),
    /// These names were added since; perhaps none.
    Names(BTreeSet<Arc<str>>),
}

impl Subscription {
    pub(super) fn new(kind: ResourceType) -> Self {
        Self {
            kind,
            wildcard: false,
            names: BTreeSet::new(),
            fresh: Fresh::All(BTreeMap::new()),
            seen: 0,
        }
    }

    pub(super) fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// Takes a request in. A first request without any name means all resources.
    pub(super) fn hear(
        &mut self,
        subscribe: Vec<String>,
        unsubscribe: &[String],
        held: BTreeMap<String, String>,
    ) -> Result<(), String> {
        let first = matches!(&self.fresh, Fresh::All(known) if known.is_empty())
            && self.seen == 0
            && self.names.is_empty()
            && !self.wildcard;
        if held.len() > HELD_MAX {
            return Err(format!(
                "the client claims to hold {} resources, the most is {HELD_MAX}",
                held.len()
            ));
        }
        if let Some(name) = subscribe.iter().find(|name| name.len() > NAME_BYTES_MAX) {
            return Err(format!(
                "a name of {} bytes names nothing; the longest have {NAME_BYTES_MAX}",
                name.len()
            ));
        }
        if first && subscribe.is_empty() {
            self.wildcard = true;
        }
        for name in unsubscribe {
            if name == WILDCARD {
                self.wildcard = false;
            }
            self.names.remove(name.as_str());
        }
        for name in subscribe {
            self.subscribe(name);
        }
        if first {
            self.fresh = Fresh::All(held);
        }
        if self.names.len() > NAMES_MAX {
            return Err(format!(
                "the stream subscribes to more than {NAMES_MAX} {:?} resources; use `*`",
                self.kind
            ));
        }
        Ok(())
    }

    fn subscribe(&mut self, name: String) {
        if name == WILDCARD {
            if !self.wildcard {
                self.wildcard = true;
                self.fresh = Fresh::All(BTreeMap::new());
            }
            return;
        }
        let name: Arc<str> = name.into();
        if let Fresh::Names(fresh) = &mut self.fresh {
            fresh.insert(name.clone());
        }
        self.names.insert(name);
    }

    /// What the stream lacks of `table`; `None` when it lacks nothing. What `may_see` denies does not exist.
    pub(super) fn next(
        &mut self,
        table: &ResourceTable,
        may_see: &dyn Fn(&str) -> bool,
    ) -> Result<Option<Update>, TooFarBehind> {
        let answered = Fresh::Names(BTreeSet::new());
        let update = match std::mem::replace(&mut self.fresh, answered) {
            Fresh::All(held) => Some(self.everything(table, &held, may_see)),
            Fresh::Names(fresh) => self.changes(table, &fresh, may_see)?,
        };
        self.seen = table.version();
        Ok(update)
    }

    fn everything(
        &self,
        table: &ResourceTable,
        held: &BTreeMap<String, String>,
        may_see: &dyn Fn(&str) -> bool,
    ) -> Update {
        let visible = |name: &str| self.wants(name) && may_see(name);
        let lacks = |resource: &&Arc<Encoded>| held.get(&resource.name) != Some(&resource.version);
        let resources = if self.wildcard {
            let rows = table.iter().filter(|(name, _)| visible(name));
            rows.map(|(_, resource)| resource)
                .filter(lacks)
                .cloned()
                .collect()
        } else {
            let rows = self.names.iter().filter(|name| may_see(name));
            rows.filter_map(|name| table.get(name))
                .filter(lacks)
                .cloned()
                .collect()
        };
        let exists = |name: &str| table.get(&Arc::from(name)).is_some() && visible(name);
        let named = self.names.iter().map(|name| name.as_ref());
        let removed: BTreeSet<&str> = held
            .keys()
            .map(String::as_str)
            .chain(named)
            .filter(|name| !exists(name))
            .collect();
        Update {
            resources,
            removed: removed.into_iter().map(str::to_owned).collect(),
        }
    }

    fn changes(
        &self,
        table: &ResourceTable,
        fresh: &BTreeSet<Arc<str>>,
        may_see: &dyn Fn(&str) -> bool,
    ) -> Result<Option<Update>, TooFarBehind> {
        let delta = table.since(self.seen).ok_or(TooFarBehind)?;
        let mut update = Update::default();
        for (name, resource) in delta.upserts {
            if self.wants(name) && !fresh.contains(name) && may_see(name) {
                update.resources.push(resource.clone());
            }
        }
        for name in delta.removals {
            if self.wants(name) && !fresh.contains(name) {
                update.removed.push(name.to_string());
            }
        }
        for name in fresh {
            match table.get(name).filter(|_| may_see(name)) {
                Some(resource) => update.resources.push(resource.clone()),
                None => update.removed.push(name.to_string()),
            }
        }
        let nothing = update.resources.is_empty() && update.removed.is_empty();
        Ok((!nothing).then_some(update))
    }

    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::REMEMBERED_REMOVALS_MAX;
    use crate::table::Table;

    fn put(table: &mut ResourceTable, version: u64, name: &str, content: &str) {
        let encoded = Encoded {
            type_url: ResourceType::Service.type_url(),
            name: name.to_owned(),
            version: content.to_owned(),
            value: content.as_bytes().to_vec().into(),
        };
        table.put(version, name.into(), Arc::new(encoded));
    }

    fn held(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pair = |(name, version): &(&str, &str)| ((*name).to_owned(), (*version).to_owned());
        pairs.iter().map(pair).collect()
    }

    fn names(update: &Update) -> Vec<&str> {
        let names = update.resources.iter();
        names.map(|resource| resource.name.as_str()).collect()
    }

    fn table() -> ResourceTable {
        let mut table = Table::begun_at(0);
        put(&mut table, 1, "shop/a", "a1");
        put(&mut table, 2, "shop/b", "b1");
        table
    }

    #[test]
    fn a_resuming_wildcard_gets_what_it_lacks_and_is_told_what_is_gone() {
        let mut subscription = Subscription::new(ResourceType::Service);
        let known = held(&[("shop/a", "a1"), ("shop/b", "b0"), ("shop/gone", "x")]);
        subscription.hear(vec!["*".to_owned()], &[], known).unwrap();
        let mut table = table();
        let update = subscription.next(&table, &|_| true).unwrap().unwrap();
        assert_eq!(names(&update), ["shop/b"]);
        assert_eq!(update.removed, ["shop/gone"]);
        assert!(subscription.next(&table, &|_| true).unwrap().is_none());
        put(&mut table, 3, "shop/c", "c1");
        table.remove(4, &"shop/a".into());
        let update = subscription.next(&table, &|_| true).unwrap().unwrap();
        assert_eq!(names(&update), ["shop/c"]);
        assert_eq!(update.removed, ["shop/a"]);
    }

    #[test]
    fn a_first_answer_is_given_even_when_nothing_is_lacking() {
        let mut subscription = Subscription::new(ResourceType::Service);
        let known = held(&[("shop/a", "a1"), ("shop/b", "b1")]);
        subscription.hear(vec![], &[], known).unwrap();
        assert!(subscription.is_wildcard());
        let update = subscription.next(&table(), &|_| true).unwrap().unwrap();
        assert!(update.resources.is_empty() && update.removed.is_empty());
    }

    #[test]
    fn single_names_come_and_go_and_missing_ones_are_said_to_be_missing() {
        let mut subscription = Subscription::new(ResourceType::Service);
        let wanted = vec!["shop/a".to_owned(), "shop/no".to_owned()];
        subscription.hear(wanted, &[], held(&[])).unwrap();
        let mut table = table();
        let update = subscription.next(&table, &|_| true).unwrap().unwrap();
        assert_eq!(
            (names(&update), update.removed.as_slice()),
            (vec!["shop/a"], &["shop/no".to_owned()][..])
        );
        put(&mut table, 3, "shop/b", "b2");
        assert!(subscription.next(&table, &|_| true).unwrap().is_none());
        subscription
            .hear(vec!["shop/b".to_owned()], &["shop/a".to_owned()], held(&[]))
            .unwrap();
        let update = subscription.next(&table, &|_| true).unwrap().unwrap();
        assert_eq!(names(&update), ["shop/b"]);
        table.remove(4, &"shop/a".into());
        assert!(subscription.next(&table, &|_| true).unwrap().is_none());
    }

    #[test]
    fn what_may_not_be_seen_does_not_exist() {
        let mut subscription = Subscription::new(ResourceType::Inbound);
        subscription
            .hear(vec!["shop/a".to_owned()], &[], held(&[("shop/a", "a0")]))
            .unwrap();
        let update = subscription.next(&table(), &|_| false).unwrap().unwrap();
        assert!(update.resources.is_empty());
        assert_eq!(update.removed, ["shop/a"]);
    }

    #[test]
    fn names_that_nothing_can_have_are_refused() {
        let mut subscription = Subscription::new(ResourceType::Service);
        let endless = vec!["x".repeat(NAME_BYTES_MAX + 1)];
        assert!(subscription.hear(endless, &[], held(&[])).is_err());
    }

    #[test]
    fn who_is_too_far_behind_must_begin_again() {
        let mut subscription = Subscription::new(ResourceType::Service);
        subscription.hear(vec![], &[], held(&[])).unwrap();
        let mut table = table();
        subscription.next(&table, &|_| true).unwrap();
        for at in 0..2 * REMEMBERED_REMOVALS_MAX as u64 {
            let name = format!("shop/x{at}");
            put(&mut table, 3 + 2 * at, &name, "x");
            table.remove(4 + 2 * at, &name.as_str().into());
        }
        assert_eq!(
            subscription.next(&table, &|_| true).unwrap_err(),
            TooFarBehind
        );
    }
}
