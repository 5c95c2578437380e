//! Which fault of a drill a request or connection meets.

use std::time::Duration;

use portolan_model::fault::{AbortWith, Fault, FaultCallers};
use portolan_model::{ClusterName, IdentityKind, SpiffeId};

use crate::limit::on_port;
use crate::matching::Request;

/// All requests, in the unit of shares: thousandths of a percent.
pub const EVERY: u32 = 100_000;

/// Who calls.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// The identity.
    pub id: &'a SpiffeId,
    /// The cluster whose trust domain it is of, where that is known.
    pub cluster: Option<&'a ClusterName>,
}

/// Random numbers from 0 up to 1, drawn for one request or connection.
#[derive(Debug, Clone, Copy)]
pub struct Draws {
    /// Decides about the delay.
    pub delay: f64,
    /// Decides about the abort.
    pub abort: f64,
}

/// What a request or connection meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Met<'a> {
    /// The fault's name.
    pub name: &'a str,
    /// What it waits.
    pub delay: Option<Duration>,
    /// What it is answered then, in the app's place; a connection is always reset.
    pub abort: Option<AbortWith>,
}

/// What a request to the port `called` meets: the first fault that is for it, if its drill goes on and the
/// dice say so. `None` stands for a connection of opaque bytes. `now_ms`: milliseconds since the Unix epoch.
#[must_use]
pub fn meet<'a>(
    faults: &'a [(u16, Fault)],
    called: u16,
    caller: Caller<'_>,
    request: Option<&Request<'_>>,
    now_ms: u64,
    draws: Draws,
) -> Option<Met<'a>> {
    let fault = faults
        .iter()
        .filter(|(port, _)| on_port(*port, called))
        .map(|(_, fault)| fault)
        .find(|fault| {
            now_ms < fault.ends_ms
                && is_of(&fault.callers, caller)
                && match request {
                    Some(request) => request.fits(&fault.matches),
                    None => fault.is_for_connections(),
                }
        })?;
    let delay = fault
        .delay
        .filter(|it| hit(it.share_milli_percent, draws.delay));
    let abort = fault
        .abort
        .filter(|it| hit(it.share_milli_percent, draws.abort));
    (delay.is_some() || abort.is_some()).then(|| Met {
        name: &fault.name,
        delay: delay.map(|delay| delay.fixed),
        abort: abort.map(|abort| abort.with),
    })
}

/// Whether a fault is for this caller.
#[must_use]
pub fn is_of(callers: &FaultCallers, caller: Caller<'_>) -> bool {
    let cluster = callers.clusters.is_empty()
        || caller
            .cluster
            .is_some_and(|cluster| callers.clusters.contains(cluster));
    if callers.namespaces.is_empty() && callers.service_accounts.is_empty() {
        return cluster;
    }
    match caller.id.kind() {
        IdentityKind::Workload {
            namespace,
            service_account,
        } => {
            cluster
                && (callers.namespaces.is_empty() || callers.namespaces.contains(&namespace))
                && (callers.service_accounts.is_empty()
                    || callers.service_accounts.contains(&service_account))
        }
        IdentityKind::Control { .. }
        | IdentityKind::Gateway { .. }
        | IdentityKind::Authority
        | IdentityKind::Other => false,
    }
}

fn hit(share_milli_percent: u32, draw: f64) -> bool {
    draw * f64::from(EVERY) < f64::from(share_milli_percent)
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use portolan_model::fault::{FaultAbort, FaultDelay};
    use portolan_model::route::{HttpMatch, PathMatch};
    use proptest::prelude::*;

    use super::*;
    use crate::example;

    const FRONTEND: &str = "spiffe://us-east.demo/ns/shop/sa/frontend";

    fn fault() -> Fault {
        Fault {
            name: "shop/drill/slow".to_owned(),
            matches: vec![],
            callers: FaultCallers::default(),
            delay: Some(FaultDelay {
                fixed: Duration::from_secs(2),
                share_milli_percent: EVERY,
            }),
            abort: None,
            ends_ms: 1_000,
        }
    }

    fn met(faults: &[(u16, Fault)], called: u16, now_ms: u64, draw: f64) -> Option<Met<'_>> {
        let id = FRONTEND.parse().unwrap();
        let cluster = "us-east".parse().unwrap();
        let caller = Caller {
            id: &id,
            cluster: Some(&cluster),
        };
        let draws = Draws {
            delay: draw,
            abort: draw,
        };
        let headers = HeaderMap::new();
        meet(
            faults,
            called,
            caller,
            Some(&example::request(&headers)),
            now_ms,
            draws,
        )
    }

    #[test]
    fn a_drill_ends_by_itself() {
        let faults = [(0, fault())];
        assert!(met(&faults, 80, 999, 0.5).is_some());
        assert!(met(&faults, 80, 1_000, 0.5).is_none());
    }

    #[test]
    fn the_first_that_fits_is_done() {
        let abort = Fault {
            name: "shop/drill/abort".to_owned(),
            delay: None,
            abort: Some(FaultAbort {
                with: AbortWith::Reset,
                share_milli_percent: EVERY,
            }),
            ..fault()
        };
        let faults = [(81, fault()), (80, abort), (0, fault())];
        let name = |port| met(&faults, port, 0, 0.0).map(|met| met.name);
        assert_eq!(name(80), Some("shop/drill/abort"));
        assert_eq!(name(81), Some("shop/drill/slow"));
        assert_eq!(name(9090), Some("shop/drill/slow"));
    }

    #[test]
    fn a_connection_passes_over_what_only_a_request_can_meet() {
        let of = |name: &str, with: Option<AbortWith>, delayed: bool, matched: bool| Fault {
            name: name.to_owned(),
            matches: if matched { vec![get()] } else { vec![] },
            delay: fault().delay.filter(|_| delayed),
            abort: with.map(|with| FaultAbort {
                with,
                share_milli_percent: EVERY,
            }),
            ..fault()
        };
        let id = FRONTEND.parse().unwrap();
        let caller = Caller {
            id: &id,
            cluster: None,
        };
        let draws = Draws {
            delay: 0.0,
            abort: 0.0,
        };
        for (with, delayed, matched, meets) in [
            (None, true, false, true),
            (Some(AbortWith::Reset), false, false, true),
            (Some(AbortWith::Reset), true, false, true),
            (Some(AbortWith::HttpStatus(503)), true, false, false),
            (Some(AbortWith::GrpcStatus(14)), false, false, false),
            (None, true, true, false),
            (Some(AbortWith::Reset), false, true, false),
        ] {
            let one = of("one", with, delayed, matched);
            let faults = [
                (0, one),
                (0, of("next", Some(AbortWith::Reset), false, false)),
            ];
            let met = meet(&faults, 80, caller, None, 0, draws).unwrap();
            assert_eq!(met.name == "one", meets, "{with:?} {delayed} {matched}");
            if meets {
                assert_eq!((met.delay.is_some(), met.abort), (delayed, with));
            }
            let headers = HeaderMap::new();
            let met = meet(
                &faults,
                80,
                caller,
                Some(&example::request(&headers)),
                0,
                draws,
            )
            .unwrap();
            assert_eq!(met.name, "one", "a request meets each of them");
        }
    }

    fn get() -> HttpMatch {
        HttpMatch {
            path: PathMatch::Prefix(String::new()),
            method: Some("GET".to_owned()),
            headers: vec![],
            query: vec![],
        }
    }

    #[test]
    fn callers_are_told_apart() {
        let id: SpiffeId = FRONTEND.parse().unwrap();
        let gateway: SpiffeId = "spiffe://us-east.demo/portolan/gateway/gw".parse().unwrap();
        let cluster: ClusterName = "us-east".parse().unwrap();
        let caller = Caller {
            id: &id,
            cluster: Some(&cluster),
        };
        let of = |namespace: &[&str], account: &[&str], clusters: &[&str]| FaultCallers {
            namespaces: namespace.iter().map(|it| it.parse().unwrap()).collect(),
            service_accounts: account.iter().map(|it| it.parse().unwrap()).collect(),
            clusters: clusters.iter().map(|it| it.parse().unwrap()).collect(),
        };
        for (callers, wanted) in [
            (of(&[], &[], &[]), true),
            (of(&["shop"], &[], &[]), true),
            (of(&["bank"], &[], &[]), false),
            (of(&["bank", "shop"], &["frontend"], &["us-east"]), true),
            (of(&["shop"], &["other"], &[]), false),
            (of(&[], &[], &["eu-west"]), false),
        ] {
            assert_eq!(is_of(&callers, caller), wanted, "{callers:?}");
        }
        let unknown = Caller {
            id: &gateway,
            cluster: None,
        };
        assert!(is_of(&of(&[], &[], &[]), unknown));
        assert!(!is_of(&of(&["shop"], &[], &[]), unknown));
        assert!(!is_of(&of(&[], &[], &["us-east"]), unknown));
    }

    proptest! {
        #[test]
        fn the_share_is_kept(share in 0..=EVERY) {
            let mut one = fault();
            one.delay = Some(FaultDelay { fixed: Duration::ZERO, share_milli_percent: share });
            let faults = [(0, one)];
            let hits = (0..1000).filter(|n| met(&faults, 80, 0, f64::from(*n) / 1000.0).is_some());
            let wanted = f64::from(share) / f64::from(EVERY) * 1000.0;
            prop_assert!((hits.count() as f64 - wanted).abs() <= 1.0);
        }
    }
}
