//! Who called is known at the far end, whatever lies between.

use http_body_util::Full;

use super::call::{call, get_now, request, runtime};
use super::demo::Demo;

#[test]
fn the_caller_s_identity_survives_two_gateways_and_cannot_be_forged() {
    let demo = Demo::start();
    let answer = get_now(
        demo.frontend(),
        "http://payments.shop.svc.clusterset.local/pay",
    )
    .unwrap();
    assert_eq!((answer.status, answer.cluster().as_str()), (200, "eu-west"));
    let seen = answer.json()["headers"]["x-forwarded-client-cert"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        seen.contains("URI=spiffe://us-east.demo/ns/shop/sa/frontend"),
        "{seen}"
    );
    assert!(
        seen.contains("By=spiffe://eu-west.demo/ns/shop/sa/payments"),
        "{seen}"
    );

    let mut forged =
        request("GET", "http://payments.shop.svc.clusterset.local/pay").map(|_| Full::default());
    forged.headers_mut().insert(
        "x-forwarded-client-cert",
        "URI=spiffe://us-east.demo/ns/shop/sa/admin"
            .parse()
            .unwrap(),
    );
    let answer = runtime().block_on(call(demo.frontend(), forged)).unwrap();
    let seen = answer.json()["headers"]["x-forwarded-client-cert"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        !seen.contains("sa/admin") && seen.contains("sa/frontend"),
        "{seen}"
    );
}

#[test]
fn tcp_reaches_the_other_cluster_by_connect() {
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
    let demo = Demo::start();
    let line = runtime().block_on(async {
        let mut stream = tokio::net::TcpStream::connect(demo.frontend()).await.unwrap();
        stream.write_all(b"CONNECT ledger.shop.global:7000 HTTP/1.1\r\nhost: ledger.shop.global:7000\r\n\r\n").await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
        stream.write_all(b"hello ledger\n").await.unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await.unwrap();
        line
    });
    let answer: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (answer["cluster"].as_str(), answer["line"].as_str()),
        (Some("eu-west"), Some("hello ledger"))
    );
}
