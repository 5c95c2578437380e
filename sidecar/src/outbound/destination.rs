//! Where a request or connection is meant to go.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use http::uri::Authority;
use portolan_model::snapshot::Snapshot;
use portolan_model::{Hop, Reason, Refusal};
use portolan_policy::route::{self, Route};

/// The port of plain HTTP.
const HTTP_PORT: u16 = 80;

/// How a connection came to us, which says where its requests are meant to go.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// To the outbound listener: each request names its host.
    Listener,
    /// Through CONNECT: to that host, whatever its requests name.
    Tunnel(Rc<str>, u16),
    /// Captured: to that address, whatever its requests name.
    Captured(SocketAddr),
}

/// Where to go.
#[derive(Debug)]
pub(super) enum Destination {
    /// A service of the mesh.
    Mesh(Rc<Route>),
    /// A host outside the mesh.
    Elsewhere(Host),
}

/// A host outside the mesh.
#[derive(Debug, Clone)]
pub(super) struct Host {
    /// A name or an IP address.
    pub(super) name: Rc<str>,
    /// The port.
    pub(super) port: u16,
}

impl Origin {
    /// Where a request with this authority goes.
    ///
    /// # Errors
    /// When the name or address is in the mesh, but leads nowhere.
    pub(super) fn destination(
        &self,
        snapshot: &Snapshot,
        authority: &Authority,
    ) -> Result<Destination, Refusal> {
        match self {
            Self::Listener => by_host(snapshot, authority.host(), authority.port_u16()),
            Self::Tunnel(host, port) => by_host(snapshot, host, Some(*port)),
            Self::Captured(address) => by_address(snapshot, *address),
        }
    }

    /// The authority of a request that names none.
    pub(super) fn authority(&self) -> Option<Authority> {
        match self {
            Self::Listener => None,
            Self::Tunnel(host, port) => Authority::try_from(format!("{host}:{port}")).ok(),
            Self::Captured(address) => Authority::try_from(address.to_string()).ok(),
        }
    }
}

/// Where a host, a name or an IP address, leads.
///
/// # Errors
/// When it is in the mesh, but leads nowhere.
pub(super) fn by_host(
    snapshot: &Snapshot,
    host: &str,
    port: Option<u16>,
) -> Result<Destination, Refusal> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return by_address(snapshot, (ip, port.unwrap_or(HTTP_PORT)).into());
    }
    match route::destination_by_host(snapshot, host, port) {
        Some(route) => Ok(Destination::Mesh(Rc::new(route?))),
        None => Ok(Destination::Elsewhere(Host {
            name: host.into(),
            port: port.unwrap_or(HTTP_PORT),
        })),
    }
}

/// Where an address leads.
///
/// # Errors
/// When it is a virtual IP without such a port.
pub(super) fn by_address(snapshot: &Snapshot, address: SocketAddr) -> Result<Destination, Refusal> {
    match route::destination_by_address(snapshot, address) {
        Some(route) => Ok(Destination::Mesh(Rc::new(route?))),
        None => Ok(Destination::Elsewhere(Host {
            name: address.ip().to_string().into(),
            port: address.port(),
        })),
    }
}

/// The refusal for hosts outside the mesh, where they are not passed on.
pub(super) fn not_passed_on(host: &Host) -> Refusal {
    Refusal::new(
        Reason::NoRoute,
        Hop::Outbound,
        format!(
            "`{}` is not in the mesh, and `passthrough` is off",
            host.name
        ),
    )
}
