//! Sends a case's requests, and holds what comes back against what must.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::call::{self, runtime};
use super::super::demo::{Demo, PATIENCE};
use super::super::grpc::call_grpc;
use super::case::{Lifetime, Play, Request, workload};

/// How many requests shares are counted over, how many of them are under way at a time, and how far the
/// shares may be off, in percent of all: upstream's numbers.
const SHARED_REQUESTS: u32 = 500;
const AT_ONCE: u32 = 10;
const SHARE_TOLERANCE: u32 = 5;
/// How many requests a session is followed for.
const SESSION_REQUESTS: u32 = 10;
/// How long copies may be on their way.
const COPIES_PATIENCE: Duration = Duration::from_secs(3);

/// The demo, and the proxy of the workload that the test added to it.
pub(super) struct World<'a> {
    pub(super) demo: &'a Demo,
    pub(super) pages: SocketAddr,
}

/// What came back.
struct Came {
    status: u16,
    code: String,
    headers: http::HeaderMap,
    /// What the app saw.
    seen: Value,
}

impl World<'_> {
    /// Plays one request; what is not as it must be.
    pub(super) fn play(&self, play: &Play, request: &Request) -> Result<(), String> {
        let proxy = self.proxy(&request.from);
        if !request.shares.is_empty() {
            return runtime().block_on(self.shared_out(play, request, proxy));
        }
        if let Some(share) = request.mirrored_share {
            return self.copied(play, request, proxy, share);
        }
        let came = runtime().block_on(self.call(play, request, proxy))?;
        self.compare(play, request, &came)?;
        match request.session {
            Some(lifetime) => self.kept(play, request, proxy, (&came, lifetime)),
            None => Ok(()),
        }
    }

    /// Whether the session that an answer began keeps requests where it was begun.
    fn kept(
        &self,
        play: &Play,
        request: &Request,
        proxy: SocketAddr,
        (first, lifetime): (&Came, Lifetime),
    ) -> Result<(), String> {
        let cookie = first.headers.get("set-cookie").ok_or("no cookie")?;
        let cookie = cookie.to_str().map_err(|error| error.to_string())?;
        let (pair, attributes) = cookie.split_once(';').unwrap_or((cookie, ""));
        let attributes = attributes.to_lowercase();
        let dated = attributes.contains("max-age") || attributes.contains("expires");
        if dated != (lifetime == Lifetime::Permanent) {
            return Err(format!("{cookie} is no cookie for {lifetime:?}"));
        }
        let mut next = request.clone();
        next.headers.insert("cookie".to_owned(), pair.to_owned());
        for _ in 0..SESSION_REQUESTS {
            let came = runtime().block_on(self.call(play, &next, proxy))?;
            self.compare(play, &next, &came)?;
            if came.seen["instance"] != first.seen["instance"] {
                return Err(format!("{pair} led from {} to {}", first.seen, came.seen));
            }
        }
        Ok(())
    }

    fn proxy(&self, from: &str) -> SocketAddr {
        match from {
            "pages" => self.pages,
            name => self.demo.cluster("us-east").workload(name).outbound,
        }
    }

    async fn call(
        &self,
        play: &Play,
        request: &Request,
        proxy: SocketAddr,
    ) -> Result<Came, String> {
        let host = play.host(&request.to);
        if let Some(method) = &request.grpc {
            let origin = format!("http://{host}:{}", request.port);
            return Ok(
                match call_grpc(proxy, &origin, method, &request.headers).await {
                    Ok((seen, headers)) => Came {
                        status: 200,
                        code: "Ok".to_owned(),
                        headers,
                        seen: serde_json::from_str(&seen).unwrap_or_default(),
                    },
                    Err(status) => Came {
                        status: 200,
                        code: format!("{:?}", status.code()),
                        headers: http::HeaderMap::new(),
                        seen: Value::Null,
                    },
                },
            );
        }
        if request.socket {
            return speak(proxy, &format!("{host}:{}", request.port), &request.path).await;
        }
        let answer = if let Some(other) = &request.host {
            let address = self.address(&host)?;
            let host = play.host(other);
            through_tunnel(proxy, address, request.port, &host, &request.path).await?
        } else {
            let authority = match (request.workload, request.port) {
                (true, _) => self.behind(play, &request.to).app.to_string(),
                (false, 80) => host,
                (false, port) => format!("{host}:{port}"),
            };
            let url = format!("http://{authority}{}", request.path);
            let mut asked = call::request(&request.method, &url);
            for (name, value) in &request.headers {
                let name = http::HeaderName::try_from(name.as_str()).unwrap();
                asked.headers_mut().insert(name, value.parse().unwrap());
            }
            call::call(proxy, asked).await?
        };
        Ok(Came {
            status: answer.status,
            code: "Ok".to_owned(),
            seen: answer.json(),
            headers: answer.headers,
        })
    }

    fn behind(&self, play: &Play, service: &str) -> &super::super::demo::Workload {
        let (cluster, name) = workload(service, play.face);
        self.demo.cluster(cluster).workload(name)
    }

    fn compare(&self, play: &Play, request: &Request, came: &Came) -> Result<(), String> {
        let expect = |what: &str, expected: &str, found: &str| {
            (expected == found)
                .then_some(())
                .ok_or_else(|| format!("{what}: expected {expected:?}, found {found:?}"))
        };
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        expect(
            "status",
            &request.status.to_string(),
            &came.status.to_string(),
        )?;
        expect("code", &request.code, &came.code)?;
        if let Some(backend) = &request.backend {
            let (cluster, name) = workload(backend, play.face);
            expect("backend", name, &word(&came.seen["service"]))?;
            expect("cluster", cluster, &word(&came.seen["cluster"]))?;
        }
        if let Some(path) = &request.seen_path {
            expect("path", path, &word(&came.seen["path"]))?;
        }
        for (name, expected) in &request.seen {
            let found = came.seen["headers"].get(name.to_lowercase());
            let expected = expected.as_deref().unwrap_or("(none)");
            let expected = expected.replace("{host}", &play.host(&request.to));
            let found = found.map_or_else(|| "(none)".to_owned(), word);
            expect(&format!("header {name} at the app"), &expected, &found)?;
        }
        for (name, expected) in &request.answer {
            let found = came.headers.get(name.to_lowercase());
            let found = found.map_or("(none)", |value| value.to_str().unwrap());
            let expected = expected.as_deref().unwrap_or("(none)");
            let expected = expected.replace("{host}", &play.host(&request.to));
            expect(&format!("header {name} of the answer"), &expected, found)?;
        }
        for port in &request.mirrored {
            self.mirrored(play, request, *port)?;
        }
        match &request.rule {
            Some(rule) => self.logged(play, rule),
            None => Ok(()),
        }
    }

    /// How many copies arrived at a port of `echo-v2`.
    fn copies(&self, play: &Play, request: &Request, port: u16) -> u32 {
        let (cluster, name) = workload("echo-v2", play.face);
        let path = request.grpc.as_deref().unwrap_or(&request.path);
        let service = play.named("echo-v2");
        let words = [
            "direction=\"inbound\"".to_owned(),
            format!("path=\"{path}\""),
            format!("service=shop/{service} port={port} "),
        ];
        self.lines(&format!("{cluster}-{name}"), &words)
    }

    fn mirrored(&self, play: &Play, request: &Request, port: u16) -> Result<(), String> {
        (self.copies(play, request, port) > 0)
            .then_some(())
            .ok_or_else(|| format!("no copy arrived at the port {port}"))
    }

    /// Sends many requests, and counts the copies of them.
    fn copied(
        &self,
        play: &Play,
        request: &Request,
        proxy: SocketAddr,
        share: u32,
    ) -> Result<(), String> {
        let before = self.copies(play, request, 80);
        runtime().block_on(async {
            for _ in 0..SHARED_REQUESTS / AT_ONCE {
                for came in at_once(|| self.call(play, request, proxy)).await {
                    self.compare(play, request, &came?)?;
                }
            }
            Ok::<_, String>(())
        })?;
        // Who sends copies does not wait for them.
        let begin = Instant::now();
        loop {
            let copies = self.copies(play, request, 80) - before;
            if (copies * 100 / SHARED_REQUESTS).abs_diff(share) <= SHARE_TOLERANCE {
                return Ok(());
            }
            if begin.elapsed() > COPIES_PATIENCE {
                return Err(format!(
                    "{copies} of {SHARED_REQUESTS} were copied, not {share} %"
                ));
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Whether the caller's access log names the rule.
    fn logged(&self, play: &Play, rule: &str) -> Result<(), String> {
        let route = format!("shop/{}", play.named(rule));
        (self.lines("us-east-frontend", std::slice::from_ref(&route)) > 0)
            .then_some(())
            .ok_or_else(|| format!("the access log does not name {route}"))
    }

    /// How many lines of a log have all of these words.
    fn lines(&self, log: &str, words: &[String]) -> u32 {
        let path = self.demo.dir.path().join(format!("demo/logs/{log}.log"));
        let log = std::fs::read_to_string(path).unwrap();
        let lines = log.lines();
        let found = lines.filter(|line| words.iter().all(|word| line.contains(word.as_str())));
        u32::try_from(found.count()).unwrap()
    }

    async fn shared_out(
        &self,
        play: &Play,
        request: &Request,
        proxy: SocketAddr,
    ) -> Result<(), String> {
        let names: Vec<&String> = request.shares.keys().collect();
        let mut counts = vec![0; names.len()];
        for _ in 0..SHARED_REQUESTS / AT_ONCE {
            for came in at_once(|| self.call(play, request, proxy)).await {
                let came = came?;
                let of = names.iter().position(|name| {
                    let (cluster, service) = workload(name, play.face);
                    came.seen["service"] == service && came.seen["cluster"] == cluster
                });
                let of =
                    of.ok_or_else(|| format!("{} {} from {}", came.status, came.code, came.seen))?;
                counts[of] += 1;
            }
        }
        for (name, count) in names.iter().zip(&counts) {
            let (expected, found) = (request.shares[*name], count * 100 / SHARED_REQUESTS);
            if expected.abs_diff(found) > SHARE_TOLERANCE {
                return Err(format!(
                    "{name} got {count} of {SHARED_REQUESTS}, not {expected} %"
                ));
            }
        }
        Ok(())
    }

    /// The IPv4 address of a name, from us-east's DNS.
    fn address(&self, host: &str) -> Result<Ipv4Addr, String> {
        let dns = self.demo.cluster("us-east").dns;
        let socket = UdpSocket::bind((dns.ip(), 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut query = vec![0x70, 0x6f, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in host.split('.') {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend_from_slice(label.as_bytes());
        }
        query.extend_from_slice(&[0, 0, 1, 0, 1]);
        socket.send_to(&query, dns).unwrap();
        let mut answer = [0; 512];
        let (length, _) = socket.recv_from(&mut answer).unwrap();
        // One question, one answer: its data are the last four bytes.
        match answer[..length] {
            [_, _, _, _, _, _, 0, 1, .., a, b, c, d] => Ok(Ipv4Addr::new(a, b, c, d)),
            _ => Err(format!("{host} has no one address")),
        }
    }
}

/// Some calls, side by side.
async fn at_once<F: Future>(call: impl Fn() -> F) -> Vec<F::Output> {
    let mut under_way: Vec<_> = (0..AT_ONCE).map(|_| Box::pin(call())).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|context| {
        under_way.retain_mut(|call| match call.as_mut().poll(context) {
            std::task::Poll::Ready(came) => {
                done.push(came);
                false
            }
            std::task::Poll::Pending => true,
        });
        if under_way.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done
}

/// Says a word over a WebSocket, and waits until it comes back.
async fn speak(proxy: SocketAddr, host: &str, path: &str) -> Result<Came, String> {
    let told = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(proxy).await.map_err(told)?;
    // The key and the masked `Hello` are RFC 6455's examples.
    let ask = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let hello = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    stream.write_all(ask.as_bytes()).await.map_err(told)?;
    stream.write_all(hello).await.map_err(told)?;
    let mut heard = Vec::new();
    let listening = async {
        while !heard.ends_with(b"\x81\x05Hello") && stream.read_buf(&mut heard).await? > 0 {}
        Ok(())
    };
    let listened = tokio::time::timeout(PATIENCE, listening).await;
    listened.map_err(|_| "no echo".to_owned())?.map_err(told)?;
    let head = String::from_utf8_lossy(&heard);
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    if status == Some(101) && !heard.ends_with(b"Hello") {
        return Err(format!("no echo: {head}"));
    }
    Ok(Came {
        status: status.ok_or_else(|| format!("no answer: {head}"))?,
        code: "Ok".to_owned(),
        headers: http::HeaderMap::new(),
        seen: Value::Null,
    })
}

/// One request to an address, by CONNECT: as a captured connection, it is known by its address alone.
async fn through_tunnel(
    proxy: SocketAddr,
    address: Ipv4Addr,
    port: u16,
    host: &str,
    path: &str,
) -> Result<call::Answer, String> {
    let told = |error: std::io::Error| error.to_string();
    let target = SocketAddr::from((IpAddr::from(address), port));
    let mut stream = TcpStream::connect(proxy).await.map_err(told)?;
    let connect = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n");
    stream.write_all(connect.as_bytes()).await.map_err(told)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.map_err(told)?);
    }
    let http = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(http)?;
    let driver = tokio::spawn(connection);
    let request = http::Request::get(path)
        .header("host", host)
        .body(Full::<Bytes>::default())
        .unwrap();
    let (parts, body) = sender
        .send_request(request)
        .await
        .map_err(http)?
        .into_parts();
    let body = body.collect().await.map_err(http)?.to_bytes();
    driver.abort();
    Ok(call::Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body,
    })
}
