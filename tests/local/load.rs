//! Load at a fixed rate that counts every request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::call::get;
use super::demo::eventually;

/// One request: when it was due, how long it took from then on, and what came of it.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) at: Duration,
    pub(crate) took: Duration,
    pub(crate) outcome: Result<String, String>,
}

/// What became of a load.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) sent: Vec<Sent>,
}

impl Tally {
    pub(crate) fn failures(&self) -> Vec<&Sent> {
        self.sent
            .iter()
            .filter(|sent| sent.outcome.is_err())
            .collect()
    }

    pub(crate) fn longest(&self) -> Duration {
        self.sent
            .iter()
            .map(|sent| sent.took)
            .max()
            .unwrap_or_default()
    }

    /// How many were answered by a cluster.
    pub(crate) fn from(&self, cluster: &str) -> usize {
        self.sent
            .iter()
            .filter(|sent| sent.outcome.as_deref() == Ok(cluster))
            .count()
    }
}

/// A load: GETs of one URL through one proxy.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) proxy: SocketAddr,
    pub(crate) url: &'static str,
    pub(crate) per_second: u32,
    pub(crate) total: u32,
}

impl Load {
    /// Sends the load on a thread of its own; when `after` of its requests are answered, `meanwhile` does
    /// the damage.
    pub(crate) fn run_while(self, after: usize, meanwhile: impl FnOnce()) -> Tally {
        let answered = Arc::new(AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let counter = Arc::clone(&answered);
            let load = scope.spawn(|| super::call::runtime().block_on(self.send(counter)));
            eventually("the load runs", || {
                answered.load(Ordering::Relaxed) >= after || load.is_finished()
            });
            meanwhile();
            load.join().unwrap()
        })
    }

    /// Each request is due at its own time, whether or not those before it were answered, and its latency
    /// counts from then.
    async fn send(self, answered: Arc<AtomicUsize>) -> Tally {
        let begin = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..self.total {
            let at = Duration::from_secs_f64(f64::from(number) / f64::from(self.per_second));
            tokio::time::sleep_until((begin + at).into()).await;
            let answered = Arc::clone(&answered);
            tasks.spawn(async move {
                let outcome = match get(self.proxy, self.url).await {
                    Ok(answer) if answer.status == 200 => Ok(answer.cluster()),
                    Ok(answer) => Err(format!("{}: {}", answer.status, answer.refusal())),
                    Err(error) => Err(error),
                };
                answered.fetch_add(1, Ordering::Relaxed);
                let took = begin.elapsed().saturating_sub(at);
                Sent { at, took, outcome }
            });
        }
        let mut sent = tasks.join_all().await;
        sent.sort_by_key(|sent| sent.at);
        Tally { sent }
    }
}
