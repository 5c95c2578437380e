//! Asking the control plane for tokens of the limits that all instances keep together.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use portolan_api::quota::{Answer, Question, Want, Wish};
use portolan_policy::limit::lease::ASK_EVERY;
use portolan_runtime::ControlClientConfig;
use portolan_runtime::Shutdown;
use portolan_runtime::quota::QuotaClient;
use portolan_transport::mtls::TlsContext;
use tokio::time::{sleep, timeout};

use super::{Count, Limit, Limits};

/// The pause between two askings.
pub(super) const PAUSE: Duration = ASK_EVERY;
/// The least pause, however many wait.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// How long an answer may take.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// The most keys of one limit in one question; the rest comes with the next one.
const WANTS_MAX: usize = 500;

/// Asks until the shutdown.
struct Asker {
    limits: Limits,
    client: QuotaClient,
    control_planes: u32,
    epoch: u64,
    heard_ms: u64,
}

/// What was asked for, in the order of the question.
type Asked = Vec<(Arc<Limit>, Vec<(String, u32, Arc<Count>)>)>;

impl Limits {
    /// Asks for tokens while there are limits that need them, until the shutdown, and says farewell then.
    pub async fn keep_asking(
        self,
        config: ControlClientConfig,
        tls: TlsContext,
        shutdown: Shutdown,
    ) {
        let mut asker = Asker {
            client: QuotaClient::new(&config, &tls),
            control_planes: u32::try_from(config.control.len()).unwrap_or(1),
            epoch: 0,
            heard_ms: 0,
            limits: self,
        };
        shutdown.unless_triggered(asker.ask_always()).await;
        asker.farewell().await;
    }

    fn shared(&self) -> Vec<Arc<Limit>> {
        let active = self.0.active.load();
        let all = active.0.values().flat_map(|serving| &serving.limits);
        all.filter(|limit| limit.is_shared()).cloned().collect()
    }
}

impl Asker {
    async fn ask_always(&mut self) {
        loop {
            let limits = self.limits.shared();
            if limits.is_empty() {
                self.limits.0.hurry.notified().await;
                continue;
            }
            self.ask(&limits).await;
            sleep(PAUSE_MIN).await;
            let hurry = self.limits.0.hurry.notified();
            let _ = timeout(PAUSE.saturating_sub(PAUSE_MIN), hurry).await;
        }
    }

    async fn ask(&mut self, limits: &[Arc<Limit>]) {
        let at = self.limits.now();
        let asked = wanted(limits, at);
        let question = self.question(&asked);
        match timeout(ANSWER_WAIT, self.client.ask(question)).await {
            Ok(Ok(answer)) => return self.hear(answer, &asked, at),
            Ok(Err(problem)) => tracing::debug!(problem, "no tokens for shared limits"),
            Err(_) => tracing::debug!("the control plane did not answer in time"),
        }
        self.limits.0.unanswered.store(true, Ordering::Relaxed);
    }

    fn question(&self, asked: &Asked) -> Question {
        let wishes = asked.iter().map(|(limit, wants)| Wish {
            service: limit.service.to_string(),
            limit: limit.spec.name.clone(),
            share: limit.share_in_use(),
            wants: wants
                .iter()
                .map(|(key, tokens, _)| Want {
                    key: key.clone(),
                    tokens: *tokens,
                })
                .collect(),
        });
        Question {
            workload: self.limits.0.workload.to_string(),
            epoch: self.epoch,
            heard_ms: self.heard_ms,
            farewell: false,
            control_planes: self.control_planes,
            wishes: wishes.collect(),
        }
    }

    fn hear(&mut self, answer: Answer, asked: &Asked, at: Duration) {
        let useless = answer.starting || answer.grants.len() != asked.len();
        self.limits.0.unanswered.store(useless, Ordering::Relaxed);
        if useless {
            return;
        }
        (self.epoch, self.heard_ms) = (answer.epoch, answer.now_ms);
        for ((limit, wants), grant) in asked.iter().zip(answer.grants) {
            limit.share.store(grant.share, Ordering::SeqCst);
            for ((_, wanted, count), given) in wants.iter().zip(grant.tokens) {
                count.lease.put(*wanted, given.min(*wanted), at);
            }
        }
        self.limits.0.contact.answered(at);
        self.limits.0.given.notify_waiters();
    }

    /// Frees this instance's shares for the others.
    async fn farewell(&mut self) {
        let limits = self.limits.shared();
        if limits.is_empty() {
            return;
        }
        let asked: Asked = limits.into_iter().map(|limit| (limit, vec![])).collect();
        let question = Question {
            farewell: true,
            ..self.question(&asked)
        };
        // Whoever does not hear it sees us fall silent.
        let _ = timeout(ANSWER_WAIT, self.client.ask(question)).await;
    }
}

/// What is wanted of each limit: always something of each, since asking is a sign of life.
fn wanted(limits: &[Arc<Limit>], at: Duration) -> Asked {
    let each = limits.iter().map(|limit| {
        let wants = limit.counts.all().into_iter().filter_map(|(key, count)| {
            let tokens = count.lease.asking(at);
            (tokens > 0).then_some((key, tokens, count))
        });
        (Arc::clone(limit), wants.take(WANTS_MAX).collect())
    });
    each.collect()
}
