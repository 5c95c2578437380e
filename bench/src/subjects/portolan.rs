//! Two clusters of Portolan: control plane, gateway and sidecars, as real processes with one worker
//! each, set up as an operator would.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Ground, Proxy, Started, Subject};
use crate::child::{self, Process};
use crate::load::bulk::BulkEntrance;
use crate::load::{Entrance, Work, probe};

/// Sidecar to sidecar, in one cluster.
pub(super) const LOCAL: &str = "portolan";
/// Sidecar to gateway to gateway to sidecar.
pub(super) const REMOTE: &str = "portolan gateways";

const SET: &str = "bench";
const NAMESPACE: &str = "shop";
const NEAR: &str = "near";
const FAR: &str = "far";
/// The origin's service port for bytes.
const BULK_PORT: u16 = 7000;

struct Cluster {
    name: &'static str,
    folder: PathBuf,
    control: SocketAddr,
    gateway_tcp: SocketAddr,
    gateway_quic: SocketAddr,
}

/// Where a sidecar listens.
struct Sidecar {
    outbound: SocketAddr,
    config: Value,
}

pub(super) async fn start(ground: &Ground<'_>) -> Result<Started> {
    let folder = ground.folder.join("portolan");
    std::fs::create_dir_all(&folder)?;
    let clusters = [
        Cluster::new(NEAR, &folder, ground),
        Cluster::new(FAR, &folder, ground),
    ];
    authorities(ground, &folder, &clusters).await?;
    let mut started = Started::default();
    for cluster in &clusters {
        cluster.start_control(ground, &mut started).await?;
    }
    for (cluster, peer) in [(&clusters[0], &clusters[1]), (&clusters[1], &clusters[0])] {
        cluster.declare(ground, peer).await?;
    }
    let mut gateways = Vec::new();
    let mut origins = Vec::new();
    for (cluster, roles) in clusters.iter().zip([
        ["gateway (near)", "origin's sidecar"],
        ["gateway (far)", "origin's sidecar"],
    ]) {
        let gateway = cluster.daemon(ground, "gateway", "gateway", &cluster.gateway(ground))?;
        gateways.push(started.keep(roles[0], gateway));
        let sidecar = cluster.sidecar(ground, "origin", true);
        let process = cluster.daemon(ground, "origin", "sidecar", &sidecar.config)?;
        origins.push(started.keep(roles[1], process));
    }
    let caller = clusters[0].sidecar(ground, "caller", false);
    let process = clusters[0].daemon(ground, "caller", "sidecar", &caller.config)?;
    let client = started.keep("caller's sidecar", process);
    let hosts = [
        format!("origin.{NAMESPACE}.{NEAR}.global"),
        format!("origin.{NAMESPACE}.{FAR}.global"),
    ];
    let near = vec![client.clone(), origins[0].clone()];
    let far = vec![
        client,
        gateways[0].clone(),
        gateways[1].clone(),
        origins[1].clone(),
    ];
    for (name, host, proxies) in [(LOCAL, &hosts[0], near), (REMOTE, &hosts[1], far)] {
        started
            .subjects
            .push(subject(name, host, caller.outbound, proxies));
    }
    wait(&mut started).await?;
    Ok(started)
}

fn subject(name: &'static str, host: &str, outbound: SocketAddr, proxies: Vec<Proxy>) -> Subject {
    Subject {
        name,
        entrance: Entrance {
            address: outbound,
            host: host.to_owned(),
        },
        bulk: Some(BulkEntrance {
            address: outbound,
            connect: Some(format!("{host}:{BULK_PORT}")),
        }),
        proxies,
    }
}

/// Waits until calls arrive on both paths.
async fn wait(started: &mut Started) -> Result<()> {
    let Started {
        subjects,
        processes,
    } = started;
    let caller = processes.last_mut().context("the caller's sidecar runs")?;
    for subject in subjects {
        let what = format!("no call arrives at {}", subject.entrance.host);
        caller
            .until(&what, async || probe(&subject.entrance).await.is_ok())
            .await?;
    }
    Ok(())
}

async fn authorities(ground: &Ground<'_>, folder: &Path, clusters: &[Cluster]) -> Result<()> {
    let root = folder.join("root").display().to_string();
    let init = ["ca", "init", "--dir", &root, "--cluster-set", SET];
    child::run(&ground.portolan, &init).await?;
    for cluster in clusters {
        let out = cluster.folder.join("ca").display().to_string();
        let issue = [
            "ca",
            "issue",
            "--dir",
            &root,
            "--cluster",
            cluster.name,
            "--cluster-set",
            SET,
            "--out",
            &out,
        ];
        child::run(&ground.portolan, &issue).await?;
    }
    Ok(())
}

impl Cluster {
    fn new(name: &'static str, folder: &Path, ground: &Ground<'_>) -> Self {
        Self {
            name,
            folder: folder.join(name),
            control: ground.network.address(),
            gateway_tcp: ground.network.address(),
            gateway_quic: ground.network.address(),
        }
    }

    fn admin(&self) -> PathBuf {
        self.folder.join("admin.sock")
    }

    fn daemon(
        &self,
        ground: &Ground<'_>,
        part: &str,
        command: &str,
        config: &Value,
    ) -> Result<Process> {
        let path = self.folder.join(format!("{part}.yaml"));
        // JSON is YAML.
        std::fs::write(&path, serde_json::to_string_pretty(config)?)?;
        let arguments = [
            command.to_owned(),
            "--config".to_owned(),
            path.display().to_string(),
        ];
        let name = format!("{}-{part}", self.name);
        Process::start(&name, &ground.portolan, &arguments, ground.folder)
    }

    async fn start_control(&self, ground: &Ground<'_>, started: &mut Started) -> Result<()> {
        let ca = self.folder.join("ca");
        let config = json!({
            "cluster": self.name,
            "clusterSet": SET,
            "region": self.name,
            "dataDir": self.folder.join("control"),
            "listen": self.control,
            "admin": self.admin(),
            "http": ground.network.address(),
            "ca": { "certificate": ca.join("ca.pem"), "key": ca.join("ca.key"), "roots": ca.join("root.pem") },
        });
        let mut process = self.daemon(ground, "control", "control", &config)?;
        process.listens(self.control).await?;
        let admin = self.admin();
        process
            .until("no admin socket", async || admin.exists())
            .await?;
        started.keep("control plane", process);
        Ok(())
    }

    async fn declare(&self, ground: &Ground<'_>, peer: &Self) -> Result<()> {
        let speaks = match ground.work {
            Work::Http1 | Work::Fresh => "http",
            Work::Http2 => "kubernetes.io/h2c",
            Work::Grpc => "grpc",
        };
        let documents = [
            json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": { "name": "origin", "namespace": NAMESPACE },
                "spec": { "selector": { "app": "origin" }, "ports": [
                    { "name": "http", "port": 80, "targetPort": ground.origin.port(), "appProtocol": speaks },
                    { "name": "bulk", "port": BULK_PORT, "targetPort": ground.origin_bulk.port(), "appProtocol": "tcp" },
                ] },
            }),
            json!({
                "apiVersion": "multicluster.x-k8s.io/v1beta1",
                "kind": "ServiceExport",
                "metadata": { "name": "origin", "namespace": NAMESPACE },
            }),
            json!({
                "apiVersion": "portolan.dev/v1alpha1",
                "kind": "Peer",
                "metadata": { "name": peer.name },
                "spec": {
                    "trustDomain": format!("{}.{SET}", peer.name),
                    "region": peer.name,
                    "gateways": [peer.gateway_quic],
                },
            }),
        ];
        let texts: Vec<String> = documents.iter().map(ToString::to_string).collect();
        let file = self.folder.join("declarations.yaml");
        std::fs::write(&file, texts.join("\n---\n"))?;
        let (admin, file) = (
            format!("unix:{}", self.admin().display()),
            file.display().to_string(),
        );
        child::run(&ground.portolan, &["apply", "--admin", &admin, "-f", &file]).await
    }

    /// What every proxy's configuration says.
    fn proxy(&self, ground: &Ground<'_>, part: &str) -> Value {
        let level = if ground.access_log {
            "info"
        } else {
            "info,access=off"
        };
        json!({
            "cluster": self.name,
            "trustDomain": format!("{}.{SET}", self.name),
            "trustBundle": self.folder.join("ca/root.pem"),
            "control": [self.control],
            "stateDir": self.folder.join(part),
            "join": { "socket": self.admin() },
            "admin": ground.network.address(),
            "workers": 1,
            "log": { "level": level },
        })
    }

    fn gateway(&self, ground: &Ground<'_>) -> Value {
        let mut config = self.proxy(ground, "gateway");
        config["name"] = json!(format!("{}-gateway", self.name));
        config["tcp"] = json!(self.gateway_tcp);
        config["quic"] = json!(self.gateway_quic);
        config
    }

    fn sidecar(&self, ground: &Ground<'_>, name: &str, serves: bool) -> Sidecar {
        let ip: Ipv4Addr = ground.network.ip();
        let at = |port| SocketAddr::from((ip, port));
        let outbound = at(15001);
        let ports = if serves {
            json!({ "http": ground.origin.port(), "bulk": ground.origin_bulk.port() })
        } else {
            json!({})
        };
        let mut config = self.proxy(ground, name);
        config["workload"] = json!({
            "namespace": NAMESPACE,
            "name": name,
            "serviceAccount": name,
            "labels": { "app": name },
            "ports": ports,
            "address": ip,
            "appAddress": ground.origin.ip(),
        });
        config["outbound"] = json!(outbound);
        config["inbound"] = json!(at(15008));
        Sidecar { outbound, config }
    }
}
