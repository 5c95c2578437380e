//! Three linked clusters far apart: us-east, us-west and eu-west, with frontend, orders and payments.

mod config;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use self::config::{
    CLUSTERS, CONTROL, GATEWAY, LINKS, NAMESPACE, WORKLOAD, address, declarations, workloads,
};
use super::hostile;
use super::hosts::Hosts;
use super::instruments::{Load, Wan, instrument};
use super::namespace::must;
use super::parts::Parts;
use super::portolan;
use super::until;

/// The Unix user that plays the app: nobody.
const APP_UID: &str = "65534";
/// What makes a program that `setpriv` starts the app's.
const AS_APP: [&str; 5] = ["--reuid", APP_UID, "--regid", APP_UID, "--clear-groups"];

/// How a workload's calls get to its sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// They are captured by nft rules, and know nothing of it.
    Capture,
    /// They are sent to it as to an HTTP proxy.
    Proxy,
}

/// A running mesh; everything of it ends when it is dropped.
pub(crate) struct Mesh {
    // In this order they end: processes, then the network, then the hosts.
    pub(crate) parts: Parts,
    pub(crate) wan: Wan,
    pub(crate) hosts: Hosts,
    _disk: Option<Disk>,
    dir: tempfile::TempDir,
}

/// A small file system, until it is dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, mib: u32) -> Self {
        let size = format!("size={mib}m");
        let mut mount = Command::new("mount");
        must(mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at));
        Self(at.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

impl Mesh {
    /// Starts everything, with so many gateways in each cluster and these conditions between all clusters,
    /// and waits until calls arrive everywhere. All files are kept on a disk of this size, if one is given.
    pub(crate) fn start(gateways: u8, between: &str, disk_mib: Option<u32>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = disk_mib.map(|mib| Disk::mount(dir.path(), mib));
        let mut hosts = Hosts::new();
        for (cluster, number, _) in CLUSTERS {
            hosts.site(cluster, number);
            let dns = address(number, CONTROL);
            hosts.host(cluster, "control", address(number, CONTROL), dns);
            for gateway in 1..=gateways {
                let at = address(number, GATEWAY + gateway);
                hosts.host(cluster, &format!("gateway-{gateway}"), at, dns);
            }
            for (workload, last) in workloads(cluster).iter().zip(WORKLOAD..) {
                hosts.host(cluster, workload, address(number, last), dns);
            }
        }
        let sites = CLUSTERS.map(|(cluster, number, _)| (cluster, number));
        let wan = Wan::start(&hosts, &sites, dir.path());
        wan.set(&format!("all {between}"));
        let parts = Parts::new(dir.path().join("logs"));
        let mut mesh = Self {
            parts,
            wan,
            hosts,
            _disk: disk,
            dir,
        };
        mesh.keys();
        for (cluster, number, region) in CLUSTERS {
            mesh.configure(cluster, number, region, gateways);
            mesh.run(cluster, "control", "control", "control");
        }
        for (cluster, _, _) in CLUSTERS {
            mesh.apply(cluster, &declarations(cluster, gateways));
            for gateway in 1..=gateways {
                let name = format!("gateway-{gateway}");
                mesh.run(cluster, &name, &name, "gateway");
            }
            for (workload, last) in workloads(cluster).iter().zip(WORKLOAD..) {
                mesh.workload(cluster, workload, last);
            }
        }
        mesh.wait_for_all();
        mesh
    }

    /// A file of a cluster.
    pub(crate) fn file(&self, cluster: &str, name: &str) -> PathBuf {
        self.dir.path().join(cluster).join(name)
    }

    /// `portolan apply -f -` with this text, as soon as the control plane answers.
    pub(crate) fn apply(&self, cluster: &str, text: &str) {
        let admin = format!("unix:{}", self.file(cluster, "admin.sock").display());
        let apply = || {
            let mut child = Command::new(portolan())
                .args(["apply", "--admin", &admin, "-n", NAMESPACE, "-f", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let _unread = child.stdin.take().unwrap().write_all(text.as_bytes());
            let output = child.wait_with_output().unwrap();
            (
                output.status.success(),
                String::from_utf8_lossy(&output.stderr).into_owned(),
            )
        };
        let mut said = String::new();
        let applied = until_or(|| {
            let (done, why) = apply();
            said = why;
            done
        });
        assert!(applied, "{cluster}: {said}");
    }

    /// Sends requests for `url` from a workload: as its app, which knows nothing of proxies and asks DNS for
    /// the name in each of them, or through its sidecar as an HTTP proxy.
    pub(crate) fn load(&self, from: &str, by: By, request: (&str, &str), per_second: u32) -> Load {
        let (method, url) = request;
        let proxy = format!("{}:15001", self.address_of(from));
        let per_second = per_second.to_string();
        let mut words = vec!["--method", method, "--url", url];
        words.extend(["--per-second", &per_second]);
        let mut as_user: &[&str] = &AS_APP;
        if by == By::Proxy {
            as_user = &[];
            words.extend(["--proxy", &proxy]);
        }
        Load::start(&self.hosts, from, as_user, &words)
    }

    /// Fills the disk, to its last byte.
    pub(crate) fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).unwrap();
        for size in [1 << 20, 1 << 10, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    /// The file that fills the disk.
    pub(crate) fn filler(&self) -> PathBuf {
        self.dir.path().join("filler")
    }

    /// Which cluster answers a call through a workload's sidecar, if one does.
    pub(crate) fn answer(&self, from: &str, url: &str) -> Option<String> {
        let proxy = format!("http://{}:15001", self.address_of(from));
        let output = self
            .hosts
            .command(from, "curl")
            .args(["-s", "-f", "-m", "10", "-x", &proxy, url])
            .output()
            .unwrap();
        cluster_in(&output.stdout)
    }

    /// Which cluster answers a call that a workload's app makes by name, if one does.
    pub(crate) fn answer_to_app(&self, from: &str, url: &str) -> Option<String> {
        let (_, body) = self.app(from, &["curl", "-s", "-f", "-m", "10", url]);
        cluster_in(body.as_bytes())
    }

    /// What a counter of a part says, whatever its labels.
    pub(crate) fn counted(&self, part: &str, counter: &str) -> u64 {
        let url = format!("http://{}:15020/metrics", self.address_of(part));
        let page = must(
            self.hosts
                .command(part, "curl")
                .args(["-s", "-f", "-m", "10", &url]),
        );
        let lines = page.lines().filter(|line| line.starts_with(counter));
        let values = lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
        values.sum()
    }

    /// Captures what the app of a workload sends.
    pub(crate) fn capture(&self, workload: &str) {
        let (cluster, name) = workload.split_once('/').unwrap();
        let config = self.file(cluster, &format!("{name}.yaml"));
        must(
            self.hosts
                .command(workload, portolan())
                .args(["sidecar", "capture", "--app-uid", APP_UID, "--config"])
                .arg(config),
        );
    }

    /// Runs a program as the app of a workload: whether it succeeded, and its output.
    pub(crate) fn app(&self, workload: &str, words: &[&str]) -> (bool, String) {
        let output = self
            .hosts
            .command(workload, "setpriv")
            .args(AS_APP)
            .args(words)
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    }

    pub(crate) fn stop(&self, pattern: &str) {
        self.parts.signal(pattern, Signal::STOP);
    }

    pub(crate) fn resume(&self, pattern: &str) {
        self.parts.signal(pattern, Signal::CONT);
    }

    /// Lets a host answer everything on this TCP and on this UDP port with random bytes.
    pub(crate) fn garbage(&mut self, host: &str, tcp: u16, udp: u16) {
        let at = self.address_of(host);
        let (tcp, udp) = (format!("{at}:{tcp}"), format!("{at}:{udp}"));
        let program = instrument("garbage");
        let words = ["--tcp", &tcp, "--udp", &udp];
        let part = format!("{host}-garbage");
        self.parts
            .add_program(&self.hosts, &part, host, path(&program), &words);
    }

    /// Lets somebody with the keys of this gateway link with all peers and talk nonsense.
    pub(crate) fn impersonate(&mut self, gateway: &str) {
        let (cluster, name) = gateway.split_once('/').unwrap();
        let quic = |gateway: &str| SocketAddr::from((self.address_of(gateway), LINKS));
        let peers = CLUSTERS.iter().filter(|(peer, _, _)| *peer != cluster);
        let peers: Vec<SocketAddr> = peers
            .map(|(peer, _, _)| quic(&format!("{peer}/gateway-1")))
            .collect();
        let identity = self.file(cluster, name).join("identity.pem");
        let keys = [&*identity, &*self.file(cluster, "ca/root.pem")];
        let (program, words) = hostile::command(keys, quic(gateway), &peers);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let part = format!("{gateway}-hostile");
        self.parts
            .add_program(&self.hosts, &part, gateway, &program, &words);
        until("a peer takes it for its gateway", || {
            self.parts.log(&part).contains(hostile::LINKED)
        });
    }

    /// Waits until every cluster is reached from every other.
    fn wait_for_all(&self) {
        for (from, _, _) in CLUSTERS {
            for (to, _, _) in CLUSTERS {
                let url = format!("http://orders.{NAMESPACE}.{to}.global/");
                until(&format!("{to} answers {from}"), || {
                    self.answer(&format!("{from}/frontend"), &url).as_deref() == Some(to)
                });
            }
        }
    }

    /// The address of a host: `us-east/gateway-1`, `us-east/orders`.
    fn address_of(&self, host: &str) -> Ipv4Addr {
        let (cluster, name) = host.split_once('/').unwrap();
        let number = CLUSTERS
            .iter()
            .find(|(each, _, _)| *each == cluster)
            .unwrap()
            .1;
        if let Some(gateway) = name.strip_prefix("gateway-") {
            return address(number, GATEWAY + gateway.parse::<u8>().unwrap());
        }
        let position = workloads(cluster)
            .iter()
            .position(|each| *each == name)
            .unwrap();
        address(number, WORKLOAD + u8::try_from(position).unwrap())
    }

    fn run(&mut self, cluster: &str, name: &str, host: &str, daemon: &str) {
        let config = self.file(cluster, &format!("{name}.yaml"));
        let arguments = [daemon, "--config", path(&config)];
        let (part, host) = (format!("{cluster}/{name}"), format!("{cluster}/{host}"));
        self.parts.add(&self.hosts, &part, &host, &arguments);
    }

    fn workload(&mut self, cluster: &str, workload: &str, last: u8) {
        let (_, number, region) = CLUSTERS
            .iter()
            .find(|(each, _, _)| *each == cluster)
            .unwrap();
        let listen = format!("{}:8080", address(*number, last));
        let instance = format!("{cluster}-{workload}");
        let app = [
            "demo-app",
            "--http",
            &listen,
            "--service",
            workload,
            "--cluster",
            cluster,
            "--region",
            region,
            "--instance",
            &instance,
        ];
        let host = format!("{cluster}/{workload}");
        self.parts
            .add(&self.hosts, &format!("{host}-app"), &host, &app);
        let config = self.file(cluster, &format!("{workload}.yaml"));
        let sidecar = ["sidecar", "--config", path(&config)];
        self.parts
            .add(&self.hosts, &format!("{host}-sidecar"), &host, &sidecar);
    }
}

/// The cluster that says of itself that it gave this answer.
fn cluster_in(answer: &[u8]) -> Option<String> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    Some(answer["cluster"].as_str()?.to_owned())
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Whether it holds in time.
fn until_or(mut holds: impl FnMut() -> bool) -> bool {
    let begin = std::time::Instant::now();
    while begin.elapsed() < super::PATIENCE {
        if holds() {
            return true;
        }
    }
    false
}
