//! Requests on their way to the app, and what the app makes of them.

use super::*;

#[tokio::test(flavor = "local")]
async fn the_app_learns_who_called_and_not_what_callers_claim() {
    locally(async || {
        let (app, _) = seeing_app().await;
        let sidecar = Sidecar::beside(app).await;
        let mut lying = request("/who");
        lying.headers_mut().insert(
            "x-forwarded-client-cert",
            "URI=spiffe://me".parse().unwrap(),
        );
        let answer = sidecar.get(PEER, HTTP, lying).await;
        assert_eq!(answer.status, 200);
        let expected = format!("HTTP/1.1 orders.shop.global /who By={OWN};Hash=");
        assert!(answer.text.starts_with(&expected), "{}", answer.text);
        let tail = format!(";Subject=\"\";URI={PEER}");
        assert!(answer.text.ends_with(&tail), "{}", answer.text);
        assert!(!answer.headers.contains_key(ERROR_HEADER), "the app lied");
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn grpc_is_spoken_to_apps_that_need_it() {
    locally(async || {
        let (app, _) = seeing_app().await;
        let sidecar = Sidecar::beside(app).await;
        let by_port = sidecar.get(NEIGHBOUR, GRPC, request("/x")).await;
        let expected = "HTTP/2.0 orders.shop.global /x By=";
        assert!(by_port.text.starts_with(expected), "{}", by_port.text);
        let mut grpc = request("/x");
        let kind = "application/grpc+proto".parse().unwrap();
        grpc.headers_mut().insert("content-type", kind);
        let by_type = sidecar.get(NEIGHBOUR, HTTP, grpc).await;
        assert!(by_type.text.starts_with("HTTP/2.0"), "{}", by_type.text);
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn bodies_stream_both_ways_and_trailers_follow() {
    locally(async || {
        let (app, _) = seeing_app().await;
        let sidecar = Sidecar::beside(app).await;
        let mut sender = sidecar.http2(NEIGHBOUR, GRPC).await;
        let (frames, body) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, hyper::Error>>(1);
        let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(body));
        let request = Request::post("http://orders.shop.global/").body(body);
        let response = sender.send_request(request.unwrap()).await.unwrap();
        let mut echoed = response.into_body();
        for word in ["one", "two"] {
            frames.send(Ok(Frame::data(word.into()))).await.unwrap();
            let frame = echoed.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), word, "before the end was sent");
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        frames.send(Ok(Frame::trailers(trailers))).await.unwrap();
        drop(frames);
        let end = echoed.frame().await.unwrap().unwrap();
        assert_eq!(end.into_trailers().unwrap()["grpc-status"], "0");
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn connections_to_the_app_are_kept() {
    locally(async || {
        let (app, connections) = seeing_app().await;
        let sidecar = Sidecar::beside(app).await;
        let mut sender = sidecar.http2(NEIGHBOUR, HTTP).await;
        for _ in 0..5 {
            let response = sender.send_request(request("/")).await.unwrap();
            assert_eq!(Answer::of(response).await.status, 200);
        }
        assert_eq!(connections.get(), 1);
    })
    .await;
}

/// Answers one request on each connection, and ends the connection when the second one arrives.
async fn answer_once(mut stream: TcpStream) {
    let mut head = [0; 4096];
    let _ = stream.read(&mut head).await.unwrap();
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    stream.write_all(answer).await.unwrap();
    let _ = stream.read(&mut head).await;
}

/// The same in HTTP/2.
async fn answer_once_in_http2(stream: TcpStream) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let (_, mut answer) = connection.accept().await.unwrap().unwrap();
    let mut body = answer.send_response(Response::new(()), false).unwrap();
    body.send_data(Bytes::from_static(b"ok"), true).unwrap();
    let _ = connection.accept().await;
}

/// Calls an app that ends each connection with its second request.
async fn call_who_answers_once(app: u16, port: u16) {
    let sidecar = Sidecar::beside(app).await;
    let mut sender = sidecar.http2(NEIGHBOUR, port).await;
    for _ in 0..20 {
        let response = sender.send_request(request("/")).await.unwrap();
        let answer = Answer::of(response).await;
        let seen = (answer.status, answer.text.as_str());
        assert_eq!(seen, (StatusCode::OK, "ok"));
    }
    let (mut parts, body) = request("/").into_parts();
    parts.method = Method::POST;
    let once = Request::from_parts(parts, body);
    let response = sender.send_request(once).await.unwrap();
    let answer = Answer::of(response).await;
    assert_eq!(
        answer.error(),
        "reset; hop=inbound",
        "it may have been processed"
    );
}

#[tokio::test(flavor = "local")]
async fn a_kept_connection_that_the_app_ends_loses_no_request_that_may_be_repeated() {
    locally(async || {
        call_who_answers_once(raw_app(answer_once).await, HTTP).await;
        call_who_answers_once(raw_app(answer_once_in_http2).await, GRPC).await;
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn an_app_that_is_down_is_told_apart_from_one_that_fails() {
    locally(async || {
        let down = Sidecar::beside(closed_port()).await;
        let answer = down.get(NEIGHBOUR, HTTP, request("/")).await;
        assert_eq!(answer.status, 503);
        assert_eq!(answer.error(), "connect_failed; hop=inbound");

        let mut grpc = request("/");
        let kind = "application/grpc".parse().unwrap();
        grpc.headers_mut().insert("content-type", kind);
        let answer = down.get(NEIGHBOUR, GRPC, grpc).await;
        assert_eq!(
            (answer.status, &answer.headers["grpc-status"]),
            (StatusCode::OK, &"14".parse().unwrap())
        );
        assert_eq!(answer.error(), "connect_failed; hop=inbound");
        assert!(answer.trailers.is_none() && answer.text.is_empty());

        let app = raw_app(async |mut stream: TcpStream| {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
        });
        let failing = Sidecar::beside(app.await).await;
        let answer = failing.get(NEIGHBOUR, HTTP, request("/")).await;
        assert_eq!(answer.status, 502);
        assert_eq!(answer.error(), "reset; hop=inbound");
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn a_head_that_is_too_large_is_refused() {
    locally(async || {
        let (app, _) = seeing_app().await;
        let sidecar = Sidecar::beside(app).await;
        let mut large = request("/");
        let filler = "x"
            .repeat(HttpRules::default().bounds.bytes_max)
            .parse()
            .unwrap();
        large.headers_mut().insert("x-filler", filler);
        let mut sender = sidecar.http2(NEIGHBOUR, HTTP).await;
        match sender.send_request(large).await {
            Ok(response) => assert_eq!(response.status(), 431),
            Err(error) => assert!(!error.is_timeout(), "{error}"),
        }
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn who_can_go_elsewhere_does_not_wait_for_an_app_that_is_stuck() {
    locally(async || {
        let app = TcpListener::bind(ANY).await.unwrap();
        let port = app.local_addr().unwrap().port();
        let sidecar = Sidecar::beside(port).await;
        let ask = async |alternative: Option<&'static str>| {
            let mut request = request("/");
            if let Some(alternative) = alternative {
                let value = alternative.parse().unwrap();
                request
                    .headers_mut()
                    .insert("x-portolan-alternative", value);
            }
            sidecar.get(NEIGHBOUR, HTTP, request).await
        };
        let patient = ask(None);
        let other = async {
            let answer = ask(Some("any")).await;
            assert_eq!(
                (answer.status.as_u16(), answer.error()),
                (503, "not_ready; hop=inbound")
            );
            let unsent = ask(Some("unsent")).await;
            assert_eq!(unsent.error(), "not_ready; hop=inbound");
            // The app goes on.
            spawn_local(async move {
                loop {
                    let (stream, _) = app.accept().await.unwrap();
                    spawn_local(answer_once(stream));
                }
            });
        };
        let (answer, ()) = tokio::join!(patient, other);
        assert_eq!(answer.status, 200, "who has nowhere else to go waits");
        assert_eq!(ask(Some("unsent")).await.status, 200);
    })
    .await;
}
