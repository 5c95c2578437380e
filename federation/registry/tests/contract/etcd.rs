//! The battery, run against a real etcd that the test starts itself.

use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::battery::{self, Shared, put};
use crate::skipped::skipped;
use portolan_registry::{EtcdConfig, RegistryConfig, open};

const START_TIMEOUT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_keeps_the_contract() {
    let Some(mut etcd) = Etcd::start() else {
        return;
    };
    let store = open(&etcd.config("/one/")).await.unwrap();
    let client = etcd.client;
    battery::run(&store, async |_store: &Shared, through| {
        compact(client, through)
    })
    .await;

    let again = open(&etcd.config("/one/")).await.unwrap();
    assert_eq!(again.id(), store.id());
    let other = open(&etcd.config("/two/")).await.unwrap();
    assert_ne!(other.id(), store.id());
    assert!(other.list("").await.unwrap().entries.is_empty());

    a_watch_outlives_a_restart(&store, &mut etcd).await;
}

async fn a_watch_outlives_a_restart(store: &Shared, etcd: &mut Etcd) {
    let start = store.list("").await.unwrap().revision;
    let mut watch = store.watch("restart/", start).await.unwrap();
    put(store, "restart/a", "1").await;
    assert_eq!(watch.next().await.unwrap().unwrap().key(), "restart/a");
    etcd.restart();
    let second = open(&etcd.config("/one/")).await.unwrap();
    put(&second, "restart/b", "2").await;
    let next = tokio::time::timeout(START_TIMEOUT, watch.next()).await;
    assert_eq!(
        next.expect("it resumes").unwrap().unwrap().key(),
        "restart/b"
    );
}

#[tokio::test]
async fn an_etcd_that_is_not_there_is_named() {
    let nobody = free_address();
    let config = config(nobody, "/x/");
    let error = open(&config).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains(&nobody.to_string()), "{error}");
}

/// An etcd of our own; ends with the value.
struct Etcd {
    child: Child,
    client: SocketAddr,
    peer: SocketAddr,
    directory: tempfile::TempDir,
}

impl Etcd {
    fn start() -> Option<Self> {
        // Another process may take a free port before etcd does: then try others.
        for _ in 0..5 {
            let directory = tempfile::tempdir().unwrap();
            let (client, peer) = (free_address(), free_address());
            let child = match spawn(client, peer, directory.path()) {
                Ok(child) => child,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    skipped("etcd_keeps_the_contract", "no etcd; tests/run installs it");
                    return None;
                }
                Err(error) => panic!("{error}"),
            };
            let mut etcd = Self {
                child,
                client,
                peer,
                directory,
            };
            if etcd.becomes_healthy() {
                return Some(etcd);
            }
        }
        panic!("etcd did not start");
    }

    fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(self.client, self.peer, self.directory.path()).unwrap();
        assert!(self.becomes_healthy());
    }

    fn config(&self, prefix: &str) -> RegistryConfig {
        config(self.client, prefix)
    }

    /// Asks until it answers, or its process has ended.
    fn becomes_healthy(&mut self) -> bool {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline && self.child.try_wait().unwrap().is_none() {
            if ask(self.client, "GET", "/health", "").is_some_and(|answer| answer.contains("true"))
            {
                return true;
            }
            std::thread::yield_now();
        }
        false
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config(client: SocketAddr, prefix: &str) -> RegistryConfig {
    let text = format!(r#"{{"endpoints":["http://{client}"],"prefix":"{prefix}"}}"#);
    RegistryConfig::Etcd(serde_json::from_str::<EtcdConfig>(&text).unwrap())
}

fn spawn(client: SocketAddr, peer: SocketAddr, directory: &Path) -> std::io::Result<Child> {
    let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
    Command::new("etcd")
        .arg("--data-dir")
        .arg(directory)
        .args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ])
        .args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ])
        .args(["--name", "one", "--initial-cluster", &format!("one={peer}")])
        .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

fn compact(client: SocketAddr, through: u64) {
    let body = format!(r#"{{"revision":"{through}","physical":true}}"#);
    let answer = ask(client, "POST", "/v3/kv/compaction", &body).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// One request to etcd's own HTTP gateway.
fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(START_TIMEOUT)).ok()?;
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: etcd\r\nconnection: close\r\n");
    let request = format!("{head}content-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Nobody else uses this address, not even for connections, so that its ports stay free.
fn free_address() -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    TcpListener::bind((Ipv4Addr::new(127, 97, high, low), 0))
        .unwrap()
        .local_addr()
        .unwrap()
}
