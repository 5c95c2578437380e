//! What a matched rule makes of a call: which backend takes it, and how long and often it is tried.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use portolan_model::route::{Backend, BackendRef, BackendTarget, Rule};
use portolan_model::snapshot::Snapshot;
use portolan_model::{Hop, Reason, Refusal};

use crate::balance::below;
use crate::matching::Matched;
use crate::retry::RetryPolicy;
use crate::route::{self, Route, Timeouts};
use crate::session::Session;

/// What a limit of zero stands for: longer than any request lives.
const NO_LIMIT: Duration = Duration::from_secs(365 * 86_400);

/// A route's name in logs: that of the rule which decided, or a word for calls without one.
#[derive(Debug, Clone)]
pub enum Name {
    /// No rule decided.
    Word(&'static str),
    /// This rule of this route did.
    Rule(Arc<portolan_model::route::Route>, usize),
}

impl fmt::Display for Name {
    /// `namespace/name/rule`, where a rule without a name is known by its position.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (route, index) = match self {
            Self::Word(word) => return f.write_str(word),
            Self::Rule(route, index) => (route, index),
        };
        if let Some(namespace) = &route.key.namespace {
            write!(f, "{namespace}/")?;
        }
        write!(f, "{}/", route.key.name)?;
        match route.rules.get(*index).and_then(|rule| rule.name.as_ref()) {
            Some(name) => f.write_str(name),
            None => write!(f, "{index}"),
        }
    }
}

impl Matched<'_> {
    /// The rule's name in logs.
    #[must_use]
    pub fn name(&self) -> Name {
        Name::Rule(Arc::clone(self.route), self.index)
    }
}

/// The backend for a call that has no session: exactly in proportion to the weights, if `random` is spread
/// evenly over all numbers.
///
/// # Errors
/// [`Reason::InvalidBackend`] when the rule has none, or none with a weight.
pub fn choose_backend(rule: &Rule, random: u64) -> Result<&Backend, Refusal> {
    if rule.backends.is_empty() {
        return Err(invalid("the rule has no backends"));
    }
    let total = rule
        .backends
        .iter()
        .map(|backend| u64::from(backend.weight))
        .sum();
    let mut left = below(random, total);
    for backend in &rule.backends {
        match left.checked_sub(u64::from(backend.weight)) {
            Some(rest) => left = rest,
            None => return Ok(backend),
        }
    }
    Err(invalid("every backend of the rule has the weight 0"))
}

/// The route to a backend of a rule, with the rule's limits. `session`: who had the client's earlier requests.
///
/// # Errors
/// [`Reason::InvalidBackend`] when there is no such service or port.
pub fn to_backend(
    snapshot: &Snapshot,
    matched: &Matched<'_>,
    backend: &BackendRef,
    session: Option<Session>,
) -> Result<Route, Refusal> {
    let mut route = to(snapshot, backend)?;
    limit(&mut route.timeouts, &mut route.retry, matched.rule);
    route.name = matched.name();
    route.session = session;
    Ok(route)
}

/// The route to a backend as such, as copies of requests take it.
///
/// # Errors
/// [`Reason::InvalidBackend`] when there is no such service or port.
pub fn to(snapshot: &Snapshot, backend: &BackendRef) -> Result<Route, Refusal> {
    let BackendTarget {
        service,
        scope,
        port,
    } = match backend {
        BackendRef::Service(target) => target,
        BackendRef::Invalid(why) => return Err(invalid(why.clone())),
    };
    let resolved = route::resolve(snapshot, service.clone(), scope.clone(), Some(*port));
    resolved.map_err(|refusal| {
        if refusal.reason == Reason::NoRoute {
            invalid(format!("a backend does not exist: {}", refusal.detail))
        } else {
            refusal
        }
    })
}

/// The refusal of a rule that leads nowhere.
#[must_use]
pub fn invalid(why: impl Into<String>) -> Refusal {
    Refusal::new(Reason::InvalidBackend, Hop::Outbound, why)
}

/// Puts a rule's limits in the place of the service's own.
fn limit(timeouts: &mut Timeouts, retry: &mut RetryPolicy, rule: &Rule) {
    let given = |limit: Duration| if limit.is_zero() { NO_LIMIT } else { limit };
    let (request, each) = (
        rule.timeouts.request.map(given),
        rule.timeouts.backend_request.map(given),
    );
    timeouts.request = request.or(timeouts.request);
    timeouts.each_try = each.or(timeouts.each_try);
    // Who says how long an answer may take does not want ours besides.
    timeouts.response_headers = each.or(request).unwrap_or(timeouts.response_headers);
    let Some(own) = &rule.retry else { return };
    retry.attempts = own.attempts.unwrap_or(retry.attempts);
    if !own.codes.is_empty() {
        retry.statuses = own.codes.iter().copied().collect();
    }
    if let Some(least) = own.backoff {
        retry.backoff_least = least;
        retry.backoff_base = retry.backoff_base.max(least);
        retry.backoff_max = retry.backoff_max.max(least.saturating_mul(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use portolan_model::declared::{ResourceKey, ResourceKind};
    use portolan_model::route::{RuleRetry, RuleTimeouts};
    use proptest::prelude::*;

    fn rule(weights: &[u32]) -> Rule {
        Rule {
            name: None,
            matches: vec![],
            filters: vec![],
            backends: weights
                .iter()
                .map(|weight| example::backend("shop/orders", *weight))
                .collect(),
            timeouts: RuleTimeouts::default(),
            retry: None,
            session: None,
        }
    }

    fn position(rule: &Rule, random: u64) -> Option<usize> {
        let chosen = choose_backend(rule, random).ok()?;
        rule.backends.iter().position(|it| std::ptr::eq(it, chosen))
    }

    #[test]
    fn nobody_with_a_weight_is_an_invalid_backend() {
        for weights in [&[][..], &[0, 0]] {
            let refusal = choose_backend(&rule(weights), 7).unwrap_err();
            assert_eq!(refusal.reason, Reason::InvalidBackend);
        }
    }

    #[test]
    fn a_backend_that_is_not_there_is_invalid_and_one_that_is_has_the_rule_s_limits() {
        let ms = Duration::from_millis;
        let snapshot = example::snapshot(example::service(Some(example::local(1, 1)), vec![]));
        let rule = Rule {
            name: Some("slow".to_owned()),
            timeouts: RuleTimeouts {
                request: Some(ms(0)),
                backend_request: Some(ms(700)),
            },
            retry: Some(RuleRetry {
                codes: vec![500],
                attempts: Some(5),
                backoff: Some(ms(300)),
            }),
            ..rule(&[1])
        };
        let route = Arc::new(portolan_model::route::Route {
            key: ResourceKey::namespaced(ResourceKind::HttpRoute, "shop".parse().unwrap(), "a"),
            created_ms: 0,
            port: None,
            rules: vec![rule],
        });
        let matched = Matched {
            route: &route,
            index: 0,
            rule: &route.rules[0],
            by: None,
        };
        let found = to_backend(
            &snapshot,
            &matched,
            &example::backend("shop/orders", 1).to,
            None,
        )
        .unwrap();
        assert_eq!(found.timeouts.request, Some(NO_LIMIT));
        assert_eq!(found.timeouts.each_try, Some(ms(700)));
        assert_eq!(found.timeouts.response_headers, ms(700));
        assert_eq!(
            (found.retry.attempts, &found.retry.statuses[..]),
            (5, &[500][..])
        );
        assert_eq!(found.retry.backoff_least, ms(300));
        assert_eq!(found.name.to_string(), "shop/a/slow");
        for missing in [
            example::backend("shop/nothing", 1).to,
            BackendRef::Invalid("no such kind".to_owned()),
        ] {
            let refusal = to_backend(&snapshot, &matched, &missing, None).unwrap_err();
            assert_eq!(refusal.reason, Reason::InvalidBackend);
        }
    }

    proptest! {
        /// Reference: the list in which every backend stands as often as its weight says.
        #[test]
        fn shares_are_exact(weights in prop::collection::vec(0_u32..30, 1..8)) {
            let rule = rule(&weights);
            let list: Vec<usize> = weights
                .iter()
                .enumerate()
                .flat_map(|(at, weight)| std::iter::repeat_n(at, *weight as usize))
                .collect();
            for (at, expected) in list.iter().enumerate() {
                // The middle of the slot, so that rounding does not matter.
                let middle = (2 * at as u128 + 1) << 63;
                let random = (middle / list.len() as u128) as u64;
                prop_assert_eq!(position(&rule, random), Some(*expected));
            }
        }

        /// The greatest weights there are don't overflow, and their shares hold within 4 σ.
        #[test]
        fn shares_hold_for_random_numbers(seed: u64, light in 1_u32..1_000) {
            let rule = rule(&[portolan_model::route::WEIGHT_MAX, light * 1_000, 0]);
            let share = f64::from(light) * 1_000.0 / (1_000_000.0 + f64::from(light) * 1_000.0);
            let draws = 4_000_u64;
            // SplitMix64: evenly spread numbers from a seed.
            let number = |at: u64| {
                let mut x = seed.wrapping_add(at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                x ^ (x >> 31)
            };
            let taken = (0..draws).filter(|at| position(&rule, number(*at)) == Some(1)).count();
            let expected = share * draws as f64;
            let bound = 5.0 * (draws as f64 * share * (1.0 - share)).sqrt() + 1.0;
            prop_assert!((taken as f64 - expected).abs() <= bound, "{taken} of {expected}");
        }
    }
}
