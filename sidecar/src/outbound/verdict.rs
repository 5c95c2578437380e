//! What an answer, or the lack of one, says: of whoever gave it, and of another try.

use http::{HeaderMap, Response, StatusCode};
use portolan_model::Reason;
use portolan_policy::retry::{self, GRPC_UNAVAILABLE, Outcome, RetryPolicy, Verdict};

use super::exchange::grpc_status;
use super::failure::Failure;
use super::request::refused_by;
use crate::balancer::Health;

/// What an answer's head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Judgement {
    health: Health,
    /// `None`: it is an answer worth giving.
    outcome: Option<(Outcome, Reason)>,
}

type Judged<B> = (Health, Result<Response<B>, (Failure, Option<Response<B>>)>);

impl Judgement {
    fn new(health: Health, outcome: Option<(Outcome, Reason)>) -> Self {
        Self { health, outcome }
    }

    /// The response, as an answer or as a failure that can still be given.
    pub(super) fn judged<B>(self, response: Response<B>) -> Judged<B> {
        let result = match self.outcome {
            None => Ok(response),
            Some((outcome, reason)) => {
                let failure = Failure::refused(outcome, reason, "the upstream failed");
                Err((failure, Some(response)))
            }
        };
        (self.health, result)
    }
}

/// Judges an answer's head.
pub(super) fn of_response(status: StatusCode, headers: &HeaderMap, grpc: bool) -> Judgement {
    if let Some((reason, _)) = refused_by(headers) {
        let outcome = Some((Outcome::Refused(reason), reason));
        return Judgement::new(of_refusal(reason), outcome);
    }
    if let Some(code) = grpc_status(headers).filter(|code| grpc && *code != 0) {
        let health = if code == GRPC_UNAVAILABLE {
            Health::Failed
        } else {
            Health::Good
        };
        return Judgement::new(health, Some((Outcome::GrpcStatus(code), Reason::Reset)));
    }
    let says_unable = status.is_server_error()
        && status != StatusCode::NOT_IMPLEMENTED
        && status != StatusCode::HTTP_VERSION_NOT_SUPPORTED;
    if says_unable {
        let outcome = Some((Outcome::Status(status.as_u16()), Reason::Reset));
        return Judgement::new(Health::Failed, outcome);
    }
    Judgement::new(Health::Good, None)
}

/// What a try without an answer says of whoever should have answered. Failed connections are on
/// record already: one dial may have been for many requests. A tunnel to another cluster breaks when
/// any gateway on its way ends, and whose silence it was is judged once for each; whether the cluster can
/// be reached, the next dial tells.
pub(super) fn of_failure(outcome: Outcome, own: bool) -> Health {
    match outcome {
        Outcome::ResetBeforeResponse | Outcome::Silent if !own => Health::Unknown,
        Outcome::ResetBeforeResponse | Outcome::Silent | Outcome::Timeout => Health::Failed,
        Outcome::ConnectFailed
        | Outcome::RefusedStream
        | Outcome::Refused(_)
        | Outcome::Status(_)
        | Outcome::GrpcStatus(_) => Health::Unknown,
    }
}

/// What it says of the place as a whole: one endpoint of another cluster that does not answer is not
/// the whole cluster.
pub(super) fn of_place(health: Health, own: bool) -> Health {
    match health {
        Health::Unconnected if !own => Health::Failed,
        Health::Unconnected | Health::Good | Health::Failed | Health::Unknown => health,
    }
}

/// What a refusal by a later hop says of the place that it came from.
fn of_refusal(reason: Reason) -> Health {
    match reason {
        Reason::ConnectFailed
        | Reason::NoHealthyUpstream
        | Reason::PeerUnreachable
        | Reason::Draining
        | Reason::NotReady => Health::Unconnected,
        Reason::Reset | Reason::Timeout | Reason::IdentityMismatch | Reason::Internal => {
            Health::Failed
        }
        // It did what it should, or would do the same elsewhere.
        Reason::NoRoute
        | Reason::NotExported
        | Reason::Denied
        | Reason::Overloaded
        | Reason::BadRequest
        | Reason::Loop
        | Reason::InvalidBackend
        | Reason::RateLimited => Health::Unknown,
    }
}

/// Whether the connection leads to somebody who cannot serve, so that another one is better.
pub(super) fn leads_nowhere(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Refused(reason) if of_refusal(reason) == Health::Unconnected)
}

/// Whether policy takes the outcome as a proof that nothing was processed.
pub(super) fn proves_unprocessed(policy: &RetryPolicy, outcome: Outcome) -> bool {
    let riskiest = retry::Request {
        idempotent: false,
        grpc: false,
        replayable: true,
    };
    retry::should_retry(policy, outcome, riskiest, 1) == Verdict::RetryNow
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn answers_are_judged_by_refusal_then_grpc_then_status() {
        let judge = |status: u16, pairs: &[_], grpc| {
            of_response(StatusCode::from_u16(status).unwrap(), &headers(pairs), grpc)
        };
        let outcome = |judgement: Judgement| judgement.outcome.map(|(outcome, _)| outcome);
        assert_eq!(judge(200, &[], false), Judgement::new(Health::Good, None));
        assert_eq!(judge(404, &[], false).outcome, None);
        assert_eq!(judge(501, &[], false).health, Health::Good);
        assert_eq!(outcome(judge(503, &[], false)), Some(Outcome::Status(503)));
        let refused = judge(
            503,
            &[("x-portolan-error", "connect_failed; hop=inbound")],
            false,
        );
        assert_eq!(refused.health, Health::Unconnected);
        assert_eq!(
            outcome(refused),
            Some(Outcome::Refused(Reason::ConnectFailed))
        );
        let denied = judge(403, &[("x-portolan-error", "denied; hop=inbound")], false);
        assert_eq!(denied.health, Health::Unknown);
        let unavailable = judge(200, &[("grpc-status", "14")], true);
        assert_eq!(outcome(unavailable), Some(Outcome::GrpcStatus(14)));
        assert_eq!(judge(200, &[("grpc-status", "0")], true).outcome, None);
        assert_eq!(judge(200, &[("grpc-status", "14")], false).outcome, None);
    }

    #[test]
    fn a_broken_or_silent_tunnel_is_not_its_cluster_s_failure() {
        let health = |outcome| [true, false].map(|own| of_failure(outcome, own));
        let (failed, unknown) = (Health::Failed, Health::Unknown);
        assert_eq!(health(Outcome::ResetBeforeResponse), [failed, unknown]);
        assert_eq!(health(Outcome::Silent), [failed, unknown]);
        assert_eq!(health(Outcome::Timeout), [failed, failed]);
        assert_eq!(health(Outcome::ConnectFailed), [unknown, unknown]);
    }

    #[test]
    fn what_was_not_sent_was_not_processed() {
        let policy = RetryPolicy::default();
        for (outcome, proven) in [
            (Outcome::ConnectFailed, true),
            (Outcome::Refused(Reason::ConnectFailed), true),
            (Outcome::ResetBeforeResponse, false),
            (Outcome::Status(503), false),
            (Outcome::Silent, false),
            (Outcome::Timeout, false),
        ] {
            assert_eq!(proves_unprocessed(&policy, outcome), proven, "{outcome:?}");
        }
    }
}
