//! Two nginx: the caller's, and the origin's, with mutual TLS between them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::process::Command;

use super::{Ground, Skipped, Started, Subject};
use crate::certificates::{Certificates, SERVER_NAME};
use crate::load::bulk::BulkEntrance;
use crate::load::{Entrance, Work};
use crate::network::Side;

pub(super) const NAME: &str = "nginx";

/// Where one takes requests, and where bytes.
#[derive(Clone, Copy)]
struct Doors {
    http: SocketAddr,
    bulk: SocketAddr,
}

/// One of the two. The near one begins TLS, and the far one takes it.
struct Part {
    side: Side,
    role: &'static str,
    name: &'static str,
    at: Doors,
    next: Doors,
}

/// Starts both; also tells if they cannot carry bytes.
pub(super) async fn start(
    ground: &Ground<'_>,
    program: &Path,
) -> Result<(Started, Option<Skipped>)> {
    let stream = Stream::of(program).await?;
    let doors = |side| Doors {
        http: ground.network.address(side),
        bulk: ground.network.address(side),
    };
    let (caller, between) = (doors(Side::Near), doors(Side::Far));
    let origin = Doors {
        http: ground.origin,
        bulk: ground.origin_bulk(),
    };
    let part = |side, role, name, at, next| Part {
        side,
        role,
        name,
        at,
        next,
    };
    let mut started = Started::default();
    let mut proxies = Vec::new();
    for part in [
        part(Side::Far, "origin's proxy", "nginx-in", between, origin),
        part(Side::Near, "caller's proxy", "nginx-out", caller, between),
    ] {
        let folder = ground.folder.join(part.name);
        std::fs::create_dir_all(&folder)?;
        let file = folder.join("nginx.conf");
        std::fs::write(&file, part.config(ground, &stream, &folder))?;
        let arguments = [
            "-c".to_owned(),
            file.display().to_string(),
            "-e".to_owned(),
            "stderr".to_owned(),
        ];
        let mut process = ground.process(part.side, part.name, program, &arguments)?;
        process.listens(part.at.http).await?;
        proxies.insert(0, started.keep(part.role, process));
    }
    let entrance = Entrance {
        address: caller.http,
        host: SERVER_NAME.to_owned(),
    };
    let bulk = BulkEntrance {
        address: caller.bulk,
        connect: None,
    };
    let missing = matches!(stream, Stream::Missing);
    started.subjects.push(Subject {
        name: NAME,
        entrance,
        cold: Vec::new(),
        bulk: (!missing).then_some(bulk),
        proxies,
    });
    let skipped = missing.then(|| Skipped {
        name: NAME,
        why: "no bytes, since its stream module is not installed (bench/setup)".to_owned(),
    });
    Ok((started, skipped))
}

/// Where the module is that carries bytes.
#[derive(Debug, PartialEq, Eq)]
enum Stream {
    BuiltIn,
    File(PathBuf),
    Missing,
}

impl Stream {
    async fn of(program: &Path) -> Result<Self> {
        let asked = Command::new(program).arg("-V").output().await;
        let asked = asked.with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self::parse(&String::from_utf8_lossy(&asked.stderr)))
    }

    /// Reads what `nginx -V` says.
    fn parse(version: &str) -> Self {
        let mut words = version.split_whitespace();
        if words.clone().any(|word| word == "--with-stream") {
            return Self::BuiltIn;
        }
        let folder = words.find_map(|word| word.strip_prefix("--modules-path="));
        let file = folder.map(|folder| Path::new(folder).join("ngx_stream_module.so"));
        file.filter(|file| file.is_file())
            .map_or(Self::Missing, Self::File)
    }
}

impl Part {
    fn config(&self, ground: &Ground<'_>, stream: &Stream, folder: &Path) -> String {
        let load = match stream {
            Stream::File(file) => format!("load_module {};\n", file.display()),
            Stream::BuiltIn | Stream::Missing => String::new(),
        };
        let bytes = match stream {
            Stream::File(_) | Stream::BuiltIn => self.bytes(ground.certificates),
            Stream::Missing => String::new(),
        };
        let (folder, next, requests) = (folder.display(), self.next.http, self.requests(ground));
        format!(
            "{load}daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log stderr;\n\
             events {{ worker_connections 8192; }}\n\
             http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 300s; tcp_nodelay on;\n\
             client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};\n\
             uwsgi_temp_path {folder}; scgi_temp_path {folder};\n\
             upstream next {{ server {next}; keepalive 256; keepalive_requests 1000000000; }}\n\
             {requests} }}\n{bytes}"
        )
    }

    /// The server for requests.
    fn requests(&self, ground: &Ground<'_>) -> String {
        let (module, http2, keep) = match ground.work {
            Work::Http1 | Work::Fresh | Work::Http2 => (
                "proxy",
                "",
                "proxy_http_version 1.1; proxy_set_header Connection \"\";",
            ),
            Work::Grpc => ("grpc", " http2", ""),
        };
        let [scheme, tls] = match (ground.work, self.side) {
            (Work::Grpc, Side::Near) => ["grpcs", ""],
            (Work::Grpc, Side::Far) => ["grpc", " ssl"],
            (Work::Http1 | Work::Fresh | Work::Http2, Side::Near) => ["https", ""],
            (Work::Http1 | Work::Fresh | Work::Http2, Side::Far) => ["http", " ssl"],
        };
        let (listen, files) = (self.at.http, self.tls(ground.certificates, module));
        format!(
            "server {{ listen {listen}{tls}{http2}; {files}\n\
             location / {{ {keep} {module}_pass {scheme}://next; }} }}"
        )
    }

    /// The server for bytes.
    fn bytes(&self, certificates: &Certificates) -> String {
        let Doors { bulk: listen, .. } = self.at;
        let Doors { bulk: next, .. } = self.next;
        let (takes, begins) = match self.side {
            Side::Near => ("", "proxy_ssl on;"),
            Side::Far => (" ssl", ""),
        };
        let files = self.tls(certificates, "proxy");
        format!(
            "stream {{ server {{ listen {listen}{takes}; proxy_pass {next}; {begins} {files} }} }}\n"
        )
    }

    /// What TLS needs; `module` passes on.
    fn tls(&self, certificates: &Certificates, module: &str) -> String {
        let (leaf, key) = (certificates.leaf.display(), certificates.key.display());
        let root = certificates.root.display();
        match self.side {
            Side::Near => format!(
                "{module}_ssl_protocols TLSv1.3; {module}_ssl_certificate {leaf}; {module}_ssl_certificate_key {key};\n\
                 {module}_ssl_trusted_certificate {root}; {module}_ssl_verify on; {module}_ssl_server_name on;\n\
                 {module}_ssl_name {SERVER_NAME}; {module}_ssl_session_reuse off;"
            ),
            Side::Far => format!(
                "ssl_protocols TLSv1.3; ssl_certificate {leaf}; ssl_certificate_key {key};\n\
                 ssl_client_certificate {root}; ssl_verify_client on;"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_for_bytes_is_found() {
        let built = |arguments: &str| Stream::parse(&format!("nginx version: 1\n{arguments}"));
        assert_eq!(built("--with-stream --with-debug"), Stream::BuiltIn);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let dynamic = format!("--modules-path={path} --with-stream=dynamic");
        assert_eq!(built(&dynamic), Stream::Missing);
        let file = folder.path().join("ngx_stream_module.so");
        std::fs::write(&file, "").unwrap();
        assert_eq!(built(&dynamic), Stream::File(file));
    }
}
