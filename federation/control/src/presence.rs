//! Proxies hold a stream open for as long as they live, and say on it how things stand beside them.

pub(crate) mod keeper;
pub(crate) mod ledger;
mod register;

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use portolan_api::presence::presence_server::Presence;
use portolan_api::presence::report::Report as Said;
use portolan_api::presence::{Reply, Report};
use portolan_model::SpiffeId;
use portolan_model::snapshot::LinkState;
use portolan_runtime::Shutdown;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::apply::Applier;
use crate::caller::{Admitted, Callers};
use crate::open_streams::{OpenStreams, Place};
use keeper::{Fact, KeeperHandle};
use ledger::{Links, StreamId};
use register::Holder;

/// The most presence streams at once.
const STREAMS_MAX: usize = 20_000;
/// The most of them that one identity may open: as many instances as one service account may have.
const STREAMS_OF_ONE_MAX: usize = 5_000;
/// How long a proxy may take to say who it is.
const REGISTRATION_PATIENCE: Duration = Duration::from_secs(10);
/// The most peers that one links report names.
const LINKS_MAX: usize = 1_000;

/// The presence service.
pub(crate) struct PresenceService {
    pub(crate) callers: Callers,
    pub(crate) applier: Applier,
    pub(crate) keeper: KeeperHandle,
    pub(crate) shutdown: Shutdown,
    streams: OpenStreams,
    next_stream: AtomicU64,
}

impl PresenceService {
    pub(crate) fn new(
        callers: Callers,
        applier: Applier,
        keeper: KeeperHandle,
        shutdown: Shutdown,
    ) -> Self {
        Self {
            callers,
            applier,
            keeper,
            shutdown,
            streams: OpenStreams::new("presence", STREAMS_MAX, STREAMS_OF_ONE_MAX),
            next_stream: AtomicU64::new(1),
        }
    }
}

#[tonic::async_trait]
impl Presence for PresenceService {
    type HoldStream = Pin<Box<dyn Stream<Item = Result<Reply, Status>> + Send>>;

    async fn hold(
        &self,
        request: Request<Streaming<Report>>,
    ) -> Result<Response<Self::HoldStream>, Status> {
        let caller = self.callers.proxy(&request)?;
        let place = self.streams.admit(&caller.id)?;
        let (replies, receiver) = mpsc::channel(1);
        let session = Session {
            id: self.next_stream.fetch_add(1, Ordering::Relaxed),
            caller,
            applier: self.applier.clone(),
            keeper: self.keeper.clone(),
            reports: request.into_inner(),
            replies,
            _place: place,
        };
        tokio::spawn(session.run(self.shutdown.clone()));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// One proxy's stream.
struct Session {
    id: StreamId,
    caller: Admitted,
    applier: Applier,
    keeper: KeeperHandle,
    reports: Streaming<Report>,
    replies: mpsc::Sender<Result<Reply, Status>>,
    _place: Place,
}

impl Session {
    async fn run(mut self, shutdown: Shutdown) {
        let ended = tokio::select! {
            // What was known stays believed when the control plane itself goes.
            () = shutdown.triggered() => return,
            ended = self.serve() => ended,
        };
        if let Err(status) = ended {
            tracing::warn!(proxy = %self.caller.id, reason = status.message(), "refused a presence stream");
            // A proxy that is gone needs no answer.
            let _gone = self.replies.send(Err(status)).await;
        }
    }

    async fn serve(&mut self) -> Result<(), Status> {
        let first = tokio::time::timeout(REGISTRATION_PATIENCE, self.reports.message())
            .await
            .map_err(|_| Status::deadline_exceeded("nothing was registered in time"))??;
        let Some(said) = first.and_then(|report| report.report) else {
            return Err(Status::invalid_argument(
                "the first report must be a registration",
            ));
        };
        let holder = register::register(&self.applier, &self.caller, said).await?;
        self.keeper
            .tell(self.id, Fact::Opened(holder.clone()))
            .await;
        tracing::info!(proxy = %self.caller.id, holder = %holder, "a proxy registered");
        let served = self.follow(&holder).await;
        self.keeper
            .tell(self.id, Fact::Closed(holder.clone()))
            .await;
        tracing::info!(proxy = %self.caller.id, holder = %holder, "a proxy is gone");
        served
    }

    async fn follow(&mut self, holder: &Holder) -> Result<(), Status> {
        if self.replies.send(Ok(Reply {})).await.is_err() {
            return Ok(());
        }
        loop {
            let report = tokio::select! {
                () = self.replies.closed() => return Ok(()),
                report = self.reports.message() => report,
            };
            // A broken stream and an ended one mean the same: it is gone.
            let Ok(Some(report)) = report else {
                return Ok(());
            };
            let fact = fact(holder, report, &self.caller.id)?;
            self.keeper.tell(self.id, fact).await;
        }
    }
}

fn fact(holder: &Holder, report: Report, caller: &SpiffeId) -> Result<Fact, Status> {
    match (holder, report.report) {
        (Holder::Workload(workload), Some(Said::App(app))) => {
            tracing::debug!(proxy = %caller, %workload, ready = app.ready, detail = app.detail, "app health");
            Ok(Fact::Ready(workload.clone(), app.ready))
        }
        (Holder::Workload(_) | Holder::Gateway(_), Some(Said::Draining(_))) => {
            Ok(Fact::Draining(holder.clone()))
        }
        (Holder::Gateway(gateway), Some(Said::Links(links))) => {
            if links.peers.len() > LINKS_MAX {
                return Err(Status::invalid_argument(format!(
                    "a report of links names {} peers, the most is {LINKS_MAX}",
                    links.peers.len()
                )));
            }
            Ok(Fact::Links(gateway.name.clone(), read_links(links)?))
        }
        (_, Some(Said::Workload(_) | Said::Gateway(_))) => Err(Status::invalid_argument(
            "a stream registers once; open another one",
        )),
        (Holder::Workload(_), Some(Said::Links(_))) => {
            Err(Status::invalid_argument("only gateways report links"))
        }
        (Holder::Gateway(_), Some(Said::App(_))) => {
            Err(Status::invalid_argument("only sidecars report an app"))
        }
        (_, None) => Err(Status::invalid_argument(
            "a report of a kind that this control plane does not know",
        )),
    }
}

fn read_links(links: portolan_api::presence::Links) -> Result<Links, Status> {
    let mut read = Links::new();
    for link in links.peers {
        let peer = link
            .peer
            .parse()
            .map_err(|error| Status::invalid_argument(format!("links: {error}")))?;
        let state = if link.live == 0 {
            LinkState::Down
        } else {
            LinkState::Up {
                rtt_us: link.rtt_us,
            }
        };
        read.insert(peer, state);
    }
    Ok(read)
}
