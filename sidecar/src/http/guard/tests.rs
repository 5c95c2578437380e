use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::LocalOptions;
use tokio::task::spawn_local;

use super::*;
use crate::http::http1_server;

/// Method, path and body of each request that hyper found.
type Seen = Rc<RefCell<Vec<(String, String, Vec<u8>)>>>;

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build_local(LocalOptions::default())
        .unwrap();
    runtime.block_on(test)
}

/// A server behind the guard, and its client's end.
fn served(space: usize) -> (DuplexStream, Seen) {
    served_with(space, WAITS)
}

fn served_with(space: usize, waits: Waits) -> (DuplexStream, Seen) {
    let (near, far) = tokio::io::duplex(space);
    let seen = Seen::default();
    let recorded = Rc::clone(&seen);
    let bounds = Bounds::default();
    let (stream, switch) = guard_with(far, bounds, waits);
    let service = service_fn(move |request: Request<Incoming>| {
        let (recorded, switch) = (Rc::clone(&recorded), switch.clone());
        async move {
            let status = match Fault::of(&request, &bounds) {
                Some(fault) => fault.status(),
                None if request.uri().path() == "/switch" => StatusCode::SWITCHING_PROTOCOLS,
                None => StatusCode::OK,
            };
            if may_switch(&request) {
                switch.answered(status, request.method() == Method::CONNECT);
            }
            let mut request = request;
            if status == StatusCode::SWITCHING_PROTOCOLS {
                let upgraded = hyper::upgrade::on(&mut request);
                spawn_local(async move {
                    let mut stream = TokioIo::new(upgraded.await.unwrap());
                    let mut heard = Vec::new();
                    stream.read_to_end(&mut heard).await.unwrap();
                    stream.write_all(&heard).await.unwrap();
                });
            }
            let (head, body) = request.into_parts();
            if let Ok(body) = body.collect().await
                && status == StatusCode::OK
            {
                let (method, path) = (head.method.to_string(), head.uri.to_string());
                let entry = (method, path, body.to_bytes().to_vec());
                recorded.borrow_mut().push(entry);
            }
            let mut response = Response::new(Full::new(Bytes::from("ok")));
            *response.status_mut() = status;
            Ok::<_, Infallible>(response)
        }
    });
    let serving = http1_server(&bounds)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    spawn_local(async move {
        let _ = serving.await;
    });
    (near, seen)
}

/// Everything that is answered to `pieces` until the server closes.
async fn say(stream: &mut DuplexStream, pieces: impl IntoIterator<Item = &[u8]>) -> String {
    let mut heard = Vec::new();
    for piece in pieces {
        if stream.write_all(piece).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let _ = stream.read_to_end(&mut heard).await;
    String::from_utf8(heard).unwrap()
}

/// Heads, without the line that ends them, and how they are answered.
const REFUSED: &[(&str, u16)] = &[
    (
        "POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 3\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 4\r\n",
        400,
    ),
    ("POST / HTTP/1.1\r\ncontent-length: 3, 3\r\n", 400),
    ("POST / HTTP/1.1\r\ncontent-length: +3\r\n", 400),
    ("POST / HTTP/1.1\r\ncontent-length: 0x3\r\n", 400),
    ("POST / HTTP/1.1\r\ncontent-length:\r\n", 400),
    (
        "POST / HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked, identity\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n",
        501,
    ),
    ("POST / HTTP/1.1\r\ntransfer-encoding: xchunked\r\n", 400),
    ("POST / HTTP/1.1\r\ntransfer-encoding: \"chunked\"\r\n", 400),
    (
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        400,
    ),
    ("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n", 400),
    ("POST / HTTP/1.1\r\ncontent-length : 3\r\n", 400),
    ("POST / HTTP/1.1\r\ncontent-length\t: 3\r\n", 400),
    ("POST / HTTP/1.1\r\n content-length: 3\r\n", 400),
    ("POST / HTTP/1.1\r\nx: y\r\n z\r\n", 400),
    ("POST / HTTP/1.1\r\nx: y\r\n\tz\r\n", 400),
    ("POST / HTTP/1.1\nx: y\r\n", 400),
    ("POST / HTTP/1.1\r\nx: y\n", 400),
    ("POST / HTTP/1.1\r\nx: y\rcontent-length: 3\r\n", 400),
    ("POST / HTTP/1.1\r\nx: y\0\r\n", 400),
    ("POST / HTTP/1.1\r\nx\0: y\r\n", 400),
    ("POST / HTTP/1.1\r\nno colon\r\n", 400),
    ("POST / HTTP/1.1\r\n: no name\r\n", 400),
    ("POST  / HTTP/1.1\r\n", 400),
    ("POST / HTTP/1.1 \r\n", 400),
    ("POST\t/ HTTP/1.1\r\n", 400),
    ("POST /\rHTTP/1.1\r\n", 400),
    ("POST / http/1.1\r\n", 400),
    ("POST /\r\n", 400),
    ("CONNECT a:1 HTTP/1.1\r\ncontent-length: 3\r\n", 400),
    ("POST / HTTP/1.2\r\n", 505),
    ("PRI * HTTP/2.0\r\n", 505),
];

#[test]
fn heads_that_mean_two_things_are_refused() {
    for (head, status) in REFUSED {
        run(async {
            let (mut stream, seen) = served(64 * 1024);
            let smuggled = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
            let bytes = format!("GET /first HTTP/1.1\r\nhost: a\r\n\r\n{head}\r\n{smuggled}");
            let heard = say(&mut stream, [bytes.as_bytes()]).await;
            let second = heard.match_indices("HTTP/1.1 ").nth(1).unwrap().0;
            assert!(
                heard[second + 9..].starts_with(&status.to_string()),
                "{head:?}: {heard}"
            );
            assert!(heard[second..].contains("connection: close"), "{heard}");
            assert_eq!(heard.matches("HTTP/1.1 ").count(), 2, "{head:?}: {heard}");
            assert_eq!(seen.borrow().len(), 1, "{head:?}");
        });
    }
}

#[test]
fn large_heads_and_long_lines_are_refused_before_they_are_whole() {
    let line = format!("GET /{} HTTP/1.1\r\n", "x".repeat(20_000));
    let one = format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(70_000));
    let many = format!("GET / HTTP/1.1\r\n{}", "x: y\r\n".repeat(129));
    for (bytes, status) in [
        (&line[..17_000], "414"),
        (&line, "414"),
        (&one, "431"),
        (&many, "431"),
    ] {
        run(async {
            let (mut stream, _) = served(128 * 1024);
            let heard = say(&mut stream, bytes.as_bytes().chunks(1_000)).await;
            assert!(heard.starts_with(&format!("HTTP/1.1 {status}")), "{heard}");
        });
    }
}

#[test]
fn what_is_no_http_is_answered_at_once() {
    run(async {
        let (mut stream, _) = served(1024);
        let heard = say(&mut stream, [&b"\x16\x03\x01\x02\x00"[..]]).await;
        assert!(heard.starts_with("HTTP/1.1 400"), "{heard}");
    });
}

#[test]
fn a_line_is_refused_for_one_reason_in_whatever_pieces_it_arrives() {
    for line in ["\rabc\n", "GET\r/ HTTP/1.1\n"] {
        let (_, whole) = Messages::new(Bounds::default()).read(line.as_bytes());
        let mut pieces = Messages::new(Bounds::default());
        let refused = (1..=line.len())
            .map(|end| pieces.read(&line.as_bytes()[..end]).1)
            .find(|stop| matches!(stop, Stop::Refused(_)));
        assert_eq!(refused, Some(whole), "{line:?}");
    }
}

#[test]
fn a_head_that_stops_arriving_is_refused_and_an_idle_connection_is_not() {
    run(async {
        let none = Waits {
            head: Duration::ZERO,
            ..WAITS
        };
        let (mut stream, seen) = served_with(1024, none);
        for expected in 1..4 {
            for _ in 0..9 {
                tokio::task::yield_now().await;
            }
            let whole = b"\r\nGET / HTTP/1.1\r\nx: y\r\n\r\n";
            stream.write_all(whole).await.unwrap();
            while seen.borrow().len() < expected {
                tokio::task::yield_now().await;
            }
        }
        let heard = say(&mut stream, [&b"GET / HTTP/1.1\r\nx: "[..]]).await;
        assert_eq!(heard.matches("HTTP/1.1 200").count(), 3, "{heard}");
        assert_eq!(heard.matches("HTTP/1.1 408").count(), 1, "{heard}");
    });
}

#[test]
fn a_malformed_chunk_ends_the_request_and_the_connection() {
    run(async {
        let (mut stream, seen) = served(1024);
        let head = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        let body = b"1\r\na\r\n0x1\r\nb\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n";
        let _ = say(&mut stream, [&head[..], &body[..]]).await;
        assert!(seen.borrow().is_empty());
    });
}

#[test]
fn another_protocol_passes_unread_and_a_refused_one_is_http_again() {
    run(async {
        let (mut stream, _) = served(1024);
        let ask = b"GET /switch HTTP/1.1\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nnot\nhttp";
        stream.write_all(ask).await.unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut heard).await.unwrap();
        }
        stream.shutdown().await.unwrap();
        stream.read_to_end(&mut heard).await.unwrap();
        let heard = String::from_utf8(heard).unwrap();
        assert!(
            heard.starts_with("HTTP/1.1 101") && heard.ends_with("not\nhttp"),
            "{heard}"
        );
    });
    run(async {
        let (mut stream, seen) = served(1024);
        let ask = b"POST /stay HTTP/1.1\r\nupgrade: x\r\ncontent-length: 2\r\n\r\nhi";
        let bad = b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n";
        let bytes = [&ask[..], &ask[..], &bad[..]].concat();
        let heard = say(&mut stream, bytes.chunks(bytes.len())).await;
        assert_eq!(seen.borrow().len(), 2);
        assert_eq!(heard.matches("HTTP/1.1 200").count(), 2, "{heard}");
        assert_eq!(heard.matches("HTTP/1.1 400").count(), 1, "{heard}");
    });
}

#[test]
fn a_client_that_reads_nothing_is_given_up() {
    run(async {
        let (near, far) = tokio::io::duplex(16);
        let soon = Waits {
            write: Duration::from_millis(10),
            ..WAITS
        };
        let (mut stream, _) = guard_with(far, Bounds::default(), soon);
        let error = stream.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(near);
    });
}

/// One request of a pipeline: how its body is framed, and what hyper must find.
#[derive(Debug, Clone)]
struct Sent {
    bytes: Vec<u8>,
    expected: (String, String, Vec<u8>),
}

fn sent() -> impl Strategy<Value = Sent> {
    let body = prop::collection::vec(
        prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), any::<u8>()],
        0..60,
    );
    let framing = prop_oneof![
        Just("none"),
        Just("length"),
        Just("chunked"),
        Just("trailers")
    ];
    let extra = prop_oneof![
        Just(""),
        Just("x: y\r\n"),
        Just("upgrade: h2c\r\n"),
        Just("X-Long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nEmpty:\r\n"),
    ];
    (body, framing, extra, 1_usize..20, prop::bool::ANY).prop_map(
        |(body, framing, extra, step, blank)| {
            let blank = if blank { "\r\n" } else { "" };
            let mut bytes =
                format!("{blank}POST /{} HTTP/1.1\r\nhost: a\r\n{extra}", body.len()).into_bytes();
            let body = if framing == "none" { Vec::new() } else { body };
            match framing {
                "none" => bytes.extend_from_slice(b"\r\n"),
                "length" => {
                    bytes.extend_from_slice(
                        format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes(),
                    );
                    bytes.extend_from_slice(&body);
                }
                _ => {
                    bytes.extend_from_slice(b"transfer-encoding: Chunked\r\n\r\n");
                    for chunk in body.chunks(step) {
                        bytes.extend_from_slice(format!("{:x} ;a=b\r\n", chunk.len()).as_bytes());
                        bytes.extend_from_slice(chunk);
                        bytes.extend_from_slice(b"\r\n");
                    }
                    let end: &[u8] = if framing == "trailers" {
                        b"0\r\nsum: 1\r\n\r\n"
                    } else {
                        b"0\r\n\r\n"
                    };
                    bytes.extend_from_slice(end);
                }
            }
            let path = String::from_utf8_lossy(&bytes)
                .split(' ')
                .nth(1)
                .unwrap()
                .to_owned();
            let expected = ("POST".to_owned(), path, body);
            Sent { bytes, expected }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// However a pipeline is cut into pieces: hyper finds the requests that were sent, so the guard
    /// and hyper agree where each ends; and what comes after a refused head is not found.
    #[test]
    fn hyper_finds_what_was_sent(
        requests in prop::collection::vec(sent(), 0..6),
        piece in 1_usize..200,
        refused in prop::bool::ANY,
    ) {
        let mut bytes: Vec<u8> = requests.iter().flat_map(|it| it.bytes.clone()).collect();
        let last: &[u8] = if refused {
            b"POST /bad HTTP/1.1\r\ncontent-length: 5\r\nTRANSFER-ENCODING: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"
        } else {
            b"GET /last HTTP/1.1\r\nconnection: close\r\n\r\n"
        };
        bytes.extend_from_slice(last);
        let (found, heard) = run(async {
            let (mut stream, seen) = served(64 * 1024);
            let heard = say(&mut stream, bytes.chunks(piece)).await;
            let found = seen.borrow().clone();
            (found, heard)
        });
        let mut expected: Vec<_> = requests.iter().map(|it| it.expected.clone()).collect();
        if refused {
            prop_assert!(heard.contains("HTTP/1.1 400"), "{}", heard);
        } else {
            expected.push(("GET".to_owned(), "/last".to_owned(), Vec::new()));
        }
        prop_assert_eq!(found, expected);
        prop_assert_eq!(heard.matches("HTTP/1.1 ").count(), requests.len() + 1);
    }

    /// Whatever arrives, in whatever pieces: the same bytes pass.
    #[test]
    fn pieces_make_no_difference(
        words in prop::collection::vec(0_usize..14, 0..24),
        piece in 1_usize..9,
    ) {
        const WORDS: [&str; 14] = [
            "GET / HTTP/1.1\r\n", "POST / HTTP/1.0\r\n", "content-length: 3\r\n", "transfer-encoding: chunked\r\n",
            "\r\n", "\r\n", "abc", "1\r\na\r\n", "0\r\n", "x: y\r\n", "\n", "\r", " ", "upgrade: x\r\n",
        ];
        let bytes: String = words.iter().map(|at| WORDS[*at]).collect();
        let (whole, stop) = Messages::new(Bounds::default()).read(bytes.as_bytes());
        let mut messages = Messages::new(Bounds::default());
        let (mut passed, mut held, mut ended) = (0, Vec::new(), Stop::Nothing);
        for piece in bytes.as_bytes().chunks(piece) {
            held.extend_from_slice(piece);
            let (count, stop) = messages.read(&held);
            passed += count;
            held.drain(..count);
            ended = stop;
            if matches!(ended, Stop::Refused(_) | Stop::Malformed) {
                break;
            }
        }
        prop_assert_eq!(&ended, &stop);
        // Data of a chunk that turns out to be malformed may have passed.
        if !matches!(ended, Stop::Malformed) {
            prop_assert_eq!(passed, whole);
        }
    }
}
