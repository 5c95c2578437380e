use super::*;
use crate::read::read;

fn identity() -> ClusterIdentity {
    ClusterIdentity {
        name: "us-east".parse().unwrap(),
        set: "acme".parse().unwrap(),
        region: "us".parse().unwrap(),
        zones: vec![],
        trust_domain: "us-east.acme".parse().unwrap(),
    }
}

fn declared(text: &str) -> Vec<Declared> {
    let result = read("-", text, &"shop".parse().unwrap());
    assert!(!result.has_errors(), "{:?}", result.problems);
    result.declared.into_iter().map(|(one, _)| one).collect()
}

fn judged(batch: &str, stored: &str) -> Vec<String> {
    let stored = declared(stored)
        .into_iter()
        .map(|one| (one.key.clone(), one))
        .collect();
    check(&identity(), &declared(batch), &stored)
        .iter()
        .map(|problem| format!("{:?} {problem}", problem.severity))
        .collect()
}

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: orders}
spec: {selector: {app: orders}, ports: [{port: 80, targetPort: http}]}
";
const EXPORT: &str = "
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: orders}
";

fn workload(name: &str, port: &str) -> String {
    format!(
        "
apiVersion: portolan.dev/v1alpha1
kind: Workload
metadata: {{name: {name}, labels: {{app: orders}}}}
spec: {{address: 10.0.0.1, serviceAccount: orders, ports: {{{port}: 8080}}}}
"
    )
}

fn peer(name: &str, domain: &str) -> String {
    format!(
        "
apiVersion: portolan.dev/v1alpha1
kind: Peer
metadata: {{name: {name}}}
spec: {{trustDomain: {domain}, region: us}}
"
    )
}

#[test]
fn an_export_needs_its_service_in_the_batch_or_the_registry() {
    assert_eq!(judged(EXPORT, SERVICE), Vec::<String>::new());
    assert_eq!(
        judged(&format!("{SERVICE}---{EXPORT}"), ""),
        Vec::<String>::new()
    );
    let near = judged(&EXPORT.replace("orders", "order"), SERVICE);
    assert!(near[0].starts_with("Error ") && near[0].contains("did you mean `orders`"));
    let elsewhere = EXPORT.replace("{name", "{namespace: other, name");
    assert!(judged(&elsewhere, SERVICE)[0].contains("namespace `shop`"));
    let external = SERVICE.replace("spec: {", "spec: {type: ExternalName, externalName: a.b, ");
    assert!(judged(EXPORT, &external)[0].starts_with("Warning "));
}

#[test]
fn unknown_peers_in_an_export_are_a_warning() {
    let to = |peers: &str| {
        EXPORT.replace(
            "orders}",
            &format!("orders, annotations: {{portolan.dev/export-to: \"{peers}\"}}}}"),
        )
    };
    let stored = format!("{SERVICE}---{}", peer("us-west", "us-west.acme"));
    assert_eq!(judged(&to("us-west"), &stored), Vec::<String>::new());
    let problems = judged(&to("us-wset, us-east"), &stored);
    assert!(problems[0].contains("this very cluster"), "{problems:?}");
    assert!(
        problems[1].contains("did you mean `us-west`"),
        "{problems:?}"
    );
}

#[test]
fn a_target_port_that_no_workload_has_is_a_warning() {
    assert_eq!(judged(SERVICE, ""), Vec::<String>::new());
    assert_eq!(
        judged(SERVICE, &workload("a", "http")),
        Vec::<String>::new()
    );
    let problems = judged(SERVICE, &workload("a", "htpp"));
    assert!(
        problems[0].starts_with("Warning ") && problems[0].contains("did you mean `htpp`"),
        "{problems:?}"
    );
}

#[test]
fn workloads_cannot_share_an_inbound_address() {
    let problems = judged(&workload("a", "http"), &workload("b", "http"));
    assert!(problems[0].contains("10.0.0.1:15008"), "{problems:?}");
    let same = judged(&workload("a", "http"), &workload("a", "http"));
    assert_eq!(same, Vec::<String>::new());
}

#[test]
fn a_peer_is_neither_this_cluster_nor_another_peer() {
    assert!(judged(&peer("us-east", "x"), "")[0].contains("this very cluster"));
    assert!(judged(&peer("us-west", "us-east.acme"), "")[0].contains("own trust domain"));
    let stored = peer("us-west", "west");
    assert!(judged(&peer("eu", "west"), &stored)[0].contains("Peer us-west"));
    assert_eq!(
        judged(&peer("us-west", "west"), &stored),
        Vec::<String>::new()
    );
    let moved = format!("{}---{}", peer("us-west", "west2"), peer("eu", "west"));
    assert_eq!(judged(&moved, &stored), Vec::<String>::new());
}
