//! Network namespaces by name, as `ip netns` keeps them.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip netns` keeps them.
const FOLDER: &str = "/run/netns";

/// Moves the calling thread, and what it starts from now on, into the namespace.
pub fn enter(name: &str) -> io::Result<()> {
    let file = File::open(Path::new(FOLDER).join(name))?;
    Ok(move_into_link_name_space(
        file.as_fd(),
        Some(LinkNameSpaceType::Network),
    )?)
}
