//! Which service a call is for: from a host name or a virtual IP to a [`Route`].

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use portolan_model::declared::ExportTo;
use portolan_model::snapshot::{Scope, Service, Snapshot};
use portolan_model::{
    ClusterName, Hop, Namespace, Port, Protocol, Reason, Refusal, ServiceKey, ServiceName,
};
use serde::{Deserialize, Serialize};

use crate::retry::RetryPolicy;
use crate::rules::Name;
use crate::session::Session;
use crate::traffic;

/// The zone of names that mean this cluster alone.
pub const CLUSTER_ZONE: &str = "svc.cluster.local";
/// The zone of names that mean every cluster of the set (MCS API).
pub const SET_ZONE: &str = "svc.clusterset.local";
/// The short zone: `<service>.<namespace>.global` and `<service>.<namespace>.<cluster>.global`.
pub const GLOBAL_ZONE: &str = "global";
/// The zone of names that only proxies say to each other.
pub const INTERNAL_ZONE: &str = "portolan.internal";

const HTTP_PORT: u16 = 80;

/// What a caller asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Destination {
    /// The service.
    pub service: ServiceKey,
    /// How far the call may go.
    pub scope: Scope,
    /// The service port's number.
    pub port: u16,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)?;
        match &self.scope {
            Scope::Cluster => f.write_str(" in this cluster"),
            Scope::Set => f.write_str(" in any cluster"),
            Scope::Pinned(cluster) => write!(f, " in {cluster}"),
        }
    }
}

/// What routing found: everything that the later stages need.
#[derive(Debug, Clone)]
pub struct Route {
    /// What was asked for.
    pub destination: Destination,
    /// The service, as the snapshot has it.
    pub service: Arc<Service>,
    /// What is spoken on the port.
    pub protocol: Protocol,
    /// When to try again.
    pub retry: RetryPolicy,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// The route's name in logs; `default` where nobody declared a route.
    pub name: Name,
    /// Who had the client's earlier requests, and so takes this one if it can.
    pub session: Option<Session>,
}

/// How long a proxy waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// Until a connection within the cluster stands.
    pub connect_local: Duration,
    /// Until a connection to another cluster stands.
    pub connect_remote: Duration,
    /// From the whole request sent to the response's headers.
    pub response_headers: Duration,
    /// Without a byte in either direction.
    pub stream_idle: Duration,
    /// From a request's first byte to its answer's last, all tries included.
    pub request: Option<Duration>,
    /// Each try, from its begin to its answer's last byte.
    pub each_try: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect_local: Duration::from_secs(1),
            connect_remote: Duration::from_secs(5),
            response_headers: Duration::from_secs(15),
            stream_idle: Duration::from_secs(300),
            request: None,
            each_try: None,
        }
    }
}

impl Timeouts {
    /// How long a connection may take, to this cluster (`own`) or another.
    #[must_use]
    pub fn connect(&self, own: bool) -> Duration {
        if own {
            self.connect_local
        } else {
            self.connect_remote
        }
    }
}

/// Finds the service for a host name. `None`: the name is in none of our zones, so the call is not
/// ours. Without a `port` the one written behind the host counts, then 80, then the service's only
/// port, then its first HTTP port.
///
/// # Errors
/// [`Reason::NotReady`] before the first snapshot; [`Reason::NoRoute`] when the name, the service
/// or the port does not exist for this caller.
#[must_use]
pub fn destination_by_host(
    snapshot: &Snapshot,
    host: &str,
    port: Option<u16>,
) -> Option<Result<Route, Refusal>> {
    let (_, port_of_host) = split_port(host);
    Some(
        parse_host(host)?
            .and_then(|(service, scope)| resolve(snapshot, service, scope, port.or(port_of_host))),
    )
}

/// Finds the service for a virtual IP. `None`: the address is none of our virtual IPs.
///
/// # Errors
/// [`Reason::NoRoute`] when the service has no such port.
#[must_use]
pub fn destination_by_address(
    snapshot: &Snapshot,
    address: SocketAddr,
) -> Option<Result<Route, Refusal>> {
    let ip = address.ip().to_canonical();
    let Some((service, scope)) = snapshot.addresses.get(&ip) else {
        return is_reserved(ip).then(|| {
            Err(no_route(format!(
                "{ip} is a virtual IP that belongs to no service"
            )))
        });
    };
    Some(resolve(
        snapshot,
        service.clone(),
        scope.clone(),
        Some(address.port()),
    ))
}

/// Whether no host anywhere can have this address: virtual IPs are taken from there. One that no service
/// has any more must not leave the mesh in clear.
fn is_reserved(ip: IpAddr) -> bool {
    match ip {
        // 240.0.0.0/4, reserved for future use (RFC 1112 §4), but for the broadcast address.
        IpAddr::V4(v4) => v4.octets()[0] >= 240 && !v4.is_broadcast(),
        // The default pool, fd24:241::/64.
        IpAddr::V6(v6) => v6.segments()[..4] == [0xfd24, 0x241, 0, 0],
    }
}

/// Reads a host name of one of our zones. Case, a trailing dot and `:port` don't matter. `None`: in
/// none of our zones.
///
/// # Errors
/// [`Reason::NoRoute`] for names in our zones that cannot mean a service: malformed ones, and all
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
fn split_port(host: &str) -> (&str, Option<u16>) {
    match host
        .rsplit_once(':')
        .map(|(name, port)| (name, port.parse()))
    {
        Some((name, Ok(port))) => (name, Some(port)),
        Some((_, Err(_))) | None => (host, None),
    }
}

/// Finds the service and the port in the snapshot. A service that nobody exports has no names and
/// addresses in the set, and is refused exactly like one that does not exist.
pub(crate) fn resolve(
    snapshot: &Snapshot,
    key: ServiceKey,
    scope: Scope,
    port: Option<u16>,
) -> Result<Route, Refusal> {
    let Some(mesh) = &snapshot.mesh else {
        return Err(Refusal::new(
            Reason::NotReady,
            Hop::Outbound,
            "no snapshot has arrived from the control plane yet",
        ));
    };
    let ports = snapshot.services.get(&key).and_then(|service| {
        Some((
            service,
            ports_in_scope(service, &scope, &mesh.cluster.name)?,
        ))
    });
    let Some((service, ports)) = ports else {
        return Err(no_route(unknown_service(&key, &scope)));
    };
    let Some(found) = choose_port(ports, port) else {
        return Err(no_route(unknown_port(&key, ports, port)));
    };
    let policy = traffic::policy(service, &scope, found.number);
    Ok(Route {
        retry: RetryPolicy::from(&policy.retries),
        timeouts: Timeouts::from(&policy.timeouts),
        destination: Destination {
            service: key,
            scope,
            port: found.number,
        },
        service: Arc::clone(service),
        protocol: found.protocol,
        name: Name::Word("default"),
        session: None,
    })
}

/// The ports that the name offers; `None` when the name does not exist.
fn ports_in_scope<'a>(
    service: &'a Service,
    scope: &Scope,
    own: &ClusterName,
) -> Option<&'a [Port]> {
    match scope {
        Scope::Cluster => service.local.as_ref().map(|local| local.ports.as_slice()),
        Scope::Set => service.imported.then_some(service.ports.as_slice()),
        Scope::Pinned(_) if !service.imported => None,
        Scope::Pinned(cluster) if cluster == own => exported_ports(service),
        Scope::Pinned(cluster) => service
            .remote
            .iter()
            .find(|remote| &remote.cluster == cluster)
            .map(|remote| remote.ports.as_slice()),
    }
}

/// This cluster's ports, when it takes part in the set's name (MCS API: only what is exported does,
/// also for callers beside it).
fn exported_ports(service: &Service) -> Option<&[Port]> {
    service
        .local
        .as_ref()
        .filter(|local| local.exported != ExportTo::Nobody)
        .map(|local| local.ports.as_slice())
}

fn choose_port(ports: &[Port], wanted: Option<u16>) -> Option<&Port> {
    let streams = || ports.iter().filter(|port| port.protocol != Protocol::Udp);
    let numbered = |number| streams().find(|port| port.number == number);
    match wanted {
        Some(number) => numbered(number),
        None => numbered(HTTP_PORT)
            .or_else(|| streams().next().filter(|_| streams().nth(1).is_none()))
            .or_else(|| streams().find(|port| port.protocol.is_http())),
    }
}

fn unknown_service(key: &ServiceKey, scope: &Scope) -> String {
    match scope {
        Scope::Cluster => format!("this cluster has no service {key}"),
        Scope::Set => format!("no cluster exports a service {key} to this one"),
        Scope::Pinned(cluster) => {
            format!("cluster {cluster} exports no service {key} to this one")
        }
    }
}

fn unknown_port(key: &ServiceKey, ports: &[Port], wanted: Option<u16>) -> String {
    let known = ports
        .iter()
        .map(|port| format!("{}/{}", port.number, port.protocol))
        .collect::<Vec<_>>()
        .join(", ");
    match wanted {
        Some(number) => format!("service {key} has no port {number}; it has {known}"),
        None => format!("name one of the ports of service {key}: {known}"),
    }
}

fn no_route(detail: String) -> Refusal {
    Refusal::new(Reason::NoRoute, Hop::Outbound, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use proptest::prelude::*;

    fn scope_of(host: &str) -> Option<Option<Scope>> {
        parse_host(host).map(|found| found.ok().map(|(_, scope)| scope))
    }

    #[test]
    fn names_mean_services_and_scopes() {
        let pinned = Scope::Pinned(example::cluster("eu-west"));
        let ours = [
            ("orders.shop.svc.cluster.local", Scope::Cluster),
            ("orders.shop.svc.clusterset.local", Scope::Set),
            ("Orders.SHOP.svc.ClusterSet.local.", Scope::Set),
            ("orders.shop.svc.clusterset.local.:8080", Scope::Set),
            ("orders.shop.global", Scope::Set),
            ("orders.shop.global:80", Scope::Set),
            ("orders.shop.eu-west.global", pinned),
        ];
        for (host, scope) in ours {
            let (key, found) = parse_host(host).expect(host).expect(host);
            assert_eq!((key, found), (example::orders(), scope), "{host}");
        }
    }

    #[test]
    fn malformed_names_in_our_zones_are_refused_and_others_are_not_ours() {
        for bad in [
            "global",
            "svc.clusterset.local",
            "shop.global",
            ".global",
            "orders.shop.x.y.global",
            "a.orders.shop.svc.cluster.local",
            "or_ders.shop.global",
            "p80.orders.shop.eu-west.portolan.internal",
            "portolan.internal",
        ] {
            assert_eq!(scope_of(bad), Some(None), "{bad}");
        }
        for foreign in [
            "",
            ":80",
            "example.com",
            "orders.shop.svc.clusterset.local..",
            "notglobal",
            "orders.shop",
            "10.0.0.1:80",
            "[::1]:80",
            "::1",
            "x.pod.cluster.local",
            "orders.shop.global:http",
            "ordersé.shop.globalé",
        ] {
            assert_eq!(scope_of(foreign), None, "{foreign}");
        }
    }

    fn found(snapshot: &Snapshot, host: &str, port: Option<u16>) -> Result<u16, Refusal> {
        destination_by_host(snapshot, host, port)
            .expect(host)
            .map(|route| route.destination.port)
    }

    #[test]
    fn a_port_comes_from_the_call_then_the_name_then_the_service() {
        let mut service = example::service(None, vec![example::remote("eu-west", 1, 1)]);
        service.ports = vec![
            example::port(53, Protocol::Udp),
            example::port(9_000, Protocol::Tcp),
            example::port(8_080, Protocol::Grpc),
            example::port(80, Protocol::Http),
        ];
        let host = "orders.shop.global";
        let snapshot = example::snapshot(service.clone());
        assert_eq!(found(&snapshot, host, Some(9_000)), Ok(9_000));
        assert_eq!(
            found(&snapshot, "orders.shop.global:8080", Some(9_000)),
            Ok(9_000)
        );
        assert_eq!(found(&snapshot, "orders.shop.global:8080", None), Ok(8_080));
        assert_eq!(found(&snapshot, host, None), Ok(80));
        assert!(found(&snapshot, host, Some(53)).is_err(), "UDP");
        let refusal = found(&snapshot, host, Some(81)).unwrap_err();
        assert_eq!(refusal.reason, Reason::NoRoute);
        assert!(refusal.detail.contains("9000/tcp"), "{refusal}");

        service.ports.pop();
        assert_eq!(
            found(&example::snapshot(service.clone()), host, None),
            Ok(8_080)
        );
        service.ports.pop();
        assert_eq!(
            found(&example::snapshot(service.clone()), host, None),
            Ok(9_000)
        );
        service.ports.pop();
        assert!(found(&example::snapshot(service), host, None).is_err());
    }

    #[test]
    fn what_is_not_exported_looks_like_what_does_not_exist() {
        let mut service = example::service(Some(example::local(1, 1)), vec![]);
        service.imported = false;
        let snapshot = example::snapshot(service);
        let mut empty = snapshot.clone();
        empty.services.clear();
        for host in ["orders.shop.global", "orders.shop.us-east.global"] {
            let hidden = found(&snapshot, host, None).unwrap_err();
            assert_eq!(hidden, found(&empty, host, None).unwrap_err());
            assert_eq!(
                (hidden.reason, hidden.hop),
                (Reason::NoRoute, Hop::Outbound)
            );
        }
        assert_eq!(
            found(&snapshot, "orders.shop.svc.cluster.local", None),
            Ok(80)
        );
    }

    #[test]
    fn a_pinned_name_exists_where_the_service_is_exported() {
        let pinned = |exported, cluster: &str| {
            let mut local = example::local(1, 1);
            local.exported = exported;
            let service = example::service(Some(local), vec![example::remote("eu-west", 0, 0)]);
            let host = format!("orders.shop.{cluster}.global");
            found(&example::snapshot(service), &host, None).is_ok()
        };
        assert!(pinned(ExportTo::Everyone, "us-east"));
        assert!(!pinned(ExportTo::Nobody, "us-east"));
        assert!(pinned(ExportTo::Nobody, "eu-west"));
        assert!(!pinned(ExportTo::Everyone, "us-west"));
    }

    #[test]
    fn virtual_addresses_lead_to_the_same_routes() {
        let snapshot = example::snapshot(example::service(
            Some(example::local(1, 1)),
            vec![example::remote("eu-west", 1, 1)],
        ));
        let scope = |address: &str| {
            destination_by_address(&snapshot, address.parse().unwrap())
                .map(|found| found.map(|route| route.destination.scope))
        };
        let pinned = Scope::Pinned(example::cluster("eu-west"));
        assert_eq!(scope("10.1.0.1:80"), Some(Ok(Scope::Cluster)));
        assert_eq!(scope("240.241.0.1:80"), Some(Ok(Scope::Set)));
        assert_eq!(scope("[::ffff:240.241.0.2]:80"), Some(Ok(pinned)));
        assert_eq!(scope("10.0.0.1:80"), None);
        assert!(matches!(scope("240.241.0.1:81"), Some(Err(_))));
        // Nobody's: refused, never passed on to whatever answers there.
        assert!(matches!(scope("240.241.9.9:80"), Some(Err(_))));
        assert!(matches!(scope("[fd24:241::9]:80"), Some(Err(_))));
        assert_eq!(scope("255.255.255.255:80"), None);
    }

    #[test]
    fn before_the_first_snapshot_nothing_is_ready() {
        let refusal = found(&Snapshot::default(), "orders.shop.global", None).unwrap_err();
        assert_eq!(refusal.reason, Reason::NotReady);
        assert!(destination_by_host(&Snapshot::default(), "example.com", None).is_none());
    }

    proptest! {
        #[test]
        fn reading_never_panics(host in "\\PC{0,60}(\\.global|\\.svc\\.clusterset\\.local)?(:[0-9]{0,6})?\\.?") {
            let _ = parse_host(&host);
        }

        #[test]
        fn case_dot_and_port_do_not_matter(
            service in "[a-z0-9]{1,10}", namespace in "[a-z0-9]{1,10}", port: u16,
        ) {
            let plain = format!("{service}.{namespace}.svc.clusterset.local");
            let dressed = format!("{}.:{port}", plain.to_ascii_uppercase());
            prop_assert_eq!(parse_host(&plain), parse_host(&dressed));
            prop_assert!(parse_host(&plain).unwrap().is_ok());
        }
    }
}
