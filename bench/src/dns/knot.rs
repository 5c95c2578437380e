//! Knot DNS, an authoritative server that does nothing else, with the same names in a zone file.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;

use super::Server;
use crate::network::Side;
use crate::subjects::Ground;

pub(super) const NAME: &str = "knot";
const ZONE: &str = "clusterset.local";

pub(super) fn start(ground: &Ground<'_>, program: &Path, names: &[String]) -> Result<Server> {
    let folder = ground.folder.join(NAME);
    std::fs::create_dir_all(&folder)?;
    let mut zone = format!(
        "$ORIGIN {ZONE}.\n$TTL 5\n@ SOA ns.{ZONE}. hostmaster.{ZONE}. 1 3600 600 86400 5\n@ NS ns.{ZONE}.\nns A 127.0.0.1\n"
    );
    for (number, name) in names.iter().enumerate() {
        let (high, low) = (number / 250, 1 + number % 250);
        writeln!(zone, "{name}. A 240.241.{high}.{low}")?;
    }
    std::fs::write(folder.join("zone"), zone)?;
    let address = ground.network.address(Side::Near);
    let (ip, port, at) = (address.ip(), address.port(), folder.display());
    // One worker, as ours has.
    let config = format!(
        "server:\n  listen: {ip}@{port}\n  rundir: {at}\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n\
         database:\n  storage: {at}\n\
         zone:\n  - domain: {ZONE}\n    storage: {at}\n    file: zone\n    journal-content: none\n    zonefile-load: whole\n\
         log:\n  - target: stderr\n    any: warning\n"
    );
    let file = folder.join("knot.conf");
    std::fs::write(&file, config)?;
    let arguments = ["--config".to_owned(), file.display().to_string()];
    Ok(Server {
        name: NAME,
        address,
        process: ground.process(Side::Near, NAME, program, &arguments)?,
    })
}
