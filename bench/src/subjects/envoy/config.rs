//! Envoy's configuration, piece by piece.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::certificates::{Certificates, SERVER_NAME};

const TYPE: &str = "type.googleapis.com/envoy";

pub(super) fn bootstrap(listeners: &[Value], clusters: &[Value]) -> Value {
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

pub(super) fn listener(at: SocketAddr, tls: Option<&Value>, filter: &Value) -> Value {
    let mut chain = json!({ "filters": [filter] });
    if let Some(tls) = tls {
        chain["transport_socket"] = tls.clone();
    }
    json!({ "name": at.to_string(), "address": address(at), "filter_chains": [chain] })
}

pub(super) fn http_to(cluster: &str) -> Value {
    json!({
        "name": "http",
        "typed_config": {
            "@type": format!("{TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "http",
            "codec_type": "AUTO",
            "route_config": { "virtual_hosts": [virtual_host("*", cluster)] },
            "http_filters": [router()],
        },
    })
}

/// No time limit: a bad network is to be seen in the latency.
pub(super) fn virtual_host(domain: &str, cluster: &str) -> Value {
    json!({ "name": domain, "domains": [domain], "routes": [
        { "match": { "prefix": "/" }, "route": { "cluster": cluster, "timeout": "0s" } },
    ] })
}

fn router() -> Value {
    json!({ "name": "router", "typed_config": { "@type": format!("{TYPE}.extensions.filters.http.router.v3.Router") } })
}

pub(super) fn bytes_to(cluster: &str) -> Value {
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
pub(super) fn cluster(
    name: &str,
    at: SocketAddr,
    http2: Option<bool>,
    tls: Option<&Value>,
) -> Value {
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

pub(super) fn downstream_tls(files: &Certificates, alpn: &[&str]) -> Value {
    typed_tls("DownstreamTlsContext", downstream_context(files, alpn))
}

pub(super) fn upstream_tls(files: &Certificates, alpn: &[&str]) -> Value {
    typed_tls("UpstreamTlsContext", upstream_context(files, alpn))
}

/// A gateway that reads the SNI and passes the bytes on.
pub(super) fn passthrough(leads: [(SocketAddr, SocketAddr); 2]) -> Value {
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
pub(super) fn tunnel_begin(files: &Certificates, leads: [(SocketAddr, SocketAddr); 2]) -> Value {
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
pub(super) fn tunnel_end(files: &Certificates, leads: [(SocketAddr, SocketAddr); 2]) -> Value {
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
