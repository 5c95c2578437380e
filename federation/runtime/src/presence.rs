//! Saying that we live: the presence stream, whose life is the lease of what it registers.

use std::time::{Duration, Instant};

use portolan_api::presence::presence_client::PresenceClient;
use portolan_api::presence::report::Report as Body;
use portolan_api::presence::{
    AppHealth, Draining, GatewayRegistration, Links, Reply, Report, WorkloadRegistration,
};
use portolan_transport::mtls::TlsContext;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::backoff::Backoff;
use crate::grpc::{self, ControlTarget, Credentials, describe};
use crate::settings::ControlClientConfig;
use crate::shutdown::Shutdown;

/// The first wait after a lost stream.
const RETRY_FLOOR: Duration = Duration::from_millis(50);
/// The longest wait between tries.
const RETRY_CEILING: Duration = Duration::from_secs(2);
/// The wait after a refusal, which only a person can change.
const REFUSED_WAIT: Duration = Duration::from_secs(5);
/// How long the control plane may take to accept the registration, connecting included.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the control plane may take to take note of our end.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the end of the stream may take altogether.
const ENDED_TIMEOUT: Duration = Duration::from_secs(1);
/// The most reports that wait to be sent; newer states replace older ones before they get here.
const REPORTS_MAX: usize = 8;

/// What registers.
#[derive(Debug, Clone)]
pub enum Registration {
    /// A sidecar, for its workload.
    Workload(WorkloadRegistration),
    /// A gateway.
    Gateway(GatewayRegistration),
}

/// How things stand. Only the newest state of each kind is sent, and sent again after a reconnect.
#[derive(Debug)]
pub struct PresenceHandle {
    state: watch::Sender<State>,
    /// Whether the control plane has accepted the registration and listens.
    pub live: watch::Receiver<bool>,
    holding: JoinHandle<()>,
}

impl PresenceHandle {
    /// Reports the app's health. `detail` is for people.
    pub fn app(&self, ready: bool, detail: impl Into<String>) {
        let app = AppHealth {
            ready,
            detail: detail.into(),
        };
        self.put(|state| &mut state.app, app);
    }

    /// Reports the links to every peer that the gateway knows.
    pub fn links(&self, links: Links) {
        self.put(|state| &mut state.links, links);
    }

    /// Asks to be taken out of service now; the stream goes on.
    pub fn draining(&self) {
        self.put(|state| &mut state.draining, Draining {});
    }

    /// Waits until the farewell after the shutdown is said, or cannot be said. Takes at most a second.
    pub async fn ended(self) {
        // A holder that panicked has said so, and has nothing more to say.
        drop(tokio::time::timeout(ENDED_TIMEOUT, self.holding).await);
    }

    fn put<T: PartialEq>(&self, part: fn(&mut State) -> &mut Option<T>, value: T) {
        self.state.send_if_modified(|state| {
            let part = part(state);
            let differs = part.as_ref() != Some(&value);
            *part = Some(value);
            differs
        });
    }
}

/// Keeps a presence stream open until the shutdown, and says farewell then.
///
/// Call it inside a Tokio runtime that lives as long as the process.
#[must_use]
pub fn hold(
    config: &ControlClientConfig,
    tls: &TlsContext,
    registration: Registration,
    shutdown: Shutdown,
) -> PresenceHandle {
    let channel = grpc::channel(&ControlTarget::own(config), tls, Credentials::Certificate);
    let (state, states) = watch::channel(State::default());
    let (live, liveness) = watch::channel(false);
    let holder = Holder {
        client: PresenceClient::new(channel),
        registration,
        states,
        live,
        shutdown,
    };
    PresenceHandle {
        state,
        live: liveness,
        holding: tokio::spawn(holder.hold()),
    }
}

/// The newest report of each kind.
#[derive(Debug, Clone, Default, PartialEq)]
struct State {
    app: Option<AppHealth>,
    links: Option<Links>,
    draining: Option<Draining>,
}

impl State {
    /// What of this state `known` does not say yet.
    fn news(&self, known: &Self) -> Vec<Body> {
        let app = self.app.clone().filter(|_| self.app != known.app);
        let links = self.links.clone().filter(|_| self.links != known.links);
        let draining = self.draining.filter(|_| known.draining.is_none());
        [
            app.map(Body::App),
            links.map(Body::Links),
            draining.map(Body::Draining),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

struct Holder {
    client: PresenceClient<Channel>,
    registration: Registration,
    states: watch::Receiver<State>,
    live: watch::Sender<bool>,
    shutdown: Shutdown,
}

impl Holder {
    async fn hold(mut self) {
        let mut backoff = Backoff::new(RETRY_FLOOR, RETRY_CEILING);
        while !self.shutdown.is_triggered() {
            let began = Instant::now();
            let Err(ended) = self.hold_once().await else {
                return;
            };
            let was_live = self.live.send_replace(false);
            if was_live {
                backoff.worked_for(began.elapsed());
            }
            let problem = describe(&ended);
            let wait = if is_refusal(&ended) {
                tracing::error!(
                    problem,
                    "the control plane refuses this registration; somebody must change that"
                );
                REFUSED_WAIT
            } else if was_live {
                tracing::warn!(problem, "the presence stream ended: connecting again");
                backoff.wait()
            } else {
                tracing::debug!(problem, "no presence stream");
                backoff.wait()
            };
            self.shutdown
                .unless_triggered(tokio::time::sleep(wait))
                .await;
        }
    }

    /// Ends without error only because of the shutdown.
    async fn hold_once(&mut self) -> Result<(), Status> {
        let (reports, outgoing) = mpsc::channel(REPORTS_MAX);
        let registration = match &self.registration {
            Registration::Workload(workload) => Body::Workload(workload.clone()),
            Registration::Gateway(gateway) => Body::Gateway(gateway.clone()),
        };
        send(&reports, registration).await?;
        let mut client = self.client.clone();
        let open = async {
            let response = client.hold(ReceiverStream::new(outgoing)).await?;
            let mut replies = response.into_inner();
            next(&mut replies).await?;
            Ok::<_, Status>(replies)
        };
        let open = tokio::time::timeout(OPEN_TIMEOUT, open);
        let Some(opened) = self.shutdown.unless_triggered(open).await else {
            return Ok(());
        };
        let mut replies =
            opened.map_err(|_| Status::deadline_exceeded("no answer within 5 s"))??;
        self.live.send_replace(true);
        tracing::info!("registered with the control plane");
        let mut known = State::default();
        loop {
            let newest = self.states.borrow_and_update().clone();
            for body in newest.news(&known) {
                send(&reports, body).await?;
            }
            known = newest;
            tokio::select! {
                changed = self.states.changed() => if changed.is_err() {
                    // Nobody reports any more; the stream alone still says that we live.
                    self.until_ended(&mut replies).await?;
                },
                reply = next(&mut replies) => { reply?; }
                () = self.shutdown.triggered() => {}
            }
            if self.shutdown.is_triggered() {
                farewell(reports, &mut replies).await;
                return Ok(());
            }
        }
    }

    async fn until_ended(&self, replies: &mut Streaming<Reply>) -> Result<(), Status> {
        while let Some(reply) = self.shutdown.unless_triggered(next(replies)).await {
            reply?;
        }
        Ok(())
    }
}

/// Says that we end, and waits a moment until the control plane has heard it.
async fn farewell(reports: mpsc::Sender<Report>, replies: &mut Streaming<Reply>) {
    if send(&reports, Body::Draining(Draining {})).await.is_err() {
        return;
    }
    drop(reports);
    let ended = async { while next(replies).await.is_ok() {} };
    // Whoever has not heard it by then sees the stream end.
    drop(tokio::time::timeout(FAREWELL_TIMEOUT, ended).await);
}

async fn send(reports: &mpsc::Sender<Report>, body: Body) -> Result<(), Status> {
    let report = Report { report: Some(body) };
    reports
        .send(report)
        .await
        .map_err(|_| Status::unavailable("the control plane no longer listens"))
}

async fn next(replies: &mut Streaming<Reply>) -> Result<Reply, Status> {
    replies
        .message()
        .await?
        .ok_or_else(|| Status::unavailable("the control plane ended the stream"))
}

fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument
    )
}

#[cfg(test)]
mod tests {
    use portolan_api::presence::PeerLinks;

    use super::*;
    use crate::fixture::{FakeControl, PROXY, PresenceStream, World, soon};

    fn links(live: u32) -> Links {
        let peer = PeerLinks {
            peer: "eu-west".to_owned(),
            live,
            ..PeerLinks::default()
        };
        Links { peers: vec![peer] }
    }

    fn gateway() -> GatewayRegistration {
        GatewayRegistration {
            name: "gw-0".to_owned(),
            tcp: "127.0.0.1:1".to_owned(),
            quic: "127.0.0.1:2".to_owned(),
        }
    }

    async fn accepted(control: &mut FakeControl) -> PresenceStream {
        let mut stream = control.presence().await;
        assert_eq!(stream.report().await, Some(Body::Gateway(gateway())));
        stream.replies.send(Ok(Reply {})).await.unwrap();
        stream
    }

    #[tokio::test]
    async fn the_newest_reports_are_sent_again_after_a_reconnect() {
        let world = World::new();
        let mut control = world.control(Duration::from_secs(60)).await;
        let config = world.config(vec![control.address]);
        let shutdown = Shutdown::new();
        let registration = Registration::Gateway(gateway());
        let presence = hold(&config, &world.tls(PROXY), registration, shutdown.clone());

        let mut stream = accepted(&mut control).await;
        presence.links(links(1));
        assert_eq!(stream.report().await, Some(Body::Links(links(1))));
        drop(stream);
        presence.links(links(2));
        presence.links(links(3));
        let mut stream = accepted(&mut control).await;
        assert_eq!(stream.report().await, Some(Body::Links(links(3))));

        presence.draining();
        assert_eq!(stream.report().await, Some(Body::Draining(Draining {})));
        shutdown.trigger();
        assert_eq!(stream.report().await, Some(Body::Draining(Draining {})));
        assert_eq!(stream.report().await, None);
        drop(stream);
        soon(presence.ended()).await;
    }

    #[tokio::test]
    async fn liveness_follows_the_stream() {
        let world = World::new();
        let mut control = world.control(Duration::from_secs(60)).await;
        let config = world.config(vec![control.address]);
        let registration = Registration::Gateway(gateway());
        let mut presence = hold(&config, &world.tls(PROXY), registration, Shutdown::new());
        let stream = accepted(&mut control).await;
        soon(presence.live.wait_for(|live| *live)).await.unwrap();
        control.shutdown.trigger();
        drop(stream);
        soon(presence.live.wait_for(|live| !*live)).await.unwrap();
    }
}
