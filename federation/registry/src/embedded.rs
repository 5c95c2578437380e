//! A store in one file of our own, kept by redb.
//!
//! The file is for durability: every commit is on disk before it is acknowledged, and survives a
//! killed process or a lost power supply. Reads and watches are served from the same state in
//! memory as the memory store's, so they never wait for the disk and go on when it is full.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableHandle,
};
use tokio::sync::Mutex;
use tokio::task::{JoinError, spawn_blocking};

use crate::error::StoreError;
use crate::limits::{self, Limits};
use crate::live::Live;
use crate::state::{self, Change, State};
use crate::store::{Entry, Event, Listing, Revision, Store, StoreFuture, WatchStream, Write};

/// The layout of the tables below.
const FORMAT: u64 = 1;
/// redb's page cache. Small, because reads do not go through it.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Key → version, value.
const ENTRIES: TableDefinition<'_, &str, (Revision, &[u8])> = TableDefinition::new("entries");
/// Where in history: the revision, and the position in it.
type Moment = (Revision, u32);
/// What happened: the key, and its value unless it was deleted.
type Happening<'a> = (&'a str, Option<&'a [u8]>);
const HISTORY: TableDefinition<'_, Moment, Happening<'_>> = TableDefinition::new("history");
/// `format`, `revision`, `compacted`.
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
/// `id`.
const TEXTS: TableDefinition<'_, &str, &str> = TableDefinition::new("texts");

/// See the module.
#[derive(Debug)]
pub(crate) struct EmbeddedStore {
    path: PathBuf,
    live: Live,
    writer: Arc<Mutex<Writer>>,
}

impl EmbeddedStore {
    /// Opens the file, checks all of it, and creates it when it does not exist.
    pub(crate) async fn open(path: &Path) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let place = path.clone();
        spawn_blocking(move || {
            let (database, state) = open_file(&path, OpenMode::MayCreate)?;
            let live = Live::new(state);
            let writer = Writer {
                path: path.clone(),
                live: live.clone(),
                database: Some(database),
            };
            let writer = Arc::new(Mutex::new(writer));
            Ok(Self { path, live, writer })
        })
        .await
        .unwrap_or_else(|gave_up| Err(judge_join(&place, gave_up)))
    }

    async fn commit_durably(&self, writes: Vec<Write>) -> Result<Revision, StoreError> {
        limits::LOCAL.check(&writes)?;
        let mut writer = Arc::clone(&self.writer).lock_owned().await;
        spawn_blocking(move || writer.commit(&writes))
            .await
            .unwrap_or_else(|gave_up| Err(judge_join(&self.path, gave_up)))
    }
}

impl Store for EmbeddedStore {
    fn id(&self) -> &str {
        self.live.id()
    }

    fn limits(&self) -> Limits {
        limits::LOCAL
    }

    fn describe(&self) -> String {
        format!("embedded in {}", self.path.display())
    }

    fn get<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Entry>> {
        Box::pin(async move { Ok(self.live.get(key)) })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> StoreFuture<'a, Listing> {
        Box::pin(async move { Ok(self.live.list(prefix)) })
    }

    fn commit(&self, writes: Vec<Write>) -> StoreFuture<'_, Revision> {
        Box::pin(self.commit_durably(writes))
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> StoreFuture<'a, WatchStream> {
        Box::pin(async move { self.live.watch(prefix, after) })
    }
}

/// The only one that changes the file, one batch at a time.
struct Writer {
    path: PathBuf,
    live: Live,
    /// `None` after a failure: redb wants a file closed and opened again after an I/O error.
    database: Option<Database>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("path", &self.path).finish()
    }
}

impl Writer {
    fn commit(&mut self, writes: &[Write]) -> Result<Revision, StoreError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => self.reopen()?,
        };
        let planned = match self.live.plan(writes) {
            Ok(planned) => planned,
            Err(refused) => {
                self.database = Some(database);
                return Err(refused);
            }
        };
        if let Some(change) = planned {
            // A failed write drops `database`, so that the next commit opens the file afresh and
            // learns what it really holds.
            persist(&database, &change, self.live.compacted_by(&change))
                .map_err(|error| judge(&self.path, "write", error))?;
            self.live.apply(change);
        }
        self.database = Some(database);
        Ok(self.live.revision())
    }

    fn reopen(&self) -> Result<Database, StoreError> {
        let (database, state) = open_file(&self.path, OpenMode::MustExist)?;
        if state.id() != self.live.id() {
            return Err(StoreError::Damaged {
                path: self.path.clone(),
                source: "another registry took the file's place".into(),
            });
        }
        if state.revision() != self.live.revision() {
            self.live.replace(state);
        }
        tracing::info!(path = %self.path.display(), "opened the registry file again after a failed write");
        Ok(database)
    }
}

fn persist(database: &Database, change: &Change, compacted: Revision) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut entries = transaction.open_table(ENTRIES)?;
        let mut history = transaction.open_table(HISTORY)?;
        for (event, position) in change.events.iter().zip(0_u32..) {
            let at = (change.revision, position);
            match event {
                Event::Put(entry) => {
                    entries.insert(entry.key.as_str(), (entry.version, &*entry.value))?;
                    history.insert(at, (entry.key.as_str(), Some(&*entry.value)))?;
                }
                Event::Deleted { key, .. } => {
                    entries.remove(key.as_str())?;
                    history.insert(at, (key.as_str(), None))?;
                }
            }
        }
        history.retain_in(..=(compacted, u32::MAX), |_, _| false)?;
        let mut numbers = transaction.open_table(NUMBERS)?;
        numbers.insert("revision", change.revision)?;
        numbers.insert("compacted", compacted)?;
    }
    transaction.commit()?;
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OpenMode {
    MayCreate,
    MustExist,
}

fn open_file(path: &Path, mode: OpenMode) -> Result<(Database, State), StoreError> {
    let cannot_open = |source: io::Error| StoreError::File {
        doing: "open",
        path: path.to_owned(),
        source: source.into(),
    };
    let is_new = !path.try_exists().map_err(cannot_open)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(mode == OpenMode::MayCreate)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(cannot_open)?;
    let mut database = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create_file(file)
        .map_err(|error| judge(path, "open", error))?;
    let whole = database
        .check_integrity()
        .map_err(|error| judge(path, "check", error))?;
    if !whole {
        tracing::warn!(path = %path.display(), "the registry file had been left in disorder and was repaired; compare with your declarations whether the last changes are there");
    }
    let state = load_or_create(&database, path)?;
    if is_new {
        sync_directory(path).map_err(cannot_open)?;
    }
    Ok((database, state))
}

/// A new file survives a power failure only once its directory entry does.
fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn load_or_create(database: &Database, path: &Path) -> Result<State, StoreError> {
    let failed = |error: redb::Error| judge(path, "read", error);
    let transaction = database
        .begin_read()
        .map_err(|error| failed(error.into()))?;
    let tables: Vec<String> = transaction
        .list_tables()
        .map_err(|error| failed(error.into()))?
        .map(|table| table.name().to_owned())
        .collect();
    if tables.is_empty() {
        return create(database).map_err(failed);
    }
    if !tables.iter().any(|name| name == NUMBERS.name()) {
        return Err(StoreError::Damaged {
            path: path.to_owned(),
            source: "it is a database, but not a registry".into(),
        });
    }
    let numbers = Numbers::load(&transaction).map_err(failed)?;
    if numbers.format != FORMAT {
        return Err(StoreError::Format {
            path: path.to_owned(),
            found: numbers.format,
            known: FORMAT,
        });
    }
    load(&transaction, &numbers).map_err(failed)
}

fn create(database: &Database) -> Result<State, redb::Error> {
    let state = State::new(state::random_id());
    let transaction = database.begin_write()?;
    transaction.open_table(ENTRIES)?;
    transaction.open_table(HISTORY)?;
    transaction.open_table(TEXTS)?.insert("id", state.id())?;
    transaction.open_table(NUMBERS)?.insert("format", FORMAT)?;
    transaction.commit()?;
    Ok(state)
}

struct Numbers {
    format: u64,
    revision: Revision,
    compacted: Revision,
}

impl Numbers {
    fn load(transaction: &ReadTransaction) -> Result<Self, redb::Error> {
        let table = transaction.open_table(NUMBERS)?;
        let number = |name: &str| -> Result<u64, redb::Error> {
            Ok(table.get(name)?.map_or(0, |found| found.value()))
        };
        Ok(Self {
            format: number("format")?,
            revision: number("revision")?,
            compacted: number("compacted")?,
        })
    }
}

fn load(transaction: &ReadTransaction, numbers: &Numbers) -> Result<State, redb::Error> {
    let texts = transaction.open_table(TEXTS)?;
    let Some(id) = texts.get("id")?.map(|found| found.value().to_owned()) else {
        return Err(redb::Error::Corrupted("it has no identity".to_owned()));
    };
    let mut entries = BTreeMap::new();
    for row in transaction.open_table(ENTRIES)?.iter()? {
        let (key, found) = row?;
        let (version, value) = found.value();
        entries.insert(
            key.value().to_owned(),
            (Bytes::copy_from_slice(value), version),
        );
    }
    let mut history: VecDeque<Change> = VecDeque::new();
    for row in transaction.open_table(HISTORY)?.iter()? {
        let (at, found) = row?;
        let (revision, _) = at.value();
        let event = event_of(revision, found.value());
        match history.back_mut() {
            Some(change) if change.revision == revision => change.events.push(event),
            Some(_) | None => history.push_back(Change {
                revision,
                events: vec![event],
            }),
        }
    }
    Ok(State::restore(
        id,
        numbers.revision,
        numbers.compacted,
        entries,
        history,
    ))
}

fn event_of(revision: Revision, (key, value): Happening<'_>) -> Event {
    let key = key.to_owned();
    match value {
        Some(value) => Event::Put(Entry {
            key,
            value: Bytes::copy_from_slice(value),
            version: revision,
        }),
        None => Event::Deleted { key, revision },
    }
}

fn judge(path: &Path, doing: &'static str, error: impl Into<redb::Error>) -> StoreError {
    let path = path.to_owned();
    let error = error.into();
    if matches!(error, redb::Error::DatabaseAlreadyOpen) {
        return StoreError::Locked { path };
    }
    let kind = if let redb::Error::Io(cause) = &error {
        Some(cause.kind())
    } else {
        None
    };
    let source = Box::new(error);
    match kind {
        Some(
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge,
        ) => StoreError::Full { path, source },
        Some(io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
            StoreError::Damaged { path, source }
        }
        Some(_) => StoreError::File {
            doing,
            path,
            source,
        },
        // Everything else that redb reports means that the file does not have the shape we gave it.
        None => StoreError::Damaged { path, source },
    }
}

/// redb panics on some damaged files instead of reporting them.
fn judge_join(path: &Path, gave_up: JoinError) -> StoreError {
    let path = path.to_owned();
    let source = Box::new(gave_up);
    if source.is_panic() {
        return StoreError::Damaged { path, source };
    }
    StoreError::File {
        doing: "use",
        path,
        source,
    }
}
