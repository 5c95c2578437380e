//! Which endpoint, and which cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use portolan_model::ClusterName;
use portolan_model::traffic::{
    Algorithm, Balancing, ClusterOrder, Failover, HashKey, HashOn, SlowStart,
};
use serde_json::Value;

use super::super::super::finding::Findings;
use super::super::super::path::{field, item};
use super::super::{duration, text};
use super::{number, put};

pub(super) fn balancing(value: &Value, findings: &mut Findings) -> Balancing {
    let path = "spec.loadBalancing";
    let keys = hash_keys(value, findings);
    let hashes = matches!(text(value, "algorithm"), Some("RingHash" | "Maglev"));
    if hashes && value.get("hashOn").is_none() {
        findings.error(
            field(path, "algorithm"),
            "it hashes, but nothing says on what",
            "add `hashOn`, as `hashOn: [{header: x-user}]`",
        );
    }
    if !hashes && value.get("hashOn").is_some() {
        findings.error(
            field(path, "hashOn"),
            "this algorithm does not hash",
            "choose `algorithm: RingHash` or `Maglev`, or leave `hashOn` out",
        );
    }
    let algorithm = match text(value, "algorithm") {
        Some("LeastRequest") => Algorithm::LeastRequest,
        Some("RoundRobin") => Algorithm::RoundRobin,
        Some("Random") => Algorithm::Random,
        Some("RingHash") => Algorithm::RingHash(HashOn { keys }),
        Some("Maglev") => Algorithm::Maglev(HashOn { keys }),
        Some(_) | None => Algorithm::PeakEwma,
    };
    let slow = &value["slowStart"];
    let window = duration::positive(slow, "spec.loadBalancing.slowStart", "window", findings);
    Balancing {
        algorithm,
        slow_start: window.map(|window| SlowStart {
            window,
            least_percent: number(slow, "leastPercent").unwrap_or(10),
        }),
    }
}

fn hash_keys(value: &Value, findings: &mut Findings) -> Vec<HashKey> {
    let listed = value.get("hashOn").and_then(Value::as_array);
    let mut keys = Vec::new();
    for (index, key) in listed.into_iter().flatten().enumerate() {
        let path = item("spec.loadBalancing.hashOn", index);
        let source = key.get("source").and_then(Value::as_bool) == Some(true);
        let header = text(key, "header").map(|name| HashKey::Header(name.to_ascii_lowercase()));
        let cookie = text(key, "cookie").map(|name| HashKey::Cookie(name.to_owned()));
        let query = text(key, "query").map(|name| HashKey::Query(name.to_owned()));
        let source = source.then_some(HashKey::Source);
        let mut found = [header, cookie, query, source].into_iter().flatten();
        match (found.next(), found.next()) {
            (Some(key), None) => keys.push(key),
            (None | Some(_), _) => findings.error(
                path,
                "a key is exactly one property of a request",
                "write one of `header: NAME`, `cookie: NAME`, `query: NAME`, `source: true`",
            ),
        }
    }
    keys
}

pub(super) fn failover(value: &Value, findings: &mut Findings) -> Failover {
    let path = "spec.failover";
    let mut failover = Failover {
        order: order(value, findings),
        healthy_local_min: number(value, "minHealthyLocal"),
        ..Failover::default()
    };
    put(
        &mut failover.overprovisioning_percent,
        number(value, "overprovisioningPercent"),
    );
    let back: Option<Duration> = duration::read(value, path, "returnOver", findings);
    put(&mut failover.return_over, back);
    failover
}

/// Each mode has at most one field of its own, which it needs and the others do not take.
fn order(value: &Value, findings: &mut Findings) -> ClusterOrder {
    let mode = text(value, "mode").unwrap_or("Nearest");
    for (owner, own) in [
        ("Listed", "order"),
        ("Weighted", "weights"),
        ("Pinned", "pin"),
    ] {
        let path = field("spec.failover", own);
        match (mode == owner, value.get(own).is_some()) {
            (true, false) => findings.error(
                "spec.failover.mode",
                format!("the mode `{owner}` needs `{own}`"),
                format!("add `{own}`"),
            ),
            (false, true) => findings.error(
                path,
                format!("the mode `{mode}` does not use `{own}`"),
                format!("write `mode: {owner}`, or leave `{own}` out"),
            ),
            (true, true) | (false, false) => {}
        }
    }
    match mode {
        "Listed" => ClusterOrder::Listed(listed(value, findings)),
        "Weighted" => ClusterOrder::Weighted(weights(value, findings)),
        "Latency" => ClusterOrder::Latency,
        "Pinned" => text(value, "pin")
            .and_then(|name| findings.name(name, "spec.failover.pin"))
            .map_or(ClusterOrder::Nearest, ClusterOrder::Pinned),
        _ => ClusterOrder::Nearest,
    }
}

fn listed(value: &Value, findings: &mut Findings) -> Vec<ClusterName> {
    let names = value.get("order").and_then(Value::as_array);
    let mut clusters: Vec<ClusterName> = Vec::new();
    for (index, name) in names.into_iter().flatten().enumerate() {
        let path = item("spec.failover.order", index);
        let name = name.as_str().and_then(|name| findings.name(name, &path));
        match name {
            Some(name) if clusters.contains(&name) => {
                findings.error(path, "it is listed twice", "list it once");
            }
            Some(name) => clusters.push(name),
            None => {}
        }
    }
    clusters
}

fn weights(value: &Value, findings: &mut Findings) -> BTreeMap<ClusterName, u32> {
    let listed = value.get("weights").and_then(Value::as_object);
    let mut weights = BTreeMap::new();
    for (name, _) in listed.into_iter().flatten() {
        let path = field("spec.failover.weights", name);
        if let (Some(cluster), Some(weight)) =
            (findings.name(name, &path), number(&value["weights"], name))
        {
            weights.insert(cluster, weight);
        }
    }
    if listed.is_some() && weights.values().all(|weight| *weight == 0) {
        findings.error(
            "spec.failover.weights",
            "no cluster has a share",
            "give at least one a weight above 0, as `{us-east: 90, eu-west: 10}`",
        );
    }
    weights
}
