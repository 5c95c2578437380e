//! Bad input is told apart by place, and nothing of it is stored.

use super::demo::{Demo, portolan_with};

const MISTAKES: &str = "\
apiVersion: v1
kind: Service
metadata: {name: good, namespace: shop}
spec:
  selector: {app: good}
  ports:
  - {name: http, port: 80}
---
apiVersion: v1
kind: Service
metadata: {name: bad, namespace: shop}
spec:
  selector: {app: bad}
  prots: []
  ports:
  - {name: http, port: eighty}
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: nobody, namespace: shop}
---
kind: [
";

#[test]
fn all_mistakes_are_told_at_once_and_nothing_is_stored() {
    let demo = Demo::start();
    let file = demo.dir.path().join("mistakes.yaml");
    std::fs::write(&file, MISTAKES).unwrap();
    let name = file.to_str().unwrap();
    let ran = demo.portolan("us-east", &["apply", "-f", name]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    for place in [":14:3: ", ":16:24: "] {
        assert!(
            ran.err.contains(&format!("{name}{place}")),
            "{place} is missing:\n{}",
            ran.err
        );
    }
    for said in [
        "spec.prots",
        "did you mean `ports`",
        "spec.ports[0].port",
        "nobody",
        "mistakes; nothing was stored",
    ] {
        assert!(ran.err.contains(said), "`{said}` is missing:\n{}", ran.err);
    }
    let services = demo.portolan("us-east", &["get", "services"]).ok();
    assert!(!services.contains("good"), "{services}");
}

#[test]
fn a_command_without_a_control_plane_says_what_to_do() {
    let ran = portolan_with(&[], &["status", "--admin", "unix:/nowhere/admin.sock"], "");
    assert_eq!(ran.code, 5, "{}", ran.err);
    assert!(
        ran.err.contains("/nowhere/admin.sock") && ran.err.contains("--admin"),
        "{}",
        ran.err
    );
}

#[test]
fn daemons_that_cannot_start_say_why_in_one_sentence_and_an_exit_code() {
    let demo = Demo::start();
    let configs = demo.dir.path().join("demo/us-east");
    let edit = |from: &str, find: &str, put: &str| {
        let text = std::fs::read_to_string(configs.join(from)).unwrap();
        assert!(text.contains(find), "{find} in {text}");
        let file = demo.dir.path().join("edited.yaml");
        std::fs::write(&file, text.replace(find, put)).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let data = configs.join("control").display().to_string();
    let own_data = demo.dir.path().join("second").display().to_string();

    // The same addresses again: the port is in use.
    let file = edit("control.yaml", &data, &own_data);
    let text = std::fs::read_to_string(&file)
        .unwrap()
        .replace("us-east/admin.sock", "us-east/second.sock");
    std::fs::write(&file, text).unwrap();
    let ran = portolan_with(&[], &["control", "--config", &file], "");
    assert_eq!(ran.code, 6, "{}", ran.err);
    assert!(
        ran.err.contains("address") && ran.err.contains("in use"),
        "{}",
        ran.err
    );

    // A field that does not exist.
    let file = edit("control.yaml", "region:", "regoin:");
    let ran = portolan_with(&[], &["control", "--config", &file], "");
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(
        ran.err.contains("edited.yaml:") && ran.err.contains("regoin"),
        "{}",
        ran.err
    );

    // A key that is not there.
    let file = edit("control.yaml", "ca/ca.key", "ca/no.key");
    let ran = portolan_with(&[], &["control", "--config", &file], "");
    assert!([7, 8].contains(&ran.code), "{}: {}", ran.code, ran.err);
    assert!(ran.err.contains("no.key"), "{}", ran.err);

    // A damaged registry.
    std::fs::create_dir_all(&own_data).unwrap();
    std::fs::write(format!("{own_data}/registry.redb"), b"this is no registry").unwrap();
    let file = edit("control.yaml", &data, &own_data);
    let ran = portolan_with(&[], &["control", "--config", &file], "");
    assert_eq!(ran.code, 7, "{}", ran.err);
    assert!(ran.err.contains("registry.redb"), "{}", ran.err);
    let sentences = ran
        .err
        .lines()
        .filter(|line| line.starts_with("portolan: "))
        .count();
    assert_eq!(sentences, 1, "{}", ran.err);
}
