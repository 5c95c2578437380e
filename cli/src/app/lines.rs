//! The app's TCP face: one JSON line when a connection opens, then an answer to each line.

use std::sync::Arc;

use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::{Card, accept_each};

/// The longest line that is answered.
const LINE_MAX: u64 = 64 * 1024;

#[derive(Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    card: &'a Card,
    line: &'a str,
}

pub(super) async fn serve(listener: TcpListener, card: Arc<Card>) {
    accept_each(listener, move |stream| {
        let card = Arc::clone(&card);
        async move {
            if let Err(error) = converse(stream, &card).await {
                tracing::debug!(%error, "a connection ended early");
            }
        }
    })
    .await;
}

async fn converse(stream: TcpStream, card: &Card) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut line = String::new();
    loop {
        line.clear();
        if (&mut read).take(LINE_MAX).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let mut answer = serde_json::to_vec(&Answer {
            card,
            line: line.trim_end(),
        })?;
        answer.push(b'\n');
        write.write_all(&answer).await?;
    }
}
