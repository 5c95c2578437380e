//! Two HAProxies: the caller's, and the origin's, with mutual TLS between them.

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
}

pub(super) const VARIANTS: [Variant; 2] = [
    Variant {
        name: "haproxy",
        http2: false,
    },
    Variant {
        name: "haproxy h2",
        http2: true,
    },
];

pub(super) async fn start(
    ground: &Ground<'_>,
    program: &Path,
    variant: Variant,
) -> Result<Started> {
    let [caller, bulk] = std::array::from_fn(|_| ground.network.address(Side::Near));
    let [between, bulk_between] = std::array::from_fn(|_| ground.network.address(Side::Far));
    let certificates = ground.certificates;
    let (both, root) = (certificates.both.display(), certificates.root.display());
    let http = match ground.work {
        Work::Http1 | Work::Fresh => "",
        Work::Http2 | Work::Grpc => "proto h2",
    };
    let tls_to = format!(
        "ssl crt {both} ca-file {root} verify required sni str({SERVER_NAME}) verifyhost {SERVER_NAME} ssl-min-ver TLSv1.3"
    );
    let tls_from = format!("ssl crt {both} ca-file {root} verify required ssl-min-ver TLSv1.3");
    let alpn = if variant.http2 { "h2" } else { "http/1.1" };
    let outer = format!(
        "{HEAD}listen http\n  mode http\n  http-reuse always\n  bind {caller} {http}\n  server far {between} {tls_to} alpn {alpn}\n\
         listen bulk\n  mode tcp\n  bind {bulk}\n  server far {bulk_between} {tls_to}\n"
    );
    let inner = format!(
        "{HEAD}listen http\n  mode http\n  http-reuse always\n  bind {between} {tls_from} alpn h2,http/1.1\n  server origin {} {http}\n\
         listen bulk\n  mode tcp\n  bind {bulk_between} {tls_from}\n  server origin {}\n",
        ground.origin,
        ground.origin_bulk()
    );
    let mut started = Started::default();
    let mut proxies = Vec::new();
    for (side, role, part, text, address) in [
        (Side::Far, "origin's proxy", "in", inner, between),
        (Side::Near, "caller's proxy", "out", outer, caller),
    ] {
        let name = format!("{}-{part}", variant.name.replace(' ', "-"));
        let file = ground.folder.join(format!("{name}.cfg"));
        std::fs::write(&file, text)?;
        let arguments = [
            "-db".to_owned(),
            "-f".to_owned(),
            file.display().to_string(),
        ];
        let mut process = ground.process(side, &name, program, &arguments)?;
        process.listens(address).await?;
        proxies.insert(0, started.keep(role, process));
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

const HEAD: &str = "global\n  nbthread 1\n  maxconn 8192\n\
    defaults\n  timeout connect 5s\n  timeout client 300s\n  timeout server 300s\n  option http-keep-alive\n";
