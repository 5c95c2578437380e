//! How long packets take.

use std::time::{Duration, Instant};

use crate::pair::{Arrival, Pair};

#[test]
fn round_trips_take_their_delay_and_a_cut_is_silent() {
    let Some(pair) = Pair::start("round_trips_take_their_delay_and_a_cut_is_silent") else {
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
    // A busy machine adds to trips, but not to all of them.
    assert!(least < Duration::from_millis(65), "{least:?}");
    assert!(median < Duration::from_millis(80), "{median:?}");

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
fn jitter_spreads_delays_evenly_within_its_bounds() {
    let Some(pair) = Pair::start("jitter_spreads_delays_evenly_within_its_bounds") else {
        return;
    };
    const PACKETS: u32 = 120;
    const TRIES: usize = 5;
    let ms = Duration::from_millis;
    pair.set("a->b", "delay=20ms jitter=10ms");
    let even = (0..TRIES).any(|_| {
        // So far apart that none waits for another to keep their order.
        let arrivals = pair.flow(PACKETS, 100, ms(25));
        assert_eq!(arrivals.len(), PACKETS as usize);
        let took = sorted(&arrivals);
        let part = |percent: usize| took[took.len() * percent / 100];
        let [least, tenth, half, most] = [0, 10, 50, 90].map(part);
        println!("20 ms ± 10 ms: least {least:?}, 10 % {tenth:?}, 50 % {half:?}, 90 % {most:?}");
        assert!((ms(10)..ms(13)).contains(&least), "{least:?}");
        // Evenly distributed, these are 12, 20 and 28 ms. What is more is the machine's, and passes.
        (ms(10)..ms(15)).contains(&tenth)
            && (ms(16)..ms(25)).contains(&half)
            && (ms(25)..ms(33)).contains(&most)
    });
    assert!(even, "not in {TRIES} tries");
}

#[test]
fn reordered_packets_are_as_many_and_as_late_as_asked_for() {
    let Some(pair) = Pair::start("reordered_packets_are_as_many_and_as_late_as_asked_for") else {
        return;
    };
    const PACKETS: u32 = 4_000;
    pair.set("a->b", "delay=5ms reorder=10%/20ms");
    let arrivals = pair.flow(PACKETS, 100, Duration::from_micros(500));
    assert_eq!(arrivals.len(), PACKETS as usize);
    let mut youngest = 0;
    let (mut late, mut in_order) = (Vec::new(), Vec::new());
    for arrival in arrivals {
        if arrival.number < youngest {
            late.push(arrival);
        } else {
            youngest = arrival.number;
            in_order.push(arrival);
        }
    }
    let share = late.len() as f64 / f64::from(PACKETS);
    let (late, in_order) = (sorted(&late), sorted(&in_order));
    println!(
        "10 % reordered: {:.2} %, least {:?}, others least {:?}, median {:?}",
        share * 100.0,
        late[0],
        in_order[0],
        in_order[in_order.len() / 2]
    );
    assert!((0.08..0.12).contains(&share), "{share}");
    // The last of all have nobody behind them who could overtake them.
    let counted = pair.counters("a").reordered;
    assert!(late.len() as u64 <= counted && counted < late.len() as u64 + 20);
    let ms = Duration::from_millis;
    assert!((ms(25)..ms(30)).contains(&late[0]), "{:?}", late[0]);
    assert!((ms(5)..ms(8)).contains(&in_order[0]), "{:?}", in_order[0]);
    assert!(in_order[in_order.len() / 2] < ms(20), "others are not late");
}

/// How long each took, the shortest first.
fn sorted(arrivals: &[Arrival]) -> Vec<Duration> {
    let mut took: Vec<Duration> = arrivals.iter().map(|arrival| arrival.took).collect();
    took.sort();
    took
}
