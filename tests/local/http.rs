//! HTTP as bytes, through the whole mesh: an app's sidecar, two gateways, another cluster's sidecar.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::demo::{Demo, PATIENCE};

/// What is answered to these bytes until `until` was said or the proxy closes.
fn say(proxy: SocketAddr, bytes: &[u8], until: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(proxy).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let (mut heard, mut part) = (Vec::new(), [0; 4096]);
    while until.is_empty() || !heard.ends_with(until) {
        match stream.read(&mut part).unwrap() {
            0 => break,
            count => heard.extend_from_slice(&part[..count]),
        }
    }
    heard
}

#[test]
fn web_sockets_reach_another_cluster_and_what_means_two_things_reaches_nobody() {
    let demo = Demo::start();
    let proxy = demo.frontend();
    // RFC 6455's example key, and its example of a masked `Hello`.
    let ask = b"GET /chat HTTP/1.1\r\nhost: payments.shop.global\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\
        \x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    let heard = say(proxy, ask, b"\x81\x05Hello");
    let text = String::from_utf8_lossy(&heard);
    assert!(text.starts_with("HTTP/1.1 101"), "{text}");
    assert!(text.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{text}");

    let both = "POST / HTTP/1.1\r\nhost: payments.shop.global\r\ncontent-length: 5\r\n\
        transfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: payments.shop.global\r\n\r\n";
    let heard = say(proxy, both.as_bytes(), b"");
    let text = String::from_utf8_lossy(&heard);
    assert!(text.starts_with("HTTP/1.1 400"), "{text}");
    assert!(
        text.contains("x-portolan-error: bad_request; hop=outbound"),
        "{text}"
    );
    assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{text}");

    let spelled = "GET /public/%2e%2e/%61dmin HTTP/1.1\r\nhost: payments.shop.global\r\nconnection: close\r\n\r\n";
    let heard = say(proxy, spelled.as_bytes(), b"");
    let text = String::from_utf8_lossy(&heard);
    assert!(text.contains("\"path\":\"/admin\""), "{text}");
    assert!(text.contains("x-forwarded-for"), "{text}");

    let itself = format!("GET / HTTP/1.1\r\nhost: {proxy}\r\nconnection: close\r\n\r\n");
    let heard = say(proxy, itself.as_bytes(), b"");
    let text = String::from_utf8_lossy(&heard);
    assert!(
        text.starts_with("HTTP/1.1 400") && text.contains("use it as a proxy"),
        "{text}"
    );
}
