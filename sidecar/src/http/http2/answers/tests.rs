use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::time::Duration;

use h2::client::{Connection as ClientConnection, SendRequest};
use http::HeaderMap;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::super::{PING_AFTER, PING_TIMEOUT};
use super::*;
use crate::http::fixtures::{pass, run};
use crate::http::incoming::IncomingError;

type Body = UnsyncBoxBody<Bytes, io::Error>;
type Part = Result<Frame<Bytes>, io::Error>;
type Handled = Pin<Box<dyn Future<Output = Result<Response<Body>, io::Error>>>>;
type Ended = JoinHandle<Result<(), Broken>>;

const STREAMS: u32 = 4;
/// More than a window of either side has room for.
const LARGE: usize = 600 * 1024;

/// A client's requests, its connection, and the server's end of it.
async fn connected(
    handler: impl Fn(Request<IncomingBody>) -> Handled + Unpin + 'static,
) -> (SendRequest<Bytes>, JoinHandle<()>, Ended) {
    let (near, far) = duplex(64 * 1024);
    let (bounds, reach) = (Bounds::default(), Reach::Near);
    let ended = spawn_local(answer(far, &bounds, STREAMS, reach, handler));
    let (requests, connection) = h2::client::handshake(near).await.unwrap();
    let running = spawn_local(until_it_ends(connection));
    (requests, running, ended)
}

async fn until_it_ends(connection: ClientConnection<DuplexStream>) {
    let _ = connection.await;
}

fn text(text: &'static str) -> Body {
    Full::from(text)
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

fn answered(body: Body) -> Handled {
    Box::pin(async { Ok(Response::new(body)) })
}

/// A body that is given in parts.
fn streamed() -> (mpsc::UnboundedSender<Part>, Body) {
    let (parts, body) = mpsc::unbounded_channel();
    let body = StreamBody::new(UnboundedReceiverStream::new(body));
    (parts, body.boxed_unsync())
}

fn get() -> Request<()> {
    Request::get("http://a/").body(()).unwrap()
}

fn post() -> Request<()> {
    Request::post("http://a/").body(()).unwrap()
}

/// What arrives of an answer, and how it ends.
async fn read(response: Response<RecvStream>) -> Result<Vec<u8>, IncomingError> {
    let (_, body) = IncomingBody::of_answer(response).into_parts();
    Ok(body.collect().await?.to_bytes().to_vec())
}

#[test]
fn answers_go_with_their_length_bodies_and_trailers() {
    run(async {
        let (mut requests, ..) = connected(|request| {
            Box::pin(async move {
                let body = request.into_body().collect().await.unwrap();
                let mut trailers = HeaderMap::new();
                trailers.insert("x-seen", body.trailers().unwrap()["x-sent"].clone());
                let (parts, streamed) = streamed();
                parts.send(Ok(Frame::data(body.to_bytes()))).unwrap();
                parts.send(Ok(Frame::trailers(trailers))).unwrap();
                Ok(Response::new(streamed))
            })
        })
        .await;
        let (response, mut body) = requests.send_request(post(), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sent", "1".parse().unwrap());
        body.reserve_capacity(4);
        body.send_data(Bytes::from_static(b"word"), false).unwrap();
        body.send_trailers(trailers).unwrap();
        let response = IncomingBody::of_answer(response.await.unwrap());
        let answer = response.into_body().collect().await.unwrap();
        assert_eq!(answer.trailers().unwrap()["x-seen"], "1");
        assert_eq!(answer.to_bytes(), "word");
    });
}

#[test]
fn a_body_whose_length_is_known_has_it_and_an_empty_one_ends_with_the_head() {
    run(async {
        let (mut requests, ..) = connected(|request| {
            let empty = Empty::new().map_err(|never: Infallible| match never {});
            answered(match request.uri().path() {
                "/empty" => empty.boxed_unsync(),
                _ => text("four"),
            })
        })
        .await;
        let (response, _) = requests.send_request(get(), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.headers()[CONTENT_LENGTH], "4");
        assert_eq!(read(response).await.unwrap(), b"four");
        let empty = Request::get("http://a/empty").body(()).unwrap();
        let response = requests.send_request(empty, true).unwrap().0.await.unwrap();
        assert!(response.body().is_end_stream());
        assert!(!response.headers().contains_key(CONTENT_LENGTH));
    });
}

#[test]
fn more_than_windows_have_room_for_arrives_both_ways() {
    run(async {
        let (mut requests, ..) = connected(|request| {
            let echoed = request.into_body().map_err(io::Error::other);
            answered(echoed.boxed_unsync())
        })
        .await;
        let (response, body) = requests.send_request(post(), false).unwrap();
        let sent: Vec<u8> = (0..LARGE).map(|at| at as u8).collect();
        spawn_local(Pump::new(Full::from(sent.clone()), body));
        assert_eq!(read(response.await.unwrap()).await.unwrap(), sent);
    });
}

#[test]
fn a_request_that_is_taken_back_is_dropped() {
    run(async {
        let (begin, begun) = oneshot::channel::<()>();
        let (end, ended) = oneshot::channel::<()>();
        let held = RefCell::new(Some((begin, end)));
        let (mut requests, ..) = connected(move |_| {
            let (begin, end) = held.take().unwrap();
            Box::pin(async move {
                begin.send(()).unwrap();
                let _held = end;
                std::future::pending().await
            })
        })
        .await;
        let (response, _) = requests.send_request(get(), true).unwrap();
        begun.await.unwrap();
        drop(response);
        ended.await.unwrap_err();
    });
}

#[test]
fn a_body_that_its_sender_takes_back_is_not_taken_for_whole() {
    run(async {
        for reason in [Reason::CANCEL, Reason::NO_ERROR] {
            let (tell, told) = oneshot::channel();
            let tell = RefCell::new(Some(tell));
            let (mut requests, ..) = connected(move |request| {
                let tell = tell.take().unwrap();
                // The request's own task is dropped.
                spawn_local(async move {
                    let _ = tell.send(request.into_body().collect().await.is_err());
                });
                Box::pin(std::future::pending())
            })
            .await;
            let (_response, mut body) = requests.send_request(post(), false).unwrap();
            body.reserve_capacity(4);
            body.send_data(Bytes::from_static(b"half"), false).unwrap();
            body.send_reset(reason);
            assert!(told.await.unwrap(), "{reason:?}");
        }
    });
}

#[test]
fn a_handler_that_fails_and_an_answer_that_breaks_off_reset_their_streams_alone() {
    run(async {
        let (mut requests, ..) = connected(|request| match request.uri().path() {
            "/fails" => Box::pin(async { Err(io::Error::other("no")) }),
            "/breaks" => {
                let (parts, body) = streamed();
                parts.send(Ok(Frame::data("half".into()))).unwrap();
                parts.send(Err(io::Error::other("no"))).unwrap();
                answered(body)
            }
            "/unfit" => Box::pin(async {
                let unfit = Response::builder().header("connection", "close");
                Ok(unfit.body(text("")).unwrap())
            }),
            _ => answered(text("fine")),
        })
        .await;
        for path in ["fails", "unfit"] {
            let request = Request::get(format!("http://a/{path}")).body(()).unwrap();
            let (response, _) = requests.send_request(request, true).unwrap();
            let error = response.await.unwrap_err();
            assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR), "{path}");
        }
        let breaks = Request::get("http://a/breaks").body(()).unwrap();
        let (response, _) = requests.send_request(breaks, true).unwrap();
        // Its head may have been on its way.
        let whole = async { read(response.await?).await };
        whole.await.unwrap_err();
        let (response, _) = requests.send_request(get(), true).unwrap();
        assert_eq!(read(response.await.unwrap()).await.unwrap(), b"fine");
    });
}

/// Answers a CONNECT, and gives its tunnel to whoever asked for it.
fn tunnelled(tell: mpsc::UnboundedSender<Tunnel>) -> impl Fn(Request<IncomingBody>) -> Handled {
    move |request| {
        if let IncomingBody::Connect(opened) = request.into_body() {
            let tell = tell.clone();
            spawn_local(async move {
                let _ = tell.send(opened.await.unwrap());
            });
        }
        answered(text(""))
    }
}

fn connect() -> Request<()> {
    Request::connect("a:80").body(()).unwrap()
}

#[test]
fn what_connect_opens_carries_bytes_both_ways_until_each_side_has_ended() {
    run(async {
        let (tell, mut told) = mpsc::unbounded_channel();
        let (mut requests, ..) = connected(tunnelled(tell)).await;
        let (response, sending) = requests.send_request(connect(), false).unwrap();
        let mut tunnel = told.recv().await.unwrap();
        let sent: Vec<u8> = (0..LARGE).map(|at| at as u8).collect();
        spawn_local(Pump::new(Full::from(sent.clone()), sending));
        let echoing = async {
            let mut all = Vec::new();
            tunnel.read_to_end(&mut all).await.unwrap();
            tunnel.write_all(&all).await.unwrap();
            tunnel.shutdown().await.unwrap();
            drop(tunnel);
        };
        let reading = async { read(response.await.unwrap()).await.unwrap() };
        let ((), received) = tokio::join!(echoing, reading);
        assert!(received == sent);
    });
}

#[test]
fn a_tunnel_that_breaks_on_one_side_breaks_on_the_other() {
    run(async {
        let (tell, mut told) = mpsc::unbounded_channel();
        let (mut requests, ..) = connected(tunnelled(tell)).await;
        let (response, _sending) = requests.send_request(connect(), false).unwrap();
        let mut body = response.await.unwrap().into_body();
        drop(told.recv().await.unwrap());
        let error = body.data().await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(Reason::CONNECT_ERROR));

        let (_response, mut sending) = requests.send_request(connect(), false).unwrap();
        let mut tunnel = told.recv().await.unwrap();
        sending.send_reset(Reason::CONNECT_ERROR);
        let error = tunnel.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        tunnel.write(&[0; 1]).await.unwrap_err();
    });
}

#[test]
fn a_tunnel_whose_reader_is_slow_takes_no_more_than_its_window() {
    run(async {
        let (tell, mut told) = mpsc::unbounded_channel();
        let (mut requests, ..) = connected(tunnelled(tell)).await;
        let (_response, _sending) = requests.send_request(connect(), false).unwrap();
        let mut tunnel = told.recv().await.unwrap();
        let taken = Cell::new(0);
        let writing = async {
            loop {
                taken.set(taken.get() + tunnel.write(&[0; 10_000]).await.unwrap());
            }
        };
        tokio::select! {
            biased;
            () = writing => {}
            () = async { for _ in 0..1000 { tokio::task::yield_now().await; } } => {}
        }
        // What HTTP/2 begins with.
        assert_eq!(taken.get(), 65_535);
    });
}

#[test]
fn what_is_under_way_is_answered_when_it_ends() {
    run(async {
        let (near, far) = duplex(64 * 1024);
        let (arrive, arrived) = oneshot::channel();
        let (release, held) = oneshot::channel::<()>();
        let once = RefCell::new(Some((arrive, held)));
        let mut answering = answer(far, &Bounds::default(), STREAMS, Reach::Near, move |_| {
            let (arrive, held) = once.take().unwrap();
            Box::pin(async move {
                arrive.send(()).unwrap();
                held.await.unwrap();
                Ok::<_, Infallible>(Response::new(text("late")))
            })
        });
        let client = async {
            let (mut requests, connection) = h2::client::handshake(near).await.unwrap();
            let running = spawn_local(until_it_ends(connection));
            let (response, _) = requests.send_request(get(), true).unwrap();
            (response, running)
        };
        let (response, running) = tokio::select! {
            biased;
            _ = &mut answering => unreachable!("it goes on"),
            begun = async {
                let begun = client.await;
                arrived.await.unwrap();
                begun
            } => begun,
        };
        answering.end();
        let ended = spawn_local(answering);
        release.send(()).unwrap();
        assert_eq!(read(response.await.unwrap()).await.unwrap(), b"late");
        ended.await.unwrap().unwrap();
        running.await.unwrap();
    });
}

#[test]
fn one_that_is_told_to_end_before_it_began_ends() {
    run(async {
        let (near, far) = duplex(64 * 1024);
        let handler = |_| answered(text(""));
        let mut answering = answer(far, &Bounds::default(), STREAMS, Reach::Near, handler);
        answering.end();
        let ended = spawn_local(answering);
        let (_requests, connection) = h2::client::handshake(near).await.unwrap();
        let _ = connection.await;
        // The client may have closed its end first.
        let _ = ended.await.unwrap();
    });
}

#[test]
fn whoever_is_silent_is_asked_whether_it_lives() {
    run(async {
        let (_requests, _running, ended) = connected(|_| answered(text(""))).await;
        for _ in 0..4 {
            pass(PING_AFTER).await;
            pass(PING_TIMEOUT).await;
            assert!(!ended.is_finished(), "it answers");
        }
    });
}

#[test]
fn whoever_does_not_even_begin_is_given_up() {
    run(async {
        let (near, far) = duplex(64 * 1024);
        let handler = |_| answered(text(""));
        let answering = answer(far, &Bounds::default(), STREAMS, Reach::Near, handler);
        let ended = spawn_local(answering);
        pass(Duration::ZERO).await;
        pass(PING_AFTER).await;
        assert!(!ended.is_finished(), "it may yet");
        pass(PING_TIMEOUT).await;
        let ended = ended.await.unwrap().unwrap_err();
        assert!(matches!(ended, Broken::Silent), "{ended}");
        drop(near);
    });
}

#[test]
fn whoever_gives_no_sign_of_life_is_given_up() {
    run(async {
        let (near, far) = duplex(64 * 1024);
        let handler = |_| answered(text(""));
        let answering = answer(far, &Bounds::default(), STREAMS, Reach::Near, handler);
        let ended = spawn_local(answering);
        let (_requests, connection) = h2::client::handshake(near).await.unwrap();
        // Nobody runs the connection: it reads nothing, and answers nothing.
        let mut silent = Duration::ZERO;
        while !ended.is_finished() {
            pass(PING_TIMEOUT).await;
            silent += PING_TIMEOUT;
        }
        let (least, most) = (PING_AFTER + PING_TIMEOUT, PING_AFTER * 3);
        assert!(least <= silent && silent <= most, "{silent:?}");
        let ended = ended.await.unwrap().unwrap_err();
        assert!(matches!(ended, Broken::Silent), "{ended}");
        drop(connection);
    });
}
