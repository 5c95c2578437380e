//! The demo's folder: keys, configuration files, state and logs, as an operator would lay them out.

use std::fs;
use std::path::{Path, PathBuf};

use portolan_model::{ClusterSetName, TrustDomain};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::layout::{AppKind, CLUSTER_SET, Cluster, Layout, NAMESPACE, Workload};
use crate::commands::ca;
use crate::exit::Failure;
use crate::render;

/// The demo's folder; a temporary one is removed with it.
pub(super) struct Folder {
    path: PathBuf,
    _temporary: Option<TempDir>,
}

impl Folder {
    /// Takes `given`, which must be empty or absent, or makes a temporary folder.
    pub(super) fn create(given: Option<PathBuf>) -> Result<Self, Failure> {
        let Some(path) = given else {
            let made = tempfile::Builder::new()
                .prefix("portolan-demo-")
                .tempdir()
                .map_err(|error| {
                    Failure::files(format!("cannot make a temporary folder: {error}"))
                })?;
            return Ok(Self {
                path: made.path().to_owned(),
                _temporary: Some(made),
            });
        };
        let fail = |error: std::io::Error| {
            Failure::files(format!("cannot use {}: {error}", path.display()))
        };
        fs::create_dir_all(&path).map_err(fail)?;
        if fs::read_dir(&path).map_err(fail)?.next().is_some() {
            return Err(Failure::files(format!(
                "{} is not empty; name a new folder with --dir",
                path.display()
            )));
        }
        Ok(Self {
            path: path.canonicalize().map_err(fail)?,
            _temporary: None,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn cluster(&self, cluster: &Cluster) -> PathBuf {
        self.path.join(cluster.name)
    }

    pub(super) fn admin_socket(&self, cluster: &Cluster) -> PathBuf {
        self.cluster(cluster).join("admin.sock")
    }

    pub(super) fn config(&self, cluster: &Cluster, part: &str) -> PathBuf {
        self.cluster(cluster).join(format!("{part}.yaml"))
    }
}

/// Makes the root, each cluster's authority, and every configuration file.
pub(super) fn write(folder: &Folder, layout: &Layout) -> Result<(), Failure> {
    let set =
        ClusterSetName::parse(CLUSTER_SET).map_err(|error| Failure::internal(error.to_string()))?;
    let root = ca::init(&folder.path.join("root"), &set)?;
    let logs = folder.path.join("logs");
    fs::create_dir_all(&logs)
        .map_err(|error| Failure::files(format!("cannot make {}: {error}", logs.display())))?;
    for cluster in &layout.clusters {
        let domain = TrustDomain::parse(&trust_domain(cluster))
            .map_err(|error| Failure::internal(error.to_string()))?;
        ca::issue_with(&root, &domain, &folder.cluster(cluster).join("ca"))?;
        write_config(folder, cluster, "control", &control_config(folder, cluster))?;
        write_config(folder, cluster, "gateway", &gateway_config(folder, cluster))?;
        for workload in &cluster.workloads {
            write_config(
                folder,
                cluster,
                workload.name,
                &sidecar_config(folder, cluster, workload),
            )?;
        }
        let declarations = super::declarations::text(layout, cluster)?;
        write_file(
            &folder.cluster(cluster).join("declarations.yaml"),
            &declarations,
        )?;
    }
    Ok(())
}

fn trust_domain(cluster: &Cluster) -> String {
    format!("{}.{CLUSTER_SET}", cluster.name)
}

fn write_config(
    folder: &Folder,
    cluster: &Cluster,
    part: &str,
    config: &Value,
) -> Result<(), Failure> {
    write_file(&folder.config(cluster, part), &render::yaml(config)?)
}

fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text)
        .map_err(|error| Failure::files(format!("cannot write {}: {error}", path.display())))
}

fn control_config(folder: &Folder, cluster: &Cluster) -> Value {
    let ca = folder.cluster(cluster).join("ca");
    json!({
        "cluster": cluster.name,
        "clusterSet": CLUSTER_SET,
        "region": cluster.region,
        "dataDir": folder.cluster(cluster).join("control"),
        "listen": cluster.control,
        "admin": folder.admin_socket(cluster),
        "http": cluster.control_http,
        "dns": { "listen": [cluster.dns] },
        "ca": { "certificate": ca.join("ca.pem"), "key": ca.join("ca.key"), "roots": ca.join("root.pem") },
    })
}

fn gateway_config(folder: &Folder, cluster: &Cluster) -> Value {
    json!({
        "name": format!("{}-gateway", cluster.name),
        "cluster": cluster.name,
        "trustDomain": trust_domain(cluster),
        "trustBundle": folder.cluster(cluster).join("ca/root.pem"),
        "control": [cluster.control],
        "stateDir": folder.cluster(cluster).join("gateway"),
        "join": { "socket": folder.admin_socket(cluster) },
        "tcp": cluster.gateway_tcp,
        "quic": cluster.gateway_quic,
        "admin": cluster.gateway_admin,
        "dns": { "listen": [cluster.dns] },
        "workers": 1,
    })
}

fn sidecar_config(folder: &Folder, cluster: &Cluster, workload: &Workload) -> Value {
    let port_name = if workload.kind == AppKind::Tcp {
        "tcp"
    } else {
        "http"
    };
    json!({
        "workload": {
            "namespace": NAMESPACE,
            "name": workload.name,
            "serviceAccount": workload.name,
            "labels": { "app": workload.name, "version": workload.version },
            "ports": { port_name: workload.app.port() },
            "address": workload.app.ip(),
        },
        "cluster": cluster.name,
        "trustDomain": trust_domain(cluster),
        "trustBundle": folder.cluster(cluster).join("ca/root.pem"),
        "control": [cluster.control],
        "stateDir": folder.cluster(cluster).join(workload.name),
        "join": { "socket": folder.admin_socket(cluster) },
        "outbound": workload.outbound,
        "inbound": workload.inbound,
        "admin": workload.admin,
        "workers": 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_something_in_it_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("mine"), "x").unwrap();
        assert!(Folder::create(Some(dir.path().to_owned())).is_err());
        assert!(dir.path().join("mine").exists());
    }
}
