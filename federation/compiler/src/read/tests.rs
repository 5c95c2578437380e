use super::*;
use portolan_model::declared::{DeclaredServiceKind, DeclaredSpec, ExportTo, TargetPort};
use portolan_model::{Protocol, ServiceKind, SessionAffinity};
use proptest::prelude::*;

fn reading(text: &str) -> ReadResult {
    read("shop.yaml", text, &"shop".parse().unwrap())
}

fn problems(text: &str) -> Vec<String> {
    let result = reading(text);
    result.problems.iter().map(Problem::to_string).collect()
}

/// Asserts that reading finds exactly these problems, each by parts of its text.
#[track_caller]
fn finds(text: &str, wanted: &[&[&str]]) {
    let found = problems(text);
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
    for (problem, parts) in found.iter().zip(wanted) {
        for part in *parts {
            assert!(problem.contains(part), "no `{part}` in `{problem}`");
        }
    }
}

fn one(text: &str) -> Declared {
    let mut result = reading(text);
    assert_eq!(result.problems, []);
    assert_eq!(result.declared.len(), 1);
    result.declared.remove(0).0
}

const ORDERS: &str = r#"
apiVersion: v1
kind: Service
metadata:
  name: orders
  labels: {team: shop}
  uid: 2b1c
  resourceVersion: "7"
  creationTimestamp: "2026-01-31T12:00:00Z"
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: "{}"
spec:
  selector: {app: orders}
  ports:
  - {name: http, port: 80, targetPort: web}
  - {name: grpc-api, port: 9000}
status: {loadBalancer: {}}
"#;

#[test]
fn a_service_is_read_and_normalised() {
    let result = reading(ORDERS);
    assert_eq!(result.problems, []);
    let (declared, document) = &result.declared[0];
    assert_eq!(declared.key.to_string(), "Service shop/orders");
    let DeclaredSpec::Service(spec) = &declared.spec else {
        panic!("{declared:?}")
    };
    assert_eq!(spec.kind, DeclaredServiceKind::Of(ServiceKind::Virtual));
    assert_eq!(
        spec.ports[0].target,
        TargetPort::Name("web".parse().unwrap())
    );
    assert_eq!(spec.ports[0].protocol, Protocol::Http);
    assert_eq!(spec.ports[1].target, TargetPort::Number(9000));
    assert_eq!(spec.ports[1].protocol, Protocol::Grpc);
    assert_eq!(
        document["metadata"],
        json!({"name": "orders", "namespace": "shop", "labels": {"team": "shop"}, "annotations": {}})
    );
    assert_eq!(document.get("status"), None);
}

#[test]
fn session_affinity_is_read_and_held_to_its_bounds() {
    let with = |more: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {{selector: {{app: a}}, ports: [{{port: 80}}], {more}}}}}"
        )
    };
    let seconds = |more: &str| match one(&with(more)).spec.service().unwrap().affinity {
        SessionAffinity::None => None,
        SessionAffinity::ClientIp { timeout_seconds } => Some(timeout_seconds),
    };
    let config = |seconds: &str| {
        with(&format!(
            "sessionAffinity: ClientIP, sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {seconds}}}}}"
        ))
    };
    assert_eq!(seconds("sessionAffinity: None"), None);
    assert_eq!(seconds("sessionAffinity: ClientIP"), Some(10_800));
    assert_eq!(
        seconds("sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {}}"),
        Some(10_800)
    );
    for value in ["1", "86400"] {
        assert_eq!(problems(&config(value)), Vec::<String>::new());
    }
    let place = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
    finds(
        &config("0"),
        &[&[place, "0 is too small", "from 1 to 86400"]],
    );
    finds(
        &config("86401"),
        &[&[place, "86401 is too large", "up to 86400"]],
    );
    finds(&config("soon"), &[&[place, "expected"]]);
    finds(
        &with("sessionAffinity: Cookie"),
        &[&["spec.sessionAffinity", "Cookie", "ClientIP"]],
    );
    finds(
        &with("sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}"),
        &[&[
            "spec.sessionAffinityConfig",
            "does not have",
            "sessionAffinity: ClientIP",
        ]],
    );
    let headless = with("clusterIP: None, sessionAffinity: ClientIP");
    finds(&headless, &[&["spec.sessionAffinity: ", "no effect"]]);
    let spec = reading(&headless).declared.remove(0).0.spec;
    assert_eq!(spec.service().unwrap().affinity, SessionAffinity::None);
}

#[test]
fn stored_documents_know_when_they_were_created() {
    let (_, mut document) = reading(ORDERS).declared.remove(0);
    assert_eq!(parse_document(&document).unwrap().created_ms, 0);
    document["metadata"]["creationTimestamp"] = json!("1970-01-01T00:00:02.5Z");
    document["status"] = json!({"conditions": []});
    assert_eq!(parse_document(&document).unwrap().created_ms, 2500);
    document["metadata"]["creationTimestamp"] = json!("yesterday");
    assert_eq!(parse_document(&document).unwrap_err().len(), 1);
    document["metadata"]["creationTimestamp"] = json!(null);
    document["metadata"]["namespace"] = json!(null);
    assert!(
        parse_document(&document).is_err(),
        "a stored document names its namespace"
    );
}

#[test]
fn all_mistakes_are_told_at_once_with_their_places() {
    let text = "\
apiVersion: v1
kind: Service
metadata:
  name: Orders
spec:
  selector: {app: orders}
  prots: []
  ports:
  - name: http
    port: eighty
  - name: http
    port: 70000
    targetPort: \"8080\"
  - name: http
    port: 81
    protocol: TPC
";
    finds(
        text,
        &[
            &[
                "shop.yaml:4:9:",
                "Service shop/Orders",
                "metadata.name",
                "service name",
            ],
            &[
                "shop.yaml:7:3:",
                "spec.prots",
                "unknown field `prots`",
                "did you mean `ports`?",
            ],
            &[
                "shop.yaml:10:11:",
                "spec.ports[0].port",
                "expected an integer, found the string \"eighty\"",
            ],
            &[
                "shop.yaml:11:11:",
                "`http` is used twice, first by spec.ports[0]",
            ],
            &["shop.yaml:12:11:", "70000 is too large", "65535"],
            &[
                "shop.yaml:13:17:",
                "spec.ports[1].targetPort",
                "without quotes",
            ],
            &["shop.yaml:14:11:", "`http` is used twice"],
            &[
                "shop.yaml:16:15:",
                "\"TPC\" is not allowed here",
                "did you mean `TCP`?",
            ],
        ],
    );
}

#[test]
fn duplicate_ports_and_missing_names_are_found() {
    let text = "\
apiVersion: v1
kind: Service
metadata: {name: a}
spec:
  selector: {app: a}
  ports:
  - {name: x, port: 1}
  - {name: x, port: 2}
  - {name: y, port: 1}
  - {name: z, port: 1, protocol: UDP}
  - {port: 3}
";
    finds(
        text,
        &[
            &["8:12:", "spec.ports[1].name", "used twice", "spec.ports[0]"],
            &["9:21:", "spec.ports[2].port", "1/TCP is used twice"],
            &["11:5:", "spec.ports[4].name", "each needs a name"],
        ],
    );
}

#[test]
fn types_are_explained_as_people_write_them() {
    let service = |spec: &str| {
        format!("{{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {spec}}}")
    };
    finds(
        &service("{selector: {version: 1.5}, ports: [{port: \"80\"}]}"),
        &[
            &["expected a string, found the number 1.5", "\"1.5\""],
            &[
                "expected an integer, found the string \"80\"",
                "write 80 without quotes",
            ],
        ],
    );
    finds(
        &service("{type: clusterip, selector: {a: b}, ports: {port: 80}}"),
        &[
            &[
                "\"clusterip\" is not allowed here",
                "did you mean `ClusterIP`?",
            ],
            &["expected a list, found a map", "`- `"],
        ],
    );
    finds(
        &service("{selector: {a: b}, ports: [{name: http}]}"),
        &[&["spec.ports[0]", "the field `port` is missing", "add `port`"]],
    );
}

#[test]
fn kinds_are_told_apart_and_suggested() {
    finds(
        "kind: Servise\napiVersion: v1\nmetadata: {name: a}",
        &[&["`Servise` is not known", "did you mean `Service`?"]],
    );
    finds(
        "kind: Pod\napiVersion: v1",
        &[&["known kinds: Service (v1), ServiceExport"]],
    );
    finds("kind: Service\napiVersion: v2", &[&["`apiVersion: v1`"]]);
    finds(
        "metadata: {}",
        &[&["`apiVersion` is missing"], &["`kind` is missing"]],
    );
    finds("[1]", &[&["must be a map"]]);
    finds(
        "{kind: ServiceImport, apiVersion: multicluster.x-k8s.io/v1beta1, metadata: {name: a}}",
        &[&[
            "ServiceImport shop/a",
            "written by Portolan",
            "ServiceExport",
        ]],
    );
}

#[test]
fn a_reference_grant_is_kept_and_has_no_effect() {
    let grant = |version: &str, spec: &str| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/{version}, kind: ReferenceGrant, metadata: {{name: a}}, spec: {spec}}}"
        )
    };
    let good = "{from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: web}], to: [{group: '', kind: Service, name: b}]}";
    for version in ["v1beta1", "v1"] {
        let result = reading(&grant(version, good));
        assert!(!result.has_errors(), "{:?}", result.problems);
        assert!(result.problems[0].message.contains("no effect here"));
        let (declared, document) = &result.declared[0];
        assert_eq!(declared.key.to_string(), "ReferenceGrant shop/a");
        assert_eq!(declared.spec, DeclaredSpec::Grant);
        assert_eq!(declared.spec.targets().len(), 0);
        assert_eq!(document["spec"]["to"][0]["name"], "b");
    }
    for (spec, wanted) in [
        ("{from: [], to: [{group: '', kind: Service}]}", "spec.from"),
        ("{to: [{group: '', kind: Service}]}", "`from` is missing"),
        (
            "{from: [{group: '', kind: A}], to: [{group: '', kind: Service}]}",
            "`namespace` is missing",
        ),
    ] {
        let found = problems(&grant("v1beta1", spec));
        assert!(found.iter().any(|it| it.contains(wanted)), "{found:?}");
    }
}

#[test]
fn broken_documents_hide_no_others() {
    let text = format!("a: [1\n---{ORDERS}---\nkind: Nothing\napiVersion: v1\n---\nx: 'open\n");
    let result = reading(&text);
    assert_eq!(result.declared.len(), 1);
    assert_eq!(result.problems.len(), 3, "{:#?}", result.problems);
    assert!(result.problems[0].message.contains("not valid YAML"));
    assert!(result.problems[1].message.contains("`Nothing`"));
}

#[test]
fn a_resource_may_be_given_once() {
    let text = format!("{ORDERS}---{ORDERS}");
    let result = reading(&text);
    assert_eq!(result.declared.len(), 1);
    assert!(
        result.problems[0]
            .message
            .contains("given twice, first in line 2")
    );
    assert_eq!(result.problems[0].position.as_ref().unwrap().line, 19);
}

#[test]
fn lists_are_taken_apart() {
    let text = format!(
        "apiVersion: v1\nkind: List\nitems:\n- {{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {{selector: {{a: b}}, ports: [{{port: 80}}]}}}}\n- {{apiVersion: v1, kind: Nope}}\n---\n{ORDERS}"
    );
    let result = reading(&text);
    assert_eq!(result.declared.len(), 2);
    assert_eq!(result.problems.len(), 1);
    assert_eq!(result.problems[0].position.as_ref().unwrap().line, 5);
}

#[test]
fn headless_and_external_services_are_allowed() {
    let service = |spec: &str| {
        let text =
            format!("{{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {spec}}}");
        let DeclaredSpec::Service(spec) = one(&text).spec else {
            panic!("{text}")
        };
        spec.kind
    };
    assert_eq!(
        service("{clusterIP: None, selector: {a: b}}"),
        DeclaredServiceKind::Of(ServiceKind::Headless)
    );
    assert_eq!(
        service("{type: ExternalName, externalName: db.example.com}"),
        DeclaredServiceKind::ExternalName("db.example.com".into())
    );
}

#[test]
fn cluster_ips_are_checked() {
    let service = |ips: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {{selector: {{a: b}}, ports: [{{port: 80}}], {ips}}}}}"
        )
    };
    finds(
        &service("clusterIP: 10.0.0.300"),
        &[&["`10.0.0.300` is not an IP address"]],
    );
    finds(
        &service("clusterIPs: [10.0.0.1, 10.0.0.2]"),
        &[&["spec.clusterIPs[1]", "one family"]],
    );
    finds(
        &service("clusterIP: 10.0.0.1, clusterIPs: [10.0.0.2]"),
        &[&["not the first"]],
    );
    finds(
        &service("clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, \"fd00::1\"]"),
        &[],
    );
}

#[test]
fn exports_name_their_audience() {
    let export = |to: &str| {
        format!(
            "{{apiVersion: multicluster.x-k8s.io/v1alpha1, kind: ServiceExport, metadata: {{name: a, annotations: {{portolan.dev/export-to: \"{to}\"}}}}}}"
        )
    };
    let to = |text: &str| {
        let DeclaredSpec::Export(spec) = one(&export(text)).spec else {
            panic!("{text}")
        };
        spec.to
    };
    assert_eq!(to("*"), ExportTo::Everyone);
    let west = ["us-west".parse().unwrap(), "eu".parse().unwrap()];
    assert_eq!(to("us-west, eu,"), ExportTo::Peers(west.into()));
    finds(
        &export(" , "),
        &[&["portolan.dev/export-to", "names no peer"]],
    );
    finds(&export("US"), &[&["`US` is not a valid cluster name"]]);
    let document = &reading(&export("*")).declared[0].1;
    assert_eq!(document["apiVersion"], "multicluster.x-k8s.io/v1beta1");
}

#[test]
fn own_annotations_are_known_or_warned_of() {
    let text = "{apiVersion: v1, kind: Service, metadata: {name: a, annotations: {portolan.dev/x: y, other/x: y, portolan.dev/export-to: b}}, spec: {selector: {a: b}, ports: [{port: 80}]}}";
    let result = reading(text);
    assert!(!result.has_errors());
    assert_eq!(result.declared.len(), 1);
    finds(
        text,
        &[
            &["portolan.dev/x", "not known"],
            &["no effect on a Service"],
        ],
    );
    let shown = "{apiVersion: v1, kind: Service, metadata: {name: a, annotations: {portolan.dev/source: a.yaml}}, spec: {selector: {a: b}, ports: [{port: 80}]}}";
    finds(shown, &[]);
}

#[test]
fn workloads_are_read_with_their_defaults_and_checked() {
    let workload = |spec: &str| {
        format!(
            "apiVersion: portolan.dev/v1alpha1\nkind: Workload\nmetadata: {{name: w.0, labels: {{app: a}}}}\nspec: {spec}\n"
        )
    };
    let DeclaredSpec::Workload(spec) = one(&workload(
        "{address: 10.0.0.7, serviceAccount: a, ports: {http: 8080}, locality: {region: eu, zone: a}}",
    ))
    .spec
    else {
        panic!()
    };
    assert_eq!(
        (spec.weight, spec.inbound_port, spec.leased),
        (100, 15008, false)
    );
    finds(
        &workload(
            "{address: 10.0.0, serviceAccount: A, ports: {HTTP: 8080, b: 0}, inboundPort: 99999, hostname: a.b, weight: -1, leased: yes}",
        ),
        &[
            &["spec.address", "not an IP address"],
            &["spec.serviceAccount"],
            &["spec.ports.HTTP", "port name"],
            &["spec.ports.b", "too small", "1 to 65535"],
            &["spec.inboundPort", "too large"],
            &["spec.hostname", "host name"],
            &["spec.weight", "too small"],
            &[
                "spec.leased",
                "expected a boolean, found the string \"yes\"",
            ],
        ],
    );
    finds(
        &workload("{address: 0.0.0.0}"),
        &[&["serviceAccount"], &["single instance"]],
    );
}

#[test]
fn peers_belong_to_no_namespace() {
    let peer = |metadata: &str, gateways: &str| {
        format!(
            "{{apiVersion: portolan.dev/v1alpha1, kind: Peer, metadata: {metadata}, spec: {{trustDomain: w, region: us, gateways: {gateways}}}}}"
        )
    };
    assert_eq!(
        one(&peer("{name: us-west}", "[\"10.0.0.1:4\"]"))
            .key
            .to_string(),
        "Peer us-west"
    );
    finds(
        &peer("{name: w, namespace: shop}", "[]"),
        &[&["metadata.namespace", "leave the namespace out"]],
    );
    finds(
        &peer(
            "{name: w}",
            "[gw.example.com:1, \"10.0.0.1\", \"10.0.0.1:0\", \"[::1]:5\", \"[::1]:5\"]",
        ),
        &[
            &["gateways[0]", "address with a port"],
            &["gateways[1]"],
            &["gateways[2]", "dialled"],
            &["gateways[4]", "twice"],
        ],
    );
}

#[test]
fn later_problems_get_their_places() {
    let result = reading(ORDERS);
    let problem = result.locate(Problem {
        severity: Severity::Warning,
        resource: Some("Service shop/orders".into()),
        position: None,
        path: "spec.ports[0].targetPort".into(),
        message: String::new(),
        remedy: String::new(),
    });
    assert_eq!(problem.position.unwrap().to_string(), "shop.yaml:15:40");
}

#[test]
fn every_kind_publishes_a_schema() {
    for kind in ResourceKind::ALL {
        assert_eq!(schema(*kind)["title"], kind.as_str());
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(\\PC|\n| |[:\\-\\[\\]{}&*!]){0,300}") {
        let _ = reading(&text);
    }

    #[test]
    fn no_mutilated_declaration_makes_it_panic(cut in 0..ORDERS.len(), put in "[\\PC\n]{0,6}", skip in 0usize..9) {
        let end = (cut + skip).min(ORDERS.len());
        if ORDERS.is_char_boundary(cut) && ORDERS.is_char_boundary(end) {
            let _ = reading(&format!("{}{put}{}", &ORDERS[..cut], &ORDERS[end..]));
        }
    }

    #[test]
    fn what_is_read_is_stored_and_read_again(port in 1u16.., target in 1u16.., name in "[a-z]{1,10}") {
        let text = format!("{{apiVersion: v1, kind: Service, metadata: {{name: {name:?}}}, spec: {{selector: {{a: b}}, ports: [{{port: {port}, targetPort: {target}}}]}}}}");
        let (declared, document) = reading(&text).declared.remove(0);
        prop_assert_eq!(parse_document(&document).unwrap(), declared);
    }
}
