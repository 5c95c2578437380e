//! Names of services: the zones that are ours, and what a host name in one of them means.

use portolan_model::snapshot::Scope;
use portolan_model::{ClusterName, Namespace, Refusal, ServiceKey, ServiceName};

use super::no_route;

/// The zone of names that mean this cluster alone.
pub const CLUSTER_ZONE: &str = "svc.cluster.local";
/// The zone of names that mean every cluster of the set (MCS API).
pub const SET_ZONE: &str = "svc.clusterset.local";
/// The short zone: `<service>.<namespace>.global` and `<service>.<namespace>.<cluster>.global`.
pub const GLOBAL_ZONE: &str = "global";
/// The zone of names that only proxies say to each other.
pub const INTERNAL_ZONE: &str = "portolan.internal";

/// Reads a host name of one of our zones. Case, a trailing dot and `:port` don't matter. `None`: in
/// none of our zones.
///
/// # Errors
/// [`NoRoute`](portolan_model::Reason::NoRoute) for names in our zones that cannot mean a service: malformed ones, and all
/// that only proxies say to each other.
#[must_use]
pub fn parse_host(host: &str) -> Option<Result<(ServiceKey, Scope), Refusal>> {
    let (host, _) = split_port(host);
    let host = host.strip_suffix('.').unwrap_or(host);
    let zone = Zone::ALL
        .iter()
        .find_map(|zone| strip_zone(host, zone.suffix()).map(|rest| (*zone, rest)));
    let (zone, rest) = zone?;
    Some(zone.read(&rest.to_ascii_lowercase()).ok_or_else(|| {
        no_route(format!(
            "`{host}` is no service name; write {}",
            zone.shape()
        ))
    }))
}

#[derive(Clone, Copy)]
enum Zone {
    Cluster,
    Set,
    Global,
    Internal,
}

impl Zone {
    const ALL: &[Self] = &[Self::Cluster, Self::Set, Self::Global, Self::Internal];

    fn suffix(self) -> &'static str {
        match self {
            Self::Cluster => CLUSTER_ZONE,
            Self::Set => SET_ZONE,
            Self::Global => GLOBAL_ZONE,
            Self::Internal => INTERNAL_ZONE,
        }
    }

    fn shape(self) -> &'static str {
        match self {
            Self::Cluster => "`<service>.<namespace>.svc.cluster.local`",
            Self::Set | Self::Internal => "`<service>.<namespace>.svc.clusterset.local`",
            Self::Global => {
                "`<service>.<namespace>.global` or `<service>.<namespace>.<cluster>.global`"
            }
        }
    }

    /// Reads what stands before the zone's suffix, in lower case.
    fn read(self, labels: &str) -> Option<(ServiceKey, Scope)> {
        let mut labels = labels.split('.');
        let service = ServiceName::parse(labels.next()?).ok()?;
        let namespace = Namespace::parse(labels.next()?).ok()?;
        let scope = self.scope(labels)?;
        Some((ServiceKey::new(namespace, service), scope))
    }

    fn scope<'a>(self, mut rest: impl Iterator<Item = &'a str>) -> Option<Scope> {
        match (self, rest.next(), rest.next()) {
            (Self::Cluster, None, _) => Some(Scope::Cluster),
            (Self::Set | Self::Global, None, _) => Some(Scope::Set),
            (Self::Global, Some(cluster), None) => {
                Some(Scope::Pinned(ClusterName::parse(cluster).ok()?))
            }
            (Self::Cluster | Self::Set | Self::Global | Self::Internal, ..) => None,
        }
    }
}

/// What stands before `.zone`, when `host` is in the zone; empty for the zone itself.
fn strip_zone<'a>(host: &'a str, zone: &str) -> Option<&'a str> {
    let at = host.len().checked_sub(zone.len())?;
    let (rest, suffix) = host.split_at_checked(at)?;
    if !suffix.eq_ignore_ascii_case(zone) {
        return None;
    }
    if rest.is_empty() {
        return Some(rest);
    }
    rest.strip_suffix('.')
}

/// Splits `host:port`. What is no port number stays with the host, which then is in no zone.
pub(super) fn split_port(host: &str) -> (&str, Option<u16>) {
    match host
        .rsplit_once(':')
        .map(|(name, port)| (name, port.parse()))
    {
        Some((name, Ok(port))) => (name, Some(port)),
        Some((_, Err(_))) | None => (host, None),
    }
}
