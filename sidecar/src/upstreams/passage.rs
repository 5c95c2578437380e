//! The way to another cluster through the own gateways: beside one that says nothing the next one is
//! tried, and the first to get through wins.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use portolan_model::{Hop, Reason};
use portolan_policy::blame::{self, GatewayRecord, Passage};
use portolan_transport::listen;
use portolan_transport::mtls::{self, ClientConfig, ClientTls, TlsError};
use smallvec::SmallVec;
use tokio::time::{Instant, sleep_until};

use super::dial::{DialError, Dialled, Dialler, refusal};
use super::target::Target;
use crate::balancer::{Health, Subject};

/// How long a gateway beside us may take to accept TCP.
const GATEWAY_TIMEOUT: Duration = Duration::from_secs(1);

/// What came of one gateway.
struct Tried {
    via: SocketAddr,
    begun: Instant,
    /// `None`: it goes on.
    ended: Option<Passage>,
}

/// All gateways that were tried for one connection.
struct Race<'a> {
    dialler: &'a Dialler,
    hedged: Duration,
    tried: SmallVec<[Tried; 4]>,
}

/// Dials through these gateways, in their order.
///
/// # Errors
/// When none gets through within `limit`.
pub(super) async fn through(
    dialler: &Dialler,
    gateways: SmallVec<[SocketAddr; 4]>,
    target: &Target,
    config: &Arc<ClientConfig>,
    limit: Duration,
) -> Result<Dialled, DialError> {
    let mut race = Race {
        dialler,
        hedged: blame::hedge_after(dialler.rtt(target.cluster())),
        tried: SmallVec::new(),
    };
    let mut deadline = Instant::now() + limit;
    let mut left = gateways.into_iter();
    let mut running = FuturesUnordered::new();
    let mut turn_ends = Instant::now();
    let mut failed = None;
    loop {
        if turn_ends <= Instant::now() {
            if let Some(via) = left.next() {
                turn_ends = race.begin(via);
                running.push(async move { (via, pass(via, target, config).await) });
            } else {
                turn_ends = deadline;
            }
        }
        if running.is_empty() && left.len() == 0 {
            race.record();
            return Err(failed.unwrap_or_else(no_gateway));
        }
        tokio::select! {
            Some((via, passed)) = running.next() => match passed {
                Ok(stream) => {
                    race.end(via, Passage::Through);
                    race.record();
                    return Ok(Dialled { stream, via });
                }
                Err((passage, error)) => {
                    race.end(via, passage);
                    if !blame::elsewhere(passage) {
                        race.record();
                        return Err(error);
                    }
                    // What somebody said tells more than that nobody was there.
                    if failed.is_none() || matches!(passage, Passage::Refused(_)) {
                        failed = Some(error);
                    }
                    turn_ends = Instant::now();
                    if left.len() == 0 {
                        deadline = deadline.min(race.last_turn());
                        turn_ends = deadline;
                    }
                }
            },
            () = sleep_until(turn_ends.min(deadline)) => {
                if deadline <= Instant::now() {
                    race.record();
                    let silent = || refusal(target, &TlsError::Timeout(limit), Hop::Egress);
                    return Err(failed.unwrap_or_else(silent));
                }
            }
        }
    }
}

impl Race<'_> {
    /// Begins a gateway's turn, and says when it ends.
    fn begin(&mut self, via: SocketAddr) -> Instant {
        let begun = Instant::now();
        self.tried.push(Tried {
            via,
            begun,
            ended: None,
        });
        begun + self.hedged
    }

    fn end(&mut self, via: SocketAddr, passage: Passage) {
        let tried = self.tried.iter_mut().find(|tried| tried.via == via);
        tried
            .into_iter()
            .for_each(|tried| tried.ended = Some(passage));
    }

    /// When everybody who still says nothing had a turn.
    fn last_turn(&self) -> Instant {
        let pending = self.tried.iter().filter(|tried| tried.ended.is_none());
        let ends = pending.map(|tried| tried.begun + self.hedged).max();
        ends.unwrap_or_else(Instant::now)
    }

    /// Puts on record what this says of the gateways.
    fn record(&self) {
        let through = self
            .tried
            .iter()
            .any(|tried| tried.ended == Some(Passage::Through));
        for tried in &self.tried {
            let waited = || Passage::Pending(tried.begun.elapsed());
            let passage = tried.ended.unwrap_or_else(waited);
            let health = match blame::gateway(passage, through, self.hedged) {
                GatewayRecord::Good => Health::Good,
                GatewayRecord::Silent => Health::Unconnected,
                GatewayRecord::Unknown => Health::Unknown,
            };
            let subject = Subject::Gateway(tried.via);
            self.dialler.balancer().record(subject, health);
        }
    }
}

/// One gateway: TCP, then TLS to the other sidecar.
async fn pass(
    via: SocketAddr,
    target: &Target,
    config: &Arc<ClientConfig>,
) -> Result<ClientTls, (Passage, DialError)> {
    let tcp = listen::connect(via, GATEWAY_TIMEOUT).await;
    let tcp = tcp.map_err(|error| {
        let why = format!("gateway {via} does not accept connections: {error}");
        let error = DialError::new(Reason::PeerUnreachable, why);
        (Passage::NotAccepted, error)
    })?;
    // Whoever waits for it has a limit.
    let connected = mtls::connect(config, &target.sni(), tcp, Duration::MAX).await;
    connected
        .map(|connected| connected.stream)
        .map_err(|error| (passage(&error), refusal(target, &error, Hop::Egress)))
}

fn passage(error: &TlsError) -> Passage {
    match error {
        TlsError::Refused(reason) => Passage::Refused(*reason),
        TlsError::Closed | TlsError::Io(_) => Passage::Broken,
        TlsError::Timeout(waited) => Passage::Pending(*waited),
        TlsError::Peer(_)
        | TlsError::NotAccepted(_)
        | TlsError::Name(_)
        | TlsError::Key(_)
        | TlsError::Protocol(_) => Passage::Final,
    }
}

fn no_gateway() -> DialError {
    DialError::new(Reason::PeerUnreachable, "this cluster has no live gateway")
}
