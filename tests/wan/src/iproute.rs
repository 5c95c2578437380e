//! The kernel's network, by way of `ip`.

use std::io;
use std::process::Command;

use thiserror::Error;

/// Why `ip` did not do what it was told.
#[derive(Debug, Error)]
pub enum IpError {
    #[error("cannot run `ip {command}`; install iproute2")]
    Missing {
        command: String,
        #[source]
        source: io::Error,
    },
    #[error("`ip {command}` says: {said}")]
    Refused { command: String, said: String },
}

/// Runs `ip` with these words.
pub fn ip(words: &[&str]) -> Result<(), IpError> {
    let command = words.join(" ");
    let output = match Command::new("ip").args(words).output() {
        Ok(output) => output,
        Err(source) => return Err(IpError::Missing { command, source }),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(IpError::Refused { command, said })
}
