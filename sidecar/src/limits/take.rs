//! Whether a request or connection is within its limits.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use portolan_model::limit::{Alone, LimitAmount};
use portolan_model::{Hop, Reason, Refusal};
use portolan_policy::limit::budget::slots_of_share;
use portolan_policy::limit::{self, lease::Empty};
use portolan_policy::matching::Request;
use smallvec::SmallVec;
use tokio::time::timeout;

use super::{Cache, Count, Limit, Measure};
use crate::sessions::Facts;

/// How long a request waits for the first tokens of a limit that all instances keep together.
const TOKENS_WAIT: Duration = Duration::from_millis(400);

/// The fields of draft-ietf-httpapi-ratelimit-headers-06.
const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// What a caller is told of the limit that it is nearest to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    limit: u64,
    remaining: u64,
    reset: Duration,
}

/// A limit is reached.
#[derive(Debug, Clone)]
pub(crate) struct Limited {
    pub(crate) refusal: Refusal,
    /// The limit's name.
    pub(crate) name: Arc<str>,
    told: Told,
    retry_after: Duration,
}

/// A connection that counts until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Connected(SmallVec<[Arc<Count>; 2]>);

impl Drop for Connected {
    fn drop(&mut self) {
        for count in &self.0 {
            count.open.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

type Taken = SmallVec<[(Arc<Limit>, Arc<Count>); 2]>;

impl Cache {
    /// Counts a request, unless a limit is reached; then none of them has counted it.
    pub(crate) async fn request(
        &self,
        facts: &Facts,
        request: &Request<'_>,
    ) -> Result<Option<Told>, Limited> {
        let Some(serving) = self.serving(&facts.service) else {
            return Ok(None);
        };
        let mut taken = Taken::new();
        let mut nearest: Option<Told> = None;
        for limit in &serving.limits {
            if !limit::counts(&limit.spec, limit.port, facts.port, request) {
                continue;
            }
            let key = limit::key(&limit.spec.per, &facts.caller, request);
            let count = self.count(limit, key.as_deref());
            let told = match limit.measure {
                Measure::Requests(rate) => count
                    .bucket
                    .take(&rate, 1, self.limits().now())
                    .map(|left| limit.told(left.remaining, left.full_after)),
                Measure::Shared(..) => self.take_shared(limit, &count).await,
                Measure::Connections(_)
                | Measure::SharedConnections(..)
                | Measure::Bytes(_)
                | Measure::SharedBytes(..) => continue,
            };
            match told {
                Ok(told) => {
                    taken.push((Arc::clone(limit), count));
                    nearest = Some(match nearest {
                        Some(other) if other.remaining <= told.remaining => other,
                        Some(_) | None => told,
                    });
                }
                Err(wait) => {
                    give_back(&taken);
                    return Err(limit.reached(wait));
                }
            }
        }
        Ok(nearest)
    }

    /// Spends a token of this instance's. Whoever comes first waits for an answer.
    async fn take_shared(&self, limit: &Limit, count: &Count) -> Result<Told, Duration> {
        let inner = &self.limits().0;
        let spent =
            |count: &Count, at| limit.told(count.lease.unspent(at).into(), super::ask::PAUSE);
        let now = self.limits().now();
        let empty = match count.lease.take(now) {
            Ok(()) => return Ok(spent(count, now)),
            Err(empty) => empty,
        };
        if empty == Empty::Unasked && !inner.unanswered.load(Ordering::Relaxed) {
            let asked = async {
                loop {
                    let given = inner.given.notified();
                    inner.hurry.notify_one();
                    given.await;
                    let now = self.limits().now();
                    match count.lease.take(now) {
                        Ok(()) => return Some(spent(count, now)),
                        // The answer may have been to a question before ours.
                        Err(Empty::Unasked) => {}
                        Err(Empty::Reached(_)) => return None,
                    }
                }
            };
            // Without an answer in time it goes on as one who is alone.
            if let Ok(Some(told)) = timeout(TOKENS_WAIT, asked).await {
                return Ok(told);
            }
        }
        let now = self.limits().now();
        let (Some(since), Measure::Shared(rate, alone)) =
            (inner.contact.alone_since(now), limit.measure)
        else {
            return Err(super::ask::PAUSE);
        };
        let share = limit.share.load(Ordering::Relaxed);
        let left = count.lease.take_alone(alone, (&rate, share), since, now)?;
        Ok(match left {
            Some(left) => limit.told(left.remaining, left.full_after),
            None => limit.told(rate.burst(), Duration::ZERO),
        })
    }

    /// Counts a connection until the answer is dropped, and says if it is one too many. Of a limit that all
    /// instances keep together the first one waits for this instance's part.
    pub(crate) async fn connect(&self, facts: &Facts) -> (Connected, Option<Limited>) {
        let mut connected = Connected::default();
        let Some(serving) = self.serving(&facts.service) else {
            return (connected, None);
        };
        for limit in &serving.limits {
            if !limit::on_port(limit.port, facts.port) {
                continue;
            }
            let key = || limit::caller_key(&limit.spec.per, &facts.caller);
            let count = match limit.measure {
                Measure::Connections(most) => {
                    let count = self.count(limit, key().as_deref());
                    enter(&count, || most).then_some(count)
                }
                Measure::SharedConnections(all, alone) => {
                    let count = self.count(limit, key().as_deref());
                    let entered = self.enter_shared(limit, &count, (all, alone)).await;
                    entered.then_some(count)
                }
                Measure::Requests(_)
                | Measure::Shared(..)
                | Measure::Bytes(_)
                | Measure::SharedBytes(..) => continue,
            };
            match count {
                Some(count) => connected.0.push(count),
                None => {
                    let reached = limit.reached(Duration::from_secs(1));
                    return (Connected::default(), Some(reached));
                }
            }
        }
        (connected, None)
    }

    /// Counts a connection of this instance's part.
    async fn enter_shared(&self, limit: &Limit, count: &Count, (all, alone): (u32, Alone)) -> bool {
        let inner = &self.limits().0;
        let part = || slots_of_share(limit.share.load(Ordering::SeqCst), all);
        let unasked = part() == 0 && !inner.unanswered.load(Ordering::Relaxed);
        if unasked {
            let given = async {
                loop {
                    let given = inner.given.notified();
                    inner.hurry.notify_one();
                    given.await;
                    if part() > 0 {
                        return;
                    }
                }
            };
            // Without a part in time it goes on as one who has none.
            let _ = timeout(TOKENS_WAIT, given).await;
        }
        match (inner.contact.alone_since(self.limits().now()), alone) {
            (Some(_), Alone::Open) => enter(count, || u32::MAX),
            (Some(_), Alone::Closed) => false,
            (Some(_), Alone::LastShare) | (None, _) => enter(count, part),
        }
    }
}

/// Counts one more, unless there are as many as there may be.
fn enter(count: &Count, most: impl Fn() -> u32) -> bool {
    let more = |open: u32| (open < most()).then(|| open + 1);
    let entered = count
        .open
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
    // The part may have shrunk in between, and the control plane been told of one less. Either that count had
    // this one in it, or it is seen here that there is no room.
    let Ok(before) = entered else {
        return false;
    };
    let stays = before < most();
    if !stays {
        count.open.fetch_sub(1, Ordering::SeqCst);
    }
    stays
}

fn give_back(taken: &Taken) {
    for (limit, count) in taken {
        // Tokens of a lease live for a moment only: they are not worth bringing back.
        if let Measure::Requests(rate) = limit.measure {
            count.bucket.give_back(&rate, 1);
        }
    }
}

impl Limit {
    fn told(&self, remaining: u64, reset: Duration) -> Told {
        let limit = match self.spec.amount {
            LimitAmount::Requests { count, .. } | LimitAmount::Connections(count) => count.into(),
            LimitAmount::Bytes { count, .. } => count,
        };
        Told {
            limit,
            remaining,
            reset,
        }
    }

    fn reached(&self, retry_after: Duration) -> Limited {
        let why = format!("the limit {} is reached", self.spec.name);
        Limited {
            refusal: Refusal::new(Reason::RateLimited, Hop::Inbound, why),
            name: self.spec.name.as_str().into(),
            told: self.told(0, retry_after),
            retry_after,
        }
    }
}

impl Told {
    /// Tells the caller, unless the app has told something of its own.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        if headers.contains_key(&LIMIT) {
            return;
        }
        headers.insert(LIMIT, self.limit.into());
        headers.insert(REMAINING, self.remaining.into());
        headers.insert(RESET, seconds(self.reset).into());
    }
}

impl Limited {
    /// Tells the caller when to come again.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        self.told.write(headers);
        let after: HeaderValue = seconds(self.retry_after).max(1).into();
        headers.insert(http::header::RETRY_AFTER, after);
    }
}

/// Whole seconds, rounded up.
fn seconds(time: Duration) -> u64 {
    time.as_secs()
        .saturating_add(u64::from(time.subsec_nanos() > 0))
}
