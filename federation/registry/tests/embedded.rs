//! What only the embedded store promises: it survives restarts, kills, damage and full disks.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use portolan_registry::{Event, Precondition, RegistryConfig, Store, StoreError, Write, open};

/// Tells a re-executed test which file to work on.
const FILE: &str = "PORTOLAN_TEST_REGISTRY_FILE";

async fn open_at(path: &Path) -> Result<Arc<dyn Store>, StoreError> {
    let path = path.to_owned();
    open(&RegistryConfig::Embedded { path }).await
}

fn put(key: String, value: impl Into<bytes::Bytes>) -> Vec<Write> {
    vec![Write::put(key, value, Precondition::None)]
}

#[tokio::test]
async fn reopening_keeps_everything() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.redb");
    let store = open_at(&path).await.unwrap();
    let id = store.id().to_owned();
    let first = store.commit(put("a".into(), "1")).await.unwrap();
    store.commit(put("b".into(), "2")).await.unwrap();
    let last = store
        .commit(vec![Write::delete("a", Precondition::None)])
        .await
        .unwrap();
    let before = store.list("").await.unwrap();
    drop(store);

    let store = open_at(&path).await.unwrap();
    assert_eq!(store.id(), id);
    assert_eq!(store.list("").await.unwrap(), before);
    let mut watch = store.watch("", first).await.unwrap();
    assert!(matches!(watch.next().await, Some(Ok(Event::Put(entry))) if entry.key == "b"));
    let deleted = Event::Deleted {
        key: "a".into(),
        revision: last,
    };
    assert_eq!(watch.next().await.unwrap().unwrap(), deleted);
    assert!(store.commit(put("c".into(), "3")).await.unwrap() > last);
}

#[tokio::test]
async fn two_files_have_two_identities() {
    let directory = tempfile::tempdir().unwrap();
    let one = open_at(&directory.path().join("1")).await.unwrap();
    let two = open_at(&directory.path().join("2")).await.unwrap();
    assert_ne!(one.id(), two.id());
}

#[tokio::test]
async fn a_file_in_use_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.redb");
    let _holder = open_at(&path).await.unwrap();
    let error = open_at(&path).await.unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
    assert!(error.to_string().contains("registry.redb"));
}

#[tokio::test]
async fn a_missing_directory_is_named() {
    let error = open_at(Path::new("/nonexistent/registry.redb"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("/nonexistent/registry.redb"));
}

#[tokio::test]
async fn damage_is_said_in_one_sentence_with_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.redb");
    let store = open_at(&path).await.unwrap();
    for n in 0..200 {
        store
            .commit(put(format!("key/{n}"), vec![n; 4000]))
            .await
            .unwrap();
    }
    drop(store);
    let whole = std::fs::read(&path).unwrap();

    let garbage = b"this is not a registry at all, but a text".repeat(2000);
    let mut wiped = whole.clone();
    wiped[8192..].fill(0xA5);
    let mut headless = whole.clone();
    headless[..512].fill(0);
    let cut = whole[..whole.len() / 3].to_vec();
    for (what, bytes) in [
        ("garbage", garbage),
        ("wiped", wiped),
        ("headless", headless),
        ("cut", cut),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = open_at(&path).await.expect_err(what);
        assert!(
            matches!(error, StoreError::Damaged { .. }),
            "{what}: {error:?}"
        );
        let text = error.to_string();
        assert!(
            text.contains("registry.redb") && text.contains("backup"),
            "{what}: {text}"
        );
    }
    std::fs::write(&path, whole).unwrap();
    assert_eq!(
        open_at(&path)
            .await
            .unwrap()
            .list("key/")
            .await
            .unwrap()
            .entries
            .len(),
        200
    );
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.redb");
    let mut acknowledged = Vec::new();
    for round in 1..=4 {
        let mut child = reexecute("child_writes_until_killed", &path)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let enough = acknowledged.len() + 25 * round;
        while acknowledged.len() < enough {
            let line = lines.next().expect("the child goes on writing").unwrap();
            acknowledged.extend(whole_line(&line));
        }
        child.kill().unwrap();
        // What was still in the pipe was acknowledged, too.
        acknowledged.extend(
            lines
                .map_while(Result::ok)
                .filter_map(|line| whole_line(&line)),
        );
        child.wait().unwrap();
        all_are_there(&path, &acknowledged);
    }
}

/// `stored <key> <version> end`; the last line before a kill may lack its end.
fn whole_line(line: &str) -> Option<(String, u64)> {
    let (key, version) = line
        .strip_prefix("stored ")?
        .strip_suffix(" end")?
        .split_once(' ')?;
    Some((key.to_owned(), version.parse().ok()?))
}

#[tokio::main(flavor = "current_thread")]
async fn all_are_there(path: &Path, acknowledged: &[(String, u64)]) {
    let store = open_at(path).await.unwrap();
    let revision = store.list("").await.unwrap().revision;
    for (key, version) in acknowledged {
        let entry = store.get(key).await.unwrap().expect(key);
        assert_eq!(
            (entry.version, &*entry.value),
            (*version, key.repeat(50).as_bytes())
        );
        assert!(*version <= revision);
    }
}

#[tokio::test]
#[ignore = "what_was_acknowledged_survives_a_kill runs it as a child process"]
async fn child_writes_until_killed() {
    let Some(path) = std::env::var_os(FILE) else {
        return;
    };
    let store = open_at(Path::new(&path)).await.unwrap();
    let start = store.list("").await.unwrap().revision;
    for n in start.. {
        let key = format!("key/{n}");
        let value = key.repeat(50);
        let version = store.commit(put(key.clone(), value)).await.unwrap();
        // The test harness captures `println!`, a direct write reaches the parent.
        std::io::stdout()
            .write_all(format!("\nstored {key} {version} end\n").as_bytes())
            .unwrap();
    }
}

#[test]
fn a_full_disk_stops_writes_but_not_reads() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.redb");
    let child = reexecute("child_fills_its_disk", &path);
    // A limit on the file's size stands for the disk's: the write fails the same way.
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 8192; exec \"$@\"", "sh"]);
    limited
        .arg(child.get_program())
        .args(child.get_args())
        .env(FILE, &path);
    let output = limited.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("filled"), "{said}");
    let stored: usize = said
        .split("filled ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    check_after_full(&path, stored);
}

#[tokio::main(flavor = "current_thread")]
async fn check_after_full(path: &Path, stored: usize) {
    let store = open_at(path).await.unwrap();
    assert_eq!(store.list("key/").await.unwrap().entries.len(), stored);
    store.commit(put("after".into(), "1")).await.unwrap();
}

#[tokio::test]
#[ignore = "a_full_disk_stops_writes_but_not_reads runs it as a child process"]
async fn child_fills_its_disk() {
    let Some(path) = std::env::var_os(FILE) else {
        return;
    };
    let store = open_at(Path::new(&path)).await.unwrap();
    let mut stored = 0;
    let error = loop {
        match store
            .commit(put(format!("key/{stored}"), vec![1; 100_000]))
            .await
        {
            Ok(_revision) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(error.to_string().contains("free some space"));
    assert!(stored > 3);
    for _ in 0..3 {
        assert_eq!(store.list("key/").await.unwrap().entries.len(), stored);
        assert_eq!(
            store.get("key/0").await.unwrap().unwrap().value.len(),
            100_000
        );
        let again = store
            .commit(put("more".into(), vec![1; 1_000_000]))
            .await
            .unwrap_err();
        assert!(matches!(again, StoreError::Full { .. }), "{again:?}");
    }
    std::io::stdout()
        .write_all(format!("\nfilled {stored} \n").as_bytes())
        .unwrap();
}

fn reexecute(test: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "--nocapture", test]);
    command
        .env(FILE, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}
