//! Serving HTTP to the app, within limits, until the connection or the process ends.

use std::convert::Infallible;
use std::error::Error;
use std::future::pending;
use std::pin::{Pin, pin};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use http::header::DATE;
use http::{HeaderValue, Method, Request, Response};
use httpdate::HttpDate;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use portolan_runtime::Shutdown;
use portolan_runtime::rarely::or_rarely;
use portolan_runtime::workers::chain;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::activity::Activity;
use super::body::ReplyBody;
use super::cork::cork;
use super::guard::{Bounds, guard, may_switch};
use super::http2::{Reach, answer};
use super::incoming::IncomingBody;
use crate::sniff::Spoken;

/// The most requests under way on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// The smallest buffer that hyper takes.
const BUFFER_MIN: usize = 8 * 1024;
/// How long requests under way may go on after the shutdown.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(5);

/// How long connections are waited for.
#[derive(Debug, Clone, Copy)]
struct Waits {
    /// For a request on one of HTTP/1.1.
    idle: Duration,
    /// For requests under way after the shutdown.
    drain: Duration,
}

const WAITS: Waits = Waits {
    idle: Duration::from_secs(120),
    drain: DRAIN_MAX,
};

/// What every server of HTTP/1.x begins with. It needs a guard before it, which waits for the rest of heads,
/// and somebody who ends it when it is idle.
pub(crate) fn http1_server(bounds: &Bounds) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        .max_buf_size(bounds.bytes_max.max(BUFFER_MIN))
        .max_headers(bounds.headers_max);
    builder
}

/// Serves requests on `stream`, in HTTP/2 if that is what was `spoken` and else in HTTP/1.1 (whose
/// guard answers what is no HTTP at all).
pub(crate) async fn serve<S, H, F>(
    stream: S,
    spoken: Spoken,
    bounds: &Bounds,
    handler: H,
    activity: &Activity,
    shutdown: &Shutdown,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<IncomingBody>) -> F + Unpin,
    F: Future<Output = Response<ReplyBody>> + Unpin + 'static,
{
    let connection = Connection {
        spoken,
        bounds,
        activity,
        shutdown,
        waits: WAITS,
    };
    connection.serve(stream, handler).await;
}

/// A client's connection.
struct Connection<'a> {
    spoken: Spoken,
    bounds: &'a Bounds,
    activity: &'a Activity,
    shutdown: &'a Shutdown,
    waits: Waits,
}

impl Connection<'_> {
    async fn serve<S, H, F>(&self, stream: S, handler: H)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        H: Fn(Request<IncomingBody>) -> F + Unpin,
        F: Future<Output = Response<ReplyBody>> + Unpin + 'static,
    {
        if self.spoken == Spoken::Http2 {
            let (stream, cork) = cork(stream);
            let serving = answer(
                stream,
                self.bounds,
                STREAMS_MAX,
                Reach::Near,
                move |request| handler(request).map(dated),
            );
            let serving = cork.around(serving);
            return self
                .drive(serving, |it| it.connection().get_mut().end(), pending())
                .await;
        }
        let (stream, switch) = guard(stream, *self.bounds);
        let service = service_fn(move |request: Request<Incoming>| {
            let switch = may_switch(&request).then(|| switch.clone());
            let connect = request.method() == Method::CONNECT;
            handler(request.map(IncomingBody::from)).map(move |response| {
                if let Some(switch) = switch {
                    switch.answered(response.status(), connect);
                }
                Ok::<_, Infallible>(response)
            })
        });
        let serving = http1_server(self.bounds)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let end = http1::UpgradeableConnection::graceful_shutdown;
        let idle = self.activity.idle(self.waits.idle);
        self.drive(serving, end, idle).await;
    }

    /// Runs a connection until it ends, and ends it when it is idle or the process is about to end.
    async fn drive<C, E>(
        &self,
        serving: C,
        end: impl Fn(Pin<&mut C>),
        idle: impl Future<Output = ()>,
    ) where
        C: Future<Output = Result<(), E>>,
        E: Error,
    {
        let mut serving = pin!(serving);
        let ends = async {
            tokio::select! {
                biased;
                () = self.shutdown.triggered() => false,
                () = idle => true,
            }
        };
        let was_idle = match or_rarely(serving.as_mut(), ends).await {
            Ok(ended) => return log_end(ended),
            Err(was_idle) => was_idle,
        };
        end(serving.as_mut());
        if was_idle {
            // An answer's last bytes may still wait for a client that reads slowly, and a body may outlive its
            // answer: the guard bounds how long.
            tokio::select! {
                biased;
                ended = serving.as_mut() => return log_end(ended),
                () = self.shutdown.triggered() => {}
            }
        }
        if let Ok(ended) = timeout(self.waits.drain, serving).await {
            log_end(ended);
        }
    }
}

/// Whoever passes an answer on that does not say when it was made says when it came (RFC 9110 §6.6.1). In HTTP/1.1 the
/// library does.
fn dated(mut response: Response<ReplyBody>) -> Result<Response<ReplyBody>, Infallible> {
    response.headers_mut().entry(DATE).or_insert_with(|| {
        let now = HttpDate::from(SystemTime::now()).to_string();
        HeaderValue::try_from(now).unwrap_or(HeaderValue::from_static(""))
    });
    Ok(response)
}

fn log_end<E: Error>(ended: Result<(), E>) {
    if let Err(error) = ended {
        tracing::debug!(error = chain(&error), "a client's connection ended");
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use http_body_util::BodyExt;
    use portolan_runtime::Shutdown;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::task::{JoinHandle, spawn_local};
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::http::fixtures::run;

    const WAITS_SHORT: Waits = Waits {
        idle: Duration::from_millis(20),
        drain: Duration::from_millis(20),
    };
    /// Longer than both.
    const PAUSE: Duration = Duration::from_millis(200);
    const ANSWER: usize = 100 * 1024;
    const BODY: usize = 1000;

    /// A client's end of a connection on which every request is answered at once, while its body is still read,
    /// and how much of bodies arrived.
    fn served(answer: usize) -> (DuplexStream, Rc<Cell<usize>>, JoinHandle<()>) {
        let (client, stream) = tokio::io::duplex(1024);
        let received = Rc::new(Cell::new(0));
        let (activity, counted) = (Activity::new(), Rc::clone(&received));
        let requests = Rc::clone(&activity);
        let handler = move |request: Request<IncomingBody>| {
            let busy = requests.begin();
            let counted = Rc::clone(&counted);
            spawn_local(async move {
                let body = request.into_body().collect().await;
                counted.set(body.map_or(0, |body| body.to_bytes().len()));
            });
            Box::pin(async move {
                drop(busy);
                Response::new(ReplyBody::text(vec![b'.'; answer]))
            })
        };
        let serving = spawn_local(async move {
            let connection = Connection {
                spoken: Spoken::Http1,
                bounds: &Bounds::default(),
                activity: &activity,
                shutdown: &Shutdown::new(),
                waits: WAITS_SHORT,
            };
            connection.serve(stream, handler).await;
        });
        (client, received, serving)
    }

    #[test]
    fn a_connection_without_requests_ends() {
        run(async {
            let (mut client, _, serving) = served(1);
            let begun = Instant::now();
            client
                .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                .await
                .unwrap();
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.unwrap();
            assert!(all.ends_with(b"\r\n\r\n."));
            assert!(begun.elapsed() >= WAITS_SHORT.idle);
            serving.await.unwrap();
        });
    }

    #[test]
    fn an_answer_waits_for_a_client_that_reads_late() {
        run(async {
            let (mut client, _, serving) = served(ANSWER);
            client
                .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                .await
                .unwrap();
            sleep(PAUSE).await;
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.unwrap();
            assert!(all.len() > ANSWER);
            serving.await.unwrap();
        });
    }

    #[test]
    fn a_body_may_outlive_its_answer() {
        run(async {
            let (mut client, received, serving) = served(1);
            let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {BODY}\r\n\r\n");
            client.write_all(head.as_bytes()).await.unwrap();
            client.write_all(&[b'.'; BODY / 2]).await.unwrap();
            sleep(PAUSE).await;
            client.write_all(&[b'.'; BODY / 2]).await.unwrap();
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.unwrap();
            assert!(all.ends_with(b"\r\n\r\n."));
            serving.await.unwrap();
            assert_eq!(received.get(), BODY);
        });
    }

    #[test]
    fn an_answer_without_a_date_gets_one_and_another_keeps_its_own() {
        let Ok(answer) = dated(Response::new(ReplyBody::text("")));
        let date = answer.headers()[DATE].to_str().unwrap();
        let date: SystemTime = date.parse::<HttpDate>().unwrap().into();
        assert!(date.elapsed().unwrap() < Duration::from_secs(60));

        let mut old = Response::new(ReplyBody::text(""));
        let then = HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT");
        old.headers_mut().insert(DATE, then.clone());
        let Ok(answer) = dated(old);
        assert_eq!(answer.headers()[DATE], then);
    }
}
