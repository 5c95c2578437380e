//! What every store must do, as one list of functions. Each backend runs all of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use portolan_registry::limits::{HISTORY_BYTES_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use portolan_registry::{Event, Precondition, Revision, Store, StoreError, WatchStream, Write};

use Precondition::{DoesNotExist, Version};

/// Longer than any answer takes; reaching it fails a test.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) type Shared = Arc<dyn Store>;

/// Runs everything, each part in its own corner of the store. `compact` forgets history up to a
/// revision, by the backend's own means.
pub(crate) async fn run(store: &Shared, compact: impl AsyncFn(&Shared, Revision)) {
    identity_is_there(store).await;
    put_get_delete(store).await;
    preconditions_hold(store).await;
    a_batch_is_all_or_nothing(store).await;
    list_is_by_prefix_and_in_order(store).await;
    a_batch_that_changes_nothing_keeps_the_revision(store).await;
    watch_sees_changes_in_order_once(store).await;
    watch_resumes_after_a_revision(store).await;
    watch_refuses_the_future(store).await;
    watch_survives_a_dropped_wait(store).await;
    what_is_too_large_is_refused(store).await;
    of_concurrent_writers_one_wins(store).await;
    a_slow_watcher_costs_nothing_and_misses_nothing_silently(store).await;
    compacted_history_is_said_to_be(store, compact).await;
}

async fn identity_is_there(store: &Shared) {
    assert_eq!(store.id().len(), 32, "{}", store.id());
    assert!(!store.describe().is_empty());
}

async fn put_get_delete(store: &Shared) {
    assert_eq!(store.get("basic/a").await.unwrap(), None);
    let first = put(store, "basic/a", "1").await;
    let second = put(store, "basic/a", "2").await;
    assert!(second > first);
    let entry = store.get("basic/a").await.unwrap().unwrap();
    assert_eq!(
        (entry.key.as_str(), &*entry.value, entry.version),
        ("basic/a", &b"2"[..], second)
    );
    let third = store
        .commit(vec![Write::delete("basic/a", Precondition::None)])
        .await
        .unwrap();
    assert!(third > second);
    assert_eq!(store.get("basic/a").await.unwrap(), None);
}

async fn preconditions_hold(store: &Shared) {
    let try_put = async |value: &'static str, precondition| {
        store
            .commit(vec![Write::put("pre/a", value, precondition)])
            .await
    };
    let conflict = |result: Result<Revision, StoreError>| match result {
        Err(StoreError::Conflict { key, found }) => (key, found),
        other => panic!("no conflict: {other:?}"),
    };
    assert_eq!(
        conflict(try_put("0", Version(1)).await),
        ("pre/a".to_owned(), None)
    );
    let created = try_put("1", DoesNotExist).await.unwrap();
    assert_eq!(conflict(try_put("2", DoesNotExist).await).1, Some(created));
    let changed = try_put("2", Version(created)).await.unwrap();
    assert_eq!(
        conflict(try_put("3", Version(created)).await).1,
        Some(changed)
    );
    let stale = store
        .commit(vec![Write::delete("pre/a", Version(created))])
        .await;
    assert_eq!(conflict(stale).1, Some(changed));
    store
        .commit(vec![Write::delete("pre/a", Version(changed))])
        .await
        .unwrap();
    try_put("4", DoesNotExist).await.unwrap();
}

async fn a_batch_is_all_or_nothing(store: &Shared) {
    let kept = put(store, "batch/kept", "old").await;
    let refused = store
        .commit(vec![
            Write::put("batch/new", "x", DoesNotExist),
            Write::put("batch/kept", "x", Version(kept + 1)),
            Write::delete("batch/kept2", Precondition::None),
        ])
        .await;
    assert!(matches!(refused, Err(StoreError::Conflict { key, .. }) if key == "batch/kept"));
    assert_eq!(values(store, "batch/").await, ["batch/kept=old"]);
    let done = store
        .commit(vec![
            Write::put("batch/new", "x", DoesNotExist),
            Write::put("batch/new2", "y", Precondition::None),
            Write::delete("batch/kept", Version(kept)),
        ])
        .await
        .unwrap();
    let listing = store.list("batch/").await.unwrap();
    assert_eq!(
        values(store, "batch/").await,
        ["batch/new=x", "batch/new2=y"]
    );
    assert!(listing.entries.iter().all(|entry| entry.version == done));
}

async fn list_is_by_prefix_and_in_order(store: &Shared) {
    let keys = ["list/b", "list/a/2", "list/a/1", "list/ab", "lisu", "list"];
    for key in keys {
        put(store, key, "v").await;
    }
    let under = async |prefix: &str| -> Vec<String> {
        let listing = store.list(prefix).await.unwrap();
        listing.entries.into_iter().map(|entry| entry.key).collect()
    };
    assert_eq!(
        under("list/").await,
        ["list/a/1", "list/a/2", "list/ab", "list/b"]
    );
    assert_eq!(under("list/a/").await, ["list/a/1", "list/a/2"]);
    assert_eq!(under("list/nothing").await, [""; 0]);
    let all: BTreeSet<String> = under("").await.into_iter().collect();
    assert!(keys.iter().all(|key| all.contains(*key)));
    let many: Vec<Write> = (0..100)
        .map(|n| Write::put(format!("many/{n:03}"), "v", Precondition::None))
        .collect();
    store.commit(many).await.unwrap();
    let listed = under("many/").await;
    assert_eq!((listed.len(), listed.is_sorted()), (100, true));
}

async fn a_batch_that_changes_nothing_keeps_the_revision(store: &Shared) {
    let before = put(store, "nothing/a", "1").await;
    let absent = Write::delete("nothing/absent", Precondition::None);
    assert_eq!(store.commit(vec![absent]).await.unwrap(), before);
    assert_eq!(store.list("nothing/").await.unwrap().revision, before);
}

async fn watch_sees_changes_in_order_once(store: &Shared) {
    let start = store.list("watch/").await.unwrap().revision;
    let mut watch = store.watch("watch/", start).await.unwrap();
    let first = put(store, "watch/a", "1").await;
    put(store, "elsewhere", "x").await;
    let second = store
        .commit(vec![
            Write::put("watch/b", "2", Precondition::None),
            Write::delete("watch/a", Precondition::None),
        ])
        .await
        .unwrap();
    assert_eq!(
        seen(&mut watch, 3).await,
        [
            format!("{first} watch/a=1"),
            format!("{second} watch/b=2"),
            format!("{second} watch/a deleted"),
        ]
    );
    let third = put(store, "watch/a", "3").await;
    assert_eq!(seen(&mut watch, 1).await, [format!("{third} watch/a=3")]);
}

async fn watch_resumes_after_a_revision(store: &Shared) {
    let first = put(store, "resume/a", "1").await;
    let second = put(store, "resume/a", "2").await;
    let third = put(store, "resume/b", "3").await;
    let mut watch = store.watch("resume/", first).await.unwrap();
    assert_eq!(
        seen(&mut watch, 2).await,
        [
            format!("{second} resume/a=2"),
            format!("{third} resume/b=3"),
        ]
    );
}

async fn watch_refuses_the_future(store: &Shared) {
    let now = store.list("").await.unwrap().revision;
    assert!(is_compacted(store, now + 1_000_000).await);
}

async fn watch_survives_a_dropped_wait(store: &Shared) {
    let start = store.list("").await.unwrap().revision;
    let mut watch = store.watch("dropped/", start).await.unwrap();
    assert!(
        tokio::time::timeout(Duration::ZERO, watch.next())
            .await
            .is_err()
    );
    let at = put(store, "dropped/a", "1").await;
    assert_eq!(seen(&mut watch, 1).await, [format!("{at} dropped/a=1")]);
}

async fn what_is_too_large_is_refused(store: &Shared) {
    let largest = Bytes::from(vec![7; VALUE_BYTES_MAX]);
    let write = |key: String, value: Bytes| vec![Write::put(key, value, Precondition::None)];
    store
        .commit(write("large/a".into(), largest.clone()))
        .await
        .unwrap();
    assert_eq!(store.get("large/a").await.unwrap().unwrap().value, largest);
    let refused = [
        write("large/b".into(), vec![7; VALUE_BYTES_MAX + 1].into()),
        write("k".repeat(KEY_BYTES_MAX + 1), Bytes::new()),
        (0..=store.limits().batch_writes_max)
            .map(|n| Write::put(format!("large/{n}"), "", Precondition::None))
            .collect(),
    ];
    for writes in refused {
        assert!(matches!(
            store.commit(writes).await,
            Err(StoreError::TooLarge { .. })
        ));
    }
    let full: Vec<Write> = (0..store.limits().batch_writes_max)
        .map(|n| Write::put(format!("full/{n}"), "v", Precondition::None))
        .collect();
    store.commit(full).await.unwrap();
    assert_eq!(
        store.list("full/").await.unwrap().entries.len(),
        store.limits().batch_writes_max
    );
}

async fn of_concurrent_writers_one_wins(store: &Shared) {
    let start = put(store, "race/a", "start").await;
    let race: Vec<_> = (0..16)
        .map(|writer| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                let write = Write::put("race/a", format!("{writer}"), Version(start));
                store.commit(vec![write]).await
            })
        })
        .collect();
    let mut winners = Vec::new();
    for racer in race {
        match racer.await.unwrap() {
            Ok(revision) => winners.push(revision),
            Err(StoreError::Conflict { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    let entry = store.get("race/a").await.unwrap().unwrap();
    assert_eq!(winners, [entry.version]);
}

async fn a_slow_watcher_costs_nothing_and_misses_nothing_silently(store: &Shared) {
    let start = store.list("").await.unwrap().revision;
    let mut watch = store.watch("slow/", start).await.unwrap();
    let value = Bytes::from(vec![1; VALUE_BYTES_MAX]);
    let rounds = HISTORY_BYTES_MAX / VALUE_BYTES_MAX + 8;
    for round in 0..rounds {
        let key = format!("slow/{round:03}");
        let write = Write::put(key, value.clone(), Precondition::None);
        store.commit(vec![write]).await.unwrap();
    }
    let mut next = 0;
    while next < rounds {
        match watch_next(&mut watch).await {
            Ok(event) => assert_eq!(event.key(), format!("slow/{next:03}")),
            // It was told that it had missed something, and is not left in the belief that it had not.
            Err(StoreError::Compacted { .. }) => {
                assert!(watch.next().await.is_none());
                return;
            }
            Err(other) => panic!("{other}"),
        }
        next += 1;
    }
}

async fn compacted_history_is_said_to_be(store: &Shared, compact: impl AsyncFn(&Shared, Revision)) {
    let first = put(store, "compact/a", "1").await;
    put(store, "compact/a", "2").await;
    let third = put(store, "compact/a", "3").await;
    compact(store, third).await;
    assert!(is_compacted(store, first).await);
    let listing = store.list("compact/").await.unwrap();
    assert_eq!(values(store, "compact/").await, ["compact/a=3"]);
    let mut watch = store.watch("compact/", listing.revision).await.unwrap();
    let fourth = put(store, "compact/a", "4").await;
    assert_eq!(seen(&mut watch, 1).await, [format!("{fourth} compact/a=4")]);
}

/// Writes until the bounded history of our own stores has forgotten everything before.
pub(crate) async fn compact_by_writing(store: &Shared, through: Revision) {
    let value = Bytes::from(vec![0; VALUE_BYTES_MAX]);
    while !is_compacted(store, through - 1).await {
        let write = Write::put("filler", value.clone(), Precondition::None);
        store.commit(vec![write]).await.unwrap();
    }
}

pub(crate) async fn put(store: &Shared, key: &str, value: &str) -> Revision {
    let write = Write::put(key, value.to_owned(), Precondition::None);
    store.commit(vec![write]).await.unwrap()
}

pub(crate) async fn values(store: &Shared, prefix: &str) -> Vec<String> {
    let listing = store.list(prefix).await.unwrap();
    let text = |value: &Bytes| String::from_utf8_lossy(value).into_owned();
    listing
        .entries
        .iter()
        .map(|entry| format!("{}={}", entry.key, text(&entry.value)))
        .collect()
}

async fn is_compacted(store: &Shared, after: Revision) -> bool {
    let begun = match store.watch("", after).await {
        Ok(mut watch) => match tokio::time::timeout(Duration::from_secs(1), watch.next()).await {
            Ok(first) => first.unwrap().map(|_event| ()),
            Err(_quiet) => Ok(()),
        },
        Err(error) => Err(error),
    };
    match begun {
        Ok(()) => false,
        Err(StoreError::Compacted { .. }) => true,
        Err(other) => panic!("{other}"),
    }
}

async fn watch_next(watch: &mut WatchStream) -> Result<Event, StoreError> {
    let next = tokio::time::timeout(PATIENCE, watch.next()).await;
    next.expect("an event in time").expect("the watch goes on")
}

async fn seen(watch: &mut WatchStream, count: usize) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.len() < count {
        seen.push(match watch_next(watch).await.unwrap() {
            Event::Put(entry) => {
                let value = String::from_utf8_lossy(&entry.value);
                format!("{} {}={value}", entry.version, entry.key)
            }
            Event::Deleted { key, revision } => format!("{revision} {key} deleted"),
        });
    }
    seen
}
