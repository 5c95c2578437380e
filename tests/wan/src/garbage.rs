//! `garbage`: answers whatever comes with bytes that mean nothing, over TCP and UDP.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Parser;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};

/// Connections at a time; more are closed at once.
const CONNECTIONS_MAX: usize = 256;
/// How long a connection may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Answers each read and each datagram with random bytes.
#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    tcp: Option<SocketAddr>,
    #[arg(long)]
    udp: Option<SocketAddr>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let udp = arguments
        .udp
        .map(|address| std::thread::spawn(move || datagrams(address)));
    let tcp = arguments
        .tcp
        .map(|address| std::thread::spawn(move || connections(address)));
    for thread in [udp, tcp].into_iter().flatten() {
        if let Ok(Err(error)) = thread.join() {
            let _nobody_reads = writeln!(io::stderr(), "garbage: {error}");
        }
    }
    ExitCode::FAILURE
}

fn datagrams(address: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    let mut random = SmallRng::seed_from_u64(1);
    let mut buffer = [0; 2_048];
    loop {
        // An ICMP error about an earlier answer comes up here and ends nothing.
        if let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let length = random.random_range(1..1_200);
            random.fill_bytes(&mut buffer[..length]);
            let _gone = socket.send_to(&buffer[..length], from);
        }
    }
}

fn connections(address: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    let open = Arc::new(AtomicUsize::new(0));
    for (stream, seed) in listener.incoming().flatten().zip(2..) {
        if open.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            continue;
        }
        open.fetch_add(1, Ordering::Relaxed);
        let open = Arc::clone(&open);
        std::thread::spawn(move || {
            let _gone = babble(stream, seed);
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
    Ok(())
}

fn babble(mut stream: TcpStream, seed: u64) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let mut random = SmallRng::seed_from_u64(seed);
    let mut buffer = [0; 4_096];
    while stream.read(&mut buffer)? > 0 {
        let length = random.random_range(1..buffer.len());
        random.fill_bytes(&mut buffer[..length]);
        stream.write_all(&buffer[..length])?;
    }
    Ok(())
}
