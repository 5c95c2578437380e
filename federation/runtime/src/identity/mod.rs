//! A proxy's own identity: kept in its state folder, gained by joining, renewed at half life.

mod certify;
mod store;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portolan_model::SpiffeId;
use portolan_transport::mtls::TlsContext;
use portolan_trust::BACKDATE_S;
use tokio::sync::watch;

use self::certify::{Certified, Certifier, CertifyError};
use self::store::State;
use crate::backoff::Backoff;
use crate::durable::ensure_folder;
use crate::settings::ControlClientConfig;
use crate::shutdown::Shutdown;
use crate::start::StartError;
use crate::workers::chain;

pub(crate) use self::store::save_roots;

/// The first wait after a failed try.
const RETRY_FLOOR: Duration = Duration::from_millis(250);
/// The longest wait while nobody answers.
const RETRY_CEILING: Duration = Duration::from_secs(2);
/// The wait after a refusal, which only a person can change.
const REFUSED_WAIT: Duration = Duration::from_secs(15);
/// Which part of its remaining life a certificate has behind it when it is renewed.
const RENEWAL_POINT: std::ops::RangeInclusive<f64> = 0.4..=0.6;
/// Renewals are never closer together.
const RENEWAL_WAIT_MIN: Duration = Duration::from_secs(1);
/// How often the wall clock is looked at: it may jump while the machine sleeps.
const CLOCK_CHECK: Duration = Duration::from_secs(30);

/// An identity that renews itself until the shutdown.
#[derive(Debug, Clone)]
pub struct IdentityHandle {
    /// TLS with the current identity and trust; always up to date.
    pub tls: TlsContext,
    /// Who we are.
    pub id: SpiffeId,
    /// When the current certificate ends, in Unix seconds; changes with every renewal.
    pub not_after_s: watch::Receiver<u64>,
}

/// Gets the identity `id`: the one in the state folder while it is valid, else by joining, which
/// is tried until it succeeds or the shutdown is triggered. Then renews it in the background.
///
/// Call it inside a Tokio runtime that lives as long as the process.
///
/// # Errors
/// When the state folder or the trust bundle cannot be used, there is no way to join, or the
/// shutdown came first ([`StartError::Stopped`]).
pub async fn start(
    config: &ControlClientConfig,
    id: SpiffeId,
    shutdown: Shutdown,
) -> Result<IdentityHandle, StartError> {
    ensure_folder(&config.state_dir)?;
    let state = State::new(&config.state_dir);
    let trust = state.load_roots(&config.trust_bundle)?;
    let tls = TlsContext::new(None, trust)
        .map_err(|error| StartError::identity(chain(&error), "this is a defect of the program"))?;
    let mut keeper = Keeper {
        certifier: Certifier::new(config, id.clone(), tls.clone()),
        state,
        tls: tls.clone(),
        backoff: Backoff::new(RETRY_FLOOR, RETRY_CEILING),
    };
    let (issued_s, not_after_s) = match keeper.load(&id) {
        Some(times) => times,
        None => {
            keeper.certifier.check_can_join()?;
            let joined = shutdown.unless_triggered(keeper.certify("joining")).await;
            joined.ok_or(StartError::Stopped)?
        }
    };
    let (end, not_after_s) = watch::channel(not_after_s);
    tokio::spawn(async move {
        let renewing = keeper.renew_for_ever(issued_s, end);
        shutdown.unless_triggered(renewing).await;
    });
    Ok(IdentityHandle {
        tls,
        id,
        not_after_s,
    })
}

/// Keeps the identity in the TLS context and in the state folder current.
struct Keeper {
    certifier: Certifier,
    state: State,
    tls: TlsContext,
    backoff: Backoff,
}

impl Keeper {
    /// Takes the identity of the state folder if it is `id` and valid now: when it was issued, and when it ends.
    fn load(&self, id: &SpiffeId) -> Option<(u64, u64)> {
        let identity = self.state.load_identity()?;
        if let Err(problem) = certify::check(&identity, id, &self.tls.trust(), now_s()) {
            tracing::info!(%id, problem, "the identity in the state folder cannot be used: joining");
            return None;
        }
        let times = (identity.not_before_s + BACKDATE_S, identity.not_after_s);
        tracing::info!(%id, ends_in_s = times.1.saturating_sub(now_s()), "identity loaded");
        match self.tls.swap_identity(identity) {
            Ok(()) => Some(times),
            Err(error) => {
                tracing::warn!(
                    problem = chain(&error),
                    "the saved identity cannot be used: joining"
                );
                None
            }
        }
    }

    /// Tries until there is a new certificate: when it was issued, and when it ends.
    async fn certify(&mut self, doing: &'static str) -> (u64, u64) {
        loop {
            match Box::pin(self.certifier.certify()).await {
                Ok(certified) => match self.take(certified) {
                    Ok(times) => {
                        self.backoff.reset();
                        return times;
                    }
                    Err(error) => self.pause(doing, &error).await,
                },
                Err(error) => self.pause(doing, &error).await,
            }
        }
    }

    /// Puts a new certificate to use: when it was issued, and when it ends.
    fn take(&self, certified: Certified) -> Result<(u64, u64), CertifyError> {
        let Certified {
            identity,
            roots,
            way,
        } = certified;
        let times = (now_s(), identity.not_after_s);
        self.tls.swap_identity(identity.clone()).map_err(|error| {
            let problem = chain(&error);
            CertifyError::Unusable { way, problem }
        })?;
        self.state.save_identity(&identity);
        if let Some(roots) = roots.filter(|roots| *roots != *self.tls.trust()) {
            self.state.save_roots(&roots);
            self.tls.swap_trust(roots);
        }
        tracing::info!(id = %identity.id, way, ends_in_s = times.1.saturating_sub(times.0), "certified");
        Ok(times)
    }

    async fn pause(&mut self, doing: &'static str, error: &CertifyError) {
        let wait = if error.is_refusal() {
            REFUSED_WAIT.mul_f64(rand::random_range(0.8..=1.2))
        } else {
            self.backoff.wait()
        };
        let problem = chain(error);
        let retry_in_ms = wait.as_millis();
        if error.is_refusal() {
            tracing::error!(
                problem,
                retry_in_ms,
                "{doing} was refused; somebody must change that"
            );
        } else {
            tracing::warn!(problem, retry_in_ms, "{doing} failed; trying again");
        }
        tokio::time::sleep(wait).await;
    }

    async fn renew_for_ever(mut self, mut issued_s: u64, end: watch::Sender<u64>) {
        loop {
            let not_after_s = *end.borrow();
            let point = rand::random_range(RENEWAL_POINT);
            wait_until(renewal_time(issued_s, not_after_s, point)).await;
            let not_after_s;
            (issued_s, not_after_s) = self.certify("renewing").await;
            end.send_replace(not_after_s);
        }
    }
}

/// When to renew, in Unix seconds: after `point` (0 to 1) of the life.
fn renewal_time(issued_s: u64, not_after_s: u64, point: f64) -> Duration {
    let life = Duration::from_secs(not_after_s.saturating_sub(issued_s));
    Duration::from_secs(issued_s) + life.mul_f64(point)
}

async fn wait_until(since_epoch: Duration) {
    tokio::time::sleep(RENEWAL_WAIT_MIN).await;
    loop {
        let left = since_epoch.saturating_sub(now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(CLOCK_CHECK)).await;
    }
}

fn now() -> Duration {
    // A clock before 1970 makes every certificate invalid, which is then said.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn now_s() -> u64 {
    now().as_secs()
}

#[cfg(test)]
mod tests;
