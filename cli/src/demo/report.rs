//! What the demo prints when everything is ready.

use std::path::Path;

use serde_json::{Value, json};

use super::layout::{Cluster, Layout, NAMESPACE, Workload};
use super::parts::{Part, Parts, quoted};
use crate::exit::Failure;

/// One line for programs. Addresses are `ip:port`, sockets `unix:/path`.
pub(super) fn json(layout: &Layout, parts: &Parts) -> Result<String, Failure> {
    let clusters: Vec<Value> = layout
        .clusters
        .iter()
        .map(|cluster| cluster_json(cluster, parts))
        .collect();
    serde_json::to_string(&json!({ "clusters": clusters }))
        .map_err(|error| Failure::internal(format!("cannot print as JSON: {error}")))
}

fn cluster_json(cluster: &Cluster, parts: &Parts) -> Value {
    let workloads: Vec<Value> = cluster
        .workloads
        .iter()
        .map(|workload| workload_json(cluster, workload, parts))
        .collect();
    json!({
        "name": cluster.name,
        "region": cluster.region,
        "dns": cluster.dns,
        "admin": format!("unix:{}", parts.admin_socket(cluster).display()),
        "gateway": { "tcp": cluster.gateway_tcp, "quic": cluster.gateway_quic, "admin": cluster.gateway_admin },
        "workloads": workloads,
        "pids": { "control": pid(parts.control(cluster)), "gateway": pid(parts.gateway(cluster)) },
        "argv": { "control": argv(parts.control(cluster)), "gateway": argv(parts.gateway(cluster)) },
    })
}

fn workload_json(cluster: &Cluster, workload: &Workload, parts: &Parts) -> Value {
    let (app, sidecar) = (
        parts.app(cluster, workload),
        parts.sidecar(cluster, workload),
    );
    json!({
        "name": workload.name,
        "namespace": NAMESPACE,
        "version": workload.version,
        "app": workload.app,
        "outbound": workload.outbound,
        "inbound": workload.inbound,
        "admin": workload.admin,
        "pids": { "app": pid(app), "sidecar": pid(sidecar) },
        "argv": { "app": argv(app), "sidecar": argv(sidecar) },
    })
}

fn pid(part: Option<&Part>) -> Value {
    part.map_or(Value::Null, |part| json!(part.pid))
}

fn argv(part: Option<&Part>) -> Value {
    part.map_or(Value::Null, |part| json!(part.argv))
}

/// What to try next, for people.
pub(super) fn guide(layout: &Layout, parts: &Parts, folder: &Path) -> String {
    let [us_east, us_west, eu_west] = layout.clusters.as_slice() else {
        return "ready".to_owned();
    };
    let part_pid = |part: Option<&Part>| part.map_or(0, |part| part.pid);
    let find = |cluster: &'static str, name: &str| {
        let cluster = layout.clusters.iter().find(|each| each.name == cluster)?;
        cluster
            .workloads
            .iter()
            .find(|workload| workload.name == name)
            .map(|workload| (cluster, workload))
    };
    let outbound = find("us-east", "frontend")
        .map(|(_, workload)| workload.outbound.to_string())
        .unwrap_or_default();
    let orders = find("us-east", "orders").map_or(0, |(cluster, workload)| {
        part_pid(parts.app(cluster, workload))
    });
    let restart = find("us-east", "orders")
        .and_then(|(cluster, workload)| parts.app(cluster, workload))
        .map(Part::command_line)
        .unwrap_or_default();
    let admin = format!("unix:{}", parts.admin_socket(us_east).display());
    let admin = quoted(&admin);
    let eu_admin = format!("unix:{}", parts.admin_socket(eu_west).display());
    let eu_admin = quoted(&eu_admin);
    let program = parts.program().display().to_string();
    let program = quoted(&program);
    let (dns_ip, dns_port) = (us_east.dns.ip(), us_east.dns.port());
    format!(
        "ready: us-east, us-west (region us) and eu-west (region eu) are linked. Logs and keys: {}

One name, called from us-east's frontend. It answers from us-east while it can:
  curl -x http://{outbound} http://orders.shop.svc.clusterset.local/

Kill orders in us-east and call again: us-west answers. Start it again: us-east takes its calls back, over ten seconds.
  kill -9 {orders}
  {restart} &

payments runs in eu-west only; the app there sees who called, through two gateways:
  curl -x http://{outbound} http://payments.shop.global/
  curl -x http://{outbound} http://orders.shop.eu-west.global/

inventory is not exported: nobody outside eu-west can call it or resolve it.
  curl -i -x http://{outbound} http://inventory.shop.global/

Names (dig is in Debian's dnsutils):
  dig @{dns_ip} -p {dns_port} payments.shop.svc.clusterset.local +short
  dig @{dns_ip} -p {dns_port} payments.shop.global SRV +short

Why does a call go where it goes? How are the links?
  {program} explain --admin {admin} --from shop/frontend orders.shop.global
  {program} status --admin {admin}

Send a tenth of the calls of orders to its new version, which runs in us-west; and testers always:
  {program} apply --admin {admin} -f deploy/examples/canary.yaml
  for i in $(seq 50); do curl -s -x http://{outbound} http://orders.shop.global/ | grep -o '\"version\":\"v.\"'; done | sort | uniq -c
  curl -x http://{outbound} -H 'x-tester: yes' http://orders.shop.global/
  {program} describe --admin {admin} -n shop httproute orders-canary

Export inventory from eu-west, and call it from us-east:
  printf 'apiVersion: multicluster.x-k8s.io/v1beta1\\nkind: ServiceExport\\nmetadata: {{name: inventory, namespace: shop}}\\n' | {program} apply --admin {eu_admin} -f -

Cut us-west off (gateway and control plane), or take all control planes away: calls go on.
  kill -9 {} {}
  kill -9 {} {} {}

Ctrl-C ends everything, also what you started again. More to look at: each part's /metrics and
/readyz, gRPC at payments.shop.global:9090 (deploy/demo/echo.proto), TCP at ledger.shop.global:7000.",
        folder.display(),
        part_pid(parts.gateway(us_west)),
        part_pid(parts.control(us_west)),
        part_pid(parts.control(us_east)),
        part_pid(parts.control(us_west)),
        part_pid(parts.control(eu_west)),
    )
}
