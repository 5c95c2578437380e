//! A request in the mesh: choose a cluster and an endpoint, send, judge the answer, perhaps again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Response, request};
use portolan_model::snapshot::Snapshot;
use portolan_model::{ClusterName, Reason, Refusal, WorkloadKey};
use portolan_policy::breaker::{Bound, Breaker, Limits as Bounds, Permit};
use portolan_policy::retry::{self, Outcome, Verdict};
use portolan_policy::route::Route;
use portolan_policy::stall::Alternative;
use smallvec::SmallVec;
use tokio::time::{Instant, sleep};

use super::exchange::{Exchange, Held};
use super::failure::{Failure, Told};
use super::request::limits;
use super::{choice, hedge, upgrade, verdict};
use crate::balancer::{EndpointState, Health, ServiceState};
use crate::http::{
    IncomingBody, Limits, Replay, caller_deadline, forward_deadline, hash_key, is_grpc,
    tell_alternative,
};
use crate::upstreams::{Lease, Place, Target, Wants};
use crate::worker::Worker;

/// Tries of one request, those included that prove that nothing was processed.
const TRIES_MAX: u8 = 8;

/// A request on its way into the mesh.
pub(super) struct Request {
    /// Its head, as the next proxy gets it.
    pub(super) head: request::Parts,
    /// Its body.
    pub(super) replay: Replay,
    /// Whether it wants to change protocols.
    pub(super) upgrades: bool,
}

/// An answer's head, its body, and what is in use until that ended.
pub(super) struct Answer {
    pub(super) response: Response<IncomingBody>,
    pub(super) limits: Limits,
    /// Who answers; `None` outside the mesh.
    pub(super) target: Option<Rc<Target>>,
    pub(super) held: Held,
}

/// What is known of a request while it is tried.
pub(super) struct Call<'a> {
    pub(super) worker: &'a Rc<Worker>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) route: Rc<Route>,
    pub(super) request: Request,
    pub(super) service: Rc<ServiceState>,
    /// What the policy allows to be under way.
    breaker: Breaker,
    /// What endpoints are chosen by, where the policy hashes.
    pub(super) key: Option<u64>,
    grpc: bool,
    pub(super) deadline: Option<Instant>,
    pub(super) tried: RefCell<Tried>,
    /// Whether somebody else could serve, should the one who is tried now not.
    alternative: Cell<Alternative>,
}

/// Where a request was tried.
#[derive(Default, Clone)]
pub(super) struct Tried {
    pub(super) clusters: SmallVec<[ClusterName; 4]>,
    pub(super) endpoints: SmallVec<[WorkloadKey; 4]>,
    /// Everybody was, and it began again.
    pub(super) everybody: bool,
    /// Somebody had as many requests under way as the policy allows for one endpoint.
    pub(super) full: bool,
    /// How often.
    times: u8,
    /// How often it may have been processed.
    maybe_processed: u8,
}

/// Sends a request into the mesh.
///
/// # Errors
/// The refusal that the app is told.
pub(super) async fn call(
    worker: &Rc<Worker>,
    snapshot: Arc<Snapshot>,
    route: Rc<Route>,
    request: Request,
    exchange: &mut Exchange,
) -> Result<Answer, Refusal> {
    let service = worker.service(&route.destination.service);
    let policy = route.policy();
    let breaker = service.breaker.limited(Bounds::from(&policy.breaker));
    let mut permit = Some(breaker.try_acquire(Bound::Requests)?);
    service.request(worker.balancer.at(exchange.started()));
    let callers = caller_deadline(&request.head.headers);
    let after = [callers, route.timeouts.request]
        .into_iter()
        .flatten()
        .min();
    let call = Call {
        grpc: is_grpc(&request.head.headers),
        key: hash_key(
            &policy.balancing.algorithm,
            &request.head,
            worker.shared.source,
        ),
        worker,
        snapshot,
        route,
        request,
        service,
        breaker,
        deadline: after.map(|after| Instant::now() + after),
        tried: RefCell::default(),
        alternative: Cell::new(Alternative::None),
    };
    loop {
        let choice = choice::choose(&call)?;
        call.begins(&choice, exchange);
        let hedging = call
            .route
            .policy()
            .hedging
            .filter(|_| call.may_be_doubled());
        let (choice, tried) = match hedging {
            Some(hedging) => Box::pin(hedge::race(&call, choice, hedging, exchange)).await,
            None => {
                let tried = call.attempt(&choice).await;
                (choice, tried)
            }
        };
        let failure = match tried {
            Ok(answer) => return Ok(answer.holding(permit.take())),
            Err(failure) => failure,
        };
        let Some(wait) = call.again(&failure) else {
            return failure.tell().map(|answer| answer.holding(permit.take()));
        };
        // Its connection is free for others while this waits.
        drop(failure);
        if !wait.is_zero() {
            sleep(wait).await;
        }
        call.tried.borrow_mut().exclude(&choice.target);
    }
}

impl Call<'_> {
    /// One more try goes there.
    pub(super) fn begins(&self, choice: &choice::Choice, exchange: &mut Exchange) {
        exchange.trying(&choice.target);
        self.tried.borrow_mut().times += 1;
        self.alternative.set(self.alternative_to(choice));
    }

    /// Whether it may be sent while an earlier try of it is under way: that must do no harm, and a body can
    /// only go one way.
    fn may_be_doubled(&self) -> bool {
        let replay = &self.request.replay;
        retry::idempotent(self.request.head.method.as_str())
            && !self.request.upgrades
            && replay.finished().is_some()
            && replay.received() == 0
    }

    /// Takes one more try out of the budget, if there is one and time for it.
    pub(super) fn may_try_more(&self, wait: Duration) -> bool {
        let in_time = self
            .deadline
            .is_none_or(|deadline| Instant::now() + wait < deadline);
        let retries = &self.route.policy().retries;
        let now = self.worker.balancer.now();
        self.tried.borrow().times < TRIES_MAX && in_time && self.service.try_retry(now, retries)
    }

    /// One try, from connecting to the answer's head.
    pub(super) async fn attempt(&self, choice: &choice::Choice) -> Result<Answer, Failure> {
        let begun = Instant::now();
        let mut held = Held {
            _entered: self.enter(choice)?,
            under_way: choice.endpoint.clone().map(EndpointState::begin),
            ..Held::default()
        };
        let sent = if self.request.upgrades {
            Box::pin(upgrade::send(self, &choice.target, choice.patience))
                .await
                .map(|response| response.map(IncomingBody::from))
        } else {
            self.send(choice, begun, &mut held).await
        };
        let (health, result) = match sent {
            Ok(response) => verdict::of_response(response.status(), response.headers(), self.grpc)
                .judged(response),
            Err(_) if self.request.replay.broken() => {
                let why = "the client ended its request before it was whole";
                let failure = Failure::refused(
                    Outcome::Refused(Reason::BadRequest),
                    Reason::BadRequest,
                    why,
                );
                (Health::Unknown, Err((failure, None)))
            }
            Err(failure) => {
                let health = verdict::of_failure(failure.outcome, choice.target.own());
                (health, Err((failure, None)))
            }
        };
        let health = verdict::of_place(health, choice.target.own());
        let ended = Instant::now();
        let (now, took) = (self.worker.balancer.at(ended), ended - begun);
        let policy = self.route.policy();
        self.worker
            .record(choice.target.subject(), health, now, &policy.outlier);
        if result.is_ok() {
            let (service, cluster) = (&choice.target.service, choice.target.cluster());
            self.worker.balancer.answered(service, cluster, now, took);
        }
        let answer = |response, held: Held| {
            held.lease
                .iter()
                .for_each(|lease| lease.answered(now, took));
            held.under_way
                .iter()
                .for_each(|call| call.answered(now, took));
            Answer {
                response,
                limits: limits(&self.route.timeouts, self.try_ends(begun)),
                target: Some(Rc::clone(&choice.target)),
                held,
            }
        };
        match result {
            Ok(response) => Ok(answer(response, held)),
            Err((failure, None)) => Err(failure),
            Err((failure, Some(response))) => {
                if verdict::leads_nowhere(failure.outcome) {
                    held.lease.iter().for_each(Lease::retire);
                }
                let told = Told::Answer(Box::new(answer(response, held)));
                Err(Failure { told, ..failure })
            }
        }
    }

    /// Counts the try among those to its endpoint, where the policy bounds them.
    fn enter(&self, choice: &choice::Choice) -> Result<Option<Permit>, Failure> {
        let limit = self.route.policy().breaker.requests_per_endpoint;
        let (Some(endpoint), Some(requests)) = (&choice.endpoint, limit) else {
            return Ok(None);
        };
        let breaker = endpoint.breaker.limited(Bounds {
            requests,
            ..Bounds::default()
        });
        let entered = breaker.try_acquire(Bound::Requests);
        entered.map(Some).map_err(|refusal| Failure {
            outcome: Outcome::Refused(refusal.reason),
            told: Told::Refusal(refusal),
        })
    }

    /// Sends the request on a pooled connection.
    async fn send(
        &self,
        choice: &choice::Choice,
        begun: Instant,
        held: &mut Held,
    ) -> Result<Response<IncomingBody>, Failure> {
        let policy = self.route.policy();
        let pool = self.worker.upstreams.pool(&choice.target);
        pool.age_max(policy.timeouts.connection_age);
        let wants = Wants {
            key: self.key,
            patience: self.within_deadline(choice.patience, begun),
            queue: policy.breaker.pending_timeout,
            limit: self.route.timeouts.connect(choice.target.own()),
        };
        let lease = pool.lease(&self.breaker, wants).await?;
        let request = ::http::Request::from_parts(self.head(), self.request.replay.body());
        let lease = held.lease.insert(lease);
        self.until_head(begun, async {
            lease.send(request).await.map_err(Failure::from)
        })
        .await
    }

    /// The request's head for one try.
    pub(super) fn head(&self) -> request::Parts {
        let mut head = self.request.head.clone();
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            forward_deadline(&mut head.headers, left);
        }
        tell_alternative(&mut head.headers, self.alternative.get());
        head
    }

    /// What the chosen one may leave to others, so that somebody who cannot serve need not be waited for.
    fn alternative_to(&self, choice: &choice::Choice) -> Alternative {
        let tried = self.tried.borrow();
        if !choice.alternative || tried.everybody {
            return Alternative::None;
        }
        let (facts, tried) = (self.facts(), tried.maybe_processed.max(1));
        let again = |outcome| {
            let verdict = retry::should_retry(&self.route.retry, outcome, facts, tried);
            !matches!(verdict, Verdict::Stop(_))
        };
        Alternative::of(
            again(Outcome::Timeout),
            again(Outcome::Refused(Reason::NotReady)),
        )
    }

    fn facts(&self) -> retry::Request {
        retry::Request {
            idempotent: retry::idempotent(self.request.head.method.as_str()),
            grpc: self.grpc,
            // An upgrade's connection is the client's own from then on, but its head may go twice.
            replayable: self.request.replay.replayable(),
        }
    }

    /// How long to wait before the next try; `None`: there is none.
    fn again(&self, failure: &Failure) -> Option<Duration> {
        let facts = self.facts();
        let proven = verdict::proves_unprocessed(&self.route.retry, failure.outcome);
        let mut tried = self.tried.borrow_mut();
        tried.maybe_processed += u8::from(!proven);
        // Endpoints that took nothing cost no tries, until all were asked once.
        let counted = if tried.everybody {
            tried.times
        } else {
            tried.maybe_processed.max(1)
        };
        drop(tried);
        let verdict = retry::should_retry(&self.route.retry, failure.outcome, facts, counted);
        let wait = match verdict {
            Verdict::RetryNow => Duration::ZERO,
            Verdict::RetryAfterBackoff => {
                retry::backoff(&self.route.retry, counted, rand::random())
            }
            Verdict::Stop(_) => return None,
        };
        self.may_try_more(wait).then_some(wait)
    }
}

impl Tried {
    pub(super) fn exclude(&mut self, target: &Target) {
        match &target.place {
            Place::Endpoint { workload, .. } => self.endpoints.push(workload.clone()),
            Place::Cluster { cluster, .. } => self.clusters.push(cluster.clone()),
        }
    }
}

impl Answer {
    fn holding(mut self, permit: Option<Permit>) -> Self {
        self.held.permit = permit;
        self
    }
}
