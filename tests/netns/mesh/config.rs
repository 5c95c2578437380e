//! What the clusters of a mesh are made of: their addresses, keys, configurations and declarations.

use std::net::Ipv4Addr;
use std::process::Command;

use serde_json::{Value, json};

use super::super::namespace::must;
use super::super::portolan;
use super::Mesh;

const SET: &str = "demo";
pub(super) const NAMESPACE: &str = "shop";
/// The clusters: name, number, region.
pub(super) const CLUSTERS: [(&str, u8, &str); 3] = [
    ("us-east", 1, "us"),
    ("us-west", 2, "us"),
    ("eu-west", 3, "eu"),
];

pub(super) const CONTROL: u8 = 2;
pub(super) const GATEWAY: u8 = 10;
pub(super) const WORKLOAD: u8 = 20;

/// The UDP port on which gateways accept links.
pub(super) const LINKS: u16 = 15_444;

/// What runs in a cluster.
pub(super) fn workloads(cluster: &str) -> &'static [&'static str] {
    match cluster {
        "eu-west" => &["frontend", "orders", "payments"],
        _ => &["frontend", "orders"],
    }
}

pub(super) fn address(cluster: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, cluster, 0, host)
}

impl Mesh {
    pub(super) fn keys(&self) {
        let root = self.dir.path().join("root");
        let command = || Command::new(portolan());
        must(
            command()
                .args(["ca", "init", "--cluster-set", SET, "--dir"])
                .arg(&root),
        );
        for (cluster, _, _) in CLUSTERS {
            must(
                command()
                    .args([
                        "ca",
                        "issue",
                        "--cluster-set",
                        SET,
                        "--cluster",
                        cluster,
                        "--dir",
                    ])
                    .arg(&root)
                    .arg("--out")
                    .arg(self.file(cluster, "ca")),
            );
        }
    }

    pub(super) fn configure(&self, cluster: &str, number: u8, region: &str, gateways: u8) {
        let write = |name: &str, config: &Value| {
            std::fs::write(
                self.file(cluster, &format!("{name}.yaml")),
                config.to_string(),
            )
            .unwrap();
        };
        write("control", &self.control_config(cluster, number, region));
        for gateway in 1..=gateways {
            let name = format!("gateway-{gateway}");
            write(&name, &self.gateway_config(cluster, number, gateway));
        }
        for (workload, last) in workloads(cluster).iter().zip(WORKLOAD..) {
            write(
                workload,
                &self.sidecar_config(cluster, number, workload, last),
            );
        }
    }

    fn control_config(&self, cluster: &str, number: u8, region: &str) -> Value {
        let at = address(number, CONTROL);
        let ca = self.file(cluster, "ca");
        json!({
            "cluster": cluster,
            "clusterSet": SET,
            "region": region,
            "dataDir": self.file(cluster, "control"),
            "listen": format!("{at}:15010"),
            "admin": self.file(cluster, "admin.sock"),
            "http": format!("{at}:15020"),
            "dns": { "listen": [format!("{at}:53")] },
            "ca": { "certificate": ca.join("ca.pem"), "key": ca.join("ca.key"), "roots": ca.join("root.pem") },
        })
    }

    fn gateway_config(&self, cluster: &str, number: u8, gateway: u8) -> Value {
        let name = format!("gateway-{gateway}");
        let at = address(number, GATEWAY + gateway);
        self.proxy_config(
            cluster,
            number,
            &name,
            &json!({
                "name": name,
                "tcp": format!("{at}:15443"),
                "quic": format!("{at}:{LINKS}"),
                "admin": format!("{at}:15020"),
            }),
        )
    }

    fn sidecar_config(&self, cluster: &str, number: u8, workload: &str, last: u8) -> Value {
        let at = address(number, last);
        self.proxy_config(
            cluster,
            number,
            workload,
            &json!({
                "workload": {
                    "namespace": NAMESPACE,
                    "name": workload,
                    "serviceAccount": workload,
                    "labels": { "app": workload },
                    "ports": { "http": 8080 },
                    "address": at,
                },
                "outbound": format!("{at}:15001"),
                "capture": format!("{at}:15006"),
                "inbound": format!("{at}:15008"),
                "admin": format!("{at}:15020"),
                "dns": { "listen": [format!("{at}:15053")] },
            }),
        )
    }

    /// What all proxies of a cluster say alike, and `own`.
    fn proxy_config(&self, cluster: &str, number: u8, name: &str, own: &Value) -> Value {
        let mut config = json!({
            "cluster": cluster,
            "trustDomain": format!("{cluster}.{SET}"),
            "trustBundle": self.file(cluster, "ca/root.pem"),
            "control": [format!("{}:15010", address(number, CONTROL))],
            "stateDir": self.file(cluster, name),
            "join": { "socket": self.file(cluster, "admin.sock") },
        });
        for (field, value) in own.as_object().unwrap() {
            config[field] = value.clone();
        }
        config
    }
}

pub(super) fn declarations(cluster: &str, gateways: u8) -> String {
    let service = |name: &&str| {
        let metadata = json!({ "name": name });
        let port = json!({ "name": "http", "port": 80, "targetPort": 8080, "appProtocol": "http" });
        [
            json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata,
                "spec": { "selector": { "app": name }, "ports": [port] } }),
            json!({ "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport", "metadata": metadata }),
        ]
    };
    let peer = |(name, number, region): &(&str, u8, &str)| {
        let quic = |gateway| format!("{}:{LINKS}", address(*number, GATEWAY + gateway));
        json!({ "apiVersion": "portolan.dev/v1alpha1", "kind": "Peer", "metadata": { "name": name },
            "spec": {
                "trustDomain": format!("{name}.{SET}"),
                "region": region,
                "gateways": (1..=gateways).map(quic).collect::<Vec<_>>(),
            } })
    };
    let peers = CLUSTERS
        .iter()
        .filter(|(name, _, _)| *name != cluster)
        .map(peer);
    let documents: Vec<String> = workloads(cluster)
        .iter()
        .flat_map(service)
        .chain(peers)
        .map(|document| document.to_string())
        .collect();
    documents.join("\n---\n")
}
