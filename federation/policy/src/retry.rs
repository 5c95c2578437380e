//! Whether a call that failed is tried again, and when.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use portolan_model::Reason;
use portolan_model::traffic::Retries;
use smallvec::SmallVec;

/// gRPC's status `UNAVAILABLE`.
pub const GRPC_UNAVAILABLE: u32 = 14;

/// When calls are tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries after the first one.
    pub attempts: u8,
    /// The ceiling of the wait before the first retry; it doubles with each further one.
    pub backoff_base: Duration,
    /// The ceiling of every wait.
    pub backoff_max: Duration,
    /// The least wait.
    pub backoff_least: Duration,
    /// HTTP statuses after which idempotent calls are tried again.
    pub statuses: SmallVec<[u16; 4]>,
    /// gRPC statuses after which calls are tried again, besides `UNAVAILABLE`.
    pub grpc_statuses: SmallVec<[u32; 4]>,
    /// How long each try may take until the answer's head.
    pub per_try_timeout: Option<Duration>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 2,
            backoff_base: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
            backoff_least: Duration::ZERO,
            statuses: SmallVec::from_slice(&[502, 503, 504]),
            grpc_statuses: SmallVec::new(),
            per_try_timeout: None,
        }
    }
}

/// How a try failed. Nothing of its response was passed on yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The upstream did not accept the connection.
    ConnectFailed,
    /// HTTP/2 said that the stream was not processed (`REFUSED_STREAM`, or above `GOAWAY`'s last).
    RefusedStream,
    /// The connection or stream ended before the response's headers.
    ResetBeforeResponse,
    /// The connection was found dead before the response's headers: whoever is there answered nothing.
    Silent,
    /// An HTTP status that the app answered with.
    Status(u16),
    /// A gRPC status that the app answered with, in headers alone.
    GrpcStatus(u32),
    /// A later hop of ours refused.
    Refused(Reason),
    /// No answer in time.
    Timeout,
}

/// What of a request decides whether it may be sent twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Request {
    /// Whether its method may be repeated without harm (RFC 9110 §9.2.2).
    pub idempotent: bool,
    /// Whether it is a gRPC call.
    pub grpc: bool,
    /// Whether its body can be sent again from the beginning.
    pub replayable: bool,
}

/// Whether to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Try again, elsewhere at once: the failed try proves that nothing was processed.
    RetryNow,
    /// Try again after [`backoff`].
    RetryAfterBackoff,
    /// Answer with what there is.
    Stop(Stop),
}

/// Why a call is not tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stop {
    /// It was tried as often as the policy allows.
    Exhausted,
    /// Its body is gone.
    BodyGone,
    /// It may have been processed, and must not be twice.
    MaybeProcessed,
    /// Another try would end in the same way.
    Final,
}

/// Whether a call that was tried `tried` times, the last time with this outcome, is tried again.
/// The caller also asks the [`RetryBudget`].
#[must_use]
pub fn should_retry(
    policy: &RetryPolicy,
    outcome: Outcome,
    request: Request,
    tried: u8,
) -> Verdict {
    let safety = safety(policy, outcome, request.grpc);
    if safety == Safety::Final {
        return Verdict::Stop(Stop::Final);
    }
    if safety == Safety::IfIdempotent && !request.idempotent {
        return Verdict::Stop(Stop::MaybeProcessed);
    }
    if tried > policy.attempts {
        return Verdict::Stop(Stop::Exhausted);
    }
    if !request.replayable {
        return Verdict::Stop(Stop::BodyGone);
    }
    if safety == Safety::NotProcessed && tried <= 1 {
        Verdict::RetryNow
    } else {
        Verdict::RetryAfterBackoff
    }
}

/// The wait before retry number `retry` (from 1): anything from nothing to a ceiling that doubles,
/// so that callers who failed together don't come back together.
#[must_use]
pub fn backoff(policy: &RetryPolicy, retry: u8, random: f64) -> Duration {
    let doubled = 1_u32
        .checked_shl(u32::from(retry.saturating_sub(1)))
        .unwrap_or(u32::MAX);
    let ceiling = policy.backoff_base.saturating_mul(doubled);
    ceiling
        .min(policy.backoff_max)
        .mul_f64(random.clamp(0.0, 1.0))
        .max(policy.backoff_least)
}

/// Whether repeating a method does no harm (RFC 9110 §9.2.2).
#[must_use]
pub fn idempotent(method: &str) -> bool {
    matches!(
        method,
        "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"
    )
}

#[derive(PartialEq, Eq)]
enum Safety {
    NotProcessed,
    Asked,
    IfIdempotent,
    Final,
}

fn safety(policy: &RetryPolicy, outcome: Outcome, grpc: bool) -> Safety {
    match outcome {
        Outcome::ConnectFailed | Outcome::RefusedStream => Safety::NotProcessed,
        Outcome::ResetBeforeResponse | Outcome::Silent | Outcome::Timeout => Safety::IfIdempotent,
        Outcome::Status(status) if policy.statuses.contains(&status) => Safety::IfIdempotent,
        Outcome::GrpcStatus(status)
            if grpc && (status == GRPC_UNAVAILABLE || policy.grpc_statuses.contains(&status)) =>
        {
            Safety::Asked
        }
        Outcome::Status(_) | Outcome::GrpcStatus(_) => Safety::Final,
        Outcome::Refused(reason) => safety_of_refusal(reason),
    }
}

fn safety_of_refusal(reason: Reason) -> Safety {
    match reason {
        // Another endpoint or cluster may well take the call, and this one did not touch it.
        Reason::NoRoute
        | Reason::NotExported
        | Reason::NoHealthyUpstream
        | Reason::Overloaded
        | Reason::PeerUnreachable
        | Reason::ConnectFailed
        | Reason::IdentityMismatch
        | Reason::Draining
        | Reason::NotReady => Safety::NotProcessed,
        Reason::Reset | Reason::Timeout => Safety::IfIdempotent,
        Reason::Denied
        | Reason::BadRequest
        | Reason::Loop
        | Reason::Internal
        | Reason::InvalidBackend
        | Reason::RateLimited => Safety::Final,
    }
}

/// How many retries (and second sendings) there may be, so that they cannot multiply an overload: in any
/// [`RetryBudget::WINDOW`] a part of the requests, and some a second on top. Threads share it. Moments must not
/// go backwards by more than they take to get here.
#[derive(Debug, Default)]
pub struct RetryBudget {
    /// One for each second of the window; that of second `s` is `s % WINDOW`. Every request is counted, so this
    /// takes no lock.
    requests: [Slot; Self::WINDOW as usize],
    /// The same for retries. They are few, and no two threads may take the last one.
    retries: Mutex<[Slot; Self::WINDOW as usize]>,
}

/// What happened in one second: the second's lower half, and how often.
#[derive(Debug, Default)]
struct Slot(AtomicU64);

impl RetryBudget {
    /// How long requests and retries count, in seconds.
    pub const WINDOW: u64 = 10;

    /// Nothing was sent yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A request (not a retry) is sent.
    pub fn request(&self, now: Duration) {
        count(&self.requests, now.as_secs());
    }

    /// Takes one retry out of the budget that the policy sets, if there is one left.
    #[must_use]
    pub fn try_retry(&self, now: Duration, policy: &Retries) -> bool {
        let second = now.as_secs();
        let retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        let allowed = sum(&self.requests, second) * u64::from(policy.budget_percent) / 100
            + u64::from(policy.budget_per_second) * Self::WINDOW;
        if sum(&*retries, second) >= allowed {
            return false;
        }
        count(&*retries, second);
        true
    }
}

fn count(slots: &[Slot], second: u64) {
    if let Some(slot) = slots.get((second % RetryBudget::WINDOW) as usize) {
        slot.count(second);
    }
}

/// What happened within the window that ends with this second.
fn sum(slots: &[Slot], second: u64) -> u64 {
    slots.iter().map(|slot| slot.within(second)).sum()
}

impl Slot {
    fn count(&self, second: u64) {
        let more = |packed: u64| {
            let (of, times) = (packed >> 32, packed & u64::from(u32::MAX));
            let same = of == second & u64::from(u32::MAX);
            let times = if same {
                (times + 1).min(u32::MAX.into())
            } else {
                1
            };
            Some(second << 32 | times)
        };
        // It has an answer for everything.
        let _counted = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    fn within(&self, second: u64) -> u64 {
        let packed = self.0.load(Ordering::Relaxed);
        let current = (packed >> 32) + RetryBudget::WINDOW > second & u64::from(u32::MAX);
        if current {
            packed & u64::from(u32::MAX)
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn verdict(outcome: Outcome, idempotent: bool, grpc: bool) -> Verdict {
        let request = Request {
            idempotent,
            grpc,
            replayable: true,
        };
        should_retry(&RetryPolicy::default(), outcome, request, 1)
    }

    /// One row: outcome → (GET, POST, gRPC call).
    macro_rules! table {
        ($($outcome:expr => $get:expr, $post:expr, $grpc:expr;)*) => {
            [$(($outcome, [$get, $post, $grpc]),)*]
        };
    }

    #[test]
    fn what_is_tried_again() {
        use Verdict::{RetryAfterBackoff as Later, RetryNow as Now};
        let unsafe_ = Verdict::Stop(Stop::MaybeProcessed);
        let last = Verdict::Stop(Stop::Final);
        let rows = table! {
            Outcome::ConnectFailed => Now, Now, Now;
            Outcome::RefusedStream => Now, Now, Now;
            Outcome::ResetBeforeResponse => Later, unsafe_, unsafe_;
            Outcome::Silent => Later, unsafe_, unsafe_;
            Outcome::Status(500) => last, last, last;
            Outcome::Status(502) => Later, unsafe_, unsafe_;
            Outcome::Status(503) => Later, unsafe_, unsafe_;
            Outcome::Status(504) => Later, unsafe_, unsafe_;
            Outcome::Status(429) => last, last, last;
            Outcome::GrpcStatus(14) => last, last, Later;
            Outcome::GrpcStatus(4) => last, last, last;
            Outcome::Timeout => Later, unsafe_, unsafe_;
            Outcome::Refused(Reason::NoRoute) => Now, Now, Now;
            Outcome::Refused(Reason::NotExported) => Now, Now, Now;
            Outcome::Refused(Reason::Denied) => last, last, last;
            Outcome::Refused(Reason::NoHealthyUpstream) => Now, Now, Now;
            Outcome::Refused(Reason::Overloaded) => Now, Now, Now;
            Outcome::Refused(Reason::Timeout) => Later, unsafe_, unsafe_;
            Outcome::Refused(Reason::PeerUnreachable) => Now, Now, Now;
            Outcome::Refused(Reason::ConnectFailed) => Now, Now, Now;
            Outcome::Refused(Reason::Reset) => Later, unsafe_, unsafe_;
            Outcome::Refused(Reason::IdentityMismatch) => Now, Now, Now;
            Outcome::Refused(Reason::BadRequest) => last, last, last;
            Outcome::Refused(Reason::Loop) => last, last, last;
            Outcome::Refused(Reason::RateLimited) => last, last, last;
            Outcome::Refused(Reason::Draining) => Now, Now, Now;
            Outcome::Refused(Reason::NotReady) => Now, Now, Now;
            Outcome::Refused(Reason::Internal) => last, last, last;
            Outcome::Refused(Reason::InvalidBackend) => last, last, last;
        };
        for (outcome, expected) in rows {
            let found = [
                verdict(outcome, true, false),
                verdict(outcome, false, false),
                verdict(outcome, false, true),
            ];
            assert_eq!(found, expected, "{outcome:?}");
        }
    }

    #[test]
    fn attempts_and_bodies_run_out() {
        let policy = RetryPolicy::default();
        let verdict = |replayable, tried| {
            let request = Request {
                idempotent: true,
                grpc: false,
                replayable,
            };
            should_retry(&policy, Outcome::ConnectFailed, request, tried)
        };
        assert_eq!(verdict(true, 1), Verdict::RetryNow);
        assert_eq!(verdict(true, 2), Verdict::RetryAfterBackoff);
        assert_eq!(verdict(true, 3), Verdict::Stop(Stop::Exhausted));
        assert_eq!(verdict(false, 1), Verdict::Stop(Stop::BodyGone));
    }

    #[test]
    fn waits_double_up_to_the_ceiling() {
        let policy = RetryPolicy::default();
        let ceilings: Vec<u128> = [1, 2, 3, 4, 5, 255]
            .map(|retry| backoff(&policy, retry, 1.0).as_millis())
            .to_vec();
        assert_eq!(ceilings, [25, 50, 100, 200, 250, 250]);
        assert_eq!(backoff(&policy, 1, 0.0), Duration::ZERO);
        assert_eq!(backoff(&policy, 1, 0.5), Duration::from_micros(12_500));
    }

    #[test]
    fn methods_that_may_be_repeated() {
        assert!(
            ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"]
                .map(idempotent)
                .iter()
                .all(|it| *it)
        );
        assert!(
            !["POST", "PATCH", "CONNECT", "get", ""]
                .map(idempotent)
                .iter()
                .any(|it| *it)
        );
    }

    #[test]
    fn few_requests_may_still_be_retried() {
        let budget = RetryBudget::new();
        let granted = (0..1_000)
            .filter(|_| budget.try_retry(Duration::ZERO, &Retries::default()))
            .count();
        assert_eq!(granted, 100);
        assert!(!budget.try_retry(Duration::from_secs(9), &Retries::default()));
        assert!(budget.try_retry(Duration::from_secs(10), &Retries::default()));
    }

    #[test]
    fn threads_together_get_no_more_than_one_would() {
        let budget = RetryBudget::new();
        let policy = Retries {
            budget_percent: 10,
            budget_per_second: 3,
            ..Retries::default()
        };
        let take = || {
            for _ in 0..1_000 {
                budget.request(Duration::ZERO);
            }
            let tries = 0..1_000;
            tries
                .filter(|_| budget.try_retry(Duration::ZERO, &policy))
                .count()
        };
        let granted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|it| it.join().unwrap()).sum()
        });
        assert_eq!(granted, 4_000 / 10 + 3 * 10);
    }

    proptest! {
        /// Reference: the list of everything that ever happened.
        #[test]
        fn the_budget_is_never_exceeded(
            steps in prop::collection::vec((0_u64..900, 0_u32..40, 0_u32..60), 1..60),
            percent in 0_u32..=100,
            per_second in 0_u32..20,
        ) {
            let policy = Retries {
                budget_percent: percent,
                budget_per_second: per_second,
                ..Retries::default()
            };
            let budget = RetryBudget::new();
            let (mut requests, mut retries) = (Vec::new(), Vec::new());
            let mut now_ms = 0;
            for (wait_ms, sent, wanted) in steps {
                now_ms += wait_ms;
                let now = Duration::from_millis(now_ms);
                for _ in 0..sent {
                    budget.request(now);
                    requests.push(now.as_secs());
                }
                for _ in 0..wanted {
                    let recent = |all: &[u64]| {
                        all.iter().filter(|at| **at + RetryBudget::WINDOW > now.as_secs()).count()
                    };
                    let budgeted = recent(&requests) * percent as usize / 100
                        + per_second as usize * 10;
                    let allowed = recent(&retries) < budgeted;
                    prop_assert_eq!(budget.try_retry(now, &policy), allowed);
                    if allowed {
                        retries.push(now.as_secs());
                    }
                }
            }
        }
    }
}
