//! What a case looks like, and the declarations that it stands for.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

/// The namespace of everything but consumers' routes.
pub(super) const NAMESPACE: &str = "shop";

/// One upstream test, said anew for the demo's apps.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Case {
    /// The upstream test's name.
    pub(super) upstream: String,
    /// The features that it belongs to.
    pub(super) features: Vec<String>,
    /// The faces that it is played at; both without it.
    #[serde(default)]
    pub(super) faces: Vec<Face>,
    #[serde(default)]
    pub(super) routes: Vec<Route>,
    /// What else is declared in us-east, as it stands there.
    #[serde(default)]
    others: Vec<Value>,
    #[serde(default)]
    pub(super) requests: Vec<Request>,
    /// What the first route is changed to when all that holds.
    pub(super) then: Option<Then>,
}

/// Other rules for the same route, and what must come of requests then.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Then {
    pub(super) rules: Value,
    pub(super) requests: Vec<Request>,
}

/// Whether parents and backends are Services, called by their names in the cluster, or
/// ServiceImports, called by their names in the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Face {
    Service,
    ServiceImport,
}

pub(super) const FACES: [Face; 2] = [Face::Service, Face::ServiceImport];

/// How long a browser keeps a session's cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Lifetime {
    Session,
    Permanent,
}

/// A route, without what all of them have in common.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Route {
    #[serde(default = "http_route")]
    pub(super) kind: String,
    #[serde(default = "route")]
    pub(super) name: String,
    #[serde(default = "shop")]
    pub(super) namespace: String,
    #[serde(default = "echo_80")]
    pub(super) parents: Vec<Value>,
    #[serde(default)]
    pub(super) hostnames: Vec<String>,
    pub(super) rules: Value,
    /// The reason why it is not accepted.
    pub(super) not_accepted: Option<String>,
    /// The reason why its references are not resolved.
    pub(super) not_resolved: Option<String>,
}

/// A request, and what must come of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Request {
    /// Who asks: `frontend`, `orders`, or `pages` in the namespace `web`.
    #[serde(default = "frontend")]
    pub(super) from: String,
    /// The service that is called.
    #[serde(default = "echo")]
    pub(super) to: String,
    #[serde(default = "port_80")]
    pub(super) port: u16,
    /// By the service's address, with a `Host` of this service's name.
    pub(super) host: Option<String>,
    /// Not by the service, but by the address of the workload behind it.
    #[serde(default)]
    pub(super) workload: bool,
    #[serde(default = "get")]
    pub(super) method: String,
    #[serde(default = "root")]
    pub(super) path: String,
    /// A WebSocket, whose message must come back.
    #[serde(default)]
    pub(super) socket: bool,
    /// A gRPC method in place of method and path.
    pub(super) grpc: Option<String>,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,

    /// The answer's status.
    #[serde(default = "ok")]
    pub(super) status: u16,
    /// The gRPC call's code.
    #[serde(default = "code_ok")]
    pub(super) code: String,
    /// Who answers: `echo-v1`, `echo-v2`, or us-east's `frontend`.
    pub(super) backend: Option<String>,
    /// The shares of the answers in percent, of many requests.
    #[serde(default)]
    pub(super) shares: BTreeMap<String, u32>,
    /// The answer begins a session in a cookie, that keeps later requests where the first was answered.
    pub(super) session: Option<Lifetime>,
    /// The path that the app sees.
    pub(super) seen_path: Option<String>,
    /// Headers that the app sees; `null` for those that it must not see.
    #[serde(default)]
    pub(super) seen: BTreeMap<String, Option<String>>,
    /// Headers of the answer; `null` for those that it must not have. `{host}` stands for the host called.
    #[serde(default)]
    pub(super) answer: BTreeMap<String, Option<String>>,
    /// The ports of `echo-v2` at which copies arrive.
    #[serde(default)]
    pub(super) mirrored: Vec<u16>,
    /// The share in percent of many requests that is copied to `echo-v2`.
    pub(super) mirrored_share: Option<u32>,
    /// The rule that the access log names, as `<route>/<rule>`.
    pub(super) rule: Option<String>,
}

fn http_route() -> String {
    "HTTPRoute".to_owned()
}
fn route() -> String {
    "route".to_owned()
}
fn shop() -> String {
    NAMESPACE.to_owned()
}
fn echo_80() -> Vec<Value> {
    vec![json!({ "name": "echo", "port": 80 })]
}
fn frontend() -> String {
    "frontend".to_owned()
}
fn echo() -> String {
    "echo".to_owned()
}
fn port_80() -> u16 {
    80
}
fn get() -> String {
    "GET".to_owned()
}
fn root() -> String {
    "/".to_owned()
}
fn ok() -> u16 {
    200
}
fn code_ok() -> String {
    "Ok".to_owned()
}

/// A case at one of its faces.
pub(super) struct Play {
    pub(super) case: Case,
    pub(super) face: Face,
    /// What the names of its own services and routes begin with.
    id: String,
    /// The services that are its own: those that routes are attached to or requests go to.
    own: Vec<String>,
}

impl Play {
    pub(super) fn new(case: &Case, face: Face, number: usize) -> Self {
        let letter = if face == Face::Service { 'c' } else { 's' };
        let parents = case.routes.iter().flat_map(|route| &route.parents);
        let parents = parents.filter_map(|parent| parent["name"].as_str());
        let targets = case.requests.iter().map(|request| request.to.as_str());
        let mut own: Vec<String> = parents.chain(targets).map(str::to_owned).collect();
        own.retain(|name| name.starts_with("echo"));
        own.sort_unstable();
        own.dedup();
        Self {
            case: case.clone(),
            face,
            id: format!("{letter}{number}"),
            own,
        }
    }

    pub(super) fn title(&self) -> String {
        format!("{} ({:?}, {})", self.case.upstream, self.face, self.id)
    }

    /// The case after its change.
    pub(super) fn changed(mut self) -> Option<Self> {
        let then = self.case.then.take()?;
        self.case.routes[0].rules = then.rules;
        self.case.requests = then.requests;
        Some(self)
    }

    /// The name that a service or route of the case really has.
    pub(super) fn named(&self, name: &str) -> String {
        if self.own.iter().any(|own| own == name) || !name.starts_with("echo") {
            format!("{}-{name}", self.id)
        } else {
            name.to_owned()
        }
    }

    /// The host by which it is called.
    pub(super) fn host(&self, name: &str) -> String {
        let zone = match self.face {
            Face::Service => "cluster.local",
            Face::ServiceImport => "clusterset.local",
        };
        format!("{}.{NAMESPACE}.svc.{zone}", self.named(name))
    }

    /// What is declared in us-east and in us-west: its own services, and in us-east its routes.
    pub(super) fn declarations(&self) -> [Value; 2] {
        let mut east = Vec::new();
        let mut west = Vec::new();
        for name in &self.own {
            let (there, document) = match (name.as_str(), self.face) {
                ("echo-v2", Face::ServiceImport) => {
                    (&mut west, service(&self.named(name), V2_WEST))
                }
                ("echo-v2", Face::Service) => (&mut east, service(&self.named(name), V2_EAST)),
                ("echo-v1", _) => (&mut east, service(&self.named(name), V1)),
                _ => (&mut east, service(&self.named(name), BOTH)),
            };
            there.push(document);
            if self.face == Face::ServiceImport {
                there.push(export(&self.named(name)));
            }
        }
        east.extend(self.case.others.iter().cloned());
        east.extend(self.case.routes.iter().map(|route| self.document(route)));
        [list(east), list(west)]
    }

    fn document(&self, route: &Route) -> Value {
        let mut parents = route.parents.clone();
        let mut rules = route.rules.clone();
        for parent in &mut parents {
            self.refer(parent);
            parent["namespace"] = json!(NAMESPACE);
        }
        self.refer_below(&mut rules);
        let mut document = json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": route.kind,
            "metadata": { "name": self.named(&route.name), "namespace": route.namespace },
            "spec": { "parentRefs": parents, "rules": rules },
        });
        if !route.hostnames.is_empty() {
            document["spec"]["hostnames"] = json!(route.hostnames);
        }
        document
    }

    /// Finds the references to backends, wherever they stand.
    fn refer_below(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    match (name.as_str(), &mut *field) {
                        ("backendRef", reference) => self.refer(reference),
                        ("backendRefs", Value::Array(all)) => {
                            all.iter_mut().for_each(|reference| self.refer(reference));
                        }
                        _ => {}
                    }
                    self.refer_below(field);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.refer_below(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// Completes a reference to a service: its kind, and its real name.
    fn refer(&self, reference: &mut Value) {
        let name = reference["name"].as_str().unwrap_or_default().to_owned();
        if name.starts_with("echo") {
            reference["name"] = json!(self.named(&name));
        }
        if reference.get("kind").is_none() {
            let (group, kind) = match self.face {
                Face::Service => ("", "Service"),
                Face::ServiceImport => ("multicluster.x-k8s.io", "ServiceImport"),
            };
            reference["group"] = json!(group);
            reference["kind"] = json!(kind);
        }
    }
}

const BOTH: (&str, &str) = ("version", "v1");
const V1: (&str, &str) = ("app", "orders");
const V2_EAST: (&str, &str) = ("app", "frontend");
const V2_WEST: (&str, &str) = ("app", "orders-v2");

/// The services that cases share as backends, in us-east and in us-west.
pub(super) fn shared() -> [Value; 2] {
    let east = vec![
        service("echo-v1", V1),
        export("echo-v1"),
        service("echo-v2", V2_EAST),
    ];
    [
        list(east),
        list(vec![service("echo-v2", V2_WEST), export("echo-v2")]),
    ]
}

/// The app behind `echo-v1` and `echo-v2`, or us-east's `frontend`, as cluster and workload.
pub(super) fn workload(name: &str, face: Face) -> (&'static str, &'static str) {
    match (name, face) {
        ("echo-v2", Face::Service) | ("frontend", _) => ("us-east", "frontend"),
        ("echo-v2", Face::ServiceImport) => ("us-west", "orders-v2"),
        _ => ("us-east", "orders"),
    }
}

fn service(name: &str, selector: (&str, &str)) -> Value {
    let port = |name: &str, port: u16, protocol: &str| json!({ "name": name, "port": port, "targetPort": 8080, "appProtocol": protocol });
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": {
            "selector": { selector.0: selector.1 },
            "ports": [
                port("http", 80, "http"),
                port("http-alt", 8080, "http"),
                port("h2c", 8081, "kubernetes.io/h2c"),
                port("ws", 8082, "kubernetes.io/ws"),
                port("grpc", 7070, "grpc"),
            ],
        },
    })
}

fn export(name: &str) -> Value {
    json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1",
        "kind": "ServiceExport",
        "metadata": { "name": name, "namespace": NAMESPACE },
    })
}

fn list(items: Vec<Value>) -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}
