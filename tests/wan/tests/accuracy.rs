//! The emulator measured from outside: real packets between two namespaces, as root.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it measured or skipped"
)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portolan_wan::control::{Reply, Request, call};
use portolan_wan::link::Counters;
use portolan_wan::namespace::enter;

const PATIENCE: Duration = Duration::from_secs(20);

/// Two sites, `a` at 10.1.0.1 and `b` at 10.2.0.1, joined by a running `wan`.
struct Pair {
    a: String,
    b: String,
    socket: PathBuf,
    wan: Child,
    _dir: tempfile::TempDir,
}

impl Pair {
    /// `None`, and a word about it, where this cannot run.
    fn start(test: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: {test} (needs root)");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("wan.sock");
        let name = |site: &str| format!("wan-{site}-{}-{}", std::process::id(), test.len());
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

    fn set(&self, links: &str, conditions: &str) {
        let conditions = conditions.split(' ').map(str::to_owned).collect();
        let request = Request::Set {
            links: links.to_owned(),
            conditions,
        };
        call(&self.socket, &request).unwrap();
    }

    fn counters(&self, from: &str) -> Counters {
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
    fn inside<T: Send + 'static>(
        namespace: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let namespace = namespace.to_owned();
        std::thread::spawn(move || {
            enter(&namespace).unwrap();
            work()
        })
    }

    fn udp(namespace: &str, address: &'static str) -> UdpSocket {
        let bound = Self::inside(namespace, move || UdpSocket::bind((address, 0)).unwrap());
        let socket = bound.join().unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        socket
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

#[test]
fn round_trips_take_their_delay_and_a_cut_is_silent() {
    let Some(pair) = Pair::start("round_trips") else {
        return;
    };
    pair.set("a<->b", "delay=30ms");
    let (client, server) = (
        Pair::udp(&pair.a, "10.1.0.1"),
        Pair::udp(&pair.b, "10.2.0.1"),
    );
    let address = server.local_addr().unwrap();
    let echo = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = server.recv_from(&mut buffer) {
            server.send_to(&buffer[..length], from).unwrap();
        }
    });
    let ping = || {
        let begin = Instant::now();
        client.send_to(b"ping", address).unwrap();
        client.recv_from(&mut [0; 64]).map(|_| begin.elapsed())
    };
    let mut times: Vec<Duration> = (0..30).map(|_| ping().unwrap()).collect();
    times.sort();
    let (least, median) = (times[0], times[15]);
    println!(
        "60 ms round trip: least {least:?}, median {median:?}, most {:?}",
        times[29]
    );
    assert!(least >= Duration::from_millis(60), "{least:?}");
    // A busy machine adds to every trip; how much is printed, and not judged.
    assert!(median < Duration::from_millis(120), "{median:?}");

    pair.set("a->b", "delay=5ms");
    let shorter = (0..20).map(|_| ping().unwrap()).min().unwrap();
    assert!(
        shorter < Duration::from_millis(60),
        "changed while running, one way: {shorter:?}"
    );
    client
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    pair.set("a<->b", "cut=yes");
    assert!(ping().is_err());
    pair.set("a<->b", "cut=no");
    assert!(ping().is_ok());
    assert_eq!(pair.counters("a").cut, 1);
    echo.join().unwrap();
}

#[test]
fn loss_is_what_was_asked_for_and_the_rest_keeps_its_order() {
    let Some(pair) = Pair::start("loss") else {
        return;
    };
    const PACKETS: u32 = 10_000;
    pair.set("a->b", "delay=5ms jitter=3ms loss=5%");
    let (client, server) = (
        Pair::udp(&pair.a, "10.1.0.1"),
        Pair::udp(&pair.b, "10.2.0.1"),
    );
    let address = server.local_addr().unwrap();
    let received = std::thread::spawn(move || {
        let mut numbers = Vec::new();
        let mut buffer = [0; 4];
        while server.recv_from(&mut buffer).is_ok() {
            numbers.push(u32::from_be_bytes(buffer));
        }
        numbers
    });
    for number in 0..PACKETS {
        client.send_to(&number.to_be_bytes(), address).unwrap();
        if number % 20 == 0 {
            // Not faster than the receiver's socket buffer lasts.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let numbers = received.join().unwrap();
    let share = 1.0 - numbers.len() as f64 / f64::from(PACKETS);
    println!("5 % loss: {:.2} % of {PACKETS}", share * 100.0);
    assert!(
        (share - 0.05).abs() < 4.0 * (0.05 * 0.95 / f64::from(PACKETS)).sqrt(),
        "{share}"
    );
    assert!(numbers.is_sorted(), "jitter does not reorder");
    let counters = pair.counters("a");
    assert_eq!(counters.lost + counters.delivered, u64::from(PACKETS));

    pair.set("a->b", "loss=0% jitter=0ms reorder=10%/3ms");
    for number in 0..200_u32 {
        client.send_to(&number.to_be_bytes(), address).unwrap();
    }
    assert!(pair.counters("a").reordered > 0);
}

#[test]
fn a_rate_limit_holds_for_tcp_and_the_queue_adds_no_more_than_its_bytes() {
    let Some(pair) = Pair::start("rate_limit_of_tcp") else {
        return;
    };
    pair.set("a<->b", "delay=5ms");
    pair.set("a->b", "rate=20mbit queue=128k");
    let listener = Pair::inside(&pair.b, || TcpListener::bind("10.2.0.1:0").unwrap())
        .join()
        .unwrap();
    let address = listener.local_addr().unwrap();
    let sender = Pair::inside(&pair.a, move || {
        let mut stream = TcpStream::connect(address).unwrap();
        while stream.write_all(&[0; 16 << 10]).is_ok() {}
    });
    let (mut stream, _) = listener.accept().unwrap();
    let mut buffer = vec![0; 64 << 10];
    let mut read_for = |time: Duration| {
        let (begin, mut bytes) = (Instant::now(), 0_usize);
        while begin.elapsed() < time {
            bytes += stream.read(&mut buffer).unwrap();
        }
        bytes as f64 * 8.0 / begin.elapsed().as_secs_f64() / 1e6
    };
    read_for(Duration::from_secs(1));
    let rate = read_for(Duration::from_secs(3));
    // Of 1,500 bytes on the wire 1,448 are the application's.
    let expected = 20.0 * 1_448.0 / 1_500.0;
    println!("20 Mbit/s: {rate:.2} Mbit/s of TCP payload, {expected:.2} expected");
    assert!((rate / expected - 1.0).abs() < 0.10, "{rate} of {expected}");
    drop(stream);
    sender.join().unwrap();
}
