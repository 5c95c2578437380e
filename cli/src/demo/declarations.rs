//! What the demo declares: its services, what they export, and who is linked with whom.

use std::path::Path;

use portolan_api::admin::{ApplyRequest, Document};
use serde_json::{Value, json};

use super::layout::{
    APP_HTTP_PORT, APP_TCP_PORT, AppKind, CLUSTER_SET, Cluster, Layout, NAMESPACE, Service,
    services,
};
use crate::commands::admin::{connect, failure};
use crate::exit::Failure;
use crate::render;

/// Applies a cluster's declarations, as `portolan apply` would.
pub(super) async fn apply(
    socket: &Path,
    layout: &Layout,
    cluster: &Cluster,
) -> Result<(), Failure> {
    let request = ApplyRequest {
        documents: vec![Document {
            file: format!("{}.yaml", cluster.name),
            text: text(layout, cluster)?,
        }],
        dry_run: false,
        default_namespace: NAMESPACE.to_owned(),
    };
    let mut client = connect(socket).await?;
    let response = client
        .apply(request)
        .await
        .map_err(|status| failure(&status))?
        .into_inner();
    crate::commands::apply::report(&response.problems)
}

/// A cluster's declarations as one YAML text.
pub(super) fn text(layout: &Layout, cluster: &Cluster) -> Result<String, Failure> {
    let mut documents = Vec::new();
    for service in services(cluster.name) {
        documents.push(service_document(&service));
        if service.exported {
            documents.push(export_document(&service));
        }
    }
    documents.extend(
        layout
            .clusters
            .iter()
            .filter(|peer| peer.name != cluster.name)
            .map(peer_document),
    );
    let texts: Vec<String> = documents
        .iter()
        .map(render::yaml)
        .collect::<Result<_, _>>()?;
    Ok(texts.join("---\n"))
}

fn service_document(service: &Service) -> Value {
    let http =
        json!({ "name": "http", "port": 80, "targetPort": APP_HTTP_PORT, "appProtocol": "http" });
    let grpc =
        json!({ "name": "grpc", "port": 9090, "targetPort": APP_HTTP_PORT, "appProtocol": "grpc" });
    let tcp = json!({ "name": "tcp", "port": APP_TCP_PORT, "targetPort": APP_TCP_PORT, "appProtocol": "tcp" });
    let ports = match service.kind {
        AppKind::Http => vec![http],
        AppKind::HttpAndGrpc => vec![http, grpc],
        AppKind::Tcp => vec![tcp],
    };
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": service.name, "namespace": NAMESPACE },
        "spec": { "selector": { "app": service.name }, "ports": ports },
    })
}

fn export_document(service: &Service) -> Value {
    json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1",
        "kind": "ServiceExport",
        "metadata": { "name": service.name, "namespace": NAMESPACE },
    })
}

fn peer_document(peer: &Cluster) -> Value {
    json!({
        "apiVersion": "portolan.dev/v1alpha1",
        "kind": "Peer",
        "metadata": { "name": peer.name },
        "spec": {
            "trustDomain": format!("{}.{CLUSTER_SET}", peer.name),
            "region": peer.region,
            "gateways": [peer.gateway_quic],
        },
    })
}
