//! Speed, side by side: the same work directly, through Portolan, and through the peers that are
//! installed, interleaved in one run on one machine. What counts are the ratios.

mod certificates;
mod child;
mod load;
mod machine;
mod network;
mod origin;
mod path;
mod report;
mod subjects;

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures Portolan beside its peers
#[derive(Parser)]
#[command(name = "portolan-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Requests, connections and bytes through each path
    Path(path::PathArgs),
    /// Answer requests (started by the other commands)
    #[command(hide = true)]
    Origin {
        /// Where to answer HTTP/1.1 and HTTP/2
        #[arg(long)]
        http: SocketAddr,
        /// Where to send and take bytes
        #[arg(long)]
        bulk: SocketAddr,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async {
                match cli.command {
                    Command::Path(arguments) => path::run(&arguments).await,
                    Command::Origin { http, bulk } => origin::run(http, bulk).await,
                }
            })
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Tells people how it goes; results go to standard output.
fn say(text: &str) {
    // Without standard error nobody is left to tell.
    let _unheard = writeln!(std::io::stderr().lock(), "{text}");
}
