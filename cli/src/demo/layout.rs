//! Which clusters, which apps, and which loopback addresses: the demo's plan.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use crate::exit::Failure;

/// The demo's cluster set.
pub(super) const CLUSTER_SET: &str = "demo";
/// The namespace of all demo apps.
pub(super) const NAMESPACE: &str = "shop";

const DNS_PORT: u16 = 5353;
const CONTROL_PORT: u16 = 15010;
const ADMIN_PORT: u16 = 15020;
const GATEWAY_TCP_PORT: u16 = 15443;
const GATEWAY_QUIC_PORT: u16 = 15444;
const OUTBOUND_PORT: u16 = 15001;
const INBOUND_PORT: u16 = 15008;
/// Where demo apps answer HTTP and gRPC.
pub(super) const APP_HTTP_PORT: u16 = 8080;
/// Where demo apps answer lines.
pub(super) const APP_TCP_PORT: u16 = 7000;

/// Everything that the demo will run, with its addresses.
pub(super) struct Layout {
    pub(super) clusters: Vec<Cluster>,
}

pub(super) struct Cluster {
    pub(super) name: &'static str,
    pub(super) region: &'static str,
    pub(super) control: SocketAddr,
    pub(super) control_http: SocketAddr,
    pub(super) dns: SocketAddr,
    pub(super) gateway_tcp: SocketAddr,
    pub(super) gateway_quic: SocketAddr,
    pub(super) gateway_admin: SocketAddr,
    pub(super) workloads: Vec<Workload>,
}

pub(super) struct Workload {
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    pub(super) kind: AppKind,
    pub(super) app: SocketAddr,
    pub(super) outbound: SocketAddr,
    pub(super) inbound: SocketAddr,
    pub(super) admin: SocketAddr,
}

/// What an app speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AppKind {
    Http,
    HttpAndGrpc,
    Tcp,
}

/// A service of the demo: what runs it, and whether it is exported.
pub(super) struct Service {
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    pub(super) kind: AppKind,
    pub(super) exported: bool,
}

const CLUSTERS: [(&str, &str); 3] = [("us-east", "us"), ("us-west", "us"), ("eu-west", "eu")];

/// The services that a cluster runs.
pub(super) fn services(cluster: &str) -> Vec<Service> {
    let service = |name, kind, exported| Service {
        name,
        version: "v1",
        kind,
        exported,
    };
    let mut services = vec![
        service("frontend", AppKind::Http, true),
        service("orders", AppKind::Http, true),
    ];
    if cluster == "us-west" {
        // What `deploy/examples/canary.yaml` sends a tenth of the calls to.
        services.push(Service {
            version: "v2",
            ..service("orders-v2", AppKind::Http, true)
        });
    }
    if cluster == "eu-west" {
        services.push(service("payments", AppKind::HttpAndGrpc, true));
        services.push(service("ledger", AppKind::Tcp, true));
        services.push(service("inventory", AppKind::Http, false));
    }
    services
}

impl Layout {
    /// Finds a free range of loopback addresses: 127.N.1.0/24 to 127.N.3.0/24, a cluster each.
    pub(super) fn choose() -> Result<Self, Failure> {
        // Begin somewhere else each time, so that demos that start together seldom meet.
        let first = std::process::id() % 190;
        for step in 0..190 {
            let network = u8::try_from(40 + (first + step) % 190).unwrap_or(40);
            let layout = Self::at(network);
            if layout.is_free() {
                return Ok(layout);
            }
        }
        Err(Failure::bind(
            "no free loopback network from 127.40.0.0 to 127.229.0.0; end other demos first",
        ))
    }

    fn at(network: u8) -> Self {
        let clusters = CLUSTERS
            .iter()
            .zip(1..)
            .map(|((name, region), third)| cluster(name, region, network, third));
        Self {
            clusters: clusters.collect(),
        }
    }

    fn is_free(&self) -> bool {
        let free = |address: SocketAddr| TcpListener::bind(address).is_ok();
        self.clusters.iter().all(|cluster| {
            free(cluster.control)
                && free(cluster.dns)
                && free(cluster.gateway_tcp)
                && cluster
                    .workloads
                    .iter()
                    .all(|workload| free(workload.app) && free(workload.inbound))
        })
    }
}

fn cluster(name: &'static str, region: &'static str, network: u8, third: u8) -> Cluster {
    let at =
        |last: u8, port: u16| SocketAddr::from((Ipv4Addr::new(127, network, third, last), port));
    let workloads = services(name)
        .into_iter()
        .zip(11..)
        .map(|(service, last)| Workload {
            name: service.name,
            version: service.version,
            kind: service.kind,
            app: at(
                last,
                if service.kind == AppKind::Tcp {
                    APP_TCP_PORT
                } else {
                    APP_HTTP_PORT
                },
            ),
            outbound: at(last, OUTBOUND_PORT),
            inbound: at(last, INBOUND_PORT),
            admin: at(last, ADMIN_PORT),
        });
    Cluster {
        name,
        region,
        control: at(1, CONTROL_PORT),
        control_http: at(1, ADMIN_PORT),
        dns: at(1, DNS_PORT),
        gateway_tcp: at(2, GATEWAY_TCP_PORT),
        gateway_quic: at(2, GATEWAY_QUIC_PORT),
        gateway_admin: at(2, ADMIN_PORT),
        workloads: workloads.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_parts_share_an_address() {
        let layout = Layout::at(77);
        let mut seen = std::collections::BTreeSet::new();
        for cluster in &layout.clusters {
            let own = [
                cluster.control,
                cluster.control_http,
                cluster.dns,
                cluster.gateway_tcp,
                cluster.gateway_quic,
                cluster.gateway_admin,
            ];
            let beside = cluster
                .workloads
                .iter()
                .flat_map(|w| [w.app, w.outbound, w.inbound, w.admin]);
            for address in own.into_iter().chain(beside) {
                assert!(
                    address.ip().is_loopback() && seen.insert(address),
                    "{address}"
                );
            }
        }
    }

    #[test]
    fn only_eu_west_runs_payments_and_inventory_is_not_exported() {
        let names = |cluster: &str| {
            services(cluster)
                .iter()
                .map(|s| (s.name, s.exported))
                .collect::<Vec<_>>()
        };
        assert_eq!(names("us-east"), [("frontend", true), ("orders", true)]);
        assert!(names("eu-west").contains(&("payments", true)));
        assert!(names("eu-west").contains(&("inventory", false)));
    }
}
