//! Limits that all instances of a service keep together: hands out tokens as [`portolan_policy`] says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use portolan_api::quota::quota_server::Quota;
use portolan_api::quota::{Answer, Grant, Question, Wish};
use portolan_model::{IdentityKind, ServiceKey, WorkloadKey};
use portolan_policy::limit::budget::{Asking, Budget, BudgetRate};
use tonic::{Request, Response, Status};

use crate::caller::{Admitted, Callers};
use crate::view::{View, Views};

/// The most budgets; limits beyond it get nothing.
const BUDGETS_MAX: usize = 10_000;
/// The most limits of one question.
const WISHES_MAX: usize = 256;
/// The most keys of one limit in one question.
const WANTS_MAX: usize = 1_000;

/// The quota service.
#[derive(Debug)]
pub(crate) struct QuotaService {
    callers: Callers,
    views: Views,
    started: Instant,
    /// Tells this life of the control plane from others.
    epoch: u64,
    budgets: Mutex<Budgets>,
}

type Budgets = BTreeMap<(ServiceKey, String), Budget<WorkloadKey>>;

impl QuotaService {
    pub(crate) fn new(callers: Callers, views: Views, started: Instant) -> Self {
        Self {
            callers,
            views,
            started,
            // Nanoseconds since the epoch fit for centuries.
            epoch: std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(1, |time| u64::try_from(time.as_nanos()).unwrap_or(1)),
            budgets: Mutex::default(),
        }
    }

    fn answer(&self, workload: &WorkloadKey, question: &Question, view: &View) -> Answer {
        let now = self.started.elapsed();
        // What was heard from an earlier life says nothing of this one.
        let heard_ms = if question.epoch == self.epoch {
            question.heard_ms
        } else {
            0
        };
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut starting = false;
        let mut grants = Vec::new();
        for wish in question.wishes.iter().take(WISHES_MAX) {
            let limit = limit(view, workload, wish, question.control_planes);
            let Some((service, rate)) = limit else {
                grants.push(nothing(wish));
                continue;
            };
            let key = (service, wish.limit.clone());
            if budgets.len() >= BUDGETS_MAX && !budgets.contains_key(&key) {
                budgets.retain(|_, budget| !budget.is_idle(now));
                if budgets.len() >= BUDGETS_MAX {
                    grants.push(nothing(wish));
                    continue;
                }
            }
            let budget = budgets
                .entry(key)
                .or_insert_with(|| Budget::new(rate, std::time::Duration::ZERO));
            budget.retune(rate);
            if question.farewell {
                budget.farewell(workload);
                continue;
            }
            let wants = wish.wants.iter().take(WANTS_MAX);
            let wants: Vec<_> = wants.map(|want| (want.key.clone(), want.tokens)).collect();
            let asking = Asking {
                contact: std::time::Duration::from_millis(heard_ms),
                share: wish.share,
                wants: &wants,
            };
            match budget.ask(workload, asking, now) {
                Some(given) => grants.push(Grant {
                    share: given.share,
                    tokens: given.tokens,
                }),
                None => starting = true,
            }
        }
        Answer {
            epoch: self.epoch,
            now_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            starting,
            grants: if starting { Vec::new() } else { grants },
        }
    }
}

#[tonic::async_trait]
impl Quota for QuotaService {
    async fn ask(&self, request: Request<Question>) -> Result<Response<Answer>, Status> {
        let caller = self.callers.proxy(&request)?;
        let question = request.into_inner();
        let workload: WorkloadKey = question
            .workload
            .parse()
            .map_err(|error| Status::invalid_argument(format!("workload: {error}")))?;
        let view: Arc<View> = self.views.borrow().clone();
        entitled(&caller, &workload, &view)?;
        Ok(Response::new(self.answer(&workload, &question, &view)))
    }
}

/// Whether the caller runs as the workload's service account.
fn entitled(caller: &Admitted, workload: &WorkloadKey, view: &View) -> Result<(), Status> {
    let own = match &caller.kind {
        IdentityKind::Workload {
            namespace,
            service_account,
        } => *namespace == workload.namespace && view.account_of(workload) == Some(service_account),
        IdentityKind::Control { .. }
        | IdentityKind::Gateway { .. }
        | IdentityKind::Authority
        | IdentityKind::Other => false,
    };
    if own {
        Ok(())
    } else {
        Err(Status::permission_denied(format!(
            "`{}` is not the workload {workload}",
            caller.id
        )))
    }
}

/// The limit that a wish is about, if it is declared for the workload and counted here.
fn limit(
    view: &View,
    workload: &WorkloadKey,
    wish: &Wish,
    planes: u32,
) -> Option<(ServiceKey, BudgetRate)> {
    let service: ServiceKey = wish.service.parse().ok()?;
    let rules = view.snapshot.inbound.get(workload)?.rules.get(&service)?;
    let (_, limit) = rules
        .limits
        .iter()
        .find(|(_, limit)| limit.name == wish.limit)?;
    Some((service, BudgetRate::of(limit, planes)?))
}

fn nothing(wish: &Wish) -> Grant {
    Grant {
        share: 0,
        tokens: vec![0; wish.wants.len().min(WANTS_MAX)],
    }
}
