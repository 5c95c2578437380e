//! `portolan get`.

use portolan_api::admin::GetRequest;
use portolan_model::declared::ResourceKind;
use serde_json::{Value, json};

use super::admin::Admin;
use crate::args::{GetArgs, Output};
use crate::exit::{Code, Failure};
use crate::render;

pub(crate) fn run(args: &GetArgs) -> Result<(), Failure> {
    let kind = kind(&args.kind)?;
    let namespace = match (&args.namespace, &args.name) {
        (Some(namespace), _) => namespace.clone(),
        (None, Some(_)) if kind.namespaced() => "default".to_owned(),
        (None, _) => String::new(),
    };
    let request = GetRequest {
        kind: kind.as_str().to_owned(),
        namespace,
        name: args.name.clone().unwrap_or_default(),
    };
    let response = Admin::call(&args.admin, async move |mut client| {
        client.get(request).await
    })?;
    let documents: Vec<Value> = response
        .documents_json
        .iter()
        .map(|text| serde_json::from_str(text))
        .collect::<Result<_, _>>()
        .map_err(|error| {
            Failure::internal(format!(
                "the control plane answered with broken JSON: {error}"
            ))
        })?;
    if let (Some(name), true) = (&args.name, documents.is_empty()) {
        return Err(Failure::new(
            Code::NotFound,
            format!(
                "there is no {kind} `{name}`; `portolan get {}` lists them",
                kind.plural()
            ),
        ));
    }
    show(args, kind, &documents)
}

/// Reads a kind as typed.
pub(crate) fn kind(word: &str) -> Result<ResourceKind, Failure> {
    ResourceKind::parse(word).ok_or_else(|| {
        let known: Vec<&str> = ResourceKind::ALL.iter().map(|kind| kind.plural()).collect();
        Failure::new(
            Code::Usage,
            format!(
                "`{word}` is not a kind of resource; there are {}",
                known.join(", ")
            ),
        )
    })
}

fn show(args: &GetArgs, kind: ResourceKind, documents: &[Value]) -> Result<(), Failure> {
    match (args.output.output, &args.name) {
        (Output::Table, _) => render::print(&table(kind, documents)),
        (Output::Json, Some(_)) => render::value(Output::Json, &documents.first(), String::new),
        (Output::Json, None) => {
            let list = json!({ "apiVersion": "v1", "kind": "List", "items": documents });
            render::value(Output::Json, &list, String::new)
        }
        (Output::Yaml, _) => {
            let texts: Vec<String> = documents
                .iter()
                .map(render::yaml)
                .collect::<Result<_, _>>()?;
            render::print(&texts.join("---\n"))
        }
    }
}

fn table(kind: ResourceKind, documents: &[Value]) -> String {
    let rows = documents.iter();
    match kind {
        ResourceKind::Service => render::table(
            ["NAMESPACE", "NAME", "TYPE", "PORTS", "AGE"],
            rows.map(service_row),
        ),
        ResourceKind::ServiceExport => render::table(
            ["NAMESPACE", "NAME", "VALID", "READY", "CONFLICT", "AGE"],
            rows.map(export_row),
        ),
        ResourceKind::ServiceImport => render::table(
            ["NAMESPACE", "NAME", "TYPE", "IPS", "PORTS", "CLUSTERS"],
            rows.map(import_row),
        ),
        ResourceKind::Workload => render::table(
            [
                "NAMESPACE",
                "NAME",
                "ADDRESS",
                "SERVICE ACCOUNT",
                "READY",
                "AGE",
            ],
            rows.map(workload_row),
        ),
        ResourceKind::Peer => render::table(
            ["NAME", "REGION", "TRUST DOMAIN", "GATEWAYS", "AGE"],
            rows.map(peer_row),
        ),
        ResourceKind::HttpRoute
        | ResourceKind::GrpcRoute
        | ResourceKind::TlsRoute
        | ResourceKind::TcpRoute => render::table(
            [
                "NAMESPACE",
                "NAME",
                "PARENTS",
                "ACCEPTED",
                "RESOLVED",
                "AGE",
            ],
            rows.map(route_row),
        ),
        ResourceKind::ReferenceGrant => {
            render::table(["NAMESPACE", "NAME", "AGE"], rows.map(grant_row))
        }
        ResourceKind::FaultPolicy => render::table(
            ["NAMESPACE", "NAME", "TARGETS", "ACCEPTED", "ENDS", "AGE"],
            rows.map(fault_row),
        ),
        ResourceKind::TrafficPolicy | ResourceKind::RateLimitPolicy => render::table(
            ["NAMESPACE", "NAME", "TARGETS", "ACCEPTED", "AGE"],
            rows.map(policy_row),
        ),
    }
}

fn service_row(document: &Value) -> [String; 5] {
    let [namespace, name] = place(document);
    [
        namespace,
        name,
        service_type(document),
        ports(document, "/spec/ports"),
        age(document),
    ]
}

fn export_row(document: &Value) -> [String; 6] {
    let [namespace, name] = place(document);
    let [valid, ready, conflict] =
        ["Valid", "Ready", "Conflict"].map(|kind| condition(document, kind));
    [namespace, name, valid, ready, conflict, age(document)]
}

fn import_row(document: &Value) -> [String; 6] {
    let [namespace, name] = place(document);
    let ips = list(document, "/spec/ips", "");
    let clusters = list(document, "/status/clusters", "/cluster");
    [
        namespace,
        name,
        text(document, "/spec/type"),
        ips,
        ports(document, "/spec/ports"),
        clusters,
    ]
}

fn workload_row(document: &Value) -> [String; 6] {
    let [namespace, name] = place(document);
    let [address, account] = ["/spec/address", "/spec/serviceAccount"].map(|at| text(document, at));
    [
        namespace,
        name,
        address,
        account,
        condition(document, "Ready"),
        age(document),
    ]
}

fn peer_row(document: &Value) -> [String; 5] {
    let [name, region, domain] =
        ["/metadata/name", "/spec/region", "/spec/trustDomain"].map(|at| text(document, at));
    [
        name,
        region,
        domain,
        list(document, "/spec/gateways", ""),
        age(document),
    ]
}

fn route_row(document: &Value) -> [String; 6] {
    let [namespace, name] = place(document);
    let [accepted, resolved] =
        ["Accepted", "ResolvedRefs"].map(|kind| parents_condition(document, kind));
    let parents = list(document, "/spec/parentRefs", "/name");
    [namespace, name, parents, accepted, resolved, age(document)]
}

fn grant_row(document: &Value) -> [String; 3] {
    let [namespace, name] = place(document);
    [namespace, name, age(document)]
}

fn policy_row(document: &Value) -> [String; 5] {
    let [namespace, name] = place(document);
    let targets = list(document, "/spec/targetRefs", "/name");
    let accepted = condition(document, "Accepted");
    [namespace, name, targets, accepted, age(document)]
}

fn fault_row(document: &Value) -> [String; 6] {
    let [namespace, name, targets, accepted, age] = policy_row(document);
    let ends = text(document, "/status/ends");
    [namespace, name, targets, accepted, ends, age]
}

/// A condition that a route has once for each parent: the first that is not true, else the first.
fn parents_condition(document: &Value, kind: &str) -> String {
    let parents = document
        .pointer("/status/parents")
        .and_then(Value::as_array);
    let told: Vec<String> = parents
        .into_iter()
        .flatten()
        .map(|parent| condition_of(parent.pointer("/conditions"), kind))
        .collect();
    let bad = told.iter().find(|word| *word != "True");
    bad.or(told.first())
        .cloned()
        .unwrap_or_else(|| "-".to_owned())
}

fn place(document: &Value) -> [String; 2] {
    ["/metadata/namespace", "/metadata/name"].map(|at| text(document, at))
}

fn text(document: &Value, pointer: &str) -> String {
    match document.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "-".to_owned(),
    }
}

fn service_type(document: &Value) -> String {
    if document.pointer("/spec/clusterIP").and_then(Value::as_str) == Some("None") {
        return "Headless".to_owned();
    }
    document
        .pointer("/spec/type")
        .and_then(Value::as_str)
        .unwrap_or("ClusterIP")
        .to_owned()
}

fn ports(document: &Value, pointer: &str) -> String {
    let ports = document
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let each = ports.iter().map(|port| {
        let number = port
            .get("port")
            .map(ToString::to_string)
            .unwrap_or_default();
        let protocol = port
            .get("protocol")
            .and_then(Value::as_str)
            .unwrap_or("TCP");
        match port.get("name").and_then(Value::as_str) {
            Some(name) => format!("{name}:{number}/{protocol}"),
            None => format!("{number}/{protocol}"),
        }
    });
    each.collect::<Vec<_>>().join(",")
}

fn list(document: &Value, pointer: &str, inner: &str) -> String {
    let items = document
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let words: Vec<String> = items.iter().map(|item| text(item, inner)).collect();
    if words.is_empty() {
        "-".to_owned()
    } else {
        words.join(",")
    }
}

fn condition(document: &Value, kind: &str) -> String {
    condition_of(document.pointer("/status/conditions"), kind)
}

fn condition_of(conditions: Option<&Value>, kind: &str) -> String {
    let found = conditions
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .find(|each| each.get("type").and_then(Value::as_str) == Some(kind));
    let Some(found) = found else {
        return "-".to_owned();
    };
    let word = |field: &str| {
        found
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or("-")
            .to_owned()
    };
    match word("status").as_str() {
        "False" if kind != "Conflict" => format!("False ({})", word("reason")),
        "True" if kind == "Conflict" => format!("True ({})", word("reason")),
        status => status.to_owned(),
    }
}

fn age(document: &Value) -> String {
    let created = document
        .pointer("/metadata/creationTimestamp")
        .and_then(Value::as_str);
    let Some(created) = created.and_then(|text| text.parse::<jiff::Timestamp>().ok()) else {
        return "-".to_owned();
    };
    let seconds = jiff::Timestamp::now().as_second() - created.as_second();
    render::age(u64::try_from(seconds).unwrap_or(0))
}
