//! What traffic policies change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, pending};
use http::{Request, Response};
use portolan_model::traffic::{Algorithm, HashKey, HashOn, Hedging, TrafficPolicy};

use super::super::fixtures::*;

/// Starts the outbound half under a policy.
fn start(world: &World, scene: &Scene, change: impl FnOnce(&mut TrafficPolicy)) -> Subject {
    let subject = Subject::start(world, scene);
    let mut policy = TrafficPolicy::default();
    change(&mut policy);
    let mut snapshot = scene.snapshot(2);
    for service in snapshot.services.values_mut() {
        Arc::make_mut(service).traffic.set.policy = Some(policy.clone());
    }
    subject.snapshot.store(Arc::new(snapshot));
    subject
}

fn from(response: &Response<bytes::Bytes>) -> String {
    let from = response.headers().get("x-from");
    from.map_or("", |from| from.to_str().unwrap()).to_owned()
}

async fn two_endpoints(world: &World) -> (Scene, [Listening; 2]) {
    let tls = world.context(ORDERS);
    let endpoints = [echo(&tls, "a").await, echo(&tls, "b").await];
    let scene = Scene {
        own: endpoints.iter().map(|it| it.addr).collect(),
        ..Scene::default()
    };
    (scene, endpoints)
}

#[test]
fn turns_are_taken() {
    run(async {
        let world = World::new();
        let (scene, endpoints) = two_endpoints(&world).await;
        let subject = start(&world, &scene, |policy| {
            policy.balancing.algorithm = Algorithm::RoundRobin;
        });
        for _ in 0..10 {
            assert_eq!(subject.get().await.status(), 200);
        }
        assert_eq!(endpoints.each_ref().map(|it| it.hits.get()), [5, 5]);
    });
}

#[test]
fn a_user_stays_with_an_endpoint_and_users_are_spread() {
    run(async {
        let world = World::new();
        let (scene, _endpoints) = two_endpoints(&world).await;
        let on = HashOn {
            keys: vec![HashKey::Header("x-user".to_owned())],
        };
        for algorithm in [Algorithm::RingHash(on.clone()), Algorithm::Maglev(on)] {
            let subject = start(&world, &scene, |policy| {
                policy.balancing.algorithm = algorithm
            });
            let mut used = BTreeSet::new();
            for user in 0..20 {
                let mut of_user = BTreeSet::new();
                for _ in 0..3 {
                    let request = Request::get(url("/")).header("x-user", user);
                    of_user.insert(from(&subject.client().await.send(request).await));
                }
                assert_eq!(of_user.len(), 1, "{of_user:?}");
                used.append(&mut of_user);
            }
            assert_eq!(used.len(), 2, "{used:?}");
        }
    });
}

#[test]
fn a_caller_stays_with_an_endpoint_by_its_connections_too() {
    run(async {
        let world = World::new();
        let (scene, endpoints) = two_endpoints(&world).await;
        let subject = start(&world, &scene, |policy| {
            policy.balancing.algorithm = Algorithm::Maglev(HashOn {
                keys: vec![HashKey::Source],
            });
        });
        let mut used = BTreeSet::new();
        for _ in 0..10 {
            used.insert(from(&subject.get().await));
        }
        assert_eq!(used.len(), 1, "{used:?}");
        let connect = format!("CONNECT {HOST}:{TCP} HTTP/1.1\r\nhost: {HOST}:{TCP}\r\n\r\nhello");
        for _ in 0..10 {
            let heard = say(subject.connect().await, connect.as_bytes(), "hello").await;
            assert!(heard.ends_with("hello"), "{heard}");
        }
        let connections = endpoints.each_ref().map(|it| it.opaque.get());
        assert!(
            connections == [10, 0] || connections == [0, 10],
            "{connections:?}"
        );
    });
}

#[test]
fn a_slow_request_is_sent_twice_and_the_faster_answer_counts() {
    run(async {
        let world = World::new();
        let silent = sidecar(&world.context(ORDERS), |_| pending()).await;
        let west = echo(&world.context(ORDERS_WEST), "west").await;
        let gateway = gateway(BTreeMap::from([("us-west", Ok(west.addr))])).await;
        let scene = Scene {
            own: vec![silent.addr],
            gateways: vec![gateway.addr],
            west: true,
            ..Scene::default()
        };
        let hedging = Hedging {
            after: Duration::from_millis(20),
            extra_max: 1,
        };
        let subject = start(&world, &scene, |policy| policy.hedging = Some(hedging));
        assert_eq!(from(&subject.get().await), "west");
        assert_eq!((silent.hits.get(), west.hits.get()), (1, 1));
        let subject = start(&world, &scene, |policy| {
            policy.hedging = Some(hedging);
            policy.retries.budget_percent = 0;
            policy.retries.budget_per_second = 0;
            policy.timeouts.request = Some(Duration::from_millis(300));
        });
        assert_eq!(
            subject.get().await.status(),
            504,
            "no budget, no second sending"
        );
        assert_eq!(west.hits.get(), 1);
    });
}

#[test]
fn a_try_that_takes_too_long_is_given_up_and_made_elsewhere() {
    run(async {
        let world = World::new();
        let silent = sidecar(&world.context(ORDERS), |_| pending()).await;
        let west = echo(&world.context(ORDERS_WEST), "west").await;
        let gateway = gateway(BTreeMap::from([("us-west", Ok(west.addr))])).await;
        let scene = Scene {
            own: vec![silent.addr],
            gateways: vec![gateway.addr],
            west: true,
            ..Scene::default()
        };
        let subject = start(&world, &scene, |policy| {
            policy.retries.per_try_timeout = Some(Duration::from_millis(50));
        });
        assert_eq!(from(&subject.get().await), "west");
    });
}

#[test]
fn requests_wait_for_the_connections_that_they_may_have() {
    run(async {
        let world = World::new();
        let west = echo(&world.context(ORDERS_WEST), "west").await;
        let gateway = gateway(BTreeMap::from([("us-west", Ok(west.addr))])).await;
        let scene = Scene {
            gateways: vec![gateway.addr],
            west: true,
            ..Scene::default()
        };
        let subject = start(&world, &scene, |policy| policy.breaker.connections = 1);
        let answers = join_all((0..20).map(|_| subject.get())).await;
        assert!(answers.iter().all(|answer| answer.status() == 200));
        assert_eq!(gateway.hits.get(), 1, "one tunnel");
    });
}
