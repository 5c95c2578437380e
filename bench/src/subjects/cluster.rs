//! A cluster of Portolan, as an operator would set it up, with one worker in each proxy.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use super::Ground;
use crate::child::{self, Process};
use crate::load::Work;
use crate::network::Side;

pub(crate) const NAMESPACE: &str = "shop";
/// The service port for bytes.
pub(crate) const BULK_PORT: u16 = 7000;

/// How many declarations are applied at a time; more are refused.
const DOCUMENTS_MAX: usize = 1_000;
const SET: &str = "bench";
/// What is served by the workload beside the origin.
const ORIGIN: &str = "origin";

pub(crate) struct Cluster<'a> {
    ground: &'a Ground<'a>,
    side: Side,
    folder: PathBuf,
    control: SocketAddr,
    gateway_tcp: SocketAddr,
    gateway_quic: SocketAddr,
}

/// Makes a root and an authority for each cluster.
pub(crate) async fn authorities(clusters: &[Cluster<'_>], folder: &Path) -> Result<()> {
    let root = folder.join("root").display().to_string();
    for cluster in clusters {
        let program = &cluster.ground.portolan;
        if !Path::new(&root).exists() {
            let init = ["ca", "init", "--dir", &root, "--cluster-set", SET];
            child::run(program, &init).await?;
        }
        let out = cluster.folder.join("ca").display().to_string();
        let [dir, name, set] = ["--dir", "--cluster", "--cluster-set"];
        let name_of_it = cluster.name();
        let issue = [
            "ca", "issue", dir, &root, name, name_of_it, set, SET, "--out", &out,
        ];
        child::run(program, &issue).await?;
    }
    Ok(())
}

impl<'a> Cluster<'a> {
    pub(crate) fn new(ground: &'a Ground<'a>, side: Side, folder: &Path) -> Self {
        Self {
            ground,
            side,
            folder: folder.join(name(side)),
            control: ground.network.address(side),
            gateway_tcp: ground.network.address(side),
            gateway_quic: ground.network.address(side),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        name(self.side)
    }

    /// Starts the control plane; its DNS server listens at `dns`.
    pub(crate) async fn start_control(&self, dns: Option<SocketAddr>) -> Result<Process> {
        let ca = self.folder.join("ca");
        let mut config = json!({
            "cluster": self.name(),
            "clusterSet": SET,
            "region": self.name(),
            "dataDir": self.folder.join("control"),
            "listen": self.control,
            "admin": self.admin(),
            "http": self.ground.network.address(self.side),
            "ca": { "certificate": ca.join("ca.pem"), "key": ca.join("ca.key"), "roots": ca.join("root.pem") },
        });
        if let Some(dns) = dns {
            config["dns"] = json!({ "listen": [dns] });
        }
        let mut process = self.daemon(self.side, "control", "control", &config)?;
        process.listens(self.control).await?;
        let admin = self.admin();
        process
            .until("no admin socket", async || admin.exists())
            .await?;
        Ok(process)
    }

    /// Declares services by these names, exported, all of them served by the origin; and a peer.
    pub(crate) async fn declare(&self, services: &[String], peer: Option<&Self>) -> Result<()> {
        let mut documents: Vec<Value> = services
            .iter()
            .flat_map(|name| self.service(name))
            .collect();
        documents.extend(peer.map(Self::as_peer));
        for documents in documents.chunks(DOCUMENTS_MAX) {
            let texts: Vec<String> = documents.iter().map(ToString::to_string).collect();
            let file = self.folder.join("declarations.yaml");
            std::fs::write(&file, texts.join("\n---\n"))?;
            let (admin, file) = (
                format!("unix:{}", self.admin().display()),
                file.display().to_string(),
            );
            let apply = ["apply", "--admin", &admin, "-f", &file];
            child::run(&self.ground.portolan, &apply).await?;
        }
        Ok(())
    }

    pub(crate) fn start_gateway(&self) -> Result<Process> {
        let mut config = self.proxy(self.side, "gateway");
        config["name"] = json!(format!("{}-gateway", self.name()));
        config["tcp"] = json!(self.gateway_tcp);
        config["quic"] = json!(self.gateway_quic);
        if let Some(congestion) = self.ground.congestion {
            config["links"] = json!({ "congestion": congestion });
        }
        self.daemon(self.side, "gateway", "gateway", &config)
    }

    /// Starts the sidecar beside the origin, on whichever side that is: a cluster may reach to the other one.
    pub(crate) fn start_origin_sidecar(&self, side: Side) -> Result<Process> {
        let (origin, bulk) = (self.ground.origin, self.ground.origin_bulk());
        let ports = json!({ "http": origin.port(), "bulk": bulk.port() });
        Ok(self.start_sidecar(side, ORIGIN, &ports, None)?.0)
    }

    /// Starts the sidecar beside a caller, whose DNS server listens at `dns`; tells where it takes calls.
    pub(crate) fn start_caller_sidecar(
        &self,
        name: &str,
        dns: Option<SocketAddr>,
    ) -> Result<(Process, SocketAddr)> {
        self.start_sidecar(self.side, name, &json!({}), dns)
    }

    fn start_sidecar(
        &self,
        side: Side,
        name: &str,
        ports: &Value,
        dns: Option<SocketAddr>,
    ) -> Result<(Process, SocketAddr)> {
        let ip = self.ground.network.ip(side);
        let at = |port| SocketAddr::from((ip, port));
        let outbound = at(15001);
        let mut config = self.proxy(side, name);
        config["workload"] = json!({
            "namespace": NAMESPACE,
            "name": name,
            "serviceAccount": name,
            "labels": { "app": name },
            "ports": ports,
            "address": ip,
            "appAddress": self.ground.origin.ip(),
        });
        config["outbound"] = json!(outbound);
        config["inbound"] = json!(at(15008));
        if let Some(dns) = dns {
            config["dns"] = json!({ "listen": [dns] });
        }
        Ok((self.daemon(side, name, "sidecar", &config)?, outbound))
    }

    fn admin(&self) -> PathBuf {
        self.folder.join("admin.sock")
    }

    fn daemon(&self, side: Side, part: &str, command: &str, config: &Value) -> Result<Process> {
        let path = self.folder.join(format!("{part}.yaml"));
        // JSON is YAML.
        std::fs::write(&path, serde_json::to_string_pretty(config)?)?;
        let arguments = [command, "--config", &path.display().to_string()].map(str::to_owned);
        let name = format!("{}-{part}", self.name());
        self.ground
            .process(side, &name, &self.ground.portolan, &arguments)
    }

    fn service(&self, name: &str) -> [Value; 2] {
        let speaks = match self.ground.work {
            Work::Http1 | Work::Fresh => "http",
            Work::Http2 => "kubernetes.io/h2c",
            Work::Grpc => "grpc",
        };
        let (origin, bulk) = (self.ground.origin, self.ground.origin_bulk());
        let metadata = json!({ "name": name, "namespace": NAMESPACE });
        [
            json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": metadata,
                "spec": { "selector": { "app": ORIGIN }, "ports": [
                    { "name": "http", "port": 80, "targetPort": origin.port(), "appProtocol": speaks },
                    { "name": "bulk", "port": BULK_PORT, "targetPort": bulk.port(), "appProtocol": "tcp" },
                ] },
            }),
            json!({
                "apiVersion": "multicluster.x-k8s.io/v1beta1",
                "kind": "ServiceExport",
                "metadata": metadata,
            }),
        ]
    }

    fn as_peer(&self) -> Value {
        json!({
            "apiVersion": "portolan.dev/v1alpha1",
            "kind": "Peer",
            "metadata": { "name": self.name() },
            "spec": {
                "trustDomain": format!("{}.{SET}", self.name()),
                "region": self.name(),
                "gateways": [self.gateway_quic],
            },
        })
    }

    /// What every proxy's configuration says.
    fn proxy(&self, side: Side, part: &str) -> Value {
        let level = if self.ground.access_log {
            "info"
        } else {
            "info,access=off"
        };
        json!({
            "cluster": self.name(),
            "trustDomain": format!("{}.{SET}", self.name()),
            "trustBundle": self.folder.join("ca/root.pem"),
            "control": [self.control],
            "stateDir": self.folder.join(part),
            "join": { "socket": self.admin() },
            "admin": self.ground.network.address(side),
            "workers": 1,
            "log": { "level": level },
        })
    }
}

fn name(side: Side) -> &'static str {
    match side {
        Side::Near => "near",
        Side::Far => "far",
    }
}
