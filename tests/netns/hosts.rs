//! Hosts in namespaces of their own: each cluster a site with a bridge, its hosts on it, and one way out.
//!
//! Cluster number N is 10.N.0.0/16; its router is 10.N.0.1.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::namespace::must;

/// The namespaces of one test; they end with it.
pub(crate) struct Hosts {
    prefix: String,
    names: Vec<String>,
}

impl Hosts {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self {
            prefix: format!("p{}-{number}", std::process::id()),
            names: Vec::new(),
        }
    }

    /// Where a site or a host is, as `ip netns` calls it.
    pub(crate) fn namespace(&self, path: &str) -> String {
        format!("{}-{}", self.prefix, path.replace('/', "-"))
    }

    /// Makes a site: a router that has no hosts yet, and no way out.
    pub(crate) fn site(&mut self, site: &str, number: u8) {
        let namespace = self.create(site);
        let address = format!("{}/16", Ipv4Addr::new(10, number, 0, 1));
        in_(&namespace, &["link", "add", "lan", "type", "bridge"]);
        in_(&namespace, &["address", "add", &address, "dev", "lan"]);
        in_(&namespace, &["link", "set", "lan", "up"]);
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        must(self.command(site, "sh").args(["-c", forward]));
    }

    /// Makes a host of a site; its names are asked for at `nameserver`.
    pub(crate) fn host(&mut self, site: &str, name: &str, address: Ipv4Addr, nameserver: Ipv4Addr) {
        let router = self.namespace(site);
        let namespace = self.create(&format!("{site}/{name}"));
        let etc = PathBuf::from("/etc/netns").join(&namespace);
        std::fs::create_dir_all(&etc).unwrap();
        std::fs::write(
            etc.join("resolv.conf"),
            format!("nameserver {nameserver}\n"),
        )
        .unwrap();
        let port = format!("v{}", self.names.len());
        let [first, second, ..] = address.octets();
        let gateway = Ipv4Addr::new(first, second, 0, 1).to_string();
        in_(
            &router,
            &[
                "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &namespace,
            ],
        );
        in_(&router, &["link", "set", &port, "master", "lan", "up"]);
        in_(
            &namespace,
            &["address", "add", &format!("{address}/16"), "dev", "eth0"],
        );
        in_(&namespace, &["link", "set", "eth0", "up"]);
        in_(&namespace, &["route", "add", "default", "via", &gateway]);
    }

    /// A command that will run on a host.
    pub(crate) fn command(&self, path: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(path), program]);
        command
    }

    fn create(&mut self, path: &str) -> String {
        let namespace = self.namespace(path);
        must(Command::new("ip").args(["netns", "add", &namespace]));
        self.names.push(namespace.clone());
        in_(&namespace, &["link", "set", "lo", "up"]);
        namespace
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            let _gone = Command::new("ip").args(["netns", "delete", name]).output();
            let _none = std::fs::remove_dir_all(PathBuf::from("/etc/netns").join(name));
        }
    }
}

fn in_(namespace: &str, words: &[&str]) {
    must(Command::new("ip").args(["-n", namespace]).args(words));
}
