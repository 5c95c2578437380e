//! Changing a running emulator: one JSON document per line over a Unix socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::emulator::Controls;
use crate::network::Report;

/// The longest line, in bytes.
const LINE_MAX: u64 = 64 << 10;
/// How long a silent caller keeps others waiting.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// What can be asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Request {
    /// Changes directions; see [`crate::network::Network::change`].
    Set {
        links: String,
        conditions: Vec<String>,
    },
    /// Every direction with its conditions and counters.
    Show,
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    Done,
    Links(Vec<Report>),
    Refused { why: String },
}

/// Why a running emulator was not reached.
#[derive(Debug, Error)]
pub enum CallError {
    #[error("no emulator answers at {}; start it with `wan run`", socket.display())]
    Connect {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the emulator at {} said nothing that can be read", socket.display())]
    Answer { socket: PathBuf },
    #[error("{0}")]
    Refused(String),
}

/// Answers callers, one after the other, for ever.
pub fn serve(listener: &UnixListener, controls: &Controls) {
    for stream in listener.incoming().flatten() {
        // A caller that goes away has seen enough.
        let _gone = answer(&stream, controls);
    }
}

/// Asks the emulator at `socket`.
pub fn call(socket: &Path, request: &Request) -> Result<Reply, CallError> {
    let no_answer = || CallError::Answer {
        socket: socket.to_owned(),
    };
    let mut stream = UnixStream::connect(socket).map_err(|source| CallError::Connect {
        socket: socket.to_owned(),
        source,
    })?;
    let mut line = serde_json::to_string(request).map_err(|_| no_answer())?;
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(|_| no_answer())?;
    let mut line = String::new();
    BufReader::new(stream)
        .read_line(&mut line)
        .map_err(|_| no_answer())?;
    match serde_json::from_str(&line).map_err(|_| no_answer())? {
        Reply::Refused { why } => Err(CallError::Refused(why)),
        reply @ (Reply::Done | Reply::Links(_)) => Ok(reply),
    }
}

fn answer(stream: &UnixStream, controls: &Controls) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let mut lines = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if lines.by_ref().take(LINE_MAX).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut reply = serde_json::to_string(&obey(&line, controls))?;
        reply.push('\n');
        (&*stream).write_all(reply.as_bytes())?;
    }
}

fn obey(line: &str, controls: &Controls) -> Reply {
    match serde_json::from_str(line) {
        Ok(Request::Set { links, conditions }) => match controls.change(&links, &conditions) {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Refused {
                why: error.to_string(),
            },
        },
        Ok(Request::Show) => Reply::Links(controls.report()),
        Err(error) => Reply::Refused {
            why: error.to_string(),
        },
    }
}
