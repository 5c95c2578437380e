//! What a call meets at the serving side, where that is the own cluster: limits and drills.

use portolan_model::fault::{AbortWith, Fault};
use portolan_model::limit::{Alone, Counted, LimitAmount, LimitPer, RateLimit};
use portolan_model::snapshot::{InboundRules, Snapshot};
use portolan_model::{Protocol, ServiceKey, SpiffeId};

use super::Step;
use crate::fault::{Caller, is_of};
use crate::limit::on_port;

/// The steps, for a call by `caller` to a port of a service of the own cluster. Whether a request matches,
/// only the request itself can tell.
pub(super) fn steps(
    snapshot: &Snapshot,
    caller: &SpiffeId,
    service: &ServiceKey,
    (port, protocol): (u16, Protocol),
) -> Vec<Step> {
    let Some(rules) = rules(snapshot, service) else {
        return Vec::new();
    };
    let own = snapshot.mesh.as_ref().map(|mesh| &mesh.cluster);
    let caller = Caller {
        id: caller,
        cluster: own.map(|own| &own.name),
    };
    let limits = rules.limits.iter().filter(|(of, _)| on_port(*of, port));
    let limits = limits.map(|(_, limit)| step("limit", limit_told(limit)));
    let faults = rules.faults.iter();
    let faults = faults
        .filter(|(of, fault)| on_port(*of, port) && is_of(&fault.callers, caller))
        .filter(|(_, fault)| protocol.is_http() || fault.is_for_connections())
        .map(|(_, fault)| step("fault", fault_told(fault)));
    limits.chain(faults).collect()
}

/// What one of the service's workloads obeys: all obey the same.
fn rules<'a>(snapshot: &'a Snapshot, service: &ServiceKey) -> Option<&'a InboundRules> {
    let local = snapshot.services.get(service)?.local.as_ref()?;
    local.endpoints.iter().find_map(|endpoint| {
        let inbound = snapshot.inbound.get(&endpoint.workload)?;
        inbound.rules.get(service)
    })
}

fn step(stage: &str, text: String) -> Step {
    Step {
        stage: stage.to_owned(),
        text,
    }
}

fn limit_told(limit: &RateLimit) -> String {
    let amount = match limit.amount {
        LimitAmount::Requests { count, per, burst } => {
            format!("{count} requests in {per:?}, {burst} at once")
        }
        LimitAmount::Connections(count) => format!("{count} connections"),
        LimitAmount::Bytes { count, per } => format!("{count} bytes in {per:?}"),
    };
    let per = match &limit.per {
        LimitPer::Service => String::new(),
        LimitPer::Identity => " for each identity".to_owned(),
        LimitPer::Namespace => " for each namespace".to_owned(),
        LimitPer::Header(name) => format!(" for each value of `{name}`"),
    };
    let counted = match limit.counted {
        Counted::Instance => "of each instance",
        Counted::Cluster { alone } => match alone {
            Alone::Open => "of all instances together, or everything while they are alone",
            Alone::Closed => "of all instances together, or nothing while they are alone",
            Alone::LastShare => "of all instances together, by their last shares while alone",
        },
    };
    let some = some(limit.matches.is_empty());
    format!("{}: {amount}{per}, {counted}{some}", limit.name)
}

fn fault_told(fault: &Fault) -> String {
    let percent = |share: u32| f64::from(share) / 1000.0;
    let mut parts = Vec::new();
    if let Some(delay) = fault.delay {
        let share = percent(delay.share_milli_percent);
        parts.push(format!("{share} % wait {:?}", delay.fixed));
    }
    if let Some(abort) = fault.abort {
        let share = percent(abort.share_milli_percent);
        let with = match abort.with {
            AbortWith::HttpStatus(status) => format!("are answered {status}"),
            AbortWith::GrpcStatus(status) => format!("are answered gRPC status {status}"),
            AbortWith::Reset => "are reset".to_owned(),
        };
        parts.push(format!("{share} % {with}"));
    }
    let some = some(fault.matches.is_empty());
    format!(
        "{}, until {} ms since the epoch: {}{some}",
        fault.name,
        fault.ends_ms,
        parts.join(", ")
    )
}

fn some(all: bool) -> &'static str {
    if all { "" } else { " (of requests that match)" }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn limits_are_told_in_a_sentence() {
        let limit = RateLimit {
            name: "shop/orders/all".to_owned(),
            matches: vec![],
            per: LimitPer::Header("x-tenant".to_owned()),
            amount: LimitAmount::Requests {
                count: 10,
                per: Duration::from_secs(1),
                burst: 5,
            },
            counted: Counted::Instance,
        };
        assert_eq!(
            limit_told(&limit),
            "shop/orders/all: 10 requests in 1s, 5 at once for each value of `x-tenant`, of each instance"
        );
    }
}
