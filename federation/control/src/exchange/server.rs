//! The serving side: each peer gets the difference between what it has and what it may know now,
//! whenever it can take more. Nothing is queued for anybody.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream;
use portolan_api::peering::peering_server::Peering;
use portolan_api::peering::{CatalogueEntry as EntryMessage, CatalogueUpdate, WatchRequest};
use portolan_model::{ClusterName, IdentityKind};
use portolan_runtime::Shutdown;
use prost::Message as _;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::caller::{Admitted, identified};
use crate::open_streams::{OpenStreams, Place};
use crate::view::{View, Views};

/// The most peering streams at once.
const STREAMS_MAX: usize = 2_000;
/// The most of them that one peer may open: one for each of its control planes, and those that are ending.
const STREAMS_OF_ONE_MAX: usize = 16;
/// An update is sent when it has this many bytes of entries; one larger entry goes alone.
const UPDATE_BYTES: usize = 1024 * 1024;

/// The peering service.
pub(crate) struct PeeringService {
    views: Views,
    epoch: Arc<str>,
    shutdown: Shutdown,
    streams: OpenStreams,
}

impl PeeringService {
    /// `epoch` names this start of this registry: versions of another epoch mean nothing here.
    pub(crate) fn new(views: Views, epoch: Arc<str>, shutdown: Shutdown) -> Self {
        Self {
            views,
            epoch,
            shutdown,
            streams: OpenStreams::new("peering", STREAMS_MAX, STREAMS_OF_ONE_MAX),
        }
    }
}

#[tonic::async_trait]
impl Peering for PeeringService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<CatalogueUpdate, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let caller = identified(&request)?;
        let peer = declared_peer(&self.views.borrow(), &caller)?;
        let place = self.streams.admit(&caller.id)?;
        let request = request.into_inner();
        tracing::info!(%peer, resumes = request.epoch == *self.epoch, "a peer watches this cluster's catalogue");
        let watcher = Watcher {
            has: (request.epoch == *self.epoch).then_some(request.version),
            greeted: false,
            caller,
            peer,
            views: self.views.clone(),
            epoch: self.epoch.clone(),
            pending: VecDeque::new(),
            ended: false,
            shutdown: self.shutdown.clone(),
            _place: place,
        };
        let updates = stream::unfold(watcher, |mut watcher| async move {
            let next = watcher.next().await.transpose()?;
            Some((next, watcher))
        });
        Ok(Response::new(Box::pin(updates)))
    }
}

/// The declared peer whose control plane this is.
fn declared_peer(view: &View, caller: &Admitted) -> Result<ClusterName, Status> {
    let refused = |why: &str| {
        tracing::warn!(caller = %caller.id, why, "refused a peering call");
        Status::permission_denied(format!("`{}` {why}", caller.id))
    };
    let cluster = match &caller.kind {
        IdentityKind::Control { cluster } => cluster,
        IdentityKind::Workload { .. }
        | IdentityKind::Gateway { .. }
        | IdentityKind::Authority
        | IdentityKind::Other => return Err(refused("is no control plane")),
    };
    let peer = view
        .snapshot
        .mesh
        .as_ref()
        .and_then(|mesh| mesh.peer(cluster));
    match peer {
        Some(peer) if &peer.trust_domain == caller.id.trust_domain() => Ok(cluster.clone()),
        Some(_) => Err(refused("is not of the trust domain that the peer has here")),
        None => Err(refused(
            "is no peer of this cluster; declare it with a Peer resource",
        )),
    }
}

/// One peer's stream.
struct Watcher {
    caller: Admitted,
    peer: ClusterName,
    views: Views,
    epoch: Arc<str>,
    /// The version that the peer has; `None`: nothing of this epoch.
    has: Option<u64>,
    /// Whether anything was sent: the first update confirms that the peer is up to date.
    greeted: bool,
    pending: VecDeque<CatalogueUpdate>,
    ended: bool,
    shutdown: Shutdown,
    _place: Place,
}

impl Watcher {
    async fn next(&mut self) -> Result<Option<CatalogueUpdate>, Status> {
        if self.ended {
            return Ok(None);
        }
        loop {
            if self.pending.is_empty() {
                self.prepare()?;
            }
            if let Some(update) = self.pending.pop_front() {
                return Ok(Some(update));
            }
            tokio::select! {
                () = self.shutdown.triggered() => {
                    self.ended = true;
                    return Err(Status::unavailable("the control plane is stopping"));
                }
                changed = self.views.changed() => if changed.is_err() {
                    return Ok(None);
                },
            }
        }
    }

    fn prepare(&mut self) -> Result<(), Status> {
        let view = self.views.borrow_and_update().clone();
        if let Err(status) = declared_peer(&view, &self.caller) {
            self.ended = true;
            return Err(status);
        }
        let Some(table) = view.catalogues.get(&self.peer) else {
            return Ok(());
        };
        let delta = self.has.filter(|has| *has <= table.version());
        let delta = delta.and_then(|has| table.since(has));
        let (full, upserts, removals) = match delta {
            Some(delta) => (
                false,
                delta.upserts.into_iter().map(|(_, entry)| entry).collect(),
                delta.removals.iter().map(ToString::to_string).collect(),
            ),
            None => {
                let entries: Vec<_> = table.iter().map(|(_, entry)| entry).collect();
                (true, entries, Vec::new())
            }
        };
        let nothing = upserts.is_empty() && removals.is_empty();
        if self.greeted && nothing && !full {
            return Ok(());
        }
        let upserts = upserts
            .into_iter()
            .map(|entry| EntryMessage::from(&**entry));
        self.pending = cut(&self.epoch, table.version(), full, upserts, removals);
        self.has = Some(table.version());
        self.greeted = true;
        Ok(())
    }
}

/// Cuts an update into messages. Only the last one has the version: the others cannot be resumed after.
fn cut(
    epoch: &str,
    version: u64,
    full: bool,
    upserts: impl Iterator<Item = EntryMessage>,
    removals: Vec<String>,
) -> VecDeque<CatalogueUpdate> {
    let piece = |first: bool, upserts| CatalogueUpdate {
        epoch: epoch.to_owned(),
        version: 0,
        full: full && first,
        upserts,
        removals: Vec::new(),
    };
    let mut pieces = VecDeque::new();
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for entry in upserts {
        let size = entry.encoded_len();
        if bytes + size > UPDATE_BYTES && !entries.is_empty() {
            pieces.push_back(piece(pieces.is_empty(), std::mem::take(&mut entries)));
            bytes = 0;
        }
        bytes += size;
        entries.push(entry);
    }
    let mut last = piece(pieces.is_empty(), entries);
    last.version = version;
    last.removals = removals;
    pieces.push_back(last);
    pieces
}
