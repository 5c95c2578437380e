//! Transparent capture: where a redirected connection was going, and the nft rules that redirect
//! it.

mod rules;

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use socket2::SockRef;
use tokio::net::TcpStream;

pub use rules::{CgroupPath, CgroupPathError, Rules, VIRTUAL_IPS, Where, Who};

/// Why a captured connection leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum OriginalError {
    /// The kernel does not know where the connection was going.
    #[error(
        "the connection was not redirected here; set the rules with `portolan sidecar capture`"
    )]
    NotRedirected(#[source] io::Error),
    /// Somebody connected to the capture listener itself; passing that on would never end.
    #[error("the connection was opened to the capture listener itself")]
    Loop,
}

/// Where a captured connection was going before it was redirected.
///
/// # Errors
/// When it was not redirected at all.
pub fn original_destination(stream: &TcpStream) -> Result<SocketAddr, OriginalError> {
    let local = stream.local_addr().map_err(OriginalError::NotRedirected)?;
    let socket = SockRef::from(stream);
    // A v4 connection on a v6 socket is known by its v4 address.
    let found = if local.ip().to_canonical().is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    let original = found.map_err(OriginalError::NotRedirected)?;
    let original = original.as_socket().ok_or_else(|| {
        OriginalError::NotRedirected(io::Error::other(
            "the original destination is no IP address",
        ))
    })?;
    let canonical = |addr: SocketAddr| (addr.ip().to_canonical(), addr.port());
    if canonical(original) == canonical(local) {
        return Err(OriginalError::Loop);
    }
    Ok(original)
}

/// Why rules could not be set.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// There is no `nft`.
    #[error("the program `nft` was not found; install the package `nftables`")]
    NoNft,
    /// The kernel forbids it.
    #[error("setting nft rules needs root (CAP_NET_ADMIN) in this network namespace")]
    NotPermitted,
    /// `nft` could not be run.
    #[error("the program `nft` could not be run")]
    Run(#[source] io::Error),
    /// `nft` refused the rules.
    #[error("`nft` refused the rules: {0}")]
    Refused(String),
}

impl Rules {
    /// Sets the rules, in place of those that were set before.
    ///
    /// # Errors
    /// Says what is missing, or what `nft` says.
    pub fn apply(&self) -> Result<(), ApplyError> {
        run_nft(&self.ruleset())
    }

    /// Removes the rules, if they are set.
    ///
    /// # Errors
    /// Says what is missing, or what `nft` says.
    pub fn remove(&self) -> Result<(), ApplyError> {
        run_nft(&self.removal())
    }
}

fn run_nft(script: &str) -> Result<(), ApplyError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                ApplyError::NoNft
            } else {
                ApplyError::Run(error)
            }
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // If nft ended before it read everything, its own words say why.
        let _ = stdin.write_all(script.as_bytes());
    }
    let output = child.wait_with_output().map_err(ApplyError::Run)?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    if words.contains("Operation not permitted") {
        return Err(ApplyError::NotPermitted);
    }
    Err(ApplyError::Refused(words.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_connection_that_was_not_redirected_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        // Without connection tracking the kernel knows nothing, with it the address is our own.
        let error = original_destination(&accepted).unwrap_err();
        assert!(!error.to_string().is_empty());
    }
}
