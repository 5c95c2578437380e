//! HAProxies: the caller's and the origin's with mutual TLS between them, and two gateways in between that pass
//! it on by its SNI, if there are some. And four that do nothing but copy bytes, which shows what four processes on
//! the way cost anybody.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;

use super::{Ground, Started, Subject};
use crate::certificates::SERVER_NAME;
use crate::load::bulk::BulkEntrance;
use crate::load::{Entrance, Work};
use crate::network::Side;

/// What the two speak with each other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Variant {
    pub(super) name: &'static str,
    pub(super) http2: bool,
    gateways: bool,
    /// All four copy bytes, without TLS, and know nothing of requests.
    pub(super) relays: bool,
}

pub(super) const VARIANTS: [Variant; 5] = [
    variant("haproxy", false, false),
    variant("haproxy h2", true, false),
    variant("haproxy gateways", false, true),
    variant("haproxy gateways h2", true, true),
    Variant {
        relays: true,
        ..variant("relay gateways", false, true)
    },
];

const fn variant(name: &'static str, http2: bool, gateways: bool) -> Variant {
    Variant {
        name,
        http2,
        gateways,
        relays: false,
    }
}

/// One of them.
struct Part {
    side: Side,
    role: &'static str,
    file: &'static str,
    config: String,
    address: SocketAddr,
}

pub(super) async fn start(
    ground: &Ground<'_>,
    program: &Path,
    variant: Variant,
) -> Result<Started> {
    let [caller, bulk] = std::array::from_fn(|_| ground.network.address(Side::Near));
    let mut started = Started::default();
    let mut proxies = Vec::new();
    let parts = if variant.relays {
        relays(ground, (caller, bulk))
    } else {
        parts(ground, variant, (caller, bulk))
    };
    for part in parts {
        let name = format!("{}-{}", variant.name.replace(' ', "-"), part.file);
        let file = ground.folder.join(format!("{name}.cfg"));
        std::fs::write(&file, part.config)?;
        let arguments = [
            "-db".to_owned(),
            "-f".to_owned(),
            file.display().to_string(),
        ];
        let mut process = ground.process(part.side, &name, program, &arguments)?;
        process.listens(part.address).await?;
        proxies.insert(0, started.keep(part.role, process));
    }
    started.subjects.push(Subject {
        name: variant.name,
        entrance: Entrance {
            address: caller,
            host: SERVER_NAME.to_owned(),
        },
        cold: Vec::new(),
        bulk: Some(BulkEntrance {
            address: bulk,
            connect: None,
        }),
        proxies,
    });
    Ok(started)
}

/// The processes, the last one on the way first. Requests and bytes enter at these addresses.
fn parts(ground: &Ground<'_>, variant: Variant, entrance: (SocketAddr, SocketAddr)) -> Vec<Part> {
    let certificates = ground.certificates;
    let (both, root) = (certificates.both.display(), certificates.root.display());
    let http = match ground.work {
        Work::Http1 | Work::Fresh => "",
        Work::Http2 | Work::Grpc => "proto h2",
    };
    let [mut next, mut bulk_next] = std::array::from_fn(|_| ground.network.address(Side::Far));
    let tls = format!("ssl crt {both} ca-file {root} verify required ssl-min-ver TLSv1.3");
    let mut parts = vec![Part {
        side: Side::Far,
        role: "origin's proxy",
        file: "in",
        config: format!(
            "{HEAD}listen http\n  mode http\n  http-reuse always\n  bind {next} {tls} alpn h2,http/1.1\n  server origin {} {http}\n\
             listen bulk\n  mode tcp\n  bind {bulk_next} {tls}\n  server origin {}\n",
            ground.origin,
            ground.origin_bulk()
        ),
        address: next,
    }];
    let gateways = [
        (Side::Far, "gateway (far)", "far"),
        (Side::Near, "gateway (near)", "near"),
    ];
    for (side, role, file) in gateways.into_iter().filter(|_| variant.gateways) {
        let [address, bulk] = std::array::from_fn(|_| ground.network.address(side));
        let http = passed_on("http", address, next);
        parts.push(Part {
            side,
            role,
            file,
            config: format!("{HEAD}{http}{}", passed_on("bulk", bulk, bulk_next)),
            address,
        });
        (next, bulk_next) = (address, bulk);
    }
    let (caller, bulk) = entrance;
    let tls = format!("{tls} sni str({SERVER_NAME}) verifyhost {SERVER_NAME}");
    let alpn = if variant.http2 { "h2" } else { "http/1.1" };
    parts.push(Part {
        side: Side::Near,
        role: "caller's proxy",
        file: "out",
        config: format!(
            "{HEAD}listen http\n  mode http\n  http-reuse always\n  bind {caller} {http}\n  server far {next} {tls} alpn {alpn}\n\
             listen bulk\n  mode tcp\n  bind {bulk}\n  server far {bulk_next} {tls}\n"
        ),
        address: caller,
    });
    parts
}

/// Four that copy bytes, the last one on the way first.
fn relays(ground: &Ground<'_>, entrance: (SocketAddr, SocketAddr)) -> Vec<Part> {
    let (mut next, mut bulk_next) = (ground.origin, ground.origin_bulk());
    let parts = [
        (Side::Far, "origin's proxy", "in"),
        (Side::Far, "gateway (far)", "far"),
        (Side::Near, "gateway (near)", "near"),
        (Side::Near, "caller's proxy", "out"),
    ];
    let last = parts.len() - 1;
    let part = |(index, (side, role, file))| {
        let (address, bulk) = if index == last {
            entrance
        } else {
            let [address, bulk] = std::array::from_fn(|_| ground.network.address(side));
            (address, bulk)
        };
        let config = format!(
            "{HEAD}listen http\n  mode tcp\n  bind {address}\n  server next {next}\n\
             listen bulk\n  mode tcp\n  bind {bulk}\n  server next {bulk_next}\n"
        );
        (next, bulk_next) = (address, bulk);
        Part {
            side,
            role,
            file,
            config,
            address,
        }
    };
    parts.into_iter().enumerate().map(part).collect()
}

/// A gateway's part: it reads the name that TLS begins with, and nothing more.
fn passed_on(name: &str, from: SocketAddr, to: SocketAddr) -> String {
    format!(
        "listen {name}\n  mode tcp\n  bind {from}\n  tcp-request inspect-delay 5s\n\
         \x20 tcp-request content accept if {{ req.ssl_sni -i {SERVER_NAME} }}\n  tcp-request content reject if {{ req.ssl_hello_type 1 }}\n\
         \x20 server next {to}\n"
    )
}

const HEAD: &str = "global\n  nbthread 1\n  maxconn 8192\n\
    defaults\n  timeout connect 5s\n  timeout client 300s\n  timeout server 300s\n  option http-keep-alive\n";
