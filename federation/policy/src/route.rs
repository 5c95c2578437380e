//! Which service a call is for: from a host name or a virtual IP to a [`Route`].

mod host;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use portolan_model::declared::ExportTo;
use portolan_model::snapshot::{Scope, Service, Snapshot};
use portolan_model::{ClusterName, Hop, Port, Protocol, Reason, Refusal, ServiceKey};
use serde::{Deserialize, Serialize};

use crate::retry::RetryPolicy;
use crate::rules::Name;
use crate::session::Session;
use crate::traffic;

use host::split_port;
pub use host::{CLUSTER_ZONE, GLOBAL_ZONE, INTERNAL_ZONE, SET_ZONE, parse_host};

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
    let streams = || ports.iter().filter(|port| port.protocol.over_tcp());
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
