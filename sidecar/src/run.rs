//! Starting and stopping: one thread for everything that follows the control plane, and the workers.

use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::mpsc::{SyncSender, sync_channel};

use portolan_runtime::health::Readiness;
use portolan_runtime::{Shutdown, StartError, Workers, telemetry};
use portolan_transport::listen;
use tokio::sync::mpsc;

use crate::config::SidecarConfig;
use crate::control::{Control, LISTENING};
use crate::inbound;
use crate::outbound;
use crate::worker::{self, Worker};

/// What a worker is given.
#[derive(Clone)]
pub(crate) struct Given {
    pub(crate) outbound: worker::Shared,
    pub(crate) inbound: inbound::Shared,
    pub(crate) readiness: Readiness,
}

/// Where the workers listen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) outbound: SocketAddr,
    pub(crate) capture: Option<SocketAddr>,
    pub(crate) inbound: SocketAddr,
}

/// Runs a sidecar until the shutdown.
///
/// # Errors
/// When the configuration makes no sense, an address is taken, no identity can be had, or a thread
/// failed.
pub fn run(config: SidecarConfig, shutdown: Shutdown) -> Result<(), StartError> {
    config.check()?;
    telemetry::init(&config.log)?;
    let addresses = Addresses::probe(&config)?;
    let count = config.worker_count();
    let mut workers = Workers::new(shutdown.clone());
    let (started, starting) = sync_channel(1);
    let (working, all_worked) = mpsc::channel(1);
    let control = Control::new(config, shutdown.clone(), all_worked);
    workers.spawn("control", 0, move || control.run(started))?;
    // Without a word the thread failed, and joining it says why.
    if let Ok(started) = starting.recv() {
        let given = started?;
        for index in 0..count {
            let (given, shutdown, working) = (given.clone(), shutdown.clone(), working.clone());
            let work = move || async move {
                let result = work(index, given, addresses, shutdown).await;
                drop(working);
                result
            };
            workers.spawn("worker", index, work)?;
        }
    }
    drop(working);
    workers.join()
}

impl Addresses {
    /// Makes sure that nobody else has the addresses: the workers bind them so that they can be
    /// shared, and would share them with a stranger as well.
    fn probe(config: &SidecarConfig) -> Result<Self, StartError> {
        let free = |address: SocketAddr, setting| {
            let fail = |source| StartError::bind(address, setting, source);
            TcpListener::bind(address)
                .and_then(|it| it.local_addr())
                .map_err(fail)
        };
        Ok(Self {
            outbound: free(config.outbound, "outbound")?,
            capture: config
                .capture
                .map(|address| free(address, "capture"))
                .transpose()?,
            inbound: free(config.inbound, "inbound")?,
        })
    }
}

/// One worker, until the shutdown and the end of what was under way.
async fn work(
    index: usize,
    given: Given,
    addresses: Addresses,
    shutdown: Shutdown,
) -> Result<(), StartError> {
    let bind = |address: SocketAddr, setting| {
        listen::tcp_reuseport(address).map_err(|source| StartError::bind(address, setting, source))
    };
    let outbound = bind(addresses.outbound, "outbound")?;
    let inbound = bind(addresses.inbound, "inbound")?;
    let capture = addresses
        .capture
        .map(|address| bind(address, "capture"))
        .transpose()?;
    let worker = Worker::new(given.outbound, index, shutdown.clone());
    given.readiness.set(LISTENING);
    tracing::info!(
        worker = index,
        outbound = %addresses.outbound,
        inbound = %addresses.inbound,
        capture = addresses.capture.map(tracing::field::display),
        "the sidecar listens",
    );
    let captured = async {
        if let Some(listener) = capture {
            outbound::serve_captured(Rc::clone(&worker), listener).await;
        }
    };
    let app_side = async {
        tokio::join!(outbound::serve(Rc::clone(&worker), outbound), captured);
        worker.drain().await;
    };
    tokio::join!(app_side, inbound::serve(inbound, given.inbound, shutdown));
    Ok(())
}

/// Where the sidecar hands its start's outcome to whoever starts the workers.
pub(crate) type Started = SyncSender<Result<Given, StartError>>;
