//! Network namespaces by name, as `ip netns` keeps them.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use ipnet::Ipv4Net;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::iproute::{IpError, ip};

/// Where `ip netns` keeps them.
const FOLDER: &str = "/run/netns";

/// A namespace that ends when it is dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes it, with a loopback device that has every address of `own`. Needs root.
    pub fn create(name: &str, own: Ipv4Net) -> Result<Self, IpError> {
        ip(&["netns", "add", name])?;
        let namespace = Self {
            name: name.to_owned(),
        };
        let own = own.to_string();
        ip(&["-n", name, "address", "add", &own, "dev", "lo"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// As `ip netns` calls it.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // There is nobody to tell, and what still runs inside keeps it for as long as it does.
        let _gone = ip(&["netns", "delete", &self.name]);
    }
}

/// Moves the calling thread, and what it starts from now on, into the namespace.
pub fn enter(name: &str) -> io::Result<()> {
    let file = File::open(Path::new(FOLDER).join(name))?;
    Ok(move_into_link_name_space(
        file.as_fd(),
        Some(LinkNameSpaceType::Network),
    )?)
}
