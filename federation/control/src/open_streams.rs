//! How many streams are open, in all and by identity: nobody may take the places of all others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portolan_model::SpiffeId;
use tonic::Status;

/// Counts the open streams of one service. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct OpenStreams {
    what: &'static str,
    most: usize,
    most_each: usize,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_identity: BTreeMap<SpiffeId, usize>,
}

/// The place of one open stream, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Place {
    streams: OpenStreams,
    identity: SpiffeId,
}

impl OpenStreams {
    /// At most `most` streams, and at most `most_each` of one identity.
    pub(crate) fn new(what: &'static str, most: usize, most_each: usize) -> Self {
        Self {
            what,
            most,
            most_each,
            open: Arc::default(),
        }
    }

    /// Takes a place, if there is one for this identity.
    pub(crate) fn admit(&self, identity: &SpiffeId) -> Result<Place, Status> {
        let what = self.what;
        let mut open = self.open();
        if open.all >= self.most {
            let most = self.most;
            return Err(Status::resource_exhausted(format!(
                "{most} {what} streams are open, the most that may be"
            )));
        }
        let own = open.by_identity.get(identity).copied().unwrap_or_default();
        if own >= self.most_each {
            return Err(Status::resource_exhausted(format!(
                "`{identity}` has {own} {what} streams open, the most that one identity may"
            )));
        }
        open.all += 1;
        open.by_identity.insert(identity.clone(), own + 1);
        Ok(Place {
            streams: self.clone(),
            identity: identity.clone(),
        })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.streams.open();
        open.all = open.all.saturating_sub(1);
        let own = open.by_identity.get(&self.identity).copied();
        match own {
            Some(own) if own > 1 => {
                open.by_identity.insert(self.identity.clone(), own - 1);
            }
            Some(_) | None => {
                open.by_identity.remove(&self.identity);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_the_places_of_all_others() {
        let streams = OpenStreams::new("presence", 3, 2);
        let id =
            |name: &str| -> SpiffeId { format!("spiffe://td/ns/a/sa/{name}").parse().unwrap() };
        let greedy = [
            streams.admit(&id("a")).unwrap(),
            streams.admit(&id("a")).unwrap(),
        ];
        let refused = streams.admit(&id("a")).unwrap_err();
        assert!(refused.message().contains("one identity"), "{refused}");
        let other = streams.admit(&id("b")).unwrap();
        let refused = streams.admit(&id("c")).unwrap_err();
        assert!(
            refused.message().contains("3 presence streams"),
            "{refused}"
        );
        drop((greedy, other));
        assert_eq!(streams.open().all, 0);
        assert!(streams.open().by_identity.is_empty());
    }
}
