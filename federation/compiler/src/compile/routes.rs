//! Routes: which of them are accepted at a face of a service, and what is written back to their authors.

use std::collections::BTreeSet;
use std::sync::Arc;

use portolan_model::declared::{Declared, Face, ResourceKind};
use portolan_model::route::{BackendRef, Filter, ParentRef, Route, RouteSpec, Routes};
use portolan_model::snapshot::{Scope, Service, Snapshot};
use portolan_model::{Namespace, Port, Problem, ServiceKey, Severity};
use serde_json::{Value, json};

use super::facts::Facts;
use super::service::problem;
use super::status::condition;

/// Who writes the statuses (GEP-1294: each controller writes its own).
const CONTROLLER: &str = "portolan.dev/mesh";

/// The kinds in the order in which they win a face and port (GAMMA).
const BY_RANK: [ResourceKind; 4] = [
    ResourceKind::GrpcRoute,
    ResourceKind::HttpRoute,
    ResourceKind::TlsRoute,
    ResourceKind::TcpRoute,
];

/// The most that the rules of one face may take on the wire, in bytes: those of the service's own
/// namespace, and those of all others together. With it a service stays within what proxies accept.
const PRODUCER_BYTES_MAX: usize = 1024 * 1024;
const CONSUMER_BYTES_MAX: usize = 512 * 1024;

/// Why a route is not accepted: the condition's reason and a sentence.
type Refused = (&'static str, String);

/// A parent of a route, and the port that it is accepted for (`None`: all), or why it is not.
struct Judged<'a> {
    declared: &'a Declared,
    spec: &'a RouteSpec,
    parent: &'a ParentRef,
    verdict: Result<Option<u16>, Refused>,
}

/// The accepted routes of one face of a service.
pub(super) fn accepted(facts: &Facts, service: &Service, face: Face) -> Routes {
    let mut routes = Routes::default();
    for judged in judge_face(facts, &service.key, Some(service), face) {
        let (Ok(port), Some(namespace)) = (&judged.verdict, &judged.declared.key.namespace) else {
            continue;
        };
        let route = Arc::new(Route {
            key: judged.declared.key.clone(),
            created_ms: judged.declared.created_ms,
            port: *port,
            rules: judged.spec.rules.clone(),
        });
        if *namespace == service.key.namespace {
            routes.producer.push(route);
        } else {
            let own = routes.consumer.entry(namespace.clone()).or_default();
            own.push(route);
        }
    }
    routes
}

/// Judges every route that wants to be attached to one face of a service. Who ranks higher is judged
/// first, and keeps lower kinds of its own namespace off the ports that it has.
fn judge_face<'a>(
    facts: &'a Facts,
    key: &ServiceKey,
    service: Option<&Service>,
    face: Face,
) -> Vec<Judged<'a>> {
    let mut all = Vec::new();
    let mut held: BTreeSet<(&Namespace, Option<u16>, ResourceKind)> = BTreeSet::new();
    let mut room = [CONSUMER_BYTES_MAX, PRODUCER_BYTES_MAX];
    for kind in BY_RANK {
        let of_kind = facts.attached(key).filter(|it| it.key.kind == kind);
        let mut gained = Vec::new();
        for declared in of_kind {
            let Some((spec, namespace)) =
                declared.spec.route().zip(declared.key.namespace.as_ref())
            else {
                continue;
            };
            let own = |parent: &&ParentRef| {
                parent.face() == Some(face) && parent.service().as_ref() == Some(key)
            };
            for parent in spec.parents.iter().filter(own) {
                let verdict = judge(spec, parent, service, face).and_then(|port| {
                    let mut rivals = held.iter().filter(|(of, _, _)| *of == namespace);
                    let rival = rivals.find(|(_, held, _)| overlap(*held, port));
                    match rival {
                        Some((_, _, rival)) => Err((
                            "Conflicted",
                            format!("a {rival} of this namespace is attached there, and {rival} outranks {kind}"),
                        )),
                        None => Ok(port),
                    }
                });
                let room = &mut room[usize::from(*namespace == key.namespace)];
                let verdict = verdict.and_then(|port| fits(spec, room).map(|()| port));
                if let Ok(port) = verdict {
                    gained.push((namespace, port, kind));
                }
                all.push(Judged {
                    declared,
                    spec,
                    parent,
                    verdict,
                });
            }
        }
        held.extend(gained);
    }
    all
}

/// Whether there is room for the rules; takes it.
fn fits(spec: &RouteSpec, room: &mut usize) -> Result<(), Refused> {
    // Rules have nothing that cannot be written.
    let size = serde_json::to_vec(&spec.rules).map_or(usize::MAX, |rules| rules.len());
    let left = room.checked_sub(size);
    *room = left.ok_or_else(|| {
        let why = "the routes that are attached there are too large together";
        ("UnsupportedValue", why.to_owned())
    })?;
    Ok(())
}

fn overlap(one: Option<u16>, other: Option<u16>) -> bool {
    one.zip(other).is_none_or(|(one, other)| one == other)
}

/// Whether the route and this parent belong together, apart from other routes.
fn judge(
    spec: &RouteSpec,
    parent: &ParentRef,
    service: Option<&Service>,
    face: Face,
) -> Result<Option<u16>, Refused> {
    if let Some((rejection, why)) = &spec.rejected {
        return Err((rejection.as_str(), why.clone()));
    }
    if let (true, Some(why)) = (spec.rules.is_empty(), spec.dropped.first()) {
        let why = format!("none of its rules is valid: {why}");
        return Err(("UnsupportedValue", why));
    }
    let refuse = |why: String| Err(("NoMatchingParent", why));
    let Some(ports) = service.and_then(|service| ports_of(service, face)) else {
        let why = match face {
            Face::Cluster => "this cluster has no such Service",
            Face::Set => "no cluster exports such a service to this one",
        };
        return refuse(why.to_owned());
    };
    if let Some(port) = parent.port
        && !ports.iter().any(|it| it.number == port)
    {
        return refuse(format!("it has no port {port}"));
    }
    let Some(section) = &parent.section else {
        return Ok(parent.port);
    };
    let named = ports.iter().find(|port| {
        port.name
            .as_ref()
            .is_some_and(|name| name.as_str() == section)
    });
    match named {
        None => refuse(format!("it has no port named `{section}`")),
        Some(named) if parent.port.is_some_and(|port| port != named.number) => refuse(format!(
            "its port `{section}` is {}, and the parent names another number",
            named.number
        )),
        Some(named) => Ok(Some(named.number)),
    }
}

/// The ports of one face; `None` if the face is not there.
fn ports_of(service: &Service, face: Face) -> Option<&[Port]> {
    match face {
        Face::Cluster => service.local.as_ref().map(|local| local.ports.as_slice()),
        Face::Set => service.imported.then_some(service.ports.as_slice()),
    }
}

/// The status of a route, and what is wrong with it beside everything else.
pub(super) fn report(
    facts: &Facts,
    snapshot: &Snapshot,
    declared: &Declared,
    spec: &RouteSpec,
) -> (Value, Vec<Problem>) {
    let mut problems = Vec::new();
    let resolved = resolve(snapshot, spec);
    if let Err((_, why)) = &resolved {
        problems.push(warning(
            "spec.rules",
            why.clone(),
            "mend or remove the reference",
        ));
    }
    problems.extend(spec.dropped.iter().map(|why| {
        let why = format!("a rule is left out: {why}");
        warning("spec.rules", why, "mend the rule")
    }));
    let mut parents = Vec::new();
    for parent in &spec.parents {
        let (Some(face), Some(key)) = (parent.face(), parent.service()) else {
            continue;
        };
        let service = snapshot.services.get(&key).map(|service| &**service);
        let judged = judge_face(facts, &key, service, face);
        let own = judged
            .into_iter()
            .find(|it| it.declared.key == declared.key && it.parent == parent);
        let Some(own) = own else { continue };
        if let Err((_, why)) = &own.verdict {
            let why = format!("it is not attached to {} {key}: {why}", parent.kind);
            problems.push(warning(
                "spec.parentRefs",
                why,
                "mend or remove the reference",
            ));
        }
        problems.extend(unread_port(declared, service, face, &own.verdict));
        parents.push(json!({
            "parentRef": reference(parent),
            "controllerName": CONTROLLER,
            "conditions": conditions(spec, &own.verdict, &resolved),
        }));
    }
    (json!({ "parents": parents }), problems)
}

/// Warns of rules about requests where nobody reads requests.
fn unread_port(
    declared: &Declared,
    service: Option<&Service>,
    face: Face,
    verdict: &Result<Option<u16>, Refused>,
) -> Option<Problem> {
    let of_requests = matches!(
        declared.key.kind,
        ResourceKind::HttpRoute | ResourceKind::GrpcRoute
    );
    let only = verdict.as_ref().ok().filter(|_| of_requests)?;
    let mut ports = ports_of(service?, face)?
        .iter()
        .filter(|port| only.is_none_or(|only| only == port.number));
    let unread = ports.clone().next().is_some() && !ports.any(|port| port.protocol.is_http());
    unread.then(|| {
        warning(
            "spec.parentRefs",
            "the ports that it is for carry opaque bytes: no requests are read there, and no rule is for them".to_owned(),
            "give the Service's port `appProtocol: http` (or `grpc`, `kubernetes.io/h2c`)",
        )
    })
}

fn warning(path: &str, message: String, remedy: &str) -> Problem {
    problem(Severity::Warning, path, message, remedy)
}

fn reference(parent: &ParentRef) -> Value {
    let mut reference = json!({
        "group": parent.group,
        "kind": parent.kind,
        "namespace": parent.namespace,
        "name": parent.name,
    });
    if let Some(port) = parent.port {
        reference["port"] = json!(port);
    }
    if let Some(section) = &parent.section {
        reference["sectionName"] = json!(section);
    }
    reference
}

fn conditions(
    spec: &RouteSpec,
    verdict: &Result<Option<u16>, Refused>,
    resolved: &Result<(), Refused>,
) -> Vec<Value> {
    let accepted = match verdict {
        Ok(_) => condition("Accepted", "True", "Accepted", "the route is in force"),
        Err((reason, why)) => condition("Accepted", "False", reason, why),
    };
    let resolved = match resolved {
        Ok(()) => condition(
            "ResolvedRefs",
            "True",
            "ResolvedRefs",
            "every backend exists",
        ),
        Err((reason, why)) => condition("ResolvedRefs", "False", reason, why),
    };
    let mut conditions = vec![accepted, resolved];
    if verdict.is_ok() && !spec.dropped.is_empty() {
        let why = format!("Dropped Rule: {}", spec.dropped.join("; "));
        conditions.push(condition(
            "PartiallyInvalid",
            "True",
            "UnsupportedValue",
            &why,
        ));
    }
    conditions
}

/// Whether everything that the route refers to is there; the first that is not.
fn resolve(snapshot: &Snapshot, spec: &RouteSpec) -> Result<(), Refused> {
    for rule in &spec.rules {
        let filters = |filters: &'_ [Filter]| -> Vec<BackendRef> {
            filters.iter().filter_map(Filter::mirror).cloned().collect()
        };
        for mirror in filters(&rule.filters) {
            exists(snapshot, &mirror)?;
        }
        for backend in &rule.backends {
            exists(snapshot, &backend.to)?;
            for mirror in filters(&backend.filters) {
                exists(snapshot, &mirror)?;
            }
        }
    }
    Ok(())
}

fn exists(snapshot: &Snapshot, to: &BackendRef) -> Result<(), Refused> {
    let target = match to {
        BackendRef::Service(target) => target,
        BackendRef::Invalid(why) => return Err(("InvalidKind", why.clone())),
    };
    let face = target.scope.face();
    let key = &target.service;
    let service = snapshot.services.get(key);
    let Some(ports) = service.and_then(|service| ports_of(service, face)) else {
        let why = match target.scope {
            Scope::Cluster => format!("this cluster has no Service {key}"),
            Scope::Set | Scope::Pinned(_) => format!("there is no ServiceImport {key}"),
        };
        return Err(("BackendNotFound", why));
    };
    let mut of_number = ports.iter().filter(|port| port.number == target.port);
    match of_number.clone().next() {
        None => {
            let why = format!("{key} has no port {}", target.port);
            Err(("BackendNotFound", why))
        }
        Some(_) if !of_number.any(|port| port.protocol.over_tcp()) => {
            let why = format!("the port {} of {key} is not one of TCP", target.port);
            Err(("UnsupportedProtocol", why))
        }
        Some(_) => Ok(()),
    }
}
