//! The ledger over time.

use super::*;

fn s(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn orders() -> WorkloadKey {
    "shop/orders-0".parse().unwrap()
}

fn gateway(name: &str) -> Gateway {
    Gateway {
        name: name.to_owned(),
        tcp: "127.0.0.1:1".parse().unwrap(),
        quic: "127.0.0.1:2".parse().unwrap(),
    }
}

/// Gateway `a` at another address.
fn moved() -> Gateway {
    Gateway {
        tcp: "127.0.0.1:9".parse().unwrap(),
        ..gateway("a")
    }
}

#[test]
fn a_workload_is_ready_while_its_sidecar_says_so_and_a_moment_longer() {
    let mut ledger = Ledger::default();
    assert_eq!(
        ledger.workload_opened(s(0.0), 1, &orders()),
        [liveness(&orders(), false)]
    );
    assert_eq!(
        ledger.workload_ready(1, &orders(), true),
        [liveness(&orders(), true)]
    );
    assert_eq!(ledger.next_tick(), None);
    ledger.workload_closed(s(10.0), 1, &orders());
    assert_eq!(ledger.tick(s(10.9)), []);
    assert_eq!(ledger.next_tick(), Some(s(11.0)));
    assert_eq!(ledger.tick(s(11.0)), [liveness(&orders(), false)]);
    assert_eq!(ledger.tick(s(309.0)), []);
    assert_eq!(ledger.tick(s(310.0)), [Effect::Expired(orders())]);
    assert_eq!(ledger.next_tick(), None);
}

#[test]
fn a_reconnection_in_time_moves_nothing_and_the_old_stream_s_end_is_ignored() {
    let mut ledger = Ledger::default();
    ledger.workload_opened(s(0.0), 1, &orders());
    ledger.workload_ready(1, &orders(), true);
    assert_eq!(ledger.workload_opened(s(5.0), 2, &orders()), []);
    ledger.workload_closed(s(5.1), 1, &orders());
    assert_eq!(ledger.workload_ready(1, &orders(), false), []);
    assert_eq!(ledger.workload_ready(2, &orders(), true), []);
    assert_eq!(ledger.tick(s(100.0)), []);
}

#[test]
fn a_stream_that_arrives_after_its_successor_is_the_older_one() {
    let mut ledger = Ledger::default();
    ledger.workload_opened(s(0.0), 2, &orders());
    ledger.workload_ready(2, &orders(), true);
    assert_eq!(ledger.workload_opened(s(5.0), 1, &orders()), []);
    assert_eq!(ledger.workload_closed(s(5.1), 1, &orders()), []);
    assert_eq!(ledger.tick(s(100.0)), []);
    ledger.workload_closed(s(100.0), 2, &orders());
    assert_eq!(ledger.tick(s(101.0)), [liveness(&orders(), false)]);

    ledger.gateway_opened(s(200.0), 4, gateway("a"));
    assert_eq!(ledger.gateway_opened(s(201.0), 3, moved()), []);
    ledger.gateway_closed(s(202.0), 3, "a");
    assert_eq!(ledger.tick(s(300.0)), []);
}

#[test]
fn of_two_sidecars_with_one_name_the_older_counts_when_the_newer_ends() {
    let mut ledger = Ledger::default();
    ledger.workload_opened(s(0.0), 1, &orders());
    ledger.workload_ready(1, &orders(), false);
    ledger.workload_opened(s(5.0), 2, &orders());
    ledger.workload_ready(2, &orders(), true);
    assert_eq!(ledger.workload_ready(1, &orders(), true), []);
    assert_eq!(ledger.workload_closed(s(9.0), 2, &orders()), []);
    assert_eq!(ledger.next_tick(), None);
    assert_eq!(
        ledger.workload_ready(1, &orders(), false),
        [liveness(&orders(), false)]
    );
}

#[test]
fn of_two_gateways_with_one_name_one_stays_registered() {
    let mut ledger = Ledger::default();
    ledger.gateway_opened(s(0.0), 1, gateway("a"));
    assert_eq!(
        ledger.gateway_opened(s(5.0), 2, moved()),
        [Effect::Gateways(vec![moved()])]
    );
    assert_eq!(
        ledger.gateway_draining(s(9.0), 2, "a"),
        [Effect::Gateways(vec![gateway("a")])]
    );
    assert_eq!(ledger.gateway_closed(s(9.5), 2, "a"), []);
    assert_eq!(ledger.tick(s(500.0)), []);

    // One that was restarted while the old process still drains.
    assert_eq!(
        ledger.gateway_draining(s(600.0), 1, "a"),
        [Effect::Gateways(vec![])]
    );
    assert_eq!(
        ledger.gateway_opened(s(601.0), 3, gateway("a")),
        [Effect::Gateways(vec![gateway("a")])]
    );
    assert_eq!(ledger.gateway_closed(s(605.0), 1, "a"), []);
    assert_eq!(ledger.tick(s(700.0)), []);
}

#[test]
fn two_that_go_on_claiming_one_name_are_told_of_once() {
    let mut ledger = Ledger::default();
    ledger.gateway_opened(s(0.0), 1, gateway("a"));
    ledger.gateway_opened(s(5.0), 2, gateway("a"));
    let at = s(5.0) + life::OVERLAP_MAX;
    assert_eq!(ledger.next_tick(), Some(at));
    assert_eq!(ledger.tick(at), [Effect::Disputed("gateway a".to_owned())]);
    ledger.gateway_opened(s(100.0), 3, gateway("a"));
    assert_eq!(ledger.next_tick(), None);

    ledger.gateway_draining(s(200.0), 1, "a");
    ledger.gateway_closed(s(200.0), 2, "a");
    ledger.gateway_opened(s(201.0), 4, gateway("a"));
    assert!(ledger.next_tick().is_some(), "a new dispute");
}

#[test]
fn who_says_farewell_is_forgotten_sooner_unless_it_returns() {
    let mut ledger = Ledger::default();
    ledger.workload_opened(s(0.0), 1, &orders());
    ledger.workload_ready(1, &orders(), true);
    assert_eq!(
        ledger.workload_draining(s(1.0), 1, &orders()),
        [liveness(&orders(), false)]
    );
    ledger.workload_closed(s(10.0), 1, &orders());
    assert_eq!(ledger.tick(s(19.0)), []);
    ledger.workload_opened(s(19.0), 2, &orders());
    ledger.workload_ready(2, &orders(), true);
    ledger.workload_closed(s(20.0), 2, &orders());
    assert_eq!(ledger.tick(s(40.0)), [liveness(&orders(), false)]);

    ledger.workload_opened(s(50.0), 3, &orders());
    ledger.workload_draining(s(50.0), 3, &orders());
    ledger.workload_closed(s(60.0), 3, &orders());
    ledger.tick(s(61.0));
    assert_eq!(ledger.next_tick(), Some(s(70.0)));
    assert_eq!(ledger.tick(s(70.0)), [Effect::Expired(orders())]);
}

#[test]
fn a_silent_successor_does_not_inherit_readiness_for_long() {
    let mut ledger = Ledger::default();
    ledger.workload_opened(s(0.0), 1, &orders());
    ledger.workload_ready(1, &orders(), true);
    ledger.workload_opened(s(5.0), 2, &orders());
    assert_eq!(ledger.tick(s(6.0)), [liveness(&orders(), false)]);
}

#[test]
fn what_was_known_before_a_restart_holds_for_the_start_s_grace() {
    let mut ledger = Ledger::default();
    let found = ledger.workload_found(s(0.0), orders(), true);
    assert_eq!(found, [liveness(&orders(), true)]);
    assert_eq!(ledger.tick(s(9.9)), []);
    assert_eq!(ledger.tick(s(10.0)), [liveness(&orders(), false)]);
    assert_eq!(ledger.tick(s(300.0)), [Effect::Expired(orders())]);
}

#[test]
fn gateways_come_and_go_and_their_links_are_merged() {
    let mut ledger = Ledger::default();
    let peer: ClusterName = "us-west".parse().unwrap();
    let says = |state| Links::from([(peer.clone(), state)]);
    let up = |rtt_us| LinkState::Up { rtt_us };
    assert_eq!(
        ledger.gateway_opened(s(0.0), 1, gateway("a")),
        [Effect::Gateways(vec![gateway("a")])]
    );
    ledger.gateway_opened(s(0.0), 2, gateway("b"));
    assert_eq!(
        ledger.gateway_links(1, "a", says(LinkState::Down)),
        [Effect::Links(says(LinkState::Down))]
    );
    assert_eq!(
        ledger.gateway_links(2, "b", says(up(90_000))),
        [Effect::Links(says(up(90_000)))]
    );
    assert_eq!(
        ledger.gateway_links(1, "a", says(up(30_000))),
        [Effect::Links(says(up(30_000)))]
    );
    assert_eq!(ledger.gateway_links(1, "a", says(up(33_000))), []);
    ledger.gateway_closed(s(20.0), 1, "a");
    assert_eq!(
        ledger.tick(s(21.0)),
        [
            Effect::Gateways(vec![gateway("b")]),
            Effect::Links(says(up(90_000)))
        ]
    );
    assert_eq!(
        ledger.gateway_draining(s(22.0), 2, "b"),
        [Effect::Gateways(vec![]), Effect::Links(Links::new())]
    );
}
