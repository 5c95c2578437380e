//! The client's end of a control plane's admin socket.

use std::io;
use std::path::{Path, PathBuf};

use portolan_api::MESSAGE_BYTES_MAX;
use portolan_api::admin::admin_client::AdminClient;
use tonic::transport::Channel;

use crate::grpc::connect_unix;
use crate::start::{ByKind, problem};

/// No way to the control plane.
#[derive(Debug, thiserror::Error)]
#[error("cannot reach the control plane at {path}: {problem}; {remedy}")]
pub struct AdminUnreachable {
    /// The socket.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    pub remedy: &'static str,
    /// What the system said.
    pub source: io::Error,
}

/// Connects to the control plane's admin socket.
///
/// # Errors
/// Says whether the socket is missing, nobody listens, or this user may not.
pub async fn connect(path: &Path) -> Result<AdminClient<Channel>, AdminUnreachable> {
    let channel = channel(path).await?;
    Ok(AdminClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX))
}

/// Connects to the control plane's admin socket, for any of the services on it.
///
/// # Errors
/// As for [`connect`].
pub async fn channel(path: &Path) -> Result<Channel, AdminUnreachable> {
    connect_unix(path).await.map_err(|source| AdminUnreachable {
        path: path.to_owned(),
        problem: problem(&source),
        remedy: REMEDIES.of(source.kind()),
        source,
    })
}

const REMEDIES: ByKind<&str> = ByKind(
    &[
        (
            io::ErrorKind::NotFound,
            "start the control plane, or name its admin socket",
        ),
        (
            io::ErrorKind::ConnectionRefused,
            "start the control plane: its socket is left over",
        ),
        (
            io::ErrorKind::PermissionDenied,
            "run as the control plane's user or in its group",
        ),
    ],
    "name the control plane's admin socket",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_control_plane_that_does_not_run_is_said_clearly() {
        let error = connect(Path::new("/nowhere/admin.sock")).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot reach the control plane at /nowhere/admin.sock: it does not exist; start the control plane, or name its admin socket"
        );
    }
}
