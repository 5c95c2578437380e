//! Where requests go when somebody dies.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use portolan_model::Reason;
use portolan_policy::failover::HealthView;
use portolan_transport::listen;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use super::super::fixtures::*;

fn from(response: &Response<bytes::Bytes>) -> &str {
    response
        .headers()
        .get("x-from")
        .map_or("", |from| from.to_str().unwrap())
}

#[test]
fn a_dead_endpoint_costs_nothing_and_is_left_alone() {
    run(async {
        let world = World::new();
        let west = echo(&world.context(ORDERS_WEST), "west").await;
        let gateway = gateway(BTreeMap::from([("us-west", Ok(west.addr))])).await;
        let scene = Scene {
            own: vec![nobody()],
            gateways: vec![nobody(), gateway.addr],
            west: true,
            ..Scene::default()
        };
        let subject = Subject::start(&world, &scene);
        for _ in 0..20 {
            let response = subject.get().await;
            assert_eq!((response.status().as_u16(), from(&response)), (200, "west"));
        }
        let post = subject.client().await.send(Request::post(url("/"))).await;
        assert_eq!(
            post.status(),
            200,
            "nothing was processed, so any method goes again"
        );
        assert!(
            subject
                .worker
                .balancer
                .seen()
                .endpoint_ejected(&"shop/orders-0".parse().unwrap())
        );
    });
}

#[test]
fn no_request_fails_while_an_endpoint_dies() {
    run(async {
        let world = World::new();
        let (one, two) = (world.context(ORDERS), world.context(ORDERS));
        let (one, two) = (echo(&one, "one").await, echo(&two, "two").await);
        let scene = Scene {
            own: vec![one.addr, two.addr],
            ..Scene::default()
        };
        let subject = Rc::new(Subject::start(&world, &scene));
        let one = Rc::new(one);
        let clients = (0..10).map(|number| {
            let (subject, one) = (Rc::clone(&subject), Rc::clone(&one));
            async move {
                let mut client = subject.client().await;
                for turn in 0..200 {
                    if number == 0 && turn == 60 {
                        one.kill().await;
                    }
                    let response = client.send(Request::get(url("/"))).await;
                    assert_eq!(response.status(), 200, "{:?}", response.body());
                }
            }
        });
        futures_util::future::join_all(clients).await;
        assert!(one.hits.get() > 100 && two.hits.get() > 1_000);
    });
}

#[test]
fn an_app_that_is_gone_behind_a_live_sidecar_is_gone_round() {
    run(async {
        let world = World::new();
        let dead = sidecar(&world.context(ORDERS), |_| async {
            Response::builder()
                .status(503)
                .header("x-portolan-error", "connect_failed; hop=inbound")
                .body(text(""))
                .unwrap()
        })
        .await;
        let live = echo(&world.context(ORDERS), "live").await;
        let scene = Scene {
            own: vec![dead.addr, live.addr],
            ..Scene::default()
        };
        let subject = Subject::start(&world, &scene);
        for _ in 0..20 {
            let post = subject.client().await.send(Request::post(url("/"))).await;
            assert_eq!((post.status().as_u16(), from(&post)), (200, "live"));
        }
        assert!(dead.hits.get() <= 1, "asked {} times", dead.hits.get());
    });
}

#[test]
fn a_request_in_flight_when_its_cluster_dies_goes_to_the_next() {
    run(async {
        let world = World::new();
        let west = sidecar(&world.context(ORDERS_WEST), |_| std::future::pending()).await;
        let eu = echo(&world.context(ORDERS_EU), "eu").await;
        let routes = BTreeMap::from([("us-west", Ok(west.addr)), ("eu-west", Ok(eu.addr))]);
        let gateway = gateway(routes).await;
        let gateways = vec![gateway.addr];
        let scene = Scene {
            gateways,
            west: true,
            eu: true,
            ..Scene::default()
        };
        let subject = Subject::start(&world, &scene);
        let killed = async {
            while west.hits.get() == 0 {
                tokio::task::yield_now().await;
            }
            west.kill().await;
        };
        let begun = Instant::now();
        let (response, ()) = tokio::join!(subject.get(), killed);
        assert_eq!((response.status().as_u16(), from(&response)), (200, "eu"));
        assert!(begun.elapsed() < Duration::from_secs(2));
    });
}

#[test]
fn a_gateway_s_refusal_leads_to_another_cluster() {
    run(async {
        let world = World::new();
        let eu = echo(&world.context(ORDERS_EU), "eu").await;
        let refused = Err(Reason::NoHealthyUpstream);
        let gateway = gateway(BTreeMap::from([
            ("us-west", refused),
            ("eu-west", Ok(eu.addr)),
        ]))
        .await;
        let gateways = vec![gateway.addr];
        let scene = Scene {
            gateways,
            west: true,
            eu: true,
            ..Scene::default()
        };
        let subject = Subject::start(&world, &scene);
        for _ in 0..10 {
            let response = subject.get().await;
            assert_eq!((response.status().as_u16(), from(&response)), (200, "eu"));
        }
        assert!(
            gateway.hits.get() <= 5,
            "us-west was asked {} times",
            gateway.hits.get()
        );
    });
}

#[test]
fn a_gateway_that_says_nothing_is_not_waited_for() {
    run(async {
        let world = World::new();
        let eu = echo(&world.context(ORDERS_EU), "eu").await;
        // Accepts, and says nothing: the backlog does that.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent_addr = silent.local_addr().unwrap();
        let routes = BTreeMap::from([("us-west", Ok(silent_addr)), ("eu-west", Ok(eu.addr))]);
        let gateway = gateway(routes).await;
        let gateways = vec![gateway.addr];
        let scene = Scene {
            gateways,
            west: true,
            eu: true,
            ..Scene::default()
        };
        let subject = Subject::start(&world, &scene);
        let begun = Instant::now();
        let response = subject.get().await;
        assert_eq!((response.status().as_u16(), from(&response)), (200, "eu"));
        assert!(
            begun.elapsed() < Duration::from_millis(1_500),
            "{:?}",
            begun.elapsed()
        );
        let begun = Instant::now();
        assert_eq!(from(&subject.get().await), "eu");
        assert!(
            begun.elapsed() < Duration::from_millis(500),
            "{:?}",
            begun.elapsed()
        );
    });
}

#[test]
fn what_may_have_been_processed_is_repeated_only_if_that_does_no_harm() {
    run(async {
        let world = World::new();
        // Hangs until its connection is cut.
        let hanging = sidecar(&world.context(ORDERS), |_| std::future::pending()).await;
        let live = echo(&world.context(ORDERS_WEST), "west").await;
        let gateway = gateway(BTreeMap::from([("us-west", Ok(live.addr))])).await;
        let scene = Scene {
            own: vec![hanging.addr],
            gateways: vec![gateway.addr],
            west: true,
            ..Scene::default()
        };
        let subject = Subject::start(&world, &scene);
        let cut = async {
            while hanging.hits.get() == 0 {
                tokio::task::yield_now().await;
            }
            hanging.kill().await;
        };
        let posting = async { subject.client().await.send(Request::post(url("/"))).await };
        let (response, ()) = tokio::join!(posting, cut);
        assert_eq!(response.status(), 502);
        assert_eq!(
            response.headers()["x-portolan-error"],
            "reset; hop=outbound"
        );
        assert_eq!(live.hits.get(), 0);

        let again = sidecar(&world.context(ORDERS), |_| std::future::pending()).await;
        let scene = Scene {
            own: vec![again.addr],
            ..scene
        };
        let subject = Subject::start(&world, &scene);
        let cut = async {
            while again.hits.get() == 0 {
                tokio::task::yield_now().await;
            }
            again.kill().await;
        };
        let (response, ()) = tokio::join!(subject.get(), cut);
        assert_eq!((response.status().as_u16(), from(&response)), (200, "west"));
    });
}

#[test]
fn somebody_else_s_certificate_is_refused_and_nothing_is_sent() {
    run(async {
        let world = World::new();
        let stranger = echo(&world.context(FRONTEND), "stranger").await;
        let scene = Scene {
            own: vec![stranger.addr],
            ..Scene::default()
        };
        let subject = Subject::start(&world, &scene);
        let response = subject.get().await;
        assert_eq!(response.status(), 502);
        assert_eq!(
            response.headers()["x-portolan-error"],
            "identity_mismatch; hop=outbound"
        );
        assert_eq!(stranger.hits.get(), 0);
    });
}

#[test]
fn an_endpoint_that_returns_is_used_again_at_once() {
    run(async {
        let world = World::new();
        let addr = nobody();
        let west = echo(&world.context(ORDERS_WEST), "west").await;
        let gateway = gateway(BTreeMap::from([("us-west", Ok(west.addr))])).await;
        let gateways = vec![gateway.addr];
        let scene = Scene {
            own: vec![addr],
            gateways,
            west: true,
            ..Scene::default()
        };
        let subject = Subject::start(&world, &scene);
        assert_eq!(from(&subject.get().await), "west");

        let publish = |ready, generation| {
            let mut snapshot = scene.snapshot(generation);
            for service in snapshot.services.values_mut() {
                let service = std::sync::Arc::make_mut(service);
                service.local.as_mut().unwrap().endpoints[0].ready = ready;
            }
            subject.snapshot.store(std::sync::Arc::new(snapshot));
            subject.changed.send_replace(generation);
        };
        publish(false, 2);
        let workload = "shop/orders-0".parse().unwrap();
        tokio::task::yield_now().await;
        assert!(subject.worker.balancer.seen().endpoint_ejected(&workload));
        let listener = listen::tcp_reuseport(addr).unwrap();
        let own = echo_on(&world.context(ORDERS), listener, "own");
        publish(true, 3);
        while subject.worker.balancer.seen().endpoint_ejected(&workload) {
            tokio::task::yield_now().await;
        }
        // Its cluster begins with a tenth of the calls: 300 that all go elsewhere are one in 10^13.
        let mut calls = 0;
        while own.hits.get() == 0 {
            subject.get().await;
            calls += 1;
            assert!(calls < 300);
        }
    });
}

#[test]
fn a_gateway_that_stops_answering_is_passed_over() {
    run(async {
        let world = World::new();
        let west = echo(&world.context(ORDERS_WEST), "west").await;
        let gateway = gateway(BTreeMap::from([("us-west", Ok(west.addr))])).await;
        // Accepts, and says nothing: the backlog does that.
        let stopped = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scene = Scene {
            gateways: vec![stopped.local_addr().unwrap(), gateway.addr],
            west: true,
            ..Scene::default()
        };
        // Which gateway comes first is random.
        for _ in 0..4 {
            let subject = Subject::start(&world, &scene);
            let begun = Instant::now();
            assert_eq!(from(&subject.get().await), "west");
            assert!(
                begun.elapsed() < Duration::from_millis(2_500),
                "{:?}",
                begun.elapsed()
            );
        }
    });
}

#[test]
fn a_cluster_is_not_blamed_for_an_own_gateway_that_stops() {
    run(async {
        let world = World::new();
        let west = echo(&world.context(ORDERS_WEST), "west").await;
        let eu = echo(&world.context(ORDERS_EU), "eu").await;
        let routes = BTreeMap::from([("us-west", Ok(west.addr)), ("eu-west", Ok(eu.addr))]);
        let gateway = gateway(routes).await;
        let stopped = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stopped_addr = stopped.local_addr().unwrap();
        let scene = Scene {
            gateways: vec![stopped_addr, gateway.addr],
            west: true,
            eu: true,
            ..Scene::default()
        };
        // Which gateway comes first is random.
        for _ in 0..6 {
            let subject = Subject::start(&world, &scene);
            assert_eq!(from(&subject.get().await), "west");
            let balancer = &subject.worker.balancer;
            let (orders, west) = ("shop/orders".parse().unwrap(), "us-west".parse().unwrap());
            assert!(!balancer.seen().cluster_ejected(&orders, &west));
            assert!(!balancer.gateway_ejected(gateway.addr));
        }
        assert_eq!(eu.hits.get(), 0);
    });
}

#[test]
fn a_gateway_that_has_no_way_is_passed_over() {
    run(async {
        let world = World::new();
        let west = echo(&world.context(ORDERS_WEST), "west").await;
        let good = gateway(BTreeMap::from([("us-west", Ok(west.addr))])).await;
        let refused = Err(Reason::PeerUnreachable);
        let unlinked = gateway(BTreeMap::from([("us-west", refused)])).await;
        let scene = Scene {
            gateways: vec![unlinked.addr, good.addr],
            west: true,
            ..Scene::default()
        };
        for _ in 0..6 {
            let subject = Subject::start(&world, &scene);
            let post = subject.client().await.send(Request::post(url("/"))).await;
            assert_eq!((post.status().as_u16(), from(&post)), (200, "west"));
        }
    });
}

#[test]
fn a_gateway_that_is_about_to_stop_gets_no_more_requests() {
    run(async {
        let world = World::new();
        let west = echo(&world.context(ORDERS_WEST), "west").await;
        let routes = || BTreeMap::from([("us-west", Ok(west.addr))]);
        let (leaving, staying) = (gateway(routes()).await, gateway(routes()).await);
        let before = Scene {
            gateways: vec![leaving.addr],
            west: true,
            ..Scene::default()
        };
        let subject = Subject::start(&world, &before);
        assert_eq!(from(&subject.get().await), "west");
        let after = Scene {
            gateways: vec![staying.addr],
            ..before
        };
        let snapshot = std::sync::Arc::new(after.snapshot(2));
        subject.snapshot.store(snapshot);
        subject.changed.send_replace(2);
        while staying.hits.get() == 0 {
            assert_eq!(from(&subject.get().await), "west");
        }
        let dialled = leaving.hits.get();
        assert_eq!(from(&subject.get().await), "west");
        assert_eq!(leaving.hits.get(), dialled);
    });
}

/// Passes bytes on to a gateway, until it falls silent.
async fn silenceable(gateway: std::net::SocketAddr) -> (std::net::SocketAddr, Rc<Cell<bool>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let silent = Rc::new(Cell::new(false));
    let told = Rc::clone(&silent);
    spawn_local(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let silent = Rc::clone(&told);
            spawn_local(async move {
                let mut far = TcpStream::connect(gateway).await.unwrap();
                let (mut there, mut back) = ([0; 16_384], [0; 16_384]);
                loop {
                    tokio::select! {
                        Ok(count @ 1..) = near.read(&mut there) => {
                            if silent.get() {
                                return std::future::pending().await;
                            }
                            far.write_all(&there[..count]).await.unwrap();
                        }
                        Ok(count @ 1..) = far.read(&mut back) => {
                            if silent.get() {
                                return std::future::pending().await;
                            }
                            near.write_all(&back[..count]).await.unwrap();
                        }
                        else => return,
                    }
                }
            });
        }
    });
    (addr, silent)
}

#[test]
fn an_own_gateway_that_falls_silent_is_left_by_all_clusters_calls_at_once() {
    run(async {
        let world = World::new();
        let west = echo(&world.context(ORDERS_WEST), "west").await;
        let eu = echo(&world.context(ORDERS_EU), "eu").await;
        let routes = || BTreeMap::from([("us-west", Ok(west.addr)), ("eu-west", Ok(eu.addr))]);
        let (behind, staying) = (gateway(routes()).await, gateway(routes()).await);
        let (stopping, silent) = silenceable(behind.addr).await;
        let before = Scene {
            gateways: vec![stopping],
            west: true,
            eu: true,
            ..Scene::default()
        };
        let subject = Subject::start(&world, &before);
        assert_eq!(from(&subject.get().await), "west");
        let pinned = Request::get("http://orders.shop.eu-west.global/");
        let answer = subject.client().await.send(pinned).await;
        assert_eq!(from(&answer), "eu");

        // Both clusters have a connection through the gateway that stops, and another gateway is there.
        let mut snapshot = before.snapshot(2);
        let mesh = std::sync::Arc::make_mut(snapshot.mesh.as_mut().unwrap());
        let mut another = mesh.gateways[0].clone();
        another.tcp = staying.addr;
        mesh.gateways.push(another);
        subject.snapshot.store(std::sync::Arc::new(snapshot));
        subject.changed.send_replace(2);
        silent.set(true);
        let begun = Instant::now();
        let answer = subject.get().await;
        assert_eq!(answer.status(), 200);
        let took = begun.elapsed();
        assert!(
            took < Duration::from_millis(3_500),
            "one silence, not two: {took:?}"
        );
        assert!(subject.worker.balancer.gateway_ejected(stopping));
        let (orders, west) = ("shop/orders".parse().unwrap(), "us-west".parse().unwrap());
        assert!(
            !subject
                .worker
                .balancer
                .seen()
                .cluster_ejected(&orders, &west)
        );
    });
}
