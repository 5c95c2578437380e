//! What keeps a client's requests together: opaque tokens that name who had the first of them.
//!
//! A token is a digest of the rule, the backend and the place, so it tells nothing of the mesh and is worth
//! nothing to another rule. Within the own cluster the place is an endpoint; in another cluster it is that
//! cluster, whose gateway picks the endpoint.

use std::time::Duration;

use http::header::{COOKIE, HeaderName, SET_COOKIE};
use http::{HeaderMap, HeaderValue};
use portolan_model::route::{
    Backend, BackendRef, BackendTarget, SessionCarrier, SessionPersistence,
};
use portolan_model::snapshot::{Scope, Snapshot};
use portolan_model::{ClusterName, WorkloadKey};

use crate::matching::Matched;

/// Who had a client's earlier requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Session {
    /// This endpoint of the own cluster.
    Endpoint(WorkloadKey),
    /// This other cluster.
    Cluster(ClusterName),
}

/// A token as a request brings it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    digest: u64,
    /// When the session began, where it has an end: seconds since the Unix epoch.
    begun_s: Option<u64>,
}

impl Token {
    /// The token of a request, if it has one that is still good at `now_s`.
    #[must_use]
    pub fn of(persistence: &SessionPersistence, headers: &HeaderMap, now_s: u64) -> Option<Self> {
        let text = match &persistence.carrier {
            SessionCarrier::Header { name } => headers.get(name.as_str())?.to_str().ok()?,
            SessionCarrier::Cookie { name, .. } => cookie(headers, name)?,
        };
        let token = Self::parse(text)?;
        let good = match (persistence.absolute_timeout, token.begun_s) {
            (Some(limit), Some(begun_s)) => {
                begun_s <= now_s && now_s - begun_s < limit.as_secs().max(1)
            }
            (Some(_), None) => false,
            (None, _) => true,
        };
        good.then_some(token)
    }

    fn parse(text: &str) -> Option<Self> {
        let (digest, begun) = match text.split_once('-') {
            Some((digest, begun)) => (digest, Some(begun)),
            None => (text, None),
        };
        Some(Self {
            digest: u64::from_str_radix(digest, 16).ok()?,
            begun_s: match begun {
                Some(begun) => Some(u64::from_str_radix(begun, 16).ok()?),
                None => None,
            },
        })
    }

    /// The backend and place that it stands for, if the snapshot still has them ready.
    #[must_use]
    pub fn find<'a>(
        self,
        snapshot: &Snapshot,
        matched: &Matched<'a>,
    ) -> Option<(&'a Backend, Session)> {
        matched.rule.backends.iter().find_map(|backend| {
            let BackendRef::Service(target) = &backend.to else {
                return None;
            };
            let places = places(snapshot, target);
            let session = places
                .into_iter()
                .find(|session| digest(matched, target, session) == self.digest)?;
            Some((backend, session))
        })
    }
}

/// Everybody who could have a client's session as this backend.
fn places(snapshot: &Snapshot, target: &BackendTarget) -> Vec<Session> {
    let Some(service) = snapshot.services.get(&target.service) else {
        return Vec::new();
    };
    let own = service.local.iter().flat_map(|local| &local.endpoints);
    let own = own
        .filter(|endpoint| endpoint.ready && endpoint.ports.contains_key(&target.port))
        .map(|endpoint| Session::Endpoint(endpoint.workload.clone()));
    let remote = service.remote.iter().filter(|remote| {
        target.scope == Scope::Set
            && remote.ready() > 0
            && remote.ports.iter().any(|port| port.number == target.port)
    });
    own.chain(remote.map(|remote| Session::Cluster(remote.cluster.clone())))
        .collect()
}

/// The header with which an answer gives the client its session.
#[must_use]
pub fn issue(
    persistence: &SessionPersistence,
    matched: &Matched<'_>,
    backend: &BackendTarget,
    session: &Session,
    now_s: u64,
) -> Option<(HeaderName, HeaderValue)> {
    let digest = digest(matched, backend, session);
    let token = match persistence.absolute_timeout {
        Some(_) => format!("{digest:016x}-{now_s:x}"),
        None => format!("{digest:016x}"),
    };
    let (name, text) = match &persistence.carrier {
        SessionCarrier::Header { name } => (name.parse().ok()?, token),
        SessionCarrier::Cookie {
            name,
            path,
            permanent,
        } => {
            let limit = persistence.absolute_timeout.filter(|_| *permanent);
            let age = limit
                .map(|limit: Duration| format!("; Max-Age={}", limit.as_secs().max(1)))
                .unwrap_or_default();
            let cookie = format!("{name}={token}; Path={path}; HttpOnly; SameSite=Lax{age}");
            (SET_COOKIE, cookie)
        }
    };
    Some((name, HeaderValue::try_from(text).ok()?))
}

/// The value of a cookie (RFC 6265 §4.2).
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|pairs| pairs.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(found, value)| (found == name).then_some(value))
}

/// FNV-1a over what the session stands for: the same in every process and version.
fn digest(matched: &Matched<'_>, backend: &BackendTarget, session: &Session) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut part = |text: &str| {
        // The zero between parts keeps `a` `bc` apart from `ab` `c`.
        for byte in text.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    let key = &matched.route.key;
    part(key.kind.as_str());
    part(key.namespace.as_ref().map_or("", |it| it.as_str()));
    part(&key.name);
    match &matched.rule.name {
        Some(name) => part(name),
        None => part(&matched.index.to_string()),
    }
    part(backend.service.namespace.as_str());
    part(backend.service.name.as_str());
    part(&backend.port.to_string());
    match session {
        Session::Endpoint(workload) => {
            part("endpoint");
            part(workload.namespace.as_str());
            part(workload.name.as_str());
        }
        Session::Cluster(cluster) => {
            part("cluster");
            part(cluster.as_str());
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use portolan_model::declared::{ResourceKey, ResourceKind};
    use portolan_model::route::{Route, Rule, RuleTimeouts};
    use std::sync::Arc;

    fn target() -> BackendTarget {
        BackendTarget {
            service: example::orders(),
            scope: Scope::Set,
            port: 80,
        }
    }

    fn route() -> Arc<Route> {
        let rule = Rule {
            name: None,
            matches: vec![],
            filters: vec![],
            backends: vec![Backend {
                to: BackendRef::Service(target()),
                weight: 0,
                filters: vec![],
            }],
            timeouts: RuleTimeouts::default(),
            retry: None,
            session: None,
        };
        Arc::new(Route {
            key: ResourceKey::namespaced(ResourceKind::HttpRoute, "shop".parse().unwrap(), "a"),
            created_ms: 0,
            port: None,
            rules: vec![rule.clone(), rule],
        })
    }

    fn matched(route: &Arc<Route>, index: usize) -> Matched<'_> {
        Matched {
            route,
            index,
            rule: &route.rules[index],
            by: None,
        }
    }

    fn persistence(carrier: SessionCarrier, limit_s: Option<u64>) -> SessionPersistence {
        SessionPersistence {
            carrier,
            absolute_timeout: limit_s.map(Duration::from_secs),
        }
    }

    fn cookie_of(permanent: bool) -> SessionCarrier {
        SessionCarrier::Cookie {
            name: "s".to_owned(),
            path: "/".to_owned(),
            permanent,
        }
    }

    fn sent_back(header: (HeaderName, HeaderValue)) -> HeaderMap {
        let text = header.1.to_str().unwrap();
        if header.0 == SET_COOKIE {
            let pair = text.split(';').next().unwrap();
            let cookies = format!("other=1; {pair}");
            return HeaderMap::from_iter([(COOKIE, cookies.parse().unwrap())]);
        }
        HeaderMap::from_iter([header])
    }

    #[test]
    fn a_token_leads_back_to_its_place_even_with_weight_zero_and_for_its_rule_only() {
        let service = example::service(
            Some(example::local(2, 3)),
            vec![example::remote("eu-west", 1, 1)],
        );
        let snapshot = example::snapshot(service);
        let route = route();
        let places = [
            (Session::Endpoint(example::workload(1)), true),
            (Session::Cluster(example::cluster("eu-west")), true),
            // Not ready, and not there.
            (Session::Endpoint(example::workload(2)), false),
            (Session::Cluster(example::cluster("us-west")), false),
        ];
        let header = SessionCarrier::Header {
            name: "x-s".to_owned(),
        };
        for carrier in [header, cookie_of(false)] {
            let persistence = persistence(carrier, None);
            for (place, known) in &places {
                let issued = issue(&persistence, &matched(&route, 0), &target(), place, 5);
                let headers = sent_back(issued.unwrap());
                let token = Token::of(&persistence, &headers, 9).unwrap();
                let found = token.find(&snapshot, &matched(&route, 0));
                assert_eq!(found.map(|(_, place)| place), known.then(|| place.clone()));
                assert_eq!(token.find(&snapshot, &matched(&route, 1)), None);
            }
        }
    }

    #[test]
    fn sessions_end_and_cookies_say_so_only_if_permanent() {
        let route = route();
        let place = Session::Endpoint(example::workload(0));
        let issued = |persistence: &SessionPersistence| {
            issue(persistence, &matched(&route, 0), &target(), &place, 100).unwrap()
        };
        let ending = persistence(cookie_of(false), Some(60));
        let header = issued(&ending);
        assert!(!header.1.to_str().unwrap().contains("Max-Age"));
        let headers = sent_back(header);
        assert!(Token::of(&ending, &headers, 159).is_some());
        assert_eq!(Token::of(&ending, &headers, 160), None);
        assert_eq!(Token::of(&ending, &headers, 99), None);
        let permanent = persistence(cookie_of(true), Some(60));
        let text = issued(&permanent).1;
        assert!(text.to_str().unwrap().ends_with("; Max-Age=60"), "{text:?}");
        let endless = persistence(cookie_of(false), None);
        assert!(!issued(&endless).1.to_str().unwrap().contains("Expires"));
    }

    #[test]
    fn nonsense_is_no_session() {
        let persistence = persistence(cookie_of(false), None);
        for text in ["s=", "s=zz", "s=1-x", "t=1", "s", ""] {
            let headers = HeaderMap::from_iter([(COOKIE, text.parse().unwrap())]);
            assert_eq!(Token::of(&persistence, &headers, 0), None, "{text}");
        }
    }
}
