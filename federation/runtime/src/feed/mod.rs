//! The snapshot feed: what the proxy obeys, from its last-good file first, then from the control
//! plane's discovery stream, for as long as the process lives.

mod assembly;
mod last_good;
mod stream;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use portolan_model::names::WorkloadKey;
use portolan_model::snapshot::Snapshot;
use portolan_transport::mtls::TlsContext;
use tokio::sync::watch;

use crate::settings::ControlClientConfig;
use crate::shutdown::Shutdown;

pub use self::assembly::RESOURCES_MAX;

/// What to follow besides the mesh, the trust bundle and all services.
#[derive(Debug, Clone, Default)]
pub struct Subscription {
    /// The workload whose inbound rules are wanted.
    pub inbound: Option<WorkloadKey>,
}

/// The newest snapshot, always.
#[derive(Debug, Clone)]
pub struct FeedHandle {
    /// The snapshot. `mesh` is `None` until the first one arrived.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Changes after every swap; the snapshot's generation.
    pub changed: watch::Receiver<u64>,
    /// Whether the control plane is connected and has answered.
    pub live: watch::Receiver<bool>,
}

/// Follows the control plane until the shutdown. The handle already holds what the last-good file
/// knew. New roots are put into `tls` and the state folder.
///
/// Call it inside a Tokio runtime that lives as long as the process.
#[must_use]
pub fn start(
    config: &ControlClientConfig,
    tls: &TlsContext,
    subscription: Subscription,
    shutdown: Shutdown,
) -> FeedHandle {
    let file = last_good::path(&config.state_dir);
    let assembly = last_good::load(&file);
    let first = assembly.snapshot();
    let snapshot = Arc::new(ArcSwap::new(Arc::clone(&first)));
    let (changed, changes) = watch::channel(first.generation);
    let (live, liveness) = watch::channel(false);
    let assembly = Arc::new(Mutex::new(assembly));
    let publish = Publish {
        snapshot: Arc::clone(&snapshot),
        changed,
        live,
        tls: tls.clone(),
        state_dir: config.state_dir.clone(),
    };
    let saving = last_good::keep_saved(
        file,
        Arc::clone(&assembly),
        changes.clone(),
        shutdown.clone(),
    );
    tokio::spawn(saving);
    let follower = stream::Follower::new(config, tls, subscription, assembly, publish);
    tokio::spawn(async move { shutdown.unless_triggered(follower.follow()).await });
    FeedHandle {
        snapshot,
        changed: changes,
        live: liveness,
    }
}

/// Where new snapshots go.
struct Publish {
    snapshot: Arc<ArcSwap<Snapshot>>,
    changed: watch::Sender<u64>,
    live: watch::Sender<bool>,
    tls: TlsContext,
    state_dir: PathBuf,
}

#[cfg(test)]
mod tests;
