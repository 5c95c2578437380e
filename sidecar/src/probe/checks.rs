//! The health checks that are declared, each at its own pace.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use portolan_model::WorkloadKey;
use portolan_model::snapshot::Snapshot;
use portolan_model::traffic::HealthCheck;
use portolan_policy::health::{Judge, Thresholds};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::AppHealth;
use super::ask::ask;

/// The most checks of one workload; more are left out.
const CHECKS_MAX: usize = 64;

/// Where the checks are declared.
#[derive(Debug)]
pub struct Declared {
    /// The own workload.
    pub workload: WorkloadKey,
    /// The newest snapshot.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Changes with every snapshot.
    pub changed: watch::Receiver<u64>,
}

/// What the checks found, and who is told of news.
#[derive(Debug, Clone)]
pub(super) struct Checked {
    /// What is wrong, for people; one place for each check.
    wrong: Arc<Mutex<Vec<Option<String>>>>,
    news: Arc<Notify>,
}

impl Checked {
    pub(super) fn new(news: Arc<Notify>) -> Self {
        Self {
            wrong: Arc::default(),
            news,
        }
    }

    /// Adds what the checks found.
    pub(super) fn add_to(&self, mut health: AppHealth) -> AppHealth {
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        for problem in wrong.iter().flatten() {
            health.ready = false;
            if !health.detail.is_empty() {
                health.detail.push_str("; ");
            }
            health.detail.push_str(problem);
        }
        health
    }

    fn begin(&self, count: usize) {
        *self.wrong.lock().unwrap_or_else(PoisonError::into_inner) = vec![None; count];
        self.news.notify_one();
    }

    fn put(&self, place: usize, problem: Option<String>) {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = wrong.get_mut(place) {
            *known = problem;
        }
        drop(wrong);
        self.news.notify_one();
    }
}

/// Carries out what is declared, until it is dropped.
pub(super) async fn run(app: IpAddr, mut declared: Declared, checked: Checked) {
    let mut wanted = Vec::new();
    let mut running = JoinSet::new();
    loop {
        let now = checks(&declared.snapshot.load(), &declared.workload);
        if now != wanted {
            wanted = now;
            // The old ones end here, and the new ones begin without prejudice.
            running = JoinSet::new();
            checked.begin(wanted.len());
            for (place, (port, check)) in wanted.iter().cloned().enumerate() {
                running.spawn(check_always(app, port, check, place, checked.clone()));
            }
        }
        if declared.changed.changed().await.is_err() {
            // The feed ended with the process; what is declared stays in force.
            while running.join_next().await.is_some() {}
            return;
        }
    }
}

/// The declared checks, by the app's port.
fn checks(snapshot: &Snapshot, workload: &WorkloadKey) -> Vec<(u16, HealthCheck)> {
    let Some(inbound) = snapshot.inbound.get(workload) else {
        return Vec::new();
    };
    let mut found: Vec<(u16, HealthCheck)> = Vec::new();
    for port in &inbound.ports {
        let rules = inbound.rules.get(&port.service);
        let checks = rules.into_iter().flat_map(|rules| &rules.health_checks);
        for check in checks.filter(|check| check.port.is_none_or(|number| number == port.port)) {
            // Several service ports may lead to one port of the app.
            let one = (port.app_port, check.clone());
            if found.len() < CHECKS_MAX && !found.contains(&one) {
                found.push(one);
            }
        }
    }
    found
}

async fn check_always(app: IpAddr, port: u16, check: HealthCheck, place: usize, checked: Checked) {
    let started = Instant::now();
    let mut judge = Judge::default();
    let thresholds = Thresholds {
        healthy: check.healthy_threshold,
        unhealthy: check.unhealthy_threshold,
    };
    loop {
        let answer = ask(app, port, &check).await;
        let changed = judge.record(answer.is_ok(), thresholds, started.elapsed());
        if changed {
            let problem = answer.err();
            let problem =
                problem.map(|why| format!("the health check of port {port} fails: {why}"));
            checked.put(place, problem);
        }
        sleep(check.interval).await;
    }
}

#[cfg(test)]
mod tests;
