use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use h2::RecvStream;
use h2::server::{Connection as Server, SendResponse};
use http::HeaderMap;
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::*;
use crate::http::fixtures::run;

type Served = Server<DuplexStream, Bytes>;
type Asked = (Request<RecvStream>, SendResponse<Bytes>);
type Part = Result<Frame<Bytes>, std::io::Error>;
type Streamed = StreamBody<UnboundedReceiverStream<Part>>;

/// More than anything in memory takes.
const PAUSE: Duration = Duration::from_millis(50);
/// More than the other side's window.
const LARGE: usize = 100_000;

async fn connected() -> (Requests, Served) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (client, server) = tokio::join!(handshake(near, Reach::Near), h2::server::handshake(far));
    let (requests, connection) = client.unwrap();
    spawn_local(connection);
    (requests, server.unwrap())
}

/// The next request; the connection goes on in the background.
async fn asked(mut server: Served) -> Asked {
    let asked = server.accept().await.unwrap().unwrap();
    spawn_local(served(server));
    asked
}

async fn served(mut server: Served) {
    while let Some(Ok(_)) = server.accept().await {}
}

fn request<B>(method: Method, body: B) -> Request<B> {
    let request = Request::builder().method(method).uri("http://a/");
    request.body(body).unwrap()
}

fn get() -> Request<Empty<Bytes>> {
    request(Method::GET, Empty::new())
}

/// A body that is given in parts.
fn streamed() -> (mpsc::UnboundedSender<Part>, Streamed) {
    let (parts, body) = mpsc::unbounded_channel();
    (parts, StreamBody::new(UnboundedReceiverStream::new(body)))
}

async fn received(body: &mut RecvStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    all
}

async fn reset(stream: &mut SendResponse<Bytes>) -> Reason {
    poll_fn(|cx| stream.poll_reset(cx)).await.unwrap()
}

#[test]
fn answers_come_with_their_bodies_and_trailers() {
    run(async {
        let (requests, server) = connected().await;
        let serving = async {
            let (_, mut answer) = asked(server).await;
            let head = Response::builder().header("content-length", "5");
            let mut body = answer.send_response(head.body(()).unwrap(), false).unwrap();
            body.send_data("hello".into(), false).unwrap();
            let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())]);
            body.send_trailers(trailers).unwrap();
        };
        let (answer, ()) = tokio::join!(requests.send(get()), serving);
        let body = answer.unwrap().into_body();
        assert_eq!(body.size_hint().exact(), Some(5));
        let all = body.collect().await.unwrap();
        assert_eq!(all.trailers().unwrap()["x-sum"], "1");
        assert_eq!(all.to_bytes(), "hello");
    });
}

#[test]
fn an_answer_without_a_body_has_none() {
    run(async {
        let (requests, server) = connected().await;
        let serving = async {
            let (_, mut answer) = asked(server).await;
            answer.send_response(Response::new(()), true).unwrap();
        };
        let (answer, ()) = tokio::join!(requests.send(get()), serving);
        let body = answer.unwrap().into_body();
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
    });
}

#[test]
fn what_has_content_says_how_much() {
    run(async {
        let (requests, mut server) = connected().await;
        for (method, body, length) in [
            (Method::GET, "", None),
            (Method::POST, "", Some("0")),
            (Method::POST, "four", Some("4")),
        ] {
            let sent = request(method, Full::new(Bytes::from(body)));
            let serving = async {
                let (request, mut answer) = server.accept().await.unwrap().unwrap();
                answer.send_response(Response::new(()), true).unwrap();
                request
            };
            let mut answered = pin!(requests.send(sent));
            let asked = tokio::select! {
                biased;
                _ = answered.as_mut() => panic!("nobody answered"),
                asked = serving => asked,
            };
            let told = asked.headers().get(CONTENT_LENGTH);
            assert_eq!(told.map(|it| it.to_str().unwrap()), length);
        }
    });
}

#[test]
fn a_large_body_waits_for_room() {
    run(async {
        let (requests, server) = connected().await;
        let (parts, body) = streamed();
        let part = || Ok(Frame::data(Bytes::from(vec![b'.'; LARGE])));
        parts.send(part()).unwrap();
        parts.send(part()).unwrap();
        let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "2".parse().unwrap())]);
        parts.send(Ok(Frame::trailers(trailers))).unwrap();
        let serving = async {
            let (request, mut answer) = asked(server).await;
            let mut body = request.into_body();
            assert_eq!(received(&mut body).await.len(), 2 * LARGE);
            let trailers = body.trailers().await.unwrap().unwrap();
            assert_eq!(trailers["x-sum"], "2");
            answer.send_response(Response::new(()), true).unwrap();
        };
        let (answer, ()) = tokio::join!(requests.send(request(Method::POST, body)), serving);
        assert!(answer.is_ok());
    });
}

#[test]
fn an_answer_may_come_before_the_request_is_whole() {
    run(async {
        let (requests, server) = connected().await;
        let (parts, body) = streamed();
        let sending = requests.send(request(Method::POST, body));
        let (answer, (request, _stream)) = tokio::join!(sending, async {
            let (request, mut answer) = asked(server).await;
            let stream = answer.send_response(Response::new(()), false).unwrap();
            (request, stream)
        });
        let _answer = answer.unwrap();
        parts.send(Ok(Frame::data("late".into()))).unwrap();
        drop(parts);
        assert_eq!(received(&mut request.into_body()).await, b"late");
    });
}

#[test]
fn a_body_that_breaks_off_takes_its_request_back() {
    run(async {
        let (requests, server) = connected().await;
        let (parts, body) = streamed();
        parts.send(Ok(Frame::data("half".into()))).unwrap();
        parts.send(Err(std::io::ErrorKind::Other.into())).unwrap();
        let sending = requests.send(request(Method::POST, body));
        let (answer, reason) = tokio::join!(sending, async {
            let (_request, mut answer) = asked(server).await;
            reset(&mut answer).await
        });
        assert!(!answer.err().unwrap().unprocessed());
        assert_eq!(reason, Reason::INTERNAL_ERROR);
    });
}

#[test]
fn whoever_gives_up_takes_the_request_back() {
    run(async {
        for whole in [true, false] {
            let (requests, server) = connected().await;
            let (parts, body) = streamed();
            let mut sending = Box::pin(requests.send(request(Method::POST, body)));
            let parts = (!whole).then_some(parts);
            let (_request, mut answer) = tokio::select! {
                biased;
                _ = sending.as_mut() => panic!("nobody answered"),
                asked = asked(server) => asked,
            };
            drop(sending);
            assert_eq!(reset(&mut answer).await, Reason::CANCEL, "whole: {whole}");
            drop(parts);
        }
    });
}

#[test]
fn a_refused_stream_was_not_processed() {
    run(async {
        for (reason, unprocessed) in [
            (Reason::REFUSED_STREAM, true),
            (Reason::INTERNAL_ERROR, false),
        ] {
            let (requests, server) = connected().await;
            let serving = async {
                let (_, mut answer) = asked(server).await;
                answer.send_reset(reason);
            };
            let (answer, ()) = tokio::join!(requests.send(get()), serving);
            assert_eq!(answer.err().unwrap().unprocessed(), unprocessed);
            assert!(requests.open());
        }
    });
}

#[test]
fn a_connection_that_is_ended_takes_no_more_requests() {
    run(async {
        let (requests, mut server) = connected().await;
        assert!(requests.open());
        server.graceful_shutdown();
        let serving = spawn_local(served(server));
        while requests.open() {
            tokio::task::yield_now().await;
        }
        let unsent = requests.send(get()).await.err().unwrap();
        assert!(matches!(unsent, SendError::Unsent(_)) && unsent.unprocessed());
        drop(requests);
        serving.await.unwrap();
    });
}

#[test]
fn what_waits_for_its_turn_is_not_sent() {
    run(async {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let mut server = h2::server::Builder::new();
        server.max_concurrent_streams(1);
        let (client, server) = tokio::join!(
            handshake(near, Reach::Near),
            server.handshake::<_, Bytes>(far)
        );
        let ((requests, connection), mut server) = (client.unwrap(), server.unwrap());
        spawn_local(connection);
        // With the first answer the other side's settings are known.
        let answering = async {
            let (_, mut answer) = server.accept().await.unwrap().unwrap();
            answer.send_response(Response::new(()), true).unwrap();
            tokio::select! {
                biased;
                _ = server.accept() => panic!("no second request"),
                () = tokio::time::sleep(PAUSE) => {}
            }
        };
        let (first, ()) = tokio::join!(requests.send(get()), answering);
        first.unwrap();
        let mut sent = [get(), get(), get()].map(|it| Box::pin(requests.send(it)));
        let [second, third, fourth] = &mut sent;
        let ending = async {
            let asked = server.accept().await.unwrap().unwrap();
            tokio::select! {
                biased;
                _ = server.accept() => panic!("it is allowed one"),
                () = tokio::time::sleep(PAUSE) => {}
            }
            drop((asked, server));
        };
        let (second, third, fourth, ()) = tokio::join!(second, third, fourth, ending);
        let unprocessed = [second, third, fourth].map(|it| it.err().unwrap().unprocessed());
        // The third was given to the library before its stream was allowed.
        assert_eq!(unprocessed, [false, false, true]);
    });
}

#[test]
fn an_answer_that_is_cut_is_not_taken_for_whole() {
    run(async {
        for (reason, whole) in [(Reason::CANCEL, false), (Reason::NO_ERROR, true)] {
            let (requests, server) = connected().await;
            let serving = async {
                let (_, mut answer) = asked(server).await;
                let mut body = answer.send_response(Response::new(()), false).unwrap();
                body.send_data("half".into(), false).unwrap();
                body
            };
            let (answer, mut body) = tokio::join!(requests.send(get()), serving);
            let mut arriving = answer.unwrap().into_body();
            let first = arriving.frame().await.unwrap().unwrap();
            assert_eq!(first.into_data().unwrap(), "half");
            body.send_reset(reason);
            let rest = arriving.frame().await;
            assert_eq!(rest.is_none(), whole, "{reason:?}");
        }
    });
}

#[test]
fn a_connection_ends_with_whoever_has_it() {
    run(async {
        let (requests, mut server) = connected().await;
        let answering = async {
            let (_, mut answer) = server.accept().await.unwrap().unwrap();
            answer.send_response(Response::new(()), true).unwrap();
            served(server).await;
        };
        let serving = spawn_local(answering);
        requests.send(get()).await.unwrap();
        assert!(!serving.is_finished());
        drop(requests);
        serving.await.unwrap();
    });
}

#[test]
fn it_is_asked_for_signs_of_life_again_and_again() {
    run(async {
        let (near, between) = tokio::io::duplex(1024);
        let (beyond, far) = tokio::io::duplex(1024);
        let (mut from_client, mut to_client) = tokio::io::split(between);
        let (mut from_server, mut to_server) = tokio::io::split(beyond);
        spawn_local(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
        let (heard, mut signs) = mpsc::unbounded_channel();
        spawn_local(async move {
            let mut piece = [0; 1024];
            while let Ok(count @ 1..) = from_server.read(&mut piece).await {
                to_client.write_all(&piece[..count]).await.unwrap();
                heard.send(()).unwrap();
            }
        });
        let (client, server) =
            tokio::join!(handshake(near, Reach::Near), h2::server::handshake(far));
        let (requests, connection) = client.unwrap();
        spawn_local(connection);
        spawn_local(served(server.unwrap()));
        for _ in 0..3 {
            // What belongs to the beginning, or to the last answer, has come by then.
            while timeout(PAUSE, signs.recv()).await.is_ok() {}
            requests.ping();
            requests.ping();
            signs.recv().await.unwrap();
        }
    });
}
