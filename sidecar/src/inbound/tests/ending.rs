//! What ends while calls are under way.

use super::*;

#[tokio::test(flavor = "local")]
async fn what_is_under_way_at_the_shutdown_finishes() {
    locally(async || {
        let (release, held) = watch::channel(false);
        let (arrive, mut arrived) = watch::channel(false);
        let app = raw_app(move |mut stream: TcpStream| {
            let (mut held, arrive) = (held.clone(), arrive.clone());
            async move {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await.unwrap();
                arrive.send(true).unwrap();
                held.wait_for(|released| *released).await.unwrap();
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                stream.write_all(answer).await.unwrap();
            }
        });
        let sidecar = Sidecar::beside(app.await).await;
        let mut sender = sidecar.http2(NEIGHBOUR, HTTP).await;
        let under_way = spawn_local(sender.send_request(request("/")));
        arrived.wait_for(|arrived| *arrived).await.unwrap();
        sidecar.shutdown.trigger();
        release.send(true).unwrap();
        let answer = Answer::of(under_way.await.unwrap().unwrap()).await;
        assert_eq!(answer.text, "ok");
        drop(sender);
        sidecar.serving.await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn a_gateway_that_leaves_takes_its_callers_along_and_loses_no_request() {
    locally(async || {
        let (app, _) = seeing_app().await;
        let sidecar = Sidecar::beside(app).await;
        let with = |gateways: &[&str]| {
            let mut snapshot = fixtures::snapshot(sidecar.app_port);
            let mut mesh = (**snapshot.mesh.as_ref().unwrap()).clone();
            let gateway = |tcp: &&str| Gateway {
                name: (*tcp).to_owned(),
                tcp: tcp.parse().unwrap(),
                quic: tcp.parse().unwrap(),
            };
            mesh.gateways = gateways.iter().map(gateway).collect();
            snapshot.mesh = Some(Arc::new(mesh));
            snapshot
        };
        let (leaving, other) = ("127.0.0.1:15443", "192.0.2.1:15443");
        sidecar.publish(with(&[leaving, other]));
        let mut sender = sidecar.http2::<Empty<Bytes>>(PEER, HTTP).await;
        let answer = Answer::of(sender.send_request(request("/")).await.unwrap()).await;
        assert_eq!(answer.status, 200);
        sidecar.publish(with(&[leaving]));
        let answer = Answer::of(sender.send_request(request("/")).await.unwrap()).await;
        assert_eq!(answer.status, 200, "somebody else left");
        let under_way = sender.send_request(request("/"));
        sidecar.publish(with(&[other]));
        let answer = Answer::of(under_way.await.unwrap()).await;
        assert_eq!(answer.status, 200);
        while !sender.is_closed() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
