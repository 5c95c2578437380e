//! A store in an etcd cluster, whose declarations outlive the control plane's machine.
//!
//! Everything lies under one prefix: declarations under `<prefix>data/`, the registry's identity at
//! `<prefix>id`. Revisions are etcd's own, so other users of the same etcd leave gaps in them.
//! How long watchers can resume is etcd's compaction setting.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, EventType, GetOptions, Identity,
    KeyValue, TlsOptions, Txn, TxnOp, TxnOpResponse, WatchOptions, WatchResponse,
};
use futures_util::stream;
use tokio::time::{sleep, timeout};

use crate::config::EtcdConfig;
use crate::error::StoreError;
use crate::limits::{self, Limits};
use crate::state::random_id;
use crate::store::{
    Entry, Event, Listing, Precondition, Revision, Store, StoreFuture, WatchStream, Write,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(100);
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(2);
/// How many entries one request lists; times the largest value it stays below [`MESSAGE_BYTES_MAX`].
const LIST_PAGE_ENTRIES: i64 = 60;
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// See the module.
#[derive(Clone)]
pub(crate) struct EtcdStore {
    client: Client,
    place: String,
    data: String,
    id: String,
}

impl std::fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdStore")
            .field("place", &self.place)
            .finish()
    }
}

impl EtcdStore {
    /// Connects, and gives the registry its identity if it has none yet.
    pub(crate) async fn open(config: &EtcdConfig) -> Result<Self, StoreError> {
        if config.endpoints.is_empty() {
            return Err(StoreError::Config {
                problem: "`endpoints` is empty; name at least one, such as `http://127.0.0.1:2379`"
                    .to_owned(),
            });
        }
        let place = format!("{} under {}", config.endpoints.join(", "), config.prefix);
        let options = connect_options(config).await?;
        let connect = Client::connect(&config.endpoints, Some(options));
        let client = bounded(&place, "connect", connect).await?;
        let mut store = Self {
            client,
            place,
            data: format!("{}data/", config.prefix),
            id: String::new(),
        };
        store.id = store.identity(&format!("{}id", config.prefix)).await?;
        Ok(store)
    }

    async fn identity(&self, key: &str) -> Result<String, StoreError> {
        let first = Txn::new()
            .when([Compare::create_revision(key, CompareOp::Equal, 0)])
            .and_then([TxnOp::put(key, random_id(), None)]);
        let mut client = self.client.kv_client();
        bounded(&self.place, "write", client.txn(first)).await?;
        let found = bounded(&self.place, "read", client.get(key, None)).await?;
        let id = found.kvs().first().and_then(|kv| kv.value_str().ok());
        id.map(str::to_owned)
            .ok_or_else(|| StoreError::Unavailable {
                place: self.place.clone(),
                source: "its identity was deleted while it was read".into(),
            })
    }

    async fn get_entry(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let mut client = self.client.kv_client();
        let get = client.get(format!("{}{key}", self.data), None);
        let found = bounded(&self.place, "read", get).await?;
        Ok(found.kvs().first().and_then(|kv| self.entry(kv)))
    }

    /// Reads page by page, all pages as of the first page's revision.
    async fn list_prefix(&self, prefix: &str) -> Result<Listing, StoreError> {
        let mut client = self
            .client
            .kv_client()
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let end = prefix_end(&format!("{}{prefix}", self.data));
        let mut from = format!("{}{prefix}", self.data).into_bytes();
        let mut listing = Listing {
            entries: Vec::new(),
            revision: 0,
        };
        loop {
            let page = GetOptions::new()
                .with_range(end.clone())
                .with_limit(LIST_PAGE_ENTRIES)
                .with_revision(revision_out(listing.revision));
            let found = bounded(&self.place, "read", client.get(from, Some(page))).await?;
            if listing.revision == 0 {
                listing.revision = found.header().map_or(0, |h| revision_in(h.revision()));
            }
            listing
                .entries
                .extend(found.kvs().iter().filter_map(|kv| self.entry(kv)));
            let Some(last) = found.kvs().last().filter(|_| found.more()) else {
                return Ok(listing);
            };
            from = last.key().to_vec();
            from.push(0);
        }
    }

    async fn commit_txn(&self, writes: Vec<Write>) -> Result<Revision, StoreError> {
        limits::ETCD.check(&writes)?;
        let at = |write: &Write| format!("{}{}", self.data, write.key());
        let conditions: Vec<Compare> = writes
            .iter()
            .filter_map(|write| condition(at(write), write.precondition()))
            .collect();
        let operations: Vec<TxnOp> = writes
            .iter()
            .map(|write| match write.value() {
                Some(value) => TxnOp::put(at(write), value.to_vec(), None),
                None => TxnOp::delete(at(write), None),
            })
            .collect();
        let looks: Vec<TxnOp> = writes
            .iter()
            .map(|write| TxnOp::get(at(write), Some(GetOptions::new().with_keys_only())))
            .collect();
        let txn = Txn::new()
            .when(conditions)
            .and_then(operations)
            .or_else(looks);
        let mut client = self.client.kv_client();
        let done = bounded(&self.place, "write", client.txn(txn)).await?;
        if done.succeeded() {
            return Ok(done
                .header()
                .map_or(0, |header| revision_in(header.revision())));
        }
        Err(conflict(&writes, &done.op_responses()))
    }

    fn entry(&self, kv: &KeyValue) -> Option<Entry> {
        let key = kv.key_str().ok()?.strip_prefix(&self.data)?;
        Some(Entry {
            key: key.to_owned(),
            value: Bytes::copy_from_slice(kv.value()),
            version: revision_in(kv.mod_revision()),
        })
    }

    fn event(&self, event: &etcd_client::Event) -> Option<Event> {
        let entry = self.entry(event.kv()?)?;
        Some(match event.event_type() {
            EventType::Put => Event::Put(entry),
            EventType::Delete => Event::Deleted {
                key: entry.key,
                revision: entry.version,
            },
        })
    }
}

impl Store for EtcdStore {
    fn id(&self) -> &str {
        &self.id
    }

    fn limits(&self) -> Limits {
        limits::ETCD
    }

    fn describe(&self) -> String {
        format!("etcd at {}", self.place)
    }

    fn get<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Entry>> {
        Box::pin(self.get_entry(key))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> StoreFuture<'a, Listing> {
        Box::pin(self.list_prefix(prefix))
    }

    fn commit(&self, writes: Vec<Write>) -> StoreFuture<'_, Revision> {
        Box::pin(self.commit_txn(writes))
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> StoreFuture<'a, WatchStream> {
        Box::pin(async move {
            let mut watcher = Watcher {
                store: self.clone(),
                prefix: format!("{}{prefix}", self.data),
                after,
                ready: VecDeque::new(),
                stream: None,
                pause: RECONNECT_PAUSE_MIN,
                ended: false,
            };
            watcher.connect().await?;
            Ok(WatchStream::new(stream::unfold(watcher, Watcher::step)))
        })
    }
}

/// One watch, which outlives its connection: it resumes after the last revision that it has seen.
struct Watcher {
    store: EtcdStore,
    prefix: String,
    after: Revision,
    ready: VecDeque<Event>,
    stream: Option<etcd_client::WatchStream>,
    pause: Duration,
    ended: bool,
}

impl Watcher {
    async fn step(mut self) -> Option<(Result<Event, StoreError>, Self)> {
        while !self.ended {
            if let Some(event) = self.ready.pop_front() {
                return Some((Ok(event), self));
            }
            if let Err(error) = self.read_more().await {
                if error.is_retryable() {
                    tracing::warn!(%error, place = self.store.place, "the registry's watch broke off; trying again");
                    self.stream = None;
                    sleep(self.pause).await;
                    self.pause = (self.pause * 2).min(RECONNECT_PAUSE_MAX);
                } else {
                    self.ended = true;
                    return Some((Err(error), self));
                }
            }
        }
        None
    }

    async fn read_more(&mut self) -> Result<(), StoreError> {
        let Some(stream) = &mut self.stream else {
            return self.connect().await;
        };
        let place = &self.store.place;
        match stream.message().await {
            Ok(Some(response)) => self.take(&response),
            Ok(None) => Err(unavailable(place, "etcd closed the watch")),
            // More happened while we were away than one message may hold.
            Err(etcd_client::Error::GRpcStatus(status))
                if i32::from(status.code()) == OUT_OF_RANGE =>
            {
                Err(self.compacted(self.after))
            }
            Err(error) => Err(judge(place, "watch", error)),
        }
    }

    async fn connect(&mut self) -> Result<(), StoreError> {
        let place = &self.store.place;
        let options = WatchOptions::new()
            .with_prefix()
            .with_progress_notify()
            .with_start_revision(revision_out(self.after + 1));
        let mut client = self
            .store
            .client
            .watch_client()
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let open = client.watch(self.prefix.as_str(), Some(options));
        let mut stream = bounded(place, "watch", open).await?;
        let first = bounded(place, "watch", stream.message()).await?;
        let Some(created) = first else {
            return Err(unavailable(place, "etcd closed the watch"));
        };
        let now = created
            .header()
            .map_or(0, |header| revision_in(header.revision()));
        if now < self.after {
            return Err(self.compacted(now));
        }
        self.take(&created)?;
        self.stream = Some(stream);
        self.pause = RECONNECT_PAUSE_MIN;
        Ok(())
    }

    fn take(&mut self, response: &WatchResponse) -> Result<(), StoreError> {
        if response.compact_revision() > 0 {
            return Err(self.compacted(revision_in(response.compact_revision()).saturating_sub(1)));
        }
        if response.canceled() {
            return Err(unavailable(&self.store.place, response.cancel_reason()));
        }
        for event in response.events() {
            self.ready.extend(self.store.event(event));
        }
        let seen = match response.events().last().and_then(etcd_client::Event::kv) {
            Some(kv) => kv.mod_revision(),
            // A progress report: nothing happened here, but the rest of etcd moved on.
            None if !response.created() => response.header().map_or(0, |header| header.revision()),
            None => 0,
        };
        self.after = self.after.max(revision_in(seen));
        Ok(())
    }

    fn compacted(&self, oldest: Revision) -> StoreError {
        StoreError::Compacted {
            after: self.after,
            oldest,
        }
    }
}

fn condition(key: String, precondition: Precondition) -> Option<Compare> {
    match precondition {
        Precondition::None => None,
        Precondition::DoesNotExist => Some(Compare::create_revision(key, CompareOp::Equal, 0)),
        Precondition::Version(version) => Some(Compare::mod_revision(
            key,
            CompareOp::Equal,
            revision_out(version),
        )),
    }
}

/// Which write's precondition failed, by what the keys' versions were in that very transaction.
fn conflict(writes: &[Write], looks: &[TxnOpResponse]) -> StoreError {
    let mut versions = looks.iter().map(|look| match look {
        TxnOpResponse::Get(found) => found.kvs().first().map(|kv| revision_in(kv.mod_revision())),
        TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
    });
    let mut failed = (String::new(), None);
    for write in writes {
        let found = versions.next().flatten();
        let holds = match write.precondition() {
            Precondition::None => true,
            Precondition::DoesNotExist => found.is_none(),
            Precondition::Version(version) => found == Some(version),
        };
        if !holds {
            failed = (write.key().to_owned(), found);
            break;
        }
    }
    StoreError::Conflict {
        key: failed.0,
        found: failed.1,
    }
}

/// The first key after all keys that begin with `prefix`. Our prefixes end in ASCII or UTF-8, never in 0xFF.
fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

fn revision_in(revision: i64) -> Revision {
    u64::try_from(revision).unwrap_or(0)
}

fn revision_out(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

async fn connect_options(config: &EtcdConfig) -> Result<ConnectOptions, StoreError> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_keep_alive(KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true);
    if let (Some(user), Some(file)) = (&config.username, &config.password_file) {
        let password = String::from_utf8_lossy(&read(file).await?).into_owned();
        options = options.with_user(user, password.trim_end_matches(['\r', '\n']));
    }
    if config.ca.is_none() && config.certificate.is_none() {
        return Ok(options);
    }
    let mut tls = TlsOptions::new();
    if let Some(ca) = &config.ca {
        tls = tls.ca_certificate(Certificate::from_pem(read(ca).await?));
    }
    if let (Some(certificate), Some(key)) = (&config.certificate, &config.key) {
        tls = tls.identity(Identity::from_pem(
            read(certificate).await?,
            read(key).await?,
        ));
    }
    Ok(options.with_tls(tls))
}

async fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    tokio::fs::read(path)
        .await
        .map_err(|error| StoreError::Config {
            problem: format!("cannot read {}: {error}", path.display()),
        })
}

async fn bounded<T>(
    place: &str,
    doing: &'static str,
    request: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, StoreError> {
    match timeout(REQUEST_TIMEOUT, request).await {
        Ok(answer) => answer.map_err(|error| judge(place, doing, error)),
        Err(_elapsed) => Err(unavailable(place, "it did not answer in time")),
    }
}

fn unavailable(place: &str, cause: &str) -> StoreError {
    StoreError::Unavailable {
        place: place.to_owned(),
        source: cause.into(),
    }
}

/// gRPC status codes, numbered as in its specification.
const OUT_OF_RANGE: i32 = 11;
/// UNKNOWN, DEADLINE_EXCEEDED, ABORTED, INTERNAL, UNAVAILABLE and CANCELLED pass with time.
const PASSING: [i32; 6] = [1, 2, 4, 10, 13, 14];

fn judge(place: &str, doing: &'static str, error: etcd_client::Error) -> StoreError {
    let place = place.to_owned();
    let is_final = match &error {
        etcd_client::Error::InvalidArgs(_) | etcd_client::Error::InvalidUri(_) => {
            return StoreError::Config {
                problem: error.to_string(),
            };
        }
        etcd_client::Error::GRpcStatus(status) => !PASSING.contains(&i32::from(status.code())),
        etcd_client::Error::IoError(_)
        | etcd_client::Error::TransportError(_)
        | etcd_client::Error::WatchError(_)
        | etcd_client::Error::Utf8Error(_)
        | etcd_client::Error::LeaseKeepAliveError(_)
        | etcd_client::Error::ElectError(_)
        | etcd_client::Error::InvalidMetadataValue(_)
        | etcd_client::Error::EndpointError(_)
        | etcd_client::Error::EndpointsNotManaged
        | etcd_client::Error::Internal(_) => false,
    };
    let source = error.into();
    if is_final {
        StoreError::Refused {
            place,
            doing,
            source,
        }
    } else {
        StoreError::Unavailable { place, source }
    }
}
