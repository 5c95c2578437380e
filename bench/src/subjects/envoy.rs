//! Envoys: the caller's and the origin's with mutual TLS between them, and two gateways in between
//! that pass the TLS on by its SNI, or carry it in a tunnel over HTTP/3.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Ground, Started, Subject};
use crate::certificates::{Certificates, SERVER_NAME};
use crate::child::Process;
use crate::load::bulk::BulkEntrance;
use crate::load::{Entrance, Work};

const TYPE: &str = "type.googleapis.com/envoy";

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
    let doors = || -> Doors { [ground.network.address(), ground.network.address()] };
    let (caller, inner) = (doors(), doors());
    let mut parts = vec![Part {
        role: "origin's proxy",
        name: "in",
        config: before_origin(ground, inner),
        tcp: Some(inner[0]),
    }];
    let mut next = inner;
    if variant.gateways != Gateways::None {
        for (role, name) in [("gateway (far)", "far"), ("gateway (near)", "near")] {
            let at = doors();
            parts.push(gateway(
                ground,
                variant,
                (role, name),
                [(at[0], next[0]), (at[1], next[1])],
            ));
            next = at;
        }
    }
    parts.push(Part {
        role: "caller's proxy",
        name: "out",
        config: after_caller(ground, variant, caller, next),
        tcp: Some(caller[0]),
    });

    let mut started = Started::default();
    let mut proxies = Vec::new();
    for part in parts {
        let name = format!("{}-{}", variant.name.replace(' ', "-"), part.name);
        let mut process = launch(ground, program, &name, &part.config)?;
        if let Some(address) = part.tcp {
            process.listens(address).await?;
        }
        proxies.insert(0, started.keep(part.role, process));
    }
    started.subjects.push(Subject {
        name: variant.name,
        entrance: Entrance {
            address: caller[0],
            host: SERVER_NAME.to_owned(),
        },
        bulk: Some(BulkEntrance {
            address: caller[1],
            connect: None,
        }),
        proxies,
    });
    Ok(started)
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
            cluster("origin-bulk", ground.origin_bulk, None, None),
        ],
    )
}

fn after_caller(ground: &Ground<'_>, variant: Variant, at: Doors, next: Doors) -> Value {
    let alpn = if variant.http2 { "h2" } else { "http/1.1" };
    let tls = |alpn: &[&str]| upstream_tls(ground.certificates, alpn);
    bootstrap(
        &[
            listener(at[0], None, &http_to("next")),
            listener(at[1], None, &bytes_to("next-bulk")),
        ],
        &[
            cluster("next", next[0], Some(variant.http2), Some(&tls(&[alpn]))),
            cluster("next-bulk", next[1], None, Some(&tls(&[]))),
        ],
    )
}

fn gateway(
    ground: &Ground<'_>,
    variant: Variant,
    (role, name): (&'static str, &'static str),
    leads: [(SocketAddr, SocketAddr); 2],
) -> Part {
    let at = leads[0].0;
    let (config, tcp) = match (variant.gateways, name) {
        (Gateways::Http3, "far") => (tunnel_end(ground.certificates, leads), None),
        (Gateways::Http3, _) => (tunnel_begin(ground.certificates, leads), Some(at)),
        (Gateways::None | Gateways::Passthrough, _) => (passthrough(leads), Some(at)),
    };
    Part {
        role,
        name,
        config,
        tcp,
    }
}

fn launch(ground: &Ground<'_>, program: &Path, name: &str, config: &Value) -> Result<Process> {
    let file = ground.folder.join(format!("{name}.json"));
    std::fs::write(&file, serde_json::to_string_pretty(config)?)?;
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
    Process::start(name, program, &arguments, ground.folder)
}

fn bootstrap(listeners: &[Value], clusters: &[Value]) -> Value {
    json!({
        "static_resources": { "listeners": listeners, "clusters": clusters },
        "layered_runtime": { "layers": [{ "name": "static", "static_layer": {
            "re2.max_program_size.error_level": 1000,
        } }] },
    })
}

fn address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip(), "port_value": address.port() } })
}

fn listener(at: SocketAddr, tls: Option<&Value>, filter: &Value) -> Value {
    let mut chain = json!({ "filters": [filter] });
    if let Some(tls) = tls {
        chain["transport_socket"] = tls.clone();
    }
    json!({ "name": at.to_string(), "address": address(at), "filter_chains": [chain] })
}

fn http_to(cluster: &str) -> Value {
    json!({
        "name": "http",
        "typed_config": {
            "@type": format!("{TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "http",
            "codec_type": "AUTO",
            "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [
                { "match": { "prefix": "/" }, "route": { "cluster": cluster } },
            ] }] },
            "http_filters": [router()],
        },
    })
}

fn router() -> Value {
    json!({ "name": "router", "typed_config": { "@type": format!("{TYPE}.extensions.filters.http.router.v3.Router") } })
}

fn bytes_to(cluster: &str) -> Value {
    json!({
        "name": "tcp",
        "typed_config": {
            "@type": format!("{TYPE}.extensions.filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": "tcp",
            "cluster": cluster,
        },
    })
}

/// `http2`: `None` is for bytes.
fn cluster(name: &str, at: SocketAddr, http2: Option<bool>, tls: Option<&Value>) -> Value {
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": { "thresholds": [{ "max_connections": 8192, "max_pending_requests": 8192, "max_requests": 8192 }] },
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [
            { "endpoint": { "address": address(at) } },
        ] }] },
    });
    if let Some(http2) = http2 {
        let protocol = if http2 {
            "http2_protocol_options"
        } else {
            "http_protocol_options"
        };
        cluster["typed_extension_protocol_options"] = speaks(protocol);
    }
    if let Some(tls) = tls {
        cluster["transport_socket"] = tls.clone();
    }
    cluster
}

fn speaks(protocol: &str) -> Value {
    json!({ format!("{TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions").replace("type.googleapis.com/", ""): {
        "@type": format!("{TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions"),
        "explicit_http_config": { protocol: {} },
    } })
}

fn common_tls(files: &Certificates, alpn: &[&str]) -> Value {
    json!({
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificates": [{
            "certificate_chain": { "filename": files.leaf },
            "private_key": { "filename": files.key },
        }],
        "validation_context": {
            "trusted_ca": { "filename": files.root },
            "match_typed_subject_alt_names": [{ "san_type": "DNS", "matcher": { "exact": SERVER_NAME } }],
        },
        "alpn_protocols": alpn,
    })
}

fn downstream_context(files: &Certificates, alpn: &[&str]) -> Value {
    json!({
        "require_client_certificate": true,
        "common_tls_context": common_tls(files, alpn),
    })
}

fn upstream_context(files: &Certificates, alpn: &[&str]) -> Value {
    json!({
        "sni": SERVER_NAME,
        "common_tls_context": common_tls(files, alpn),
    })
}

fn typed_tls(kind: &str, mut context: Value) -> Value {
    context["@type"] = json!(format!("{TYPE}.extensions.transport_sockets.tls.v3.{kind}"));
    json!({ "name": "tls", "typed_config": context })
}

fn downstream_tls(files: &Certificates, alpn: &[&str]) -> Value {
    typed_tls("DownstreamTlsContext", downstream_context(files, alpn))
}

fn upstream_tls(files: &Certificates, alpn: &[&str]) -> Value {
    typed_tls("UpstreamTlsContext", upstream_context(files, alpn))
}

/// A gateway that reads the SNI and passes the bytes on.
fn passthrough(leads: [(SocketAddr, SocketAddr); 2]) -> Value {
    let listeners = leads.map(|(at, to)| {
        let mut listener = listener(at, None, &bytes_to(&to.to_string()));
        listener["listener_filters"] = json!([{
            "name": "tls_inspector",
            "typed_config": { "@type": format!("{TYPE}.extensions.filters.listener.tls_inspector.v3.TlsInspector") },
        }]);
        listener["filter_chains"][0]["filter_chain_match"] = json!({ "server_names": [SERVER_NAME] });
        listener
    });
    let clusters = leads.map(|(_, to)| cluster(&to.to_string(), to, None, None));
    bootstrap(&listeners, &clusters)
}

/// A gateway that opens a stream over HTTP/3 for each connection.
fn tunnel_begin(files: &Certificates, leads: [(SocketAddr, SocketAddr); 2]) -> Value {
    let listeners = leads.map(|(at, to)| {
        let mut filter = bytes_to(&to.to_string());
        filter["typed_config"]["tunneling_config"] =
            json!({ "hostname": format!("{SERVER_NAME}:443") });
        listener(at, None, &filter)
    });
    let clusters = leads.map(|(_, to)| {
        let tls = json!({ "name": "envoy.transport_sockets.quic", "typed_config": {
            "@type": format!("{TYPE}.extensions.transport_sockets.quic.v3.QuicUpstreamTransport"),
            "upstream_tls_context": upstream_context(files, &["h3"]),
        } });
        let mut cluster = cluster(&to.to_string(), to, None, Some(&tls));
        cluster["typed_extension_protocol_options"] = speaks("http3_protocol_options");
        cluster
    });
    bootstrap(&listeners, &clusters)
}

/// A gateway that ends those streams.
fn tunnel_end(files: &Certificates, leads: [(SocketAddr, SocketAddr); 2]) -> Value {
    let listeners = leads.map(|(at, to)| {
        let tls = json!({ "name": "envoy.transport_sockets.quic", "typed_config": {
            "@type": format!("{TYPE}.extensions.transport_sockets.quic.v3.QuicDownstreamTransport"),
            "downstream_tls_context": downstream_context(files, &["h3"]),
        } });
        let connect = json!([{ "upgrade_type": "CONNECT", "connect_config": {} }]);
        let mut filter = http_to(&to.to_string());
        let config = &mut filter["typed_config"];
        config["codec_type"] = json!("HTTP3");
        config["http3_protocol_options"] = json!({ "allow_extended_connect": true });
        config["upgrade_configs"] = json!([{ "upgrade_type": "CONNECT" }]);
        let route = &mut config["route_config"]["virtual_hosts"][0]["routes"][0];
        route["match"] = json!({ "connect_matcher": {} });
        route["route"]["upgrade_configs"] = connect;
        let mut listener = listener(at, Some(&tls), &filter);
        listener["address"]["socket_address"]["protocol"] = json!("UDP");
        listener["udp_listener_config"] =
            json!({ "quic_options": {}, "downstream_socket_config": { "prefer_gro": true } });
        listener
    });
    let clusters = leads.map(|(_, to)| cluster(&to.to_string(), to, None, None));
    bootstrap(&listeners, &clusters)
}
