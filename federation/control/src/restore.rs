//! What outlives a control plane: what its registry and its data directory know of the life before.

use std::collections::BTreeMap;

use portolan_model::ClusterName;
use portolan_model::declared::ResourceKind;
use portolan_registry::{Listing, Precondition, Store, StoreError, Write};

use crate::exchange::cache::Cache;
use crate::exchange::held::Held;
use crate::keys;
use crate::reconcile::{Event, Reconciler};
use crate::start::StartError;

/// How often a start tries to number itself in a registry that others write to.
const EPOCH_ATTEMPTS_MAX: usize = 10;

/// Brings the loop to where an earlier life was, before its first publication.
pub(crate) fn restore(
    reconciler: &mut Reconciler,
    listing: Listing,
    known: Vec<Event>,
    kept: &BTreeMap<ClusterName, Held>,
) {
    reconciler.restore(listing);
    for event in known {
        reconciler.take(event);
    }
    for (peer, held) in kept {
        reconciler.take(Event::Catalogue {
            peer: peer.clone(),
            full: true,
            upserts: held.entries.values().cloned().collect(),
            removals: Vec::new(),
        });
    }
}

/// The last known catalogues of the peers that are declared.
pub(crate) fn kept_catalogues(listing: &Listing, cache: &Cache) -> BTreeMap<ClusterName, Held> {
    let keys = listing.entries.iter();
    let peers = keys
        .filter_map(|entry| keys::declaration(&entry.key))
        .filter(|key| key.kind == ResourceKind::Peer)
        .filter_map(|key| ClusterName::parse(&key.name).ok());
    peers
        .map(|peer| (peer.clone(), cache.load(&peer)))
        .filter(|(_, held)| !held.epoch.is_empty())
        .collect()
}

/// Numbers this start in the registry, so that generations grow over restarts: with the time, and always
/// above the number before. Counting alone would begin again where a backup of the registry was made, and
/// proxies would ignore everything until it had caught up.
pub(crate) async fn number_start(store: &dyn Store, now_s: u64) -> Result<u64, StartError> {
    let mut attempts = 0;
    loop {
        let entry = store.get(keys::EPOCH).await?;
        let last = match &entry {
            None => 0,
            Some(entry) => std::str::from_utf8(&entry.value)
                .ok()
                .and_then(|text| text.parse::<u32>().ok())
                .ok_or(StartError::Internal { key: keys::EPOCH })?,
        };
        let next = now_s.min(u64::from(u32::MAX)).max(u64::from(last) + 1);
        let precondition = entry.map_or(Precondition::DoesNotExist, |entry| {
            Precondition::Version(entry.version)
        });
        let write = Write::put(keys::EPOCH, next.to_string().into_bytes(), precondition);
        attempts += 1;
        match store.commit(vec![write]).await {
            Ok(_) => return Ok(next),
            Err(StoreError::Conflict { .. }) if attempts < EPOCH_ATTEMPTS_MAX => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The secret of join tokens, made once per registry.
pub(crate) async fn join_secret(store: &dyn Store) -> Result<[u8; 32], StartError> {
    let fresh: [u8; 32] = rand::random();
    let write = Write::put(
        keys::JOIN_SECRET,
        fresh.to_vec(),
        Precondition::DoesNotExist,
    );
    match store.commit(vec![write]).await {
        Ok(_) => return Ok(fresh),
        Err(StoreError::Conflict { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let entry = store.get(keys::JOIN_SECRET).await?;
    let secret = entry.and_then(|entry| <[u8; 32]>::try_from(entry.value.as_ref()).ok());
    secret.ok_or(StartError::Internal {
        key: keys::JOIN_SECRET,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_registry::RegistryConfig;

    #[tokio::test]
    async fn numbers_of_starts_grow_whatever_the_clock_and_the_registry_say() {
        let empty = || portolan_registry::open(&RegistryConfig::Memory {});
        let store = empty().await.unwrap();
        assert_eq!(number_start(store.as_ref(), 1_000).await.unwrap(), 1_000);
        assert_eq!(number_start(store.as_ref(), 1_000).await.unwrap(), 1_001);
        assert_eq!(number_start(store.as_ref(), 5).await.unwrap(), 1_002);
        let restored_from_a_backup = empty().await.unwrap();
        let number = number_start(restored_from_a_backup.as_ref(), 2_000).await;
        assert_eq!(number.unwrap(), 2_000);
    }
}
