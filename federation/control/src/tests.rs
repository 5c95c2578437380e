//! Whole control planes in one process, wired to each other directly.

mod declarations;
mod failing;
mod federation;
mod starting;
mod streams;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portolan_api::admin::admin_client::AdminClient;
use portolan_api::admin::{ApplyRequest, ApplyResponse, DeleteRequest, Document, GetRequest};
use portolan_model::snapshot::Service;
use portolan_model::{ClusterIdentity, ClusterName, ServiceKey};
use portolan_registry::{Store, StoreError};
use portolan_runtime::Shutdown;
use portolan_runtime::grpc::{ControlTarget, Credentials, channel};
use portolan_transport::mtls::TlsContext;
use serde_json::Value;
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::config::ControlConfig;
use crate::exchange::dial::Ways;
use crate::fixtures::World;
use crate::start::Control;
use crate::view::View;

/// Nothing in these tests takes nearly as long.
const AMPLE: Duration = Duration::from_secs(20);

/// Where each cluster's control plane listens now.
#[derive(Clone, Default)]
struct Directory(Arc<Mutex<BTreeMap<ClusterName, SocketAddr>>>);

impl Directory {
    fn set(&self, cluster: &str, address: SocketAddr) {
        let mut known = self.0.lock().unwrap();
        known.insert(cluster.parse().unwrap(), address);
    }

    fn ways(&self) -> Ways {
        let known = self.0.clone();
        Arc::new(move |peer, _mesh| {
            let known = known.lock().unwrap();
            known.get(&peer.name).copied().into_iter().collect()
        })
    }
}

/// One running cluster.
struct Cluster {
    control: Control,
    admin: AdminClient<Channel>,
    shutdown: Shutdown,
    identity: ClusterIdentity,
    store: Arc<dyn Store>,
}

impl Cluster {
    async fn start(world: &World, directory: &Directory, name: &str) -> Self {
        Self::start_with(&world.config(name), directory).await
    }

    async fn start_with(config: &ControlConfig, directory: &Directory) -> Self {
        let opening = async {
            loop {
                match portolan_registry::open(&config.registry()).await {
                    // The life before lets its file go a moment after it ended.
                    Err(StoreError::Locked { .. }) => {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    opened => return opened.unwrap(),
                }
            }
        };
        let store = timeout(AMPLE, opening).await.unwrap();
        Self::start_on(store, config, directory).await
    }

    async fn start_on(
        store: Arc<dyn Store>,
        config: &ControlConfig,
        directory: &Directory,
    ) -> Self {
        let shutdown = Shutdown::new();
        let registry = std::future::ready(Ok(store.clone()));
        let ways = directory.ways();
        let control = Control::start(config, registry, ways, shutdown.clone());
        let control = control.await.unwrap();
        directory.set(config.cluster.as_str(), control.address);
        let admin = portolan_runtime::admin::connect(&control.admin)
            .await
            .unwrap();
        Self {
            control,
            admin,
            shutdown,
            identity: config.identity().unwrap(),
            store,
        }
    }

    async fn stop(self) {
        self.shutdown.trigger();
        drop((self.admin, self.store));
        timeout(AMPLE, self.control.finished())
            .await
            .unwrap()
            .unwrap();
    }

    async fn apply(&mut self, text: &str) -> ApplyResponse {
        self.apply_as(text, false).await
    }

    async fn apply_as(&mut self, text: &str, dry_run: bool) -> ApplyResponse {
        let request = ApplyRequest {
            documents: vec![Document {
                file: "test.yaml".to_owned(),
                text: text.to_owned(),
            }],
            dry_run,
            default_namespace: String::new(),
        };
        self.admin.apply(request).await.unwrap().into_inner()
    }

    /// Applies what must be right.
    async fn declare(&mut self, text: &str) {
        let response = self.apply(text).await;
        let errors: Vec<_> = response.problems.iter().filter(|p| !p.warning).collect();
        assert!(errors.is_empty(), "{errors:?}");
    }

    async fn delete(&mut self, kind: &str, namespace: &str, name: &str) {
        let request = DeleteRequest {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        self.admin.delete(request).await.unwrap();
    }

    async fn get(&mut self, kind: &str) -> Vec<Value> {
        let request = GetRequest {
            kind: kind.to_owned(),
            ..GetRequest::default()
        };
        let response = self.admin.get(request).await.unwrap().into_inner();
        let documents = response.documents_json.iter();
        documents
            .map(|document| serde_json::from_str(document).unwrap())
            .collect()
    }

    /// Waits for a view.
    async fn until(&self, what: &str, holds: impl FnMut(&Arc<View>) -> bool) -> Arc<View> {
        let mut views = self.control.views.clone();
        let seen = timeout(AMPLE, views.wait_for(holds)).await;
        let seen = seen.unwrap_or_else(|_| panic!("never saw that {what}"));
        seen.unwrap().clone()
    }

    /// A connection as somebody.
    fn channel(&self, world: &World, cluster: &str, path: &str) -> Channel {
        let identity = world.identity(cluster, path);
        let tls = TlsContext::new(Some(identity), world.trust()).unwrap();
        let address = self.control.address;
        let target = ControlTarget {
            cluster: self.identity.name.clone(),
            trust_domain: self.identity.trust_domain.clone(),
            addresses: Arc::new(move || vec![address]),
        };
        channel(&target, &tls, Credentials::Certificate)
    }
}

fn service<'a>(view: &'a View, key: &str) -> Option<&'a Arc<Service>> {
    view.snapshot.services.get(&ServiceKey::parse(key).unwrap())
}

fn peer(name: &str) -> String {
    let region = name.split('-').next().unwrap();
    format!(
        "apiVersion: portolan.dev/v1alpha1\nkind: Peer\nmetadata: {{name: {name}}}\nspec: {{trustDomain: {name}.mesh, region: {region}}}\n"
    )
}

/// A service with one workload that is declared by hand.
fn orders() -> String {
    "apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec:
  selector: {app: orders}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: portolan.dev/v1alpha1
kind: Workload
metadata: {name: orders-0, namespace: shop, labels: {app: orders}}
spec: {address: 127.0.0.9, ports: {http: 8080}, serviceAccount: orders}
"
    .to_owned()
}

fn export() -> &'static str {
    "apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: orders, namespace: shop}
"
}
