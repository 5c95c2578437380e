//! Unmodified programs call by name: no proxy setting, only nft rules and the sidecar's DNS.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use super::namespace::Namespace;
use super::tools::{have, is_root};
use super::{portolan, until};

/// The Unix user that plays the app: nobody.
const APP_UID: &str = "65534";

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.0.id().cast_signed()) {
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _gone = self.0.wait();
    }
}

#[test]
fn captured_programs_reach_other_clusters_by_name_and_the_rest_of_the_world_directly() {
    let test = "captured_programs_reach_other_clusters_by_name_and_the_rest_of_the_world_directly";
    if !is_root(test)
        || !["ip", "nft", "curl", "setpriv"]
            .iter()
            .all(|program| have(program, test))
    {
        return;
    }
    // Nobody is at this address: the rules send the app's questions to the sidecar.
    let inside = Namespace::create("192.0.2.53");
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("demo");
    let (_demo, ready) = demo(&inside, &folder);

    let us_east = &ready["clusters"][0];
    let config = folder.join("visitor.yaml");
    let (visitor, admin) = visitor(&folder, us_east);
    std::fs::write(&config, visitor.to_string()).unwrap();
    let config = config.to_str().unwrap();
    let mut sidecar = inside.command(portolan());
    sidecar
        .args(["sidecar", "--config", config])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _sidecar = Running(sidecar.spawn().unwrap());
    until("the sidecar is ready", || {
        inside
            .run(&["curl", "-sf", &format!("http://{admin}/readyz")])
            .status
            .success()
    });

    let name = "http://payments.shop.svc.clusterset.local/captured";
    assert!(!app(&inside, name).0, "without rules nothing answers");
    inside.must(&[
        portolan(),
        "sidecar",
        "capture",
        "--config",
        config,
        "--app-uid",
        APP_UID,
    ]);
    let hosts = [
        "payments.shop.svc.clusterset.local",
        "payments.shop.global",
        "payments.shop.eu-west.global",
    ];
    for host in hosts {
        reaches_eu_west_as_visitor(&inside, host);
    }
    // An address that is no service's: untouched.
    let plain = us_east["workloads"][1]["app"].as_str().unwrap();
    let (success, body) = app(&inside, &format!("http://{plain}/"));
    assert!(
        success && !body.contains("x-forwarded-client-cert"),
        "{body}"
    );

    inside.must(&[
        portolan(),
        "sidecar",
        "capture",
        "--config",
        config,
        "--remove",
    ]);
    assert!(
        !app(&inside, name).0,
        "after the rules are removed nothing answers"
    );
}

fn reaches_eu_west_as_visitor(inside: &Namespace, host: &str) {
    let (success, body) = app(inside, &format!("http://{host}/captured"));
    let answer: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{host}: {body:?}"));
    assert!(success && answer["cluster"] == "eu-west", "{host}: {body}");
    let caller = answer["headers"]["x-forwarded-client-cert"]
        .as_str()
        .unwrap_or_default();
    assert!(
        caller.contains("spiffe://us-east.demo/ns/shop/sa/visitor"),
        "{caller}"
    );
}

/// Runs curl as the app's user.
fn app(inside: &Namespace, url: &str) -> (bool, String) {
    let output = inside.run(&[
        "setpriv",
        "--reuid",
        APP_UID,
        "--regid",
        APP_UID,
        "--clear-groups",
        "curl",
        "-s",
        "-m",
        "10",
        url,
    ]);
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

fn demo(inside: &Namespace, folder: &std::path::Path) -> (Running, Value) {
    let mut child = inside
        .command(portolan())
        .args(["demo", "--json", "--for", "200", "--dir"])
        .arg(folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let ready = serde_json::from_str(&line)
        .unwrap_or_else(|error| panic!("no ready line: {error}: {line:?}"));
    (Running(child), ready)
}

/// The configuration of a sidecar beside an app that only calls others, and its admin address.
fn visitor(folder: &std::path::Path, us_east: &Value) -> (Value, String) {
    let frontend = us_east["workloads"][0]["app"].as_str().unwrap();
    let base = frontend.rsplit_once('.').unwrap().0;
    let admin = format!("{base}.50:15020");
    let control = us_east["dns"].as_str().unwrap().split(':').next().unwrap();
    let config = json!({
        "workload": { "namespace": "shop", "name": "visitor", "serviceAccount": "visitor", "address": format!("{base}.50") },
        "cluster": "us-east",
        "trustDomain": "us-east.demo",
        "trustBundle": folder.join("us-east/ca/root.pem"),
        "control": [format!("{control}:15010")],
        "stateDir": folder.join("us-east/visitor"),
        "join": { "socket": folder.join("us-east/admin.sock") },
        "outbound": format!("{base}.50:15001"),
        "capture": format!("{base}.50:15006"),
        "inbound": format!("{base}.50:15008"),
        "admin": admin,
        "dns": { "listen": [format!("{base}.50:15053")] },
    });
    (config, admin)
}
