//! Limits and drills, as callers see them.

use portolan_model::fault::{AbortWith, Fault, FaultAbort, FaultCallers, FaultDelay};
use portolan_model::limit::{Alone, Counted, LimitAmount, LimitPer, RateLimit};
use portolan_model::snapshot::{Inbound, InboundRules};

use super::*;

fn limit(amount: LimitAmount, per: LimitPer) -> RateLimit {
    RateLimit {
        name: "shop/orders/all".to_owned(),
        matches: vec![],
        per,
        amount,
        counted: Counted::Instance,
    }
}

/// So many requests in an hour, at once.
fn requests(count: u32) -> LimitAmount {
    LimitAmount::Requests {
        count,
        per: Duration::from_secs(3600),
        burst: count,
    }
}

fn abort(with: AbortWith) -> Fault {
    Fault {
        name: "shop/drill/abort".to_owned(),
        matches: vec![],
        callers: FaultCallers::default(),
        delay: None,
        abort: Some(FaultAbort {
            with,
            share_milli_percent: 100_000,
        }),
        ends_ms: u64::MAX,
    }
}

impl Sidecar {
    fn obey(&self, rules: InboundRules) {
        let mut snapshot = fixtures::snapshot(self.app_port);
        let inbound = &snapshot.inbound[&fixtures::workload()];
        let inbound = Inbound {
            rules: [("shop/orders".parse().unwrap(), rules)].into(),
            ..Inbound::clone(inbound)
        };
        let inbound = Arc::new(inbound);
        snapshot.inbound.insert(fixtures::workload(), inbound);
        self.publish(snapshot);
    }

    fn limit(&self, limits: &[RateLimit]) {
        self.obey(InboundRules {
            limits: limits.iter().map(|limit| (0, limit.clone())).collect(),
            ..InboundRules::default()
        });
    }

    fn drill(&self, fault: Fault) {
        self.obey(InboundRules {
            faults: vec![(HTTP, fault)],
            ..InboundRules::default()
        });
    }
}

fn grpc_request() -> Request<Empty<Bytes>> {
    let mut request = request("/pkg.Service/Call");
    let kind = "application/grpc".parse().unwrap();
    request.headers_mut().insert("content-type", kind);
    request
}

#[tokio::test(flavor = "local")]
async fn what_is_above_a_limit_is_told_when_to_come_again() {
    locally(async || {
        let (app, _) = seeing_app().await;
        let sidecar = Sidecar::beside(app).await;
        sidecar.limit(&[limit(requests(2), LimitPer::Identity)]);
        let first = sidecar.get(NEIGHBOUR, HTTP, request("/")).await;
        assert_eq!(first.status, 200);
        assert_eq!(first.headers["ratelimit-limit"], "2");
        assert_eq!(first.headers["ratelimit-remaining"], "1");
        assert!(!first.headers.contains_key("retry-after"));
        sidecar.get(NEIGHBOUR, HTTP, request("/")).await;
        let above = sidecar.get(NEIGHBOUR, HTTP, request("/")).await;
        assert_eq!(above.status, 429);
        assert_eq!(above.error(), "rate_limited; hop=inbound");
        assert_eq!(above.headers["retry-after"], "1800");
        assert_eq!(above.headers["ratelimit-remaining"], "0");
        let grpc = sidecar.get(NEIGHBOUR, HTTP, grpc_request()).await;
        assert_eq!(
            (grpc.status.as_u16(), &grpc.headers["grpc-status"]),
            (200, &"8".parse().unwrap())
        );
        assert_eq!(grpc.headers["retry-after"], "1800");
        let other = sidecar.get(PEER, HTTP, request("/")).await;
        assert_eq!(other.status, 200, "another identity has a count of its own");
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn a_request_that_one_limit_refuses_is_counted_by_none_and_counts_outlive_snapshots() {
    locally(async || {
        let (app, _) = seeing_app().await;
        let sidecar = Sidecar::beside(app).await;
        let mut tenant = limit(requests(1), LimitPer::Header("x-tenant".to_owned()));
        tenant.name = "shop/orders/tenant".to_owned();
        let all = limit(requests(3), LimitPer::Service);
        let get = async |tenant: &str| {
            let mut request = request("/");
            let headers = request.headers_mut();
            headers.insert("x-tenant", tenant.parse().unwrap());
            sidecar.get(NEIGHBOUR, HTTP, request).await.status.as_u16()
        };
        sidecar.limit(&[all.clone(), tenant.clone()]);
        assert_eq!(get("a").await, 200);
        for _ in 0..3 {
            assert_eq!(get("a").await, 429);
        }
        assert_eq!(get("b").await, 200);
        let mut more = tenant.clone();
        more.name = "shop/orders/more".to_owned();
        sidecar.limit(&[all, tenant, more]);
        assert_eq!(get("b").await, 429, "its count is the same");
        assert_eq!(get("c").await, 200);
        assert_eq!(get("d").await, 429, "three in all");
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn a_connection_too_many_is_told_so_and_ends() {
    locally(async || {
        let (app, _) = seeing_app().await;
        let sidecar = Sidecar::beside(app).await;
        sidecar.limit(&[limit(LimitAmount::Connections(1), LimitPer::Service)]);
        let mut first = sidecar.http2(NEIGHBOUR, HTTP).await;
        let answer = Answer::of(first.send_request(request("/")).await.unwrap()).await;
        assert_eq!(answer.status, 200);
        let mut second = sidecar.http2::<Empty<Bytes>>(NEIGHBOUR, HTTP).await;
        let refused = Answer::of(second.send_request(request("/")).await.unwrap()).await;
        assert_eq!(refused.error(), "rate_limited; hop=inbound");
        while !second.is_closed() {
            tokio::task::yield_now().await;
        }
        let mut opaque = sidecar.dial(NEIGHBOUR, TCP, ALPN_TCP).await;
        assert_eq!(opaque.read(&mut [0; 1]).await.unwrap_or(0), 0);
        drop(first);
        // The place is free as soon as the sidecar has seen the end.
        loop {
            let answer = sidecar.get(NEIGHBOUR, HTTP, request("/")).await;
            if answer.status == 200 {
                break;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn bytes_pass_at_their_rate() {
    locally(async || {
        let sidecar = Sidecar::beside(raw_app(echo).await).await;
        let per = Duration::from_secs(1);
        let count = 20_000;
        sidecar.limit(&[limit(LimitAmount::Bytes { count, per }, LimitPer::Service)]);
        let begun = std::time::Instant::now();
        let mut stream = sidecar.dial(NEIGHBOUR, TCP, ALPN_TCP).await;
        stream.write_all(&[7; 20_000]).await.unwrap();
        let mut back = vec![0; 20_000];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, vec![7; 20_000]);
        // 40 kB in sum, of which 20 kB may come at once.
        assert!(
            begun.elapsed() >= Duration::from_millis(990),
            "{:?}",
            begun.elapsed()
        );
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn bodies_pass_at_their_rate_and_other_requests_do_not_wait() {
    locally(async || {
        let (app, _) = seeing_app().await;
        let sidecar = Sidecar::beside(app).await;
        let per = Duration::from_secs(1);
        let count = 20_000;
        sidecar.limit(&[limit(LimitAmount::Bytes { count, per }, LimitPer::Service)]);
        let mut sender = sidecar.http2(NEIGHBOUR, GRPC).await;
        let begun = std::time::Instant::now();
        let body = Full::<Bytes>::from(vec![b'x'; 20_000]);
        let large = Request::post("http://orders.shop.global/").body(body);
        let large = sender.clone().send_request(large.unwrap());
        let small = Request::get("http://orders.shop.global/").body(Full::<Bytes>::default());
        let (large, small) = tokio::join!(large, sender.send_request(small.unwrap()));
        assert_eq!(small.unwrap().status(), 200);
        let echoed = Answer::of(large.unwrap()).await;
        assert_eq!(echoed.text.len(), 20_000);
        // 40 kB in sum, of which 20 kB may come at once.
        assert!(
            begun.elapsed() >= Duration::from_millis(990),
            "{:?}",
            begun.elapsed()
        );
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn who_is_alone_from_the_beginning_does_as_written() {
    locally(async || {
        let (app, _) = seeing_app().await;
        let sidecar = Sidecar::beside(app).await;
        for (alone, status) in [
            (Alone::Open, 200),
            (Alone::Closed, 429),
            (Alone::LastShare, 429),
        ] {
            let mut shared = limit(requests(5), LimitPer::Service);
            shared.counted = Counted::Cluster { alone };
            sidecar.limit(&[shared]);
            let answer = sidecar.get(NEIGHBOUR, HTTP, request("/")).await;
            assert_eq!(answer.status, status, "{alone:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn drills_answer_in_the_app_s_place_and_say_so() {
    locally(async || {
        let (app, connections) = seeing_app().await;
        let sidecar = Sidecar::beside(app).await;
        sidecar.drill(abort(AbortWith::HttpStatus(503)));
        let answer = sidecar.get(NEIGHBOUR, HTTP, request("/")).await;
        assert_eq!(answer.status, 503);
        assert_eq!(answer.headers["x-portolan-fault"], "shop/drill/abort");
        assert!(
            !answer.headers.contains_key(ERROR_HEADER),
            "it is as if the app said so"
        );
        sidecar.drill(abort(AbortWith::GrpcStatus(14)));
        let grpc = sidecar.get(NEIGHBOUR, HTTP, grpc_request()).await;
        assert_eq!(grpc.headers["grpc-status"], "14");
        let plain = sidecar.get(NEIGHBOUR, HTTP, request("/")).await;
        assert_eq!(plain.status, 503);
        sidecar.drill(abort(AbortWith::Reset));
        let mut sender = sidecar.http2(NEIGHBOUR, HTTP).await;
        assert!(sender.send_request(request("/")).await.is_err());
        assert_eq!(connections.get(), 0, "the app saw nothing");
        let delayed = Fault {
            delay: Some(FaultDelay {
                fixed: Duration::from_millis(50),
                share_milli_percent: 100_000,
            }),
            abort: None,
            ..abort(AbortWith::Reset)
        };
        sidecar.drill(delayed.clone());
        let begun = std::time::Instant::now();
        let answer = sidecar.get(NEIGHBOUR, HTTP, request("/")).await;
        assert!(begun.elapsed() >= Duration::from_millis(50));
        assert_eq!(answer.headers["x-portolan-fault"], "shop/drill/abort");
        sidecar.drill(Fault {
            ends_ms: 1,
            ..delayed
        });
        let answer = sidecar.get(NEIGHBOUR, HTTP, request("/")).await;
        assert!(
            !answer.headers.contains_key("x-portolan-fault"),
            "the drill is over"
        );
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn drills_reach_connections_as_well() {
    locally(async || {
        let greeted = Rc::new(Cell::new(0));
        let counted = Rc::clone(&greeted);
        let app = raw_app(move |mut stream: TcpStream| {
            counted.set(counted.get() + 1);
            async move {
                let _ = stream.write_all(b"hello").await;
            }
        });
        let sidecar = Sidecar::beside(app.await).await;
        let drill = |fault: Fault| {
            sidecar.obey(InboundRules {
                faults: vec![(TCP, fault)],
                ..InboundRules::default()
            });
        };
        let hear = async |caller: &str| {
            let mut stream = sidecar.dial(caller, TCP, ALPN_TCP).await;
            let mut heard = Vec::new();
            let read = stream.read_to_end(&mut heard).await;
            read.map(|_| heard).map_err(|error| error.kind())
        };
        let mut of_peers = abort(AbortWith::Reset);
        of_peers.callers.clusters = vec!["eu-west".parse().unwrap()];
        drill(of_peers);
        let reset = Err(std::io::ErrorKind::ConnectionReset);
        assert_eq!(hear(PEER).await, reset);
        assert_eq!(greeted.get(), 0, "the app saw nothing");
        assert_eq!(hear(NEIGHBOUR).await, Ok(b"hello".to_vec()));
        // Nobody could read an answer: it is for requests alone.
        drill(abort(AbortWith::HttpStatus(503)));
        assert_eq!(hear(PEER).await, Ok(b"hello".to_vec()));
        let fixed = Duration::from_millis(50);
        drill(Fault {
            delay: Some(FaultDelay {
                fixed,
                share_milli_percent: 100_000,
            }),
            abort: None,
            ..abort(AbortWith::Reset)
        });
        let begun = std::time::Instant::now();
        assert_eq!(hear(PEER).await, Ok(b"hello".to_vec()));
        assert!(begun.elapsed() >= fixed);
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn shared_connections_and_bytes_do_as_written_without_a_control_plane() {
    locally(async || {
        let sidecar = Sidecar::beside(raw_app(echo).await).await;
        let per = Duration::from_secs(1);
        let shared = |amount, alone| {
            let mut shared = limit(amount, LimitPer::Service);
            shared.counted = Counted::Cluster { alone };
            shared
        };
        for (alone, passes) in [
            (Alone::Open, true),
            (Alone::Closed, false),
            (Alone::LastShare, false),
        ] {
            sidecar.limit(&[shared(LimitAmount::Connections(3), alone)]);
            let mut stream = sidecar.dial(NEIGHBOUR, TCP, ALPN_TCP).await;
            let said = stream.write_all(b"word").await;
            let heard = stream.read_exact(&mut [0; 4]).await;
            assert_eq!(said.is_ok() && heard.is_ok(), passes, "{alone:?}");

            let count = 1 << 20;
            sidecar.limit(&[shared(LimitAmount::Bytes { count, per }, alone)]);
            let mut stream = sidecar.dial(NEIGHBOUR, TCP, ALPN_TCP).await;
            stream.write_all(b"word").await.unwrap();
            let mut word = [0; 4];
            let heard = timeout(Duration::from_millis(300), stream.read_exact(&mut word)).await;
            assert_eq!(heard.is_ok(), passes, "{alone:?}");
        }
    })
    .await;
}
