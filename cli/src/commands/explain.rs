//! `portolan explain`: where a call would go, and why.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use portolan_api::admin::SnapshotRequest;
use portolan_api::resource::ResourceBody;
use portolan_model::snapshot::Snapshot;
use portolan_policy::explain::{Asked, Explanation, explain_request};
use portolan_policy::failover::NothingEjected;
use tokio::net::TcpStream;

use super::admin::{Admin, block_on};
use super::token::workload_id;
use crate::args::{AdminArgs, ExplainArgs};
use crate::exit::{Code, Failure};
use crate::render;

/// The longest wait for a sidecar's answer.
const SIDECAR_WAIT: Duration = Duration::from_secs(5);
/// The largest answer of a sidecar, in bytes.
const ANSWER_MAX: usize = 4 << 20;

pub(crate) fn run(args: &ExplainArgs) -> Result<(), Failure> {
    let (host, port) = host_and_port(&args.host)?;
    let asked = asked(args)?;
    let told = match args.sidecar {
        Some(address) => block_on(ask_sidecar(address, &host, port, &asked))?,
        None => {
            let snapshot = snapshot(&args.admin)?;
            let Some(mesh) = &snapshot.mesh else {
                return Err(Failure::unreachable(
                    "the control plane has no snapshot yet; try again in a moment",
                ));
            };
            let caller = workload_id(&mesh.cluster.trust_domain, &args.from)?;
            let target = (host.as_str(), port);
            explain_request(&snapshot, &NothingEjected, &caller, target, &asked)
        }
    };
    render::value(args.output.output, &told, || text(&told))
}

/// Takes a host, `host:port` or an URL apart.
fn host_and_port(text: &str) -> Result<(String, Option<u16>), Failure> {
    let usage = || {
        Failure::new(
            Code::Usage,
            format!("`{text}` is no host, host:port or URL"),
        )
    };
    let (rest, scheme_port) = match text.split_once("://") {
        Some(("https", rest)) => (rest, Some(443)),
        Some(("http" | "grpc", rest)) => (rest, None),
        Some(_) => return Err(usage()),
        None => (text, None),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority: http::uri::Authority = authority.parse().map_err(|_| usage())?;
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    Ok((host.to_owned(), authority.port_u16().or(scheme_port)))
}

/// The request that is meant: its path may stand in the URL.
fn asked(args: &ExplainArgs) -> Result<Asked, Failure> {
    let usage = |problem: String| Failure::new(Code::Usage, problem);
    let rest = args.host.split_once("://").map_or("", |(_, rest)| rest);
    let in_url = rest.find('/').map(|at| &rest[at..]);
    let path = args.path.as_deref().or(in_url).unwrap_or("/");
    let path = path.split('#').next().unwrap_or(path);
    let mut asked = Asked::default().on_path(path);
    asked.method = args
        .method
        .parse()
        .map_err(|_| usage(format!("`{}` is no method", args.method)))?;
    for header in &args.headers {
        let pair = header.split_once(':').and_then(|(name, value)| {
            let name: http::HeaderName = name.trim().parse().ok()?;
            Some((name, http::HeaderValue::try_from(value.trim()).ok()?))
        });
        let Some((name, value)) = pair else {
            return Err(usage(format!(
                "`{header}` is no header; write it as `name: value`"
            )));
        };
        asked.headers.append(name, value);
    }
    asked.server_name = args.sni.as_deref().map(server_name).transpose()?;
    Ok(asked)
}

/// A name as a ClientHello may have it: no address (RFC 6066 §3), and in ASCII.
fn server_name(text: &str) -> Result<String, Failure> {
    let label = |label: &str| {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty() && label.len() <= 63 && label.bytes().all(valid)
    };
    let address = text.parse::<std::net::IpAddr>().is_ok();
    if address || text.len() > 255 || !text.split('.').all(label) {
        let problem = format!("`{text}` is no server name; write one as `db.example.com`");
        return Err(Failure::new(Code::Usage, problem));
    }
    Ok(text.to_owned())
}

/// The control plane's snapshot, assembled as a proxy would.
fn snapshot(admin: &AdminArgs) -> Result<Snapshot, Failure> {
    let response = Admin::call(admin, async move |mut client| {
        client.snapshot(SnapshotRequest {}).await
    })?;
    let broken = |problem: String| {
        Failure::internal(format!(
            "the control plane's snapshot cannot be read: {problem}"
        ))
    };
    let mut snapshot = Snapshot {
        generation: response
            .system_version_info
            .rsplit('/')
            .next()
            .and_then(|number| number.parse().ok())
            .unwrap_or(0),
        ..Snapshot::default()
    };
    for typed in response.resources {
        let Some(resource) = typed.resource else {
            continue;
        };
        let bytes = resource.resource.map(|any| any.value).unwrap_or_default();
        let body = ResourceBody::decode(&typed.type_url, &resource.name, &bytes)
            .map_err(|error| broken(error.to_string()))?;
        match body {
            ResourceBody::Mesh(mesh) => snapshot.mesh = Some(mesh),
            ResourceBody::Trust(trust) => snapshot.trust = Some(trust),
            ResourceBody::Service(service) => {
                snapshot.services.insert(service.key.clone(), service);
            }
            ResourceBody::Inbound(inbound) => {
                snapshot.inbound.insert(inbound.workload.clone(), inbound);
            }
        }
    }
    snapshot.index();
    Ok(snapshot)
}

async fn ask_sidecar(
    address: SocketAddr,
    host: &str,
    port: Option<u16>,
    asked: &Asked,
) -> Result<Explanation, Failure> {
    let unreachable = |problem: String| {
        Failure::unreachable(format!(
            "no sidecar answers at {address}: {problem}; name its `admin` address"
        ))
    };
    let port = port.map(|port| format!("&port={port}")).unwrap_or_default();
    let request = http::Request::get(format!("/explain?host={host}{port}{}", query(asked)))
        .header(http::header::HOST, address.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(|error| {
            Failure::new(
                Code::Usage,
                format!("`{host}` cannot be asked for: {error}"),
            )
        })?;
    let ask = async {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        tokio::spawn(connection);
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX)
            .collect()
            .await
            .map_err(|error| unreachable(error.to_string()))?
            .to_bytes();
        if !status.is_success() {
            return Err(Failure::new(
                Code::Invalid,
                format!(
                    "the sidecar answered {status}: {}",
                    String::from_utf8_lossy(&body).trim()
                ),
            ));
        }
        serde_json::from_slice(&body)
            .map_err(|error| unreachable(format!("its answer is no explanation: {error}")))
    };
    tokio::time::timeout(SIDECAR_WAIT, ask)
        .await
        .map_err(|_| unreachable("no answer in time".to_owned()))?
}

/// What is asked, as the sidecar reads it.
fn query(asked: &Asked) -> String {
    let path = match &asked.query {
        Some(query) => format!("{}?{query}", asked.path),
        None => asked.path.clone(),
    };
    let headers: Vec<String> = asked
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    let server_name = asked.server_name.as_deref();
    let sni = server_name.map_or(String::new(), |name| format!("&sni={}", escaped(name)));
    format!(
        "&method={}&path={}&headers={}{sni}",
        escaped(asked.method.as_str()),
        escaped(&path),
        escaped(&headers.join("\n"))
    )
}

/// Percent-encodes everything but letters, digits and what is never special.
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

fn text(told: &Explanation) -> String {
    let mut text = format!(
        "{} calls {} (snapshot {})\n",
        told.caller, told.host, told.generation
    );
    for step in &told.steps {
        let _infallible = writeln!(text, "  {:<10} {}", step.stage, step.text);
    }
    if !told.candidates.is_empty() {
        let rows = told.candidates.iter().map(|candidate| {
            let chosen = if Some(&candidate.cluster) == told.chosen.as_ref() {
                "*"
            } else {
                ""
            };
            let ejected = if candidate.ejected { " (ejected)" } else { "" };
            [
                format!("{}{chosen}", candidate.cluster),
                format!("{:.0}%", candidate.share * 100.0),
                format!(
                    "{}/{} healthy, {} ready{ejected}",
                    candidate.healthy, candidate.total, candidate.ready
                ),
                candidate.link.clone(),
                candidate
                    .rtt_ms
                    .map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}ms")),
                candidate.why.clone(),
            ]
        });
        let _infallible = write!(
            text,
            "\n{}\n",
            render::table(
                ["CLUSTER", "SHARE", "ENDPOINTS", "LINK", "RTT", "WHY"],
                rows
            )
        );
    }
    if !told.endpoints.is_empty() {
        let rows = told.endpoints.iter().map(|endpoint| {
            let state = match (endpoint.ready, endpoint.ejected) {
                (_, true) => "ejected",
                (true, false) => "ready",
                (false, false) => "not ready",
            };
            [
                endpoint.workload.to_string(),
                endpoint.inbound.to_string(),
                endpoint.weight.to_string(),
                state.to_owned(),
            ]
        });
        let _infallible = write!(
            text,
            "\n{}\n",
            render::table(["ENDPOINT", "INBOUND", "WEIGHT", "STATE"], rows)
        );
    }
    if let Some(refusal) = &told.refusal {
        let _infallible = writeln!(
            text,
            "\nrefused: {} at {}: {}",
            refusal.reason, refusal.hop, refusal.detail
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_taken_apart_as_people_write_them() {
        let table = [
            ("orders.shop.global", ("orders.shop.global", None)),
            (
                "orders.shop.global:8080",
                ("orders.shop.global", Some(8080)),
            ),
            (
                "http://orders.shop.global/a?b",
                ("orders.shop.global", None),
            ),
            (
                "https://orders.shop.global",
                ("orders.shop.global", Some(443)),
            ),
            ("[fd24::1]:80", ("fd24::1", Some(80))),
            ("240.241.0.1", ("240.241.0.1", None)),
        ];
        for (text, (host, port)) in table {
            assert_eq!(
                host_and_port(text).unwrap(),
                (host.to_owned(), port),
                "{text}"
            );
        }
        assert!(host_and_port("ftp://x").is_err());
    }

    #[test]
    fn server_names_are_names() {
        for good in ["db.example.com", "DB", "a_b.example"] {
            assert_eq!(server_name(good).unwrap(), good);
        }
        for bad in [
            "",
            "10.0.0.1",
            "a..b",
            "a.",
            "*.example.com",
            "bücher.example",
            "a:443",
        ] {
            assert!(server_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_sidecar_is_asked_for_the_same() {
        let asked = Asked {
            server_name: Some("db.example.com".to_owned()),
            ..Asked::default().on_path("/a?b")
        };
        let expected = "&method=GET&path=%2Fa%3Fb&headers=&sni=db.example.com";
        assert_eq!(query(&asked), expected);
    }
}
