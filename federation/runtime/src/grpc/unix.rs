//! gRPC over Unix sockets, where the system says who the other end is.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tonic::service::Routes;
use tonic::transport::Channel;

use super::client::endpoint;
use super::server::serve_streams;
use crate::connection::Connection;
use crate::shutdown::Shutdown;
use crate::start::StartError;

/// How long to wait when the system has no socket left.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);

/// Who is at the other end of a Unix socket: an extension of every request that [`serve_unix`]
/// hands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixPeer {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its process, where the system tells.
    pub pid: Option<i32>,
}

impl UnixPeer {
    /// Who sent this request; nobody if it did not come through [`serve_unix`].
    pub fn of<T>(request: &tonic::Request<T>) -> Option<Self> {
        request.extensions().get::<Self>().copied()
    }
}

/// Listens on the Unix socket `path` with the file mode `mode`, in the place of one that a dead
/// process left; `setting` is the configuration field that names it.
///
/// # Errors
/// When another process listens there, or the socket cannot be made.
pub fn bind_unix(path: &Path, mode: u32, setting: &str) -> Result<UnixListener, StartError> {
    let fail = |source| StartError::bind(path.display(), setting, source);
    remove_stale(path).map_err(fail)?;
    // Made under another name with its rights set, so that nobody connects before they are.
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    drop(fs::remove_file(&beside));
    let listener = UnixListener::bind(&beside).map_err(fail)?;
    let placed = fs::set_permissions(&beside, Permissions::from_mode(mode))
        .and_then(|()| fs::rename(&beside, path));
    if let Err(error) = placed {
        drop(fs::remove_file(&beside));
        return Err(fail(error));
    }
    Ok(listener)
}

/// Serves `routes` on `listener` until the shutdown. Every request carries its [`UnixPeer`].
///
/// # Errors
/// When serving fails for good.
pub async fn serve_unix(
    listener: UnixListener,
    routes: Routes,
    shutdown: Shutdown,
) -> Result<(), StartError> {
    let incoming = futures_util::stream::unfold(listener, |listener| async move {
        let connection = accept(&listener).await;
        Some((Ok(connection), listener))
    });
    serve_streams(incoming, routes, &shutdown).await
}

/// Connects to the Unix socket `path`.
///
/// # Errors
/// When nobody listens there or this user may not connect.
pub async fn connect_unix(path: &Path) -> io::Result<Channel> {
    // Tried once by hand, so that the error is the system's own and not a wrapped one.
    drop(UnixStream::connect(path).await?);
    let path = path.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Ok(endpoint().connect_with_connector_lazy(connector))
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "something that is no socket has this name",
        ));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

async fn accept(listener: &UnixListener) -> Connection<UnixStream, UnixPeer> {
    loop {
        let accepted = listener
            .accept()
            .await
            .and_then(|(stream, _)| Ok((stream.peer_cred()?, stream)));
        match accepted {
            Ok((credentials, stream)) => {
                let peer = UnixPeer {
                    uid: credentials.uid(),
                    gid: credentials.gid(),
                    pid: credentials.pid(),
                };
                return Connection::new(stream, peer);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection on the Unix socket");
                tokio::time::sleep(EXHAUSTED_WAIT).await;
            }
        }
    }
}
