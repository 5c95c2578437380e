//! The app's WebSocket face (RFC 6455): every message comes back as it was.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::http::Body;

/// What both ends put behind the client's key (RFC 6455 §1.3).
const SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The longest frame that is answered.
const FRAME_MAX: u64 = 64 * 1024;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Grants a request for a WebSocket. `None`: it is none.
pub(super) fn grant(request: &mut Request<Incoming>) -> Option<Response<Body>> {
    let headers = request.headers();
    let asked = headers.get(header::UPGRADE)?.as_bytes();
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?.as_bytes();
    if !asked.eq_ignore_ascii_case(b"websocket") {
        return None;
    }
    let accept = accept(key);
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let echoed = match upgraded.await {
            Ok(stream) => echo(TokioIo::new(stream)).await,
            Err(error) => Err(std::io::Error::other(error)),
        };
        if let Err(error) = echoed {
            tracing::debug!(%error, "a WebSocket ended early");
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, accept)
        .body(
            Full::default()
                .map_err(|never| match never {})
                .boxed_unsync(),
        )
        .ok()
}

fn accept(key: &[u8]) -> String {
    let both = [key, SUFFIX.as_bytes()].concat();
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &both))
}

async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    loop {
        let first = stream.read_u8().await?;
        let second = stream.read_u8().await?;
        let length = match second & 0x7f {
            126 => u64::from(stream.read_u16().await?),
            127 => stream.read_u64().await?,
            short => u64::from(short),
        };
        // Clients mask what they send (RFC 6455 §5.1).
        if second & 0x80 == 0 || length > FRAME_MAX {
            return Ok(());
        }
        let mask = stream.read_u32().await?.to_be_bytes();
        let mut payload = Vec::new();
        (&mut stream).take(length).read_to_end(&mut payload).await?;
        for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
        let first = match first & 0x0f {
            PONG => continue,
            PING => 0x80 | PONG,
            _ => first,
        };
        stream.write_all(&frame(first, &payload)).await?;
        if first & 0x0f == CLOSE {
            return stream.shutdown().await;
        }
    }
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    // No frame is longer than FRAME_MAX.
    match payload.len() {
        short @ 0..126 => bytes.push(short as u8),
        long @ 126..=0xffff => {
            bytes.push(126);
            bytes.extend((long as u16).to_be_bytes());
        }
        longer => {
            bytes.push(127);
            bytes.extend((longer as u64).to_be_bytes());
        }
    }
    bytes.extend(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_standard_s_example_is_accepted() {
        assert_eq!(
            accept(b"dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[tokio::test]
    async fn messages_come_back() {
        let (mut near, far) = tokio::io::duplex(1024);
        let serving = tokio::spawn(echo(far));
        // `Hello`, masked, as in RFC 6455 §5.7; a ping; a close.
        let hello = [
            0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
        ];
        near.write_all(&hello).await.unwrap();
        near.write_all(&[0x89, 0x81, 0, 0, 0, 0, b'p'])
            .await
            .unwrap();
        near.write_all(&[0x88, 0x82, 0, 0, 0, 0, 3, 0xe8])
            .await
            .unwrap();
        let mut heard = Vec::new();
        near.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"\x81\x05Hello\x8a\x01p\x88\x02\x03\xe8");
        serving.await.unwrap().unwrap();
        assert_eq!(frame(0x82, &[7; 300])[..4], [0x82, 126, 1, 44]);
    }
}
