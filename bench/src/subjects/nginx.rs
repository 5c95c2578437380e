//! Two nginx: the caller's, and the origin's, with mutual TLS between them.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;

use super::{Ground, Started, Subject};
use crate::certificates::SERVER_NAME;
use crate::load::Entrance;
use crate::network::Side;

pub(super) const NAME: &str = "nginx";

pub(super) async fn start(ground: &Ground<'_>, program: &Path) -> Result<Started> {
    let caller = ground.network.address(Side::Near);
    let between = ground.network.address(Side::Far);
    let certificates = ground.certificates;
    let (leaf, key) = (certificates.leaf.display(), certificates.key.display());
    let root = certificates.root.display();
    let to = format!(
        "proxy_pass https://next; proxy_ssl_protocols TLSv1.3; proxy_ssl_certificate {leaf}; \
         proxy_ssl_certificate_key {key}; proxy_ssl_trusted_certificate {root}; proxy_ssl_verify on; \
         proxy_ssl_server_name on; proxy_ssl_name {SERVER_NAME}; proxy_ssl_session_reuse off;"
    );
    let from = format!(
        "listen {between} ssl; ssl_protocols TLSv1.3; ssl_certificate {leaf}; ssl_certificate_key {key}; \
         ssl_client_certificate {root}; ssl_verify_client on;"
    );
    let mut started = Started::default();
    let mut proxies = Vec::new();
    for (side, role, part, listen, next, pass, address) in [
        (
            Side::Far,
            "origin's proxy",
            "in",
            from,
            ground.origin,
            "proxy_pass http://next;".to_owned(),
            between,
        ),
        (
            Side::Near,
            "caller's proxy",
            "out",
            format!("listen {caller};"),
            between,
            to,
            caller,
        ),
    ] {
        let name = format!("nginx-{part}");
        let folder = ground.folder.join(&name);
        std::fs::create_dir_all(&folder)?;
        let file = folder.join("nginx.conf");
        std::fs::write(&file, config(&folder, &listen, next, &pass))?;
        let arguments = [
            "-c".to_owned(),
            file.display().to_string(),
            "-e".to_owned(),
            "stderr".to_owned(),
        ];
        let mut process = ground.process(side, &name, program, &arguments)?;
        process.listens(address).await?;
        proxies.insert(0, started.keep(role, process));
    }
    started.subjects.push(Subject {
        name: NAME,
        entrance: Entrance {
            address: caller,
            host: SERVER_NAME.to_owned(),
        },
        cold: Vec::new(),
        bulk: None,
        proxies,
    });
    Ok(started)
}

fn config(folder: &Path, listen: &str, next: SocketAddr, pass: &str) -> String {
    let folder = folder.display();
    format!(
        "daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log stderr;\n\
         events {{ worker_connections 8192; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 300s; tcp_nodelay on;\n\
         client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};\n\
         uwsgi_temp_path {folder}; scgi_temp_path {folder};\n\
         upstream next {{ server {next}; keepalive 256; keepalive_requests 1000000000; }}\n\
         server {{ {listen} location / {{ proxy_http_version 1.1; proxy_set_header Connection \"\"; {pass} }} }} }}\n"
    )
}
