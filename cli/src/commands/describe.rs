//! `portolan describe`: one resource, and what became of it.

use portolan_api::admin::{GetRequest, Problem, StatusRequest};
use serde_json::Value;

use super::admin::{Admin, said};
use super::get::kind;
use crate::args::DescribeArgs;
use crate::exit::{Code, Failure};
use crate::render;

pub(crate) fn run(args: &DescribeArgs) -> Result<(), Failure> {
    let kind = kind(&args.kind)?;
    let namespace = if kind.namespaced() {
        args.namespace.clone()
    } else {
        String::new()
    };
    let request = GetRequest {
        kind: kind.as_str().to_owned(),
        namespace: namespace.clone(),
        name: args.name.clone(),
    };
    let (found, status) = Admin::call(&args.admin, async move |mut client| {
        let found = client.get(request).await?.into_inner();
        let status = client.status(StatusRequest {}).await?.into_inner();
        Ok(tonic::Response::new((found, status)))
    })?;
    let document = found.documents_json.first().ok_or_else(|| {
        let name = &args.name;
        Failure::new(Code::NotFound, format!("there is no {kind} `{name}`"))
    })?;
    let document: Value = serde_json::from_str(document).map_err(|error| {
        Failure::internal(format!(
            "the control plane answered with broken JSON: {error}"
        ))
    })?;
    let resource = if kind.namespaced() {
        format!("{kind} {namespace}/{}", args.name)
    } else {
        format!("{kind} {}", args.name)
    };
    let problems = status.problems.iter();
    let own = problems.filter(|problem| problem.resource == resource);
    render::print(&text(&resource, &document, own)?)
}

fn text<'a>(
    resource: &str,
    document: &Value,
    problems: impl Iterator<Item = &'a Problem>,
) -> Result<String, Failure> {
    let word = |pointer: &str| match document.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "-".to_owned(),
    };
    let mut text = format!(
        "{resource}\ncreated {}, generation {}\n",
        word("/metadata/creationTimestamp"),
        word("/metadata/generation")
    );
    if let Some(spec) = document.get("spec") {
        text.push_str("\nSPEC\n");
        text.push_str(&indented(&render::yaml(spec)?));
    }
    let status = document.get("status");
    let mut lists: Vec<(String, &Value)> = Vec::new();
    if let Some(conditions) = status.and_then(|status| status.get("conditions")) {
        lists.push(("CONDITIONS".to_owned(), conditions));
    }
    let parents = status.and_then(|status| status.get("parents")?.as_array());
    for parent in parents.into_iter().flatten() {
        if let Some(conditions) = parent.get("conditions") {
            lists.push((format!("CONDITIONS {}", place(parent)), conditions));
        }
    }
    for (title, conditions) in lists {
        text.push_str(&format!("\n{title}\n{}\n", table(conditions)));
    }
    let problems: Vec<String> = problems.map(said).collect();
    if !problems.is_empty() {
        text.push_str(&format!("\nPROBLEMS\n{}\n", problems.join("\n")));
    }
    Ok(text)
}

/// `at Service shop/orders:80`.
fn place(parent: &Value) -> String {
    let word = |field: &str| {
        let value = parent.get("parentRef").and_then(|it| it.get(field));
        value.and_then(Value::as_str).unwrap_or("-").to_owned()
    };
    let port = parent.pointer("/parentRef/port").map(Value::to_string);
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    format!(
        "at {} {}/{}{port}",
        word("kind"),
        word("namespace"),
        word("name")
    )
}

fn table(conditions: &Value) -> String {
    let rows = conditions.as_array().into_iter().flatten().map(|each| {
        ["type", "status", "reason", "lastTransitionTime", "message"].map(|field| {
            each.get(field)
                .and_then(Value::as_str)
                .unwrap_or("-")
                .to_owned()
        })
    });
    render::table(["TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"], rows)
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
