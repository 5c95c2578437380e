//! How much gets through.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::pair::Pair;

#[test]
fn a_rate_limit_holds_for_tcp() {
    let Some(pair) = Pair::start("a_rate_limit_holds_for_tcp") else {
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

#[test]
fn a_full_queue_adds_its_bytes_at_the_rate_and_drops_the_rest() {
    let Some(pair) = Pair::start("a_full_queue_adds_its_bytes_at_the_rate_and_drops_the_rest")
    else {
        return;
    };
    // 1,000 bytes each millisecond; 64 of them wait at most.
    pair.set("a->b", "rate=8mbit queue=64000");
    const PACKETS: u32 = 4_000;
    let begin = Instant::now();
    let arrivals = pair.flow(PACKETS, 1_000, Duration::from_micros(500));
    let took = begin.elapsed();
    let counters = pair.counters("a");
    assert_eq!(counters.delivered, arrivals.len() as u64);
    assert_eq!(counters.delivered + counters.overflowed, u64::from(PACKETS));
    println!(
        "{} of {PACKETS} delivered, all over after {took:?}",
        counters.delivered
    );

    // The first find an empty queue, and those of the second half a full one.
    let (first, rest) = arrivals.split_at(arrivals.len() / 2);
    let least = first.iter().map(|arrival| arrival.took).min().unwrap();
    let mut full: Vec<Duration> = rest.iter().map(|arrival| arrival.took).collect();
    full.sort();
    let (median, most) = (full[full.len() / 2], full[full.len() - 1]);
    println!("least {least:?}; when it is full median {median:?}, most {most:?}");
    let ms = Duration::from_millis;
    assert!((ms(1)..ms(5)).contains(&least), "{least:?}");
    assert!((ms(58)..ms(72)).contains(&median), "{median:?}");
    // One each millisecond, for the two seconds that they take to send, or for as long as they took, and while
    // the queue empties. The last second was spent waiting for more.
    let longest = took.as_millis() as f64 - 1_000.0;
    let delivered = counters.delivered as f64;
    assert!(delivered > 0.95 * 2_064.0, "{delivered}");
    assert!(
        delivered < 1.05 * longest + 64.0,
        "{delivered} in {longest} ms"
    );
}

#[test]
fn tcp_brings_all_bytes_whole_through_delay_and_loss() {
    let Some(pair) = Pair::start("tcp_brings_all_bytes_whole_through_delay_and_loss") else {
        return;
    };
    const BYTES: usize = 1 << 20;
    pair.set("a<->b", "delay=20ms jitter=2ms loss=1% reorder=1%/5ms");
    let listener = Pair::inside(&pair.b, || TcpListener::bind("10.2.0.1:0").unwrap())
        .join()
        .unwrap();
    let address = listener.local_addr().unwrap();
    let sent: Vec<u8> = (0..BYTES as u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let bytes = sent.clone();
    let begin = Instant::now();
    let sender = Pair::inside(&pair.a, move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&bytes).unwrap();
    });
    let (mut stream, _) = listener.accept().unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    let took = begin.elapsed();
    sender.join().unwrap();
    let counters = pair.counters("a");
    println!(
        "1 MiB through 40 ms and 1 % loss: {took:?}, {} packets lost",
        counters.lost
    );
    assert!(received == sent, "{} bytes arrived", received.len());
    assert!(counters.lost > 0 && counters.reordered > 0);
    // The handshake, and windows that double from ten segments on: not without the distance.
    assert!(took > Duration::from_millis(200), "{took:?}");
}
