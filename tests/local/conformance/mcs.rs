//! The MCS API's conformance tests, replayed with three clusters. What upstream's `hello` is, is here a
//! Service of the same ports before the demo's `orders`.

use serde_json::{Value, json};

use super::super::call::get_now;
use super::super::demo::{Demo, eventually};
use super::super::naming::dig;
use super::super::tools::have;

const CLUSTERS: [&str; 3] = ["us-east", "us-west", "eu-west"];

/// The demo, and one exported service in it.
struct Hello<'a> {
    demo: &'a Demo,
    name: &'a str,
}

/// A Service's ports, as upstream's: one number, two transports.
fn ports() -> Value {
    json!([
        { "name": "tcp", "port": 42, "targetPort": 8080, "appProtocol": "http" },
        { "name": "udp", "port": 42, "protocol": "UDP" },
    ])
}

impl Hello<'_> {
    fn declare(&self, cluster: &str, mut spec: Value) {
        if spec["type"] != "ExternalName" {
            spec["selector"] = json!({ "app": "orders" });
        }
        let metadata = json!({ "name": self.name, "namespace": "shop" });
        let service =
            json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec });
        self.demo.apply(cluster, &service.to_string()).ok();
    }

    fn export(&self, cluster: &str) {
        let metadata = json!({ "name": self.name, "namespace": "shop" });
        let export = json!({ "apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ServiceExport", "metadata": metadata });
        self.demo.apply(cluster, &export.to_string()).ok();
    }

    fn unexport(&self, cluster: &str) {
        let words = ["delete", "serviceexport", self.name, "-n", "shop"];
        self.demo.portolan(cluster, &words).ok();
    }

    fn get(&self, cluster: &str, kind: &str) -> Option<Value> {
        let words = ["get", kind, self.name, "-n", "shop", "-o", "json"];
        let ran = self.demo.portolan(cluster, &words);
        (ran.code == 0).then(|| serde_json::from_str(&ran.out).unwrap())
    }

    /// The import in a cluster, as soon as it is there.
    fn imported(&self, cluster: &str) -> Value {
        let mut found = None;
        eventually("the service is imported", || {
            found = self.get(cluster, "serviceimport");
            found.is_some()
        });
        found.unwrap()
    }

    fn gone_everywhere(&self) {
        for cluster in CLUSTERS {
            eventually("the import is gone", || {
                self.get(cluster, "serviceimport").is_none()
            });
        }
    }

    /// Waits until the export's condition has this status and reason.
    fn condition(&self, cluster: &str, kind: &str, status: &str, reason: &str) {
        eventually(&format!("{kind} is {status} in {cluster}"), || {
            let export = self.get(cluster, "serviceexport").unwrap();
            let conditions = export["status"]["conditions"].as_array();
            let mut conditions = conditions.into_iter().flatten();
            conditions
                .any(|it| it["type"] == kind && it["status"] == status && it["reason"] == reason)
        });
    }

    /// Exports it from us-west as well, which contradicts us-east's export: both say so.
    fn export_in_conflict(&self, reason: &str) {
        self.export("us-west");
        for cluster in ["us-east", "us-west"] {
            self.condition(cluster, "Conflict", "True", reason);
        }
    }

    /// Whether a call from a cluster reaches an app.
    fn reached_from(&self, cluster: &str) -> bool {
        let caller = self.demo.cluster(cluster).workload("frontend").outbound;
        let url = format!("http://{}.shop.svc.clusterset.local:42/", self.name);
        let answer = get_now(caller, &url).unwrap();
        answer.status == 200 && answer.json()["service"] == "orders"
    }

    /// Whether callers in a cluster choose by a hash of themselves.
    fn hashed_in(&self, cluster: &str) -> bool {
        let admin = self.demo.cluster(cluster).workload("frontend").admin;
        let called = format!("{}.shop.svc.clusterset.local:42", self.name);
        let words = ["explain", "--sidecar", &admin.to_string(), &called];
        let told = self.demo.portolan(cluster, &words).ok();
        told.contains("session affinity: by a Maglev table, by caller")
    }
}

/// The port numbers of an import, with their names.
fn numbers(import: &Value) -> Vec<(String, u64)> {
    let ports = import["spec"]["ports"].as_array().unwrap();
    let mut numbers: Vec<(String, u64)> = ports
        .iter()
        .map(|port| {
            (
                port["name"].as_str().unwrap().to_owned(),
                port["port"].as_u64().unwrap(),
            )
        })
        .collect();
    numbers.sort();
    numbers
}

fn named(ports: &[(&str, u64)]) -> Vec<(String, u64)> {
    let ports = ports.iter();
    ports
        .map(|(name, port)| ((*name).to_owned(), *port))
        .collect()
}

#[test]
fn services_are_exported_and_imported_as_the_mcs_api_says() {
    let demo = Demo::start();
    let hello = |name| Hello { demo: &demo, name };
    lives_as_long_as_an_export(&hello("hello"));
    unites_ports(&hello("hello-union"));
    resolves_conflicts(&hello("hello-ports"), &hello("hello-type"));
    shares_session_affinity(&hello("hello-affinity"), &hello("hello-timeout"));
    has_no_address_when_headless(&hello("hello-headless"));
    is_no_alias(&hello("hello-alias"));
}

fn lives_as_long_as_an_export(hello: &Hello<'_>) {
    hello.declare("us-east", json!({ "ports": ports() }));
    for cluster in CLUSTERS {
        assert!(
            !hello.reached_from(cluster),
            "{cluster} reached what nobody exports"
        );
        assert_eq!(hello.get(cluster, "serviceimport"), None);
    }
    hello.export("us-east");
    for cluster in CLUSTERS {
        let import = hello.imported(cluster);
        assert_eq!(import["spec"]["type"], "ClusterSetIP", "{cluster}");
        assert_eq!(
            numbers(&import),
            named(&[("tcp", 42), ("udp", 42)]),
            "{cluster}"
        );
        let ip = import["spec"]["ips"][0].as_str().unwrap();
        assert!(ip.parse::<std::net::IpAddr>().is_ok(), "{cluster}: {ip}");
        eventually("the service is reached", || hello.reached_from(cluster));
        resolves(hello, cluster, ip);
    }
    println!("passed: exported, imported everywhere, reached and resolved");

    hello.declare("us-west", json!({ "ports": ports() }));
    hello.export("us-west");
    hello.condition("us-west", "Conflict", "False", "NoConflicts");
    hello.unexport("us-east");
    for cluster in CLUSTERS {
        let exporters = json!([{ "cluster": "us-west" }]);
        eventually("us-west alone exports", || {
            hello.imported(cluster)["status"]["clusters"] == exporters
        });
    }
    hello.unexport("us-west");
    hello.gone_everywhere();
    println!("passed: an import lives as long as an export");
}

fn resolves(hello: &Hello<'_>, cluster: &str, ip: &str) {
    if !have(
        "dig",
        "services_are_exported_and_imported_as_the_mcs_api_says",
    ) {
        return;
    }
    let dns = hello.demo.cluster(cluster).dns;
    let name = format!("{}.shop.svc.clusterset.local", hello.name);
    eventually("the name resolves", || {
        dig(dns, &["+short", &name, "A"]).trim() == ip
    });
    // TCP and UDP have the same number, so that it is one record.
    let records = dig(dns, &["+short", &name, "SRV"]);
    let records: Vec<&str> = records.lines().collect();
    assert!(
        matches!(records[..], [one] if one.ends_with(&format!(" 42 {name}."))),
        "{cluster}: {records:?}"
    );
    let local = format!("{}.shop.svc.cluster.local", hello.name);
    let found = dig(dns, &["+short", &local, "A"]);
    assert_eq!(
        found.trim().is_empty(),
        cluster != "us-east",
        "{cluster}: {found}"
    );
}

fn unites_ports(hello: &Hello<'_>) {
    hello.declare("us-east", json!({ "ports": ports() }));
    hello.export("us-east");
    hello.imported("us-west");
    let mut more = ports();
    more[1] = json!({ "name": "more", "port": 142, "protocol": "SCTP" });
    hello.declare("us-west", json!({ "ports": more }));
    hello.export("us-west");
    let united = named(&[("more", 142), ("tcp", 42), ("udp", 42)]);
    for cluster in CLUSTERS {
        eventually("ports are united", || {
            numbers(&hello.imported(cluster)) == united
        });
    }
    println!("passed: the ports are those of all exporters");
}

fn resolves_conflicts(ports_differ: &Hello<'_>, types_differ: &Hello<'_>) {
    for hello in [ports_differ, types_differ] {
        hello.declare("us-east", json!({ "ports": ports() }));
        hello.export("us-east");
        // The older export decides: us-west's comes after this one is known there.
        hello.imported("us-west");
    }
    let mut other = ports();
    other[0]["port"] = json!(43);
    ports_differ.declare("us-west", json!({ "ports": [other[0]] }));
    types_differ.declare("us-west", json!({ "ports": ports(), "clusterIP": "None" }));
    for (hello, reason) in [
        (ports_differ, "PortConflict"),
        (types_differ, "TypeConflict"),
    ] {
        hello.export_in_conflict(reason);
        for cluster in CLUSTERS {
            let import = hello.imported(cluster);
            assert_eq!(import["spec"]["type"], "ClusterSetIP", "{cluster}");
            assert_eq!(
                numbers(&import),
                named(&[("tcp", 42), ("udp", 42)]),
                "{cluster}"
            );
        }
    }
    println!("passed: conflicts are told on every export, and the older one decides");
}

/// A Service's spec with session affinity of this timeout.
fn sticky(seconds: u64) -> Value {
    json!({
        "ports": ports(),
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": seconds } },
    })
}

/// An import's session affinity, and its configuration.
fn affinity(import: &Value) -> (Value, Value) {
    let spec = &import["spec"];
    (
        spec["sessionAffinity"].clone(),
        spec["sessionAffinityConfig"].clone(),
    )
}

fn shares_session_affinity(affinities_differ: &Hello<'_>, timeouts_differ: &Hello<'_>) {
    let config = json!({ "clientIP": { "timeoutSeconds": 600 } });
    let clientip = (json!("ClientIP"), config);
    for hello in [affinities_differ, timeouts_differ] {
        hello.declare("us-east", sticky(600));
        hello.export("us-east");
        assert_eq!(affinity(&hello.imported("us-west")), clientip, "alone");
    }
    affinities_differ.declare("us-west", json!({ "ports": ports() }));
    timeouts_differ.declare("us-west", sticky(60));
    for (hello, reason) in [
        (affinities_differ, "SessionAffinityConflict"),
        (timeouts_differ, "SessionAffinityConfigConflict"),
    ] {
        hello.export_in_conflict(reason);
        for cluster in CLUSTERS {
            eventually("the affinity is us-east's", || {
                affinity(&hello.imported(cluster)) == clientip && hello.hashed_in(cluster)
            });
        }
    }
    // The younger export is all that is left, and decides.
    affinities_differ.unexport("us-east");
    affinities_differ.condition("us-west", "Conflict", "False", "NoConflicts");
    for cluster in CLUSTERS {
        eventually("the affinity is us-west's", || {
            affinity(&affinities_differ.imported(cluster)) == (json!("None"), Value::Null)
                && !affinities_differ.hashed_in(cluster)
        });
    }
    println!("passed: the oldest export decides the session affinity, and callers obey it");
}

fn has_no_address_when_headless(hello: &Hello<'_>) {
    hello.declare("us-east", json!({ "ports": ports(), "clusterIP": "None" }));
    hello.export("us-east");
    for cluster in CLUSTERS {
        let import = hello.imported(cluster);
        assert_eq!(import["spec"]["type"], "Headless", "{cluster}");
        assert_eq!(import["spec"].get("ips"), None, "{cluster}");
        if have(
            "dig",
            "services_are_exported_and_imported_as_the_mcs_api_says",
        ) {
            let dns = hello.demo.cluster(cluster).dns;
            let name = format!("{}.shop.svc.clusterset.local", hello.name);
            eventually("each endpoint has its record", || {
                let records = dig(dns, &["+short", &name, "SRV"]);
                let host = format!(".us-east.{name}.");
                records.lines().count() == 1
                    && records.trim().ends_with(&host)
                    && records.contains(" 42 ")
            });
        }
    }
    hello.unexport("us-east");
    hello.gone_everywhere();
    println!("passed: headless services are imported without an address");
}

fn is_no_alias(hello: &Hello<'_>) {
    hello.declare(
        "us-east",
        json!({ "type": "ExternalName", "externalName": "example.com" }),
    );
    hello.export("us-east");
    hello.condition("us-east", "Valid", "False", "InvalidServiceType");
    for cluster in CLUSTERS {
        assert_eq!(hello.get(cluster, "serviceimport"), None, "{cluster}");
    }
    println!("passed: an ExternalName service is not exported");
}
