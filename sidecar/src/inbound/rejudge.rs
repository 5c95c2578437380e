//! Connections that were allowed, judged again when what they were judged by changes.

use std::future::pending;
use std::sync::Arc;
use std::time::SystemTime;

use portolan_model::snapshot::Trust;
use portolan_model::{Hop, Reason, Refusal};
use portolan_trust::{TrustBundle, Usage};
use rustls_pki_types::UnixTime;

use super::{Worker, judge};
use crate::sessions::Facts;

/// Judges live connections again after each snapshot.
pub(super) async fn rejudge_always(worker: &Worker) {
    let mut changed = worker.shared.changed.clone();
    let mut judged_by: Option<Arc<Trust>> = worker.shared.snapshot.load().trust.clone();
    while changed.changed().await.is_ok() {
        let snapshot = worker.shared.snapshot.load_full();
        let roots = changed_roots(judged_by.as_deref(), snapshot.trust.as_deref());
        judged_by.clone_from(&snapshot.trust);
        let judge = |facts: &Facts| {
            if let Some(roots) = &roots {
                still_trusted(facts, roots)?;
            }
            judge::judge(&snapshot, &worker.shared.workload, facts)
        };
        let revoked = worker.sessions.rejudge(judge);
        worker.shared.metrics.revoked(revoked);
    }
    // The feed ended with the process; the last snapshot stays in force.
    pending().await
}

/// The roots, if they are other ones now.
fn changed_roots(before: Option<&Trust>, now: Option<&Trust>) -> Option<TrustBundle> {
    let now = now.filter(|now| before != Some(now))?;
    TrustBundle::from_der(now.roots.iter().cloned()).ok()
}

/// Whether the caller's certificates lead to one of the roots.
fn still_trusted(facts: &Facts, roots: &TrustBundle) -> Result<(), Refusal> {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = UnixTime::since_unix_epoch(since_epoch.unwrap_or_default());
    portolan_trust::verify(&facts.chain, roots, Usage::Client, now)
        .map(drop)
        .map_err(|error| Refusal::new(Reason::IdentityMismatch, Hop::Inbound, error.to_string()))
}
