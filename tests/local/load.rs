//! Load at a fixed rate that counts every request.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::call::get;

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

/// Sends `total` GETs at `per_second`; each request is due at its own time, whether or not those before
/// it were answered, and its latency counts from then.
pub(crate) async fn gets(
    proxy: SocketAddr,
    url: &'static str,
    per_second: u32,
    total: u32,
) -> Tally {
    let begin = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..total {
        let at = Duration::from_secs_f64(f64::from(number) / f64::from(per_second));
        tokio::time::sleep_until((begin + at).into()).await;
        tasks.spawn(async move {
            let outcome = match get(proxy, url).await {
                Ok(answer) if answer.status == 200 => Ok(answer.cluster()),
                Ok(answer) => Err(format!("{}: {}", answer.status, answer.refusal())),
                Err(error) => Err(error),
            };
            Sent {
                at,
                took: begin.elapsed().saturating_sub(at),
                outcome,
            }
        });
    }
    let mut sent = tasks.join_all().await;
    sent.sort_by_key(|sent| sent.at);
    Tally { sent }
}

/// Runs a load on a thread of its own; `meanwhile` does the damage.
pub(crate) fn gets_while(
    proxy: SocketAddr,
    url: &'static str,
    per_second: u32,
    total: u32,
    meanwhile: impl FnOnce(),
) -> Tally {
    std::thread::scope(|scope| {
        let load =
            scope.spawn(|| super::call::runtime().block_on(gets(proxy, url, per_second, total)));
        meanwhile();
        load.join().unwrap()
    })
}
