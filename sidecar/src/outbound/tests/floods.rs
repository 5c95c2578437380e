//! HTTP/2 clients that make work without end: they harm themselves, and others are served.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::fixtures::*;

/// Types and flags of frames (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// So much is sent by a flood at most: far more than any buffer holds.
const FLOOD_BYTES: usize = 32 * 1024 * 1024;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block: GET or POST of `/`.
fn head(post: bool) -> Vec<u8> {
    // Indexed fields of the static table (RFC 7541 Appendix A), then a literal `:authority`.
    let mut block = vec![if post { 0x83 } else { 0x82 }, 0x86, 0x84, 0x41];
    block.push(u8::try_from(HOST.len()).unwrap());
    block.extend(HOST.as_bytes());
    block
}

async fn subject(world: &World) -> (Listening, Subject) {
    let orders = echo(&world.context(ORDERS), "own").await;
    let scene = Scene {
        own: vec![orders.addr],
        ..Scene::default()
    };
    let subject = Subject::start(world, &scene);
    (orders, subject)
}

async fn flooder(subject: &Subject) -> TcpStream {
    let mut stream = subject.connect().await;
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    stream
}

/// Sends until the proxy takes no more: whether it ended the connection.
async fn flood(stream: &mut TcpStream, part: &[u8]) -> bool {
    let mut sent = 0;
    while sent < FLOOD_BYTES {
        if stream.write_all(part).await.is_err() {
            return true;
        }
        sent += part.len();
    }
    false
}

/// Others are served while it goes on, and after.
async fn served_meanwhile(subject: &Subject, flooding: impl Future<Output = bool>) -> Option<bool> {
    let others = async {
        for _ in 0..30 {
            assert_eq!(subject.get().await.status(), 200);
        }
    };
    let mut others = std::pin::pin!(others);
    tokio::select! {
        biased;
        ended = flooding => {
            others.await;
            Some(ended)
        }
        // It waits for the proxy, and the proxy for it.
        () = &mut others => None,
    }
}

#[test]
fn rapid_resets_end_the_connection() {
    run(async {
        let world = World::new();
        let (orders, subject) = subject(&world).await;
        let mut stream = flooder(&subject).await;
        let mut bytes = Vec::new();
        for number in 0..20_000 {
            let id = 2 * number + 1;
            bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, id, &head(false)));
            bytes.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
        }
        let flooding = async {
            let _ = stream.write_all(&bytes).await;
            let mut heard = Vec::new();
            let _ = stream.read_to_end(&mut heard).await;
            kinds(&heard).contains(&GOAWAY)
        };
        let told = served_meanwhile(&subject, flooding).await;
        // A reset that discards the word is as good.
        assert!(told.is_some());
        assert!(
            orders.hits.get() < 2_000,
            "{} of 20000 got through",
            orders.hits.get()
        );
    });
}

/// The types of the frames in there.
fn kinds(mut bytes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while bytes.len() >= 9 {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        kinds.push(bytes[3]);
        bytes = bytes.get(9 + length..).unwrap_or_default();
    }
    kinds
}

#[test]
fn heads_without_end_end_the_connection() {
    run(async {
        let world = World::new();
        let (_orders, subject) = subject(&world).await;
        let mut stream = flooder(&subject).await;
        stream
            .write_all(&frame(HEADERS, 0, 1, &head(false)))
            .await
            .unwrap();
        // Literal fields without indexing: `x: yyy…`.
        let mut field = vec![0, 1, b'x', 100];
        field.extend([b'y'; 100]);
        let part = frame(CONTINUATION, 0, 1, &field.repeat(100));
        let ended = served_meanwhile(&subject, flood(&mut stream, &part)).await;
        assert_eq!(ended, Some(true));
        // Empty ones too.
        let mut stream = flooder(&subject).await;
        stream
            .write_all(&frame(HEADERS, 0, 1, &head(false)))
            .await
            .unwrap();
        let part = frame(CONTINUATION, 0, 1, &[]).repeat(100);
        let ended = served_meanwhile(&subject, flood(&mut stream, &part)).await;
        assert_eq!(ended, Some(true));
    });
}

#[test]
fn frames_that_want_an_answer_or_say_nothing_harm_nobody() {
    run(async {
        let world = World::new();
        let (_orders, subject) = subject(&world).await;
        assert_eq!(subject.get().await.status(), 200);
        let before = super::volumes::resident();
        let settings = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]);
        let floods = [
            frame(PING, 0, 0, &[7; 8]),
            settings,
            frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()),
            frame(PRIORITY, 0, 9, &[0, 0, 0, 3, 1]),
            frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes()),
            frame(99, 0, 0, &[0; 100]),
            frame(DATA, 0, 1, &[]),
        ];
        for one in floods {
            let mut stream = flooder(&subject).await;
            let opening = frame(HEADERS, END_HEADERS, 1, &head(true));
            stream.write_all(&opening).await.unwrap();
            served_meanwhile(&subject, flood(&mut stream, &one.repeat(500))).await;
            let grown = super::volumes::resident().saturating_sub(before);
            assert!(
                grown < FLOOD_BYTES / 2,
                "{grown} bytes by frames of type {}",
                one[3]
            );
        }
    });
}
