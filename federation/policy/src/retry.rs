//! Whether a call that failed is tried again, and when.

use std::time::Duration;

use portolan_model::Reason;
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
    /// HTTP statuses after which idempotent calls are tried again.
    pub statuses: SmallVec<[u16; 4]>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 2,
            backoff_base: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
            statuses: SmallVec::from_slice(&[502, 503, 504]),
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

/// Whether a call that was tried `tried` times, the last time with this outcome, is tried again. The caller
/// also asks the [`RetryBudget`].
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
        Outcome::ResetBeforeResponse => Safety::IfIdempotent,
        Outcome::Status(status) if policy.statuses.contains(&status) => Safety::IfIdempotent,
        Outcome::GrpcStatus(GRPC_UNAVAILABLE) if grpc => Safety::Asked,
        Outcome::Status(_) | Outcome::GrpcStatus(_) | Outcome::Timeout => Safety::Final,
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
        Reason::Reset => Safety::IfIdempotent,
        Reason::Denied | Reason::Timeout | Reason::BadRequest | Reason::Loop | Reason::Internal => {
            Safety::Final
        }
    }
}

/// How many retries there may be, so that they cannot multiply an overload: in any [`RetryBudget::WINDOW`] a fifth of the
/// requests, and ten a second on top. Moments must not go backwards.
#[derive(Debug, Clone, Default)]
pub struct RetryBudget {
    /// One slot per second of the window; the slot of second `s` is `s % WINDOW`.
    slots: [Slot; Self::WINDOW as usize],
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    second: u64,
    requests: u32,
    retries: u32,
}

impl RetryBudget {
    /// How long requests and retries count, in seconds.
    pub const WINDOW: u64 = 10;
    /// One retry for so many requests.
    pub const REQUESTS_PER_RETRY: u64 = 5;
    /// Retries a second that are always allowed.
    pub const MIN_PER_SECOND: u64 = 10;

    /// Nothing was sent yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A request (not a retry) is sent.
    pub fn request(&mut self, now: Duration) {
        let slot = self.slot(now);
        slot.requests = slot.requests.saturating_add(1);
    }

    /// Takes one retry out of the budget, if there is one.
    #[must_use]
    pub fn try_retry(&mut self, now: Duration) -> bool {
        let second = now.as_secs();
        let current = |slot: &&Slot| slot.second + Self::WINDOW > second;
        let sum = |count: fn(&Slot) -> u32| -> u64 {
            let slots = self.slots.iter().filter(current);
            slots.map(|slot| u64::from(count(slot))).sum()
        };
        let allowed = sum(|slot| slot.requests) / Self::REQUESTS_PER_RETRY
            + Self::MIN_PER_SECOND * Self::WINDOW;
        if sum(|slot| slot.retries) >= allowed {
            return false;
        }
        self.slot(now).retries += 1;
        true
    }

    fn slot(&mut self, now: Duration) -> &mut Slot {
        let second = now.as_secs();
        let slot = &mut self.slots[(second % Self::WINDOW) as usize];
        if slot.second != second {
            *slot = Slot {
                second,
                ..Slot::default()
            };
        }
        slot
    }
}
