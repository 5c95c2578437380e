//! Running the daemons: read the file, run until told to stop, say in one sentence what failed.

use std::path::Path;

use portolan_runtime::shutdown::Shutdown;
use portolan_runtime::start::StartError;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{Code, Failure, chain};

/// Set by the demo for its children: the demo's process id.
pub(crate) const PARENT_VARIABLE: &str = "PORTOLAN_DEMO_PARENT";

/// A child of the demo ends with the demo, however the demo ends.
pub(crate) fn follow_parent() -> Result<(), Failure> {
    let Some(parent) = std::env::var(PARENT_VARIABLE)
        .ok()
        .and_then(|text| text.parse().ok())
    else {
        return Ok(());
    };
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Failure::internal(format!("cannot follow the demo's end: {error}")))?;
    // The demo may have ended before the line above took effect.
    if getppid().map(Pid::as_raw_nonzero).map(i32::from) == Some(parent) {
        Ok(())
    } else {
        Err(Failure::internal(
            "the demo that started this process has ended",
        ))
    }
}

pub(crate) fn control(file: &Path) -> Result<(), Failure> {
    run(file, |config, shutdown| {
        portolan_control::run(config, shutdown).map_err(|error| control_failure(&error))
    })
}

pub(crate) fn gateway(file: &Path) -> Result<(), Failure> {
    run(file, |config, shutdown| {
        portolan_gateway::run(config, shutdown).map_err(|error| failure(&error))
    })
}

pub(crate) fn sidecar(file: &Path) -> Result<(), Failure> {
    run(file, |config, shutdown| {
        portolan_sidecar::run(config, shutdown).map_err(|error| failure(&error))
    })
}

fn run<C: DeserializeOwned>(
    file: &Path,
    daemon: impl FnOnce(C, Shutdown) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let config = portolan_runtime::config::load(file).map_err(|error| failure(&error.into()))?;
    let shutdown = Shutdown::on_signals().map_err(|error| failure(&error))?;
    daemon(config, shutdown)
}

fn control_failure(error: &portolan_control::StartError) -> Failure {
    use portolan_control::StartError as Control;
    let code = match error {
        Control::System(error) => return failure(error),
        Control::Config(_) | Control::Name(_) => Code::Invalid,
        Control::Ca(_) | Control::Tls(_) => Code::Identity,
        Control::Registry(_) | Control::Internal { .. } => Code::Files,
        Control::Dns(_) => Code::Bind,
    };
    Failure::new(code, chain(error))
}

fn failure(error: &StartError) -> Failure {
    let code = match error {
        StartError::Config(_) => Code::Invalid,
        StartError::Bind { .. } => Code::Bind,
        StartError::Identity { .. } => Code::Identity,
        StartError::Io { .. } => Code::Files,
        StartError::Worker { .. } | StartError::Stopped => Code::Internal,
    };
    Failure::new(code, chain(error))
}

/// Resolves when the process is asked to stop, or its terminal is closed.
pub(crate) async fn stop_signal() {
    let closed = async {
        match signal(SignalKind::hangup()) {
            Ok(mut closed) => closed.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    let asked = async {
        match Shutdown::on_signals() {
            Ok(shutdown) => shutdown.triggered().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = closed => {}
        () = asked => {}
    }
}
