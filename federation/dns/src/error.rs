//! What can go wrong when a DNS server starts or runs.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What went wrong; each message names the place and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// An address cannot be listened on.
    #[error(
        "cannot listen for DNS on {address} ({transport}); check that it is an address of this host, that the port is free, and that ports below 1024 are permitted"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// `UDP` or `TCP`.
        transport: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The configuration names no address.
    #[error("`dns.listen` is empty; name at least one address, or leave the `dns` section out")]
    NothingToListenOn,
    /// The cluster set's zone is not a domain name.
    #[error(
        "`dns.clustersetZone` is `{zone}`, which is not usable; use a domain name of at least two labels such as `clusterset.local`"
    )]
    Zone {
        /// The text.
        zone: String,
    },
    /// The list of resolvers cannot be read.
    #[error("cannot read the list of resolvers {}; name resolvers in `dns.forward` instead", path.display())]
    ResolvConf {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A socket failed while serving.
    #[error("the DNS socket on {address} failed")]
    Serve {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A listener gave up without a reason.
    #[error("a DNS listener ended unexpectedly; this is a mistake in portolan, please report it")]
    Ended {
        /// How it ended.
        source: tokio::task::JoinError,
    },
}
