//! Waiting until the demo works: not until processes run, but until every call that the demo shows
//! would succeed.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use portolan_api::admin::StatusRequest;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::files::Folder;
use super::layout::{Cluster, Layout};
use super::parts::Parts;
use crate::commands::admin::connect;
use crate::exit::Failure;

/// The longest start that is waited for; a loaded machine is slow.
const START_MAX: Duration = Duration::from_secs(90);
/// How often a condition is looked at again.
const AGAIN: Duration = Duration::from_millis(50);
/// The longest single probe.
const PROBE_MAX: Duration = Duration::from_secs(5);
/// The largest answer of a probe, in bytes.
const ANSWER_MAX: usize = 1 << 20;

/// Waits until a control plane answers on its admin socket.
pub(super) async fn control_answers(socket: &Path, parts: &mut Parts) -> Result<(), Failure> {
    until(
        parts,
        &format!("the control plane at {}", socket.display()),
        async || {
            let Ok(mut client) = connect(socket).await else {
                return Err("it does not answer".to_owned());
            };
            client
                .status(StatusRequest {})
                .await
                .map(drop)
                .map_err(|status| status.message().to_owned())
        },
    )
    .await
}

/// Waits until every daemon is ready, every link is up, and calls arrive from every cluster in every other.
pub(super) async fn everything(
    layout: &Layout,
    folder: &Folder,
    parts: &mut Parts,
) -> Result<(), Failure> {
    for cluster in &layout.clusters {
        let daemons = [cluster.control_http, cluster.gateway_admin];
        for admin in daemons
            .into_iter()
            .chain(cluster.workloads.iter().map(|workload| workload.admin))
        {
            until(
                parts,
                &format!("{}: {admin}/readyz", cluster.name),
                async || get(admin, "/readyz").await.map(drop),
            )
            .await?;
        }
    }
    for cluster in &layout.clusters {
        let socket = folder.admin_socket(cluster);
        until(
            parts,
            &format!("the links of {}", cluster.name),
            async || linked(&socket, layout).await,
        )
        .await?;
        for host in hosts(layout) {
            let Some(frontend) = cluster
                .workloads
                .iter()
                .find(|workload| workload.name == "frontend")
            else {
                continue;
            };
            let what = format!("{host}, called from {}", cluster.name);
            until(parts, &what, async || {
                get(frontend.outbound, &format!("http://{host}/"))
                    .await
                    .map(drop)
            })
            .await?;
        }
    }
    Ok(())
}

/// Every name whose call shows that one service of one cluster is reached.
fn hosts(layout: &Layout) -> Vec<String> {
    let of = |cluster: &Cluster| format!("orders.shop.{}.global", cluster.name);
    layout
        .clusters
        .iter()
        .map(of)
        .chain(["payments.shop.global".to_owned()])
        .collect()
}

/// Whether all peers are linked, their catalogues are here, and all own workloads are ready.
async fn linked(socket: &Path, layout: &Layout) -> Result<(), String> {
    let mut client = connect(socket).await.map_err(|failure| failure.message)?;
    let status = client
        .status(StatusRequest {})
        .await
        .map_err(|status| status.message().to_owned())?
        .into_inner();
    let live = status
        .peers
        .iter()
        .filter(|peer| peer.link == "up" && peer.catalogue == "live")
        .count();
    if live + 1 < layout.clusters.len() {
        return Err(format!(
            "{live} of {} peers are linked",
            layout.clusters.len() - 1
        ));
    }
    if status.workloads_ready < status.workloads {
        return Err(format!(
            "{} of {} workloads are ready",
            status.workloads_ready, status.workloads
        ));
    }
    Ok(())
}

/// Looks again and again until `condition` holds, a part ends, or the time is over.
async fn until(
    parts: &mut Parts,
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<(), String>,
) -> Result<(), Failure> {
    let end = Instant::now() + START_MAX;
    loop {
        let problem = match tokio::time::timeout(PROBE_MAX, condition()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(problem)) => problem,
            Err(_) => "no answer".to_owned(),
        };
        parts.all_alive()?;
        if Instant::now() >= end {
            return Err(Failure::internal(format!(
                "the demo did not start within {} s: {what}: {problem}",
                START_MAX.as_secs()
            )));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// A GET of `target` at `address`; anything but a success is a problem.
async fn get(address: SocketAddr, target: &str) -> Result<Bytes, String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| said(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| said(&error))?;
    tokio::spawn(connection);
    let host = target
        .strip_prefix("http://")
        .and_then(|rest| rest.split('/').next())
        .map_or_else(|| address.to_string(), str::to_owned);
    let request = http::Request::get(target)
        .header(http::header::HOST, host)
        .body(Empty::<Bytes>::new())
        .map_err(|error| said(&error))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| said(&error))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_MAX)
        .collect()
        .await
        .map_err(|error| said(&error))?
        .to_bytes();
    if status.is_success() {
        Ok(body)
    } else {
        Err(format!(
            "{status}: {}",
            String::from_utf8_lossy(&body).trim()
        ))
    }
}
