//! The JSON schema of each kind. Fields that a schema does not name are not allowed.

mod fault;
mod limit;
mod matching;
mod route;
mod traffic;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use jsonschema::Validator;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use portolan_model::declared::ResourceKind;
use portolan_model::service::AFFINITY_SECONDS;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

/// The most gateways of one peer.
const GATEWAYS_MAX: usize = 64;
/// The greatest weight of a workload.
const WEIGHT_MAX: u32 = 10_000;

/// The spec of a `ServiceExport`.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(
    dead_code,
    reason = "described, never built: documents are read as JSON values"
)]
struct ServiceExportSpec {
    /// Labels to export with the service. Accepted, and not passed on yet.
    exported_labels: Option<BTreeMap<String, String>>,
    /// Annotations to export with the service. Accepted, and not passed on yet.
    exported_annotations: Option<BTreeMap<String, String>>,
}

/// One running instance of an app outside Kubernetes.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(
    dead_code,
    reason = "described, never built: documents are read as JSON values"
)]
struct WorkloadSpec {
    /// The instance's IP address.
    address: String,
    /// Its ports by name: `{http: 8080}`.
    ports: Option<BTreeMap<String, Port>>,
    /// The service account it runs as, the last part of its identity.
    service_account: String,
    /// Where it runs; the cluster's region without it.
    locality: Option<Locality>,
    /// Its share relative to its siblings, 100 by default; 0 takes no new work.
    #[schemars(range(max = WEIGHT_MAX))]
    weight: Option<u32>,
    /// Where its sidecar accepts mutual TLS, 15008 by default.
    inbound_port: Option<Port>,
    /// Its DNS host name in headless services.
    hostname: Option<String>,
    /// Whether a sidecar registered it and keeps it alive.
    leased: Option<bool>,
}

/// Where something runs.
#[derive(JsonSchema)]
#[expect(
    dead_code,
    reason = "described, never built: documents are read as JSON values"
)]
struct Locality {
    /// The region.
    region: String,
    /// The failure zone within the region.
    zone: Option<String>,
}

/// A port number.
#[derive(JsonSchema)]
#[expect(
    dead_code,
    reason = "described, never built: documents are read as JSON values"
)]
struct Port(#[schemars(range(min = 1, max = 65535))] u16);

/// A linked cluster.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(
    dead_code,
    reason = "described, never built: documents are read as JSON values"
)]
struct PeerSpec {
    /// The only trust domain in which this peer may name identities.
    trust_domain: String,
    /// Its region.
    region: String,
    /// Where its gateways accept links, as `address:port` (UDP). None for a cluster that dials us.
    #[schemars(length(max = GATEWAYS_MAX))]
    gateways: Option<Vec<String>>,
}

/// The JSON schema of a kind (draft 2020-12).
pub(super) fn of(kind: ResourceKind) -> &'static Value {
    &compiled(kind).0
}

/// The validator of a kind; `None` if its schema were no schema, which a test rules out.
pub(super) fn validator(kind: ResourceKind) -> Option<&'static Validator> {
    compiled(kind).1.as_ref()
}

fn compiled(kind: ResourceKind) -> &'static (Value, Option<Validator>) {
    static CELLS: [OnceLock<(Value, Option<Validator>)>; ResourceKind::ALL.len()] =
        [const { OnceLock::new() }; ResourceKind::ALL.len()];
    let build: fn() -> Value = match kind {
        ResourceKind::Service => service,
        ResourceKind::ServiceExport => export,
        ResourceKind::ServiceImport => import,
        ResourceKind::Workload => workload,
        ResourceKind::Peer => peer,
        ResourceKind::HttpRoute => route::http,
        ResourceKind::GrpcRoute => route::grpc,
        ResourceKind::TlsRoute => route::tls,
        ResourceKind::TcpRoute => route::tcp,
        ResourceKind::ReferenceGrant => route::grant,
        ResourceKind::TrafficPolicy => traffic::policy,
        ResourceKind::RateLimitPolicy => limit::policy,
        ResourceKind::FaultPolicy => fault::policy,
    };
    let cell = &CELLS[kind as usize];
    cell.get_or_init(|| {
        let mut schema = build();
        close(&mut schema);
        let validator = jsonschema::validator_for(&schema).ok();
        (schema, validator)
    })
}

fn service() -> Value {
    let mut schema = inlined::<Service>();
    let spec = &mut schema["properties"]["spec"]["properties"];
    set(
        spec,
        "type",
        "enum",
        json!(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]),
    );
    set(spec, "sessionAffinity", "enum", json!(["None", "ClientIP"]));
    let client_ip = &mut spec["sessionAffinityConfig"]["properties"]["clientIP"]["properties"];
    affinity_bounds(client_ip);
    set(
        spec,
        "internalTrafficPolicy",
        "enum",
        json!(["Cluster", "Local"]),
    );
    set(spec, "clusterIPs", "maxItems", json!(2));
    let port = &mut spec["ports"]["items"]["properties"];
    set(port, "protocol", "enum", json!(["TCP", "UDP", "SCTP"]));
    set(port, "port", "minimum", json!(1));
    set(port, "port", "maximum", json!(65_535));
    set(port, "targetPort", "type", json!(["integer", "string"]));
    set(port, "targetPort", "minimum", json!(1));
    set(port, "targetPort", "maximum", json!(65_535));
    schema["properties"]["metadata"] = inlined::<ObjectMeta>();
    header(&mut schema, ResourceKind::Service, &["metadata", "spec"]);
    schema
}

/// The range of a session affinity's timeout.
fn affinity_bounds(client_ip: &mut Value) {
    let (least, most) = (AFFINITY_SECONDS.start(), AFFINITY_SECONDS.end());
    set(client_ip, "timeoutSeconds", "minimum", json!(least));
    set(client_ip, "timeoutSeconds", "maximum", json!(most));
}

fn export() -> Value {
    let mut schema = document(ResourceKind::ServiceExport, inlined::<ServiceExportSpec>());
    header(&mut schema, ResourceKind::ServiceExport, &["metadata"]);
    schema
}

/// Describes what Portolan writes; nobody applies it.
fn import() -> Value {
    let port = json!({
        "type": "object",
        "required": ["port"],
        "properties": {
            "name": { "type": "string" },
            "port": { "type": "integer", "minimum": 1, "maximum": 65_535 },
            "protocol": { "type": "string", "enum": ["TCP", "UDP", "SCTP"] },
            "appProtocol": { "type": "string" },
        },
    });
    let mut client_ip = json!({
        "type": "object",
        "properties": { "timeoutSeconds": { "type": "integer" } },
    });
    affinity_bounds(&mut client_ip["properties"]);
    let spec = json!({
        "type": "object",
        "required": ["type", "ports"],
        "properties": {
            "type": { "type": "string", "enum": ["ClusterSetIP", "Headless"] },
            "ips": { "type": "array", "maxItems": 2, "items": { "type": "string" } },
            "ipFamilies": { "type": "array", "maxItems": 2, "items": { "type": "string", "enum": ["IPv4", "IPv6"] } },
            "ports": { "type": "array", "items": port },
            "sessionAffinity": { "type": "string", "enum": ["None", "ClientIP"] },
            "sessionAffinityConfig": { "type": "object", "properties": { "clientIP": client_ip } },
        },
    });
    let mut schema = document(ResourceKind::ServiceImport, spec);
    header(
        &mut schema,
        ResourceKind::ServiceImport,
        &["metadata", "spec"],
    );
    schema
}

fn workload() -> Value {
    specified(ResourceKind::Workload, inlined::<WorkloadSpec>())
}

fn peer() -> Value {
    specified(ResourceKind::Peer, inlined::<PeerSpec>())
}

/// A kind whose metadata and spec must be there.
fn specified(kind: ResourceKind, spec: Value) -> Value {
    let mut schema = document(kind, spec);
    header(&mut schema, kind, &["metadata", "spec"]);
    schema
}

fn document(kind: ResourceKind, spec: Value) -> Value {
    json!({
        "title": kind.as_str(),
        "type": "object",
        "properties": {
            "metadata": inlined::<ObjectMeta>(),
            "spec": spec,
            "status": { "type": "object" },
        },
    })
}

fn header(schema: &mut Value, kind: ResourceKind, required: &[&str]) {
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!(kind.as_str());
    schema["properties"]["apiVersion"] =
        json!({ "type": "string", "enum": kind.accepted_api_versions() });
    schema["properties"]["kind"] = json!({ "type": "string", "enum": [kind.as_str()] });
    let required: Vec<_> = ["apiVersion", "kind"].iter().chain(required).collect();
    schema["required"] = json!(required);
}

fn inlined<T: JsonSchema>() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    SchemaGenerator::new(settings)
        .into_root_schema_for::<T>()
        .to_value()
}

fn set(properties: &mut Value, field: &str, keyword: &str, value: Value) {
    if let Some(field) = properties.get_mut(field).and_then(Value::as_object_mut) {
        field.insert(keyword.to_owned(), value);
    }
}

/// Forbids unknown fields wherever fields are listed.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.get("properties").is_some_and(Value::is_object)
                && !object.contains_key("additionalProperties")
            {
                object.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
            object.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The part of a schema at a JSON pointer, and the names of the fields it allows.
pub(super) fn allowed_fields<'a>(schema: &'a Value, pointer: &str) -> Vec<&'a str> {
    schema
        .pointer(pointer)
        .and_then(|part| part.get("properties"))
        .and_then(Value::as_object)
        .map(|properties: &Map<String, Value>| properties.keys().map(String::as_str).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_closed_schema_that_is_valid() {
        for kind in ResourceKind::ALL {
            assert!(validator(*kind).is_some(), "{kind}");
            let schema = of(*kind);
            assert_eq!(schema["additionalProperties"], false, "{kind}");
            assert!(!schema.to_string().contains("$ref"), "{kind}");
            assert!(allowed_fields(schema, "/properties/metadata").contains(&"labels"));
        }
    }
}
