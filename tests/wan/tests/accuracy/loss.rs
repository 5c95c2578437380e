//! Which packets do not arrive. The network is always started with the same seed, so it loses the same ones.

use std::time::Duration;

use crate::pair::{Arrival, Pair};

const PACKETS: u32 = 20_000;
const EVERY: Duration = Duration::from_micros(50);

/// The share that is lost, and how many are lost one after the other on average.
fn lost(pair: &Pair, arrivals: &[Arrival]) -> (f64, f64) {
    let counters = pair.counters("a");
    assert_eq!(
        counters.delivered,
        arrivals.len() as u64,
        "all that was delivered was read"
    );
    assert_eq!(counters.lost + counters.delivered, u64::from(PACKETS));
    let mut arrived = vec![false; PACKETS as usize];
    for arrival in arrivals {
        arrived[arrival.number as usize] = true;
    }
    let lost = arrived.iter().filter(|arrived| !**arrived).count();
    let bursts = arrived
        .split(|arrived| *arrived)
        .filter(|burst| !burst.is_empty());
    let share = lost as f64 / f64::from(PACKETS);
    (share, lost as f64 / bursts.count().max(1) as f64)
}

#[test]
fn loss_is_what_was_asked_for_and_the_rest_keeps_its_order() {
    let Some(pair) = Pair::start("loss_is_what_was_asked_for_and_the_rest_keeps_its_order") else {
        return;
    };
    pair.set("a->b", "delay=5ms jitter=3ms loss=5%");
    let arrivals = pair.flow(PACKETS, 100, EVERY);
    let (share, burst) = lost(&pair, &arrivals);
    println!(
        "5 % loss: {:.2} % of {PACKETS}, {burst:.2} at a time",
        share * 100.0
    );
    assert!(
        (share - 0.05).abs() < 4.0 * (0.05 * 0.95 / f64::from(PACKETS)).sqrt(),
        "{share}"
    );
    // Each by itself: one in twenty is followed by another.
    assert!((1.0..1.15).contains(&burst), "{burst}");
    assert!(
        arrivals.is_sorted_by_key(|arrival| arrival.number),
        "jitter does not reorder"
    );
}

#[test]
fn bursts_are_as_many_and_as_long_as_asked_for() {
    let Some(pair) = Pair::start("bursts_are_as_many_and_as_long_as_asked_for") else {
        return;
    };
    pair.set("a->b", "delay=5ms loss=5%/4");
    let arrivals = pair.flow(PACKETS, 100, EVERY);
    let (share, burst) = lost(&pair, &arrivals);
    println!(
        "5 % loss in bursts of 4: {:.2} % of {PACKETS}, {burst:.2} at a time",
        share * 100.0
    );
    assert!((0.035..0.065).contains(&share), "{share}");
    assert!((3.2..4.8).contains(&burst), "{burst}");
}
