//! Envoys: the caller's and the origin's with mutual TLS between them, and two gateways in between
//! that pass the TLS on by its SNI, or carry it in a tunnel over HTTP/3.

mod config;

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::{Ground, Started, Subject};
use crate::certificates::SERVER_NAME;
use crate::child::Process;
use crate::load::bulk::BulkEntrance;
use crate::load::{Entrance, Work};
use crate::network::Side;

use config::{
    bootstrap, bytes_to, cluster, downstream_tls, http_to, listener, passthrough, tunnel_begin,
    tunnel_end, upstream_tls, virtual_host,
};

/// How two Envoys are joined.
#[derive(Debug, Clone, Copy)]
pub(super) struct Variant {
    pub(super) name: &'static str,
    /// What the outer two speak with each other.
    pub(super) http2: bool,
    gateways: Gateways,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gateways {
    None,
    Passthrough,
    Http3,
}

pub(super) const VARIANTS: [Variant; 6] = [
    variant("envoy", false, Gateways::None),
    variant("envoy h2", true, Gateways::None),
    variant("envoy gateways", false, Gateways::Passthrough),
    variant("envoy gateways h2", true, Gateways::Passthrough),
    variant("envoy gateways h3 tunnel", false, Gateways::Http3),
    variant("envoy gateways h3 tunnel h2", true, Gateways::Http3),
];

const fn variant(name: &'static str, http2: bool, gateways: Gateways) -> Variant {
    Variant {
        name,
        http2,
        gateways,
    }
}

/// Where a part takes requests, and where bytes.
type Doors = [SocketAddr; 2];

/// What is started, from the origin towards the caller.
struct Part {
    side: Side,
    role: &'static str,
    name: &'static str,
    config: Value,
    /// Where it listens on TCP; what listens on UDP cannot be asked by connecting.
    tcp: Option<SocketAddr>,
}

pub(super) async fn start(
    ground: &Ground<'_>,
    program: &Path,
    variant: Variant,
) -> Result<Started> {
    let doors = |side| -> Doors { [ground.network.address(side), ground.network.address(side)] };
    let (caller, inner) = (doors(Side::Near), doors(Side::Far));
    let mut parts = vec![Part {
        side: Side::Far,
        role: "origin's proxy",
        name: "in",
        config: before_origin(ground, inner),
        tcp: Some(inner[0]),
    }];
    let mut next = inner;
    if variant.gateways != Gateways::None {
        for side in [Side::Far, Side::Near] {
            let at = doors(side);
            parts.push(gateway(
                ground,
                variant,
                side,
                [(at[0], next[0]), (at[1], next[1])],
            ));
            next = at;
        }
    }
    parts.push(Part {
        side: Side::Near,
        role: "caller's proxy",
        name: "out",
        config: after_caller(ground, variant, caller, next),
        tcp: Some(caller[0]),
    });

    let mut started = Started::default();
    let mut proxies = Vec::new();
    for part in parts {
        let name = format!("{}-{}", variant.name.replace(' ', "-"), part.name);
        let mut process = launch(ground, program, &name, &part)?;
        if let Some(address) = part.tcp {
            process.listens(address).await?;
        }
        proxies.insert(0, started.keep(part.role, process));
    }
    let entrance = |host| Entrance {
        address: caller[0],
        host,
    };
    started.subjects.push(Subject {
        name: variant.name,
        entrance: entrance(SERVER_NAME.to_owned()),
        cold: (0..ground.cold).map(|each| entrance(cold(each))).collect(),
        bulk: Some(BulkEntrance {
            address: caller[1],
            connect: None,
        }),
        proxies,
    });
    Ok(started)
}

/// The host name of a destination that has connections of its own, and none yet.
fn cold(number: usize) -> String {
    format!("cold-{number}.bench.internal")
}

fn before_origin(ground: &Ground<'_>, at: Doors) -> Value {
    let http2 = matches!(ground.work, Work::Http2 | Work::Grpc);
    let tls = |alpn: &[&str]| downstream_tls(ground.certificates, alpn);
    bootstrap(
        &[
            listener(at[0], Some(&tls(&["h2", "http/1.1"])), &http_to("origin")),
            listener(at[1], Some(&tls(&[])), &bytes_to("origin-bulk")),
        ],
        &[
            cluster("origin", ground.origin, Some(http2), None),
            cluster("origin-bulk", ground.origin_bulk(), None, None),
        ],
    )
}

fn after_caller(ground: &Ground<'_>, variant: Variant, at: Doors, next: Doors) -> Value {
    let alpn = if variant.http2 { "h2" } else { "http/1.1" };
    let tls = |alpn: &[&str]| upstream_tls(ground.certificates, alpn);
    let to_next = |name: &str| cluster(name, next[0], Some(variant.http2), Some(&tls(&[alpn])));
    let mut http = http_to("next");
    let mut clusters = vec![
        to_next("next"),
        cluster("next-bulk", next[1], None, Some(&tls(&[]))),
    ];
    for host in (0..ground.cold).map(cold) {
        clusters.push(to_next(&host));
        let hosts = &mut http["typed_config"]["route_config"]["virtual_hosts"];
        if let Some(hosts) = hosts.as_array_mut() {
            hosts.push(virtual_host(&host, &host));
        }
    }
    bootstrap(
        &[
            listener(at[0], None, &http),
            listener(at[1], None, &bytes_to("next-bulk")),
        ],
        &clusters,
    )
}

fn gateway(
    ground: &Ground<'_>,
    variant: Variant,
    side: Side,
    leads: [(SocketAddr, SocketAddr); 2],
) -> Part {
    let at = leads[0].0;
    let (config, tcp) = match (variant.gateways, side) {
        (Gateways::Http3, Side::Far) => (tunnel_end(ground.certificates, leads), None),
        (Gateways::Http3, Side::Near) => (tunnel_begin(ground.certificates, leads), Some(at)),
        (Gateways::None | Gateways::Passthrough, _) => (passthrough(leads), Some(at)),
    };
    let (role, name) = match side {
        Side::Near => ("gateway (near)", "near"),
        Side::Far => ("gateway (far)", "far"),
    };
    Part {
        side,
        role,
        name,
        config,
        tcp,
    }
}

fn launch(ground: &Ground<'_>, program: &Path, name: &str, part: &Part) -> Result<Process> {
    let file = ground.folder.join(format!("{name}.json"));
    std::fs::write(&file, serde_json::to_string_pretty(&part.config)?)?;
    let file = file.display().to_string();
    let arguments = [
        "--config-path",
        &file,
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "error",
    ];
    ground.process(part.side, name, program, &arguments.map(str::to_owned))
}
