//! Whether the app beside this sidecar accepts connections, and passes the health checks that are declared.

mod ask;
mod backlog;
mod checks;
mod verdict;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use portolan_runtime::Shutdown;
use portolan_transport::listen;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

pub(crate) use backlog::waiting;
use checks::Checked;
pub use checks::Declared;
pub use verdict::{AppHealth, PAUSE_DOWN, PAUSE_UP};
use verdict::{Finding, Verdicts};

/// How long a probe waits for its connection.
pub const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// The least pause between probes, however many calls fail.
const PAUSE_MIN: Duration = Duration::from_millis(25);

/// What is known of the app. Clones share it.
#[derive(Debug, Clone)]
pub struct Probe {
    health: watch::Receiver<AppHealth>,
    hurry: Arc<Notify>,
    stuck: Stuck,
}

/// The ports, and whether those who call there found the app stuck.
type Stuck = Arc<BTreeMap<u16, AtomicBool>>;

/// The part that probes. Nothing is known until it runs.
#[derive(Debug)]
pub struct Prober {
    app: IpAddr,
    verdicts: Verdicts,
    health: watch::Sender<AppHealth>,
    hurry: Arc<Notify>,
    stuck: Stuck,
    declared: Option<Declared>,
    checked: Checked,
}

/// Prepares to probe these ports of the app.
#[must_use]
pub fn new(app: IpAddr, ports: impl IntoIterator<Item = u16>) -> (Probe, Prober) {
    let verdicts = Verdicts::new(ports);
    let stuck: Stuck = Arc::new(
        verdicts
            .ports()
            .map(|port| (port, AtomicBool::new(false)))
            .collect(),
    );
    let (sender, health) = watch::channel(verdicts.health());
    let hurry = Arc::new(Notify::new());
    let prober = Prober {
        app,
        verdicts,
        health: sender,
        declared: None,
        checked: Checked::new(Arc::clone(&hurry)),
        hurry: Arc::clone(&hurry),
        stuck: Arc::clone(&stuck),
    };
    let probe = Probe {
        health,
        hurry,
        stuck,
    };
    (probe, prober)
}

impl Probe {
    /// Follows the app's health.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<AppHealth> {
        self.health.clone()
    }

    /// Whether the app was seen not to accept connections on this port.
    #[must_use]
    pub fn is_down(&self, port: u16) -> bool {
        self.health.borrow().down.contains(&port)
    }

    /// Says that a connection to the app failed: it is probed at once.
    pub fn note_failure(&self) {
        self.hurry.notify_one();
    }

    /// Says that the app neither accepts connections on this port nor answers: it is not ready until it
    /// accepts some again.
    pub fn note_stuck(&self, port: u16) {
        if let Some(stuck) = self.stuck.get(&port)
            && !stuck.swap(true, Ordering::Relaxed)
        {
            self.hurry.notify_one();
        }
    }
}

impl Prober {
    /// Also carries out what is declared.
    #[must_use]
    pub fn with_checks(self, declared: Declared) -> Self {
        Self {
            declared: Some(declared),
            ..self
        }
    }

    /// Probes until the shutdown.
    pub async fn run(mut self, shutdown: Shutdown) {
        let (app, checked) = (self.app, self.checked.clone());
        let declared = self.declared.take();
        let checking = async {
            if let Some(declared) = declared {
                checks::run(app, declared, checked).await;
            }
        };
        let forever = async {
            loop {
                self.probe().await;
                let pause = self.verdicts.pause();
                sleep(PAUSE_MIN).await;
                tokio::select! {
                    () = sleep(pause.saturating_sub(PAUSE_MIN)) => {}
                    () = self.hurry.notified() => {}
                }
            }
        };
        let both = async { tokio::join!(forever, checking) };
        shutdown.unless_triggered::<((), ())>(both).await;
    }

    async fn probe(&mut self) {
        let (app, stuck) = (self.app, &self.stuck);
        let findings = join_all(self.verdicts.ports().map(|port| async move {
            let finding = match stuck.get(&port) {
                Some(stuck) if still_stuck(stuck, app, port) => Finding::Stuck,
                Some(_) | None => find(app, port).await,
            };
            (port, finding)
        }));
        for (port, finding) in findings.await {
            self.verdicts.record(port, finding);
        }
        let health = self.checked.add_to(self.verdicts.health());
        self.health.send_if_modified(|current| {
            let changed = *current != health;
            if changed {
                tracing::info!(ready = health.ready, detail = health.detail, "app health");
                *current = health;
            }
            changed
        });
    }
}

/// Whether the app was found stuck and is so still. No connection is added to those that wait.
fn still_stuck(stuck: &AtomicBool, app: IpAddr, port: u16) -> bool {
    if !stuck.load(Ordering::Relaxed) {
        return false;
    }
    let waits = waiting(app, port).is_some_and(|waiting| waiting > 0);
    stuck.store(waits, Ordering::Relaxed);
    waits
}

async fn find(app: IpAddr, port: u16) -> Finding {
    match listen::connect((app, port).into(), PROBE_TIMEOUT).await {
        Ok(_) => Finding::Accepted,
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Finding::Silent,
        Err(_) => Finding::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const AMPLE: Duration = Duration::from_secs(10);

    async fn until(health: &mut watch::Receiver<AppHealth>, ready: bool) {
        let wanted = health.wait_for(|health| health.ready == ready);
        tokio::time::timeout(AMPLE, wanted).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_app_that_dies_and_returns_is_noticed() {
        let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = app.local_addr().unwrap();
        let (probe, prober) = new(addr.ip(), [addr.port()]);
        let shutdown = Shutdown::new();
        let running = tokio::spawn(prober.run(shutdown.clone()));
        let mut health = probe.health();
        until(&mut health, true).await;

        drop(app);
        let failed = std::time::Instant::now();
        probe.note_failure();
        until(&mut health, false).await;
        assert!(
            failed.elapsed() < PAUSE_UP,
            "the failure was not waited for"
        );

        let _app = TcpListener::bind(addr).await.unwrap();
        until(&mut health, true).await;
        shutdown.trigger();
        running.await.unwrap();
    }

    #[tokio::test]
    async fn an_app_that_is_stuck_is_not_ready_until_it_accepts_again() {
        let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = app.local_addr().unwrap();
        let (probe, prober) = new(addr.ip(), [addr.port()]);
        let shutdown = Shutdown::new();
        let running = tokio::spawn(prober.run(shutdown.clone()));
        let mut health = probe.health();
        until(&mut health, true).await;
        probe.note_stuck(addr.port());
        until(&mut health, false).await;
        assert!(probe.is_down(addr.port()));
        while waiting(addr.ip(), addr.port()).unwrap() > 0 {
            app.accept().await.unwrap();
        }
        until(&mut health, true).await;
        shutdown.trigger();
        running.await.unwrap();
    }
}
