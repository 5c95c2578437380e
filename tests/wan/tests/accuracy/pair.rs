//! Two sites with a network between them, and packets that tell how long they took.

use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portolan_wan::control::{Reply, Request, call};
use portolan_wan::link::Counters;
use portolan_wan::namespace::enter;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use crate::skipped::skipped;

const PATIENCE: Duration = Duration::from_secs(20);
/// The bytes of an IP and a UDP header.
pub(crate) const HEADERS: usize = 28;
/// The receiver's socket buffer, in bytes: of the longest flow, whatever the kernel adds to each packet.
const ROOM: usize = 32 << 20;
/// How far a sender may be ahead of its time before it waits.
const AHEAD_MAX: Duration = Duration::from_millis(1);
/// The number of the pair, so that pairs do not get into each other's way.
static PAIRS: AtomicU32 = AtomicU32::new(0);

/// A packet that arrived.
pub(crate) struct Arrival {
    pub(crate) number: u32,
    pub(crate) took: Duration,
}

/// Two sites, `a` at 10.1.0.1 and `b` at 10.2.0.1, joined by a running `wan`.
pub(crate) struct Pair {
    pub(crate) a: String,
    pub(crate) b: String,
    socket: PathBuf,
    wan: Child,
    _dir: tempfile::TempDir,
}

impl Pair {
    /// `None`, and a word about it, where this cannot run.
    pub(crate) fn start(test: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skipped(test, "needs root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("wan.sock");
        let number = PAIRS.fetch_add(1, Ordering::Relaxed);
        let name = |site: &str| format!("wan-{site}-{}-{number}", std::process::id());
        let (a, b) = (name("a"), name("b"));
        for (namespace, address) in [(&a, "10.1.0.1/32"), (&b, "10.2.0.1/32")] {
            ip(&["netns", "add", namespace]);
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
            ip(&["-n", namespace, "address", "add", address, "dev", "lo"]);
        }
        let wan = Command::new(env!("CARGO_BIN_EXE_wan"))
            .args(["--socket".as_ref(), socket.as_os_str()])
            .args([
                "run",
                "--site",
                &format!("a={a}:10.1.0.0/16"),
                "--site",
                &format!("b={b}:10.2.0.0/16"),
            ])
            .spawn()
            .unwrap();
        let begin = Instant::now();
        while call(&socket, &Request::Show).is_err() {
            assert!(begin.elapsed() < PATIENCE, "wan does not answer");
            std::thread::yield_now();
        }
        Some(Self {
            a,
            b,
            socket,
            wan,
            _dir: dir,
        })
    }

    pub(crate) fn set(&self, links: &str, conditions: &str) {
        let conditions = conditions.split(' ').map(str::to_owned).collect();
        let request = Request::Set {
            links: links.to_owned(),
            conditions,
        };
        call(&self.socket, &request).unwrap();
    }

    pub(crate) fn counters(&self, from: &str) -> Counters {
        let Reply::Links(links) = call(&self.socket, &Request::Show).unwrap() else {
            return Counters::default();
        };
        links
            .iter()
            .find(|link| link.from == from)
            .unwrap()
            .counters
    }

    /// Runs `work` on a thread inside the namespace.
    pub(crate) fn inside<T: Send + 'static>(
        namespace: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let namespace = namespace.to_owned();
        std::thread::spawn(move || {
            enter(&namespace).unwrap();
            work()
        })
    }

    pub(crate) fn udp(namespace: &str, address: &'static str) -> UdpSocket {
        let bound = Self::inside(namespace, move || UdpSocket::bind((address, 0)).unwrap());
        let socket = bound.join().unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        socket
    }

    /// Sends so many packets of so many bytes from `a` to `b`, one `every` so often, and gathers those that
    /// arrive.
    pub(crate) fn flow(&self, count: u32, bytes: usize, every: Duration) -> Vec<Arrival> {
        let (client, server) = (
            Self::udp(&self.a, "10.1.0.1"),
            Self::udp(&self.b, "10.2.0.1"),
        );
        // A sender that was not scheduled makes up for it, and all of it must find room.
        set_socket_recv_buffer_size_force(&server, ROOM).unwrap();
        let address = server.local_addr().unwrap();
        let begin = Instant::now();
        let all_sent = Arc::new(AtomicBool::new(false));
        let no_more = Arc::clone(&all_sent);
        let arriving = std::thread::spawn(move || {
            let mut arrivals = Vec::new();
            let mut packet = [0; 2_048];
            loop {
                let last = no_more.load(Ordering::Relaxed);
                if server.recv_from(&mut packet).is_err() {
                    if last {
                        break;
                    }
                    continue;
                }
                let now = begin.elapsed();
                let sent = u64::from_be_bytes(packet[4..12].try_into().unwrap());
                arrivals.push(Arrival {
                    number: u32::from_be_bytes(packet[..4].try_into().unwrap()),
                    took: now - Duration::from_nanos(sent),
                });
            }
            arrivals
        });
        let mut packet = vec![0; bytes - HEADERS];
        for number in 0..count {
            let ahead = (every * number).saturating_sub(begin.elapsed());
            if ahead > AHEAD_MAX {
                std::thread::sleep(ahead);
            }
            let now = u64::try_from(begin.elapsed().as_nanos()).unwrap();
            packet[..4].copy_from_slice(&number.to_be_bytes());
            packet[4..12].copy_from_slice(&now.to_be_bytes());
            client.send_to(&packet, address).unwrap();
        }
        all_sent.store(true, Ordering::Relaxed);
        arriving.join().unwrap()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _gone = self.wan.kill();
        let _gone = self.wan.wait();
        for namespace in [&self.a, &self.b] {
            let _gone = Command::new("ip")
                .args(["netns", "delete", namespace])
                .status();
        }
    }
}

fn ip(words: &[&str]) {
    assert!(
        Command::new("ip").args(words).status().unwrap().success(),
        "ip {words:?}"
    );
}
