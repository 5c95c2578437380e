//! Speed, side by side: the same work directly, through Portolan, and through the peers that are
//! installed, interleaved in one run on one machine. What counts are the ratios.

mod certificates;
mod child;
mod dns;
mod figures;
mod load;
mod machine;
mod network;
mod options;
mod origin;
mod path;
mod subjects;
mod wan;

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

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
    /// The same between two places far apart, on a link that loses packets (as root)
    Wan(wan::WanArgs),
    /// Questions to each name server
    Dns(dns::DnsArgs),
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
    /// Do nothing, and keep a processor awake by that (started by the other commands)
    #[command(hide = true)]
    Spin,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, run(&cli.command))
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: &Command) -> Result<()> {
    let options = match command {
        Command::Path(arguments) => &arguments.options,
        Command::Wan(arguments) => &arguments.options,
        Command::Dns(arguments) => &arguments.options,
        Command::Origin { http, bulk } => return origin::run(*http, *bulk).await,
        Command::Spin => {
            machine::spin();
            return Ok(());
        }
    };
    let measuring = async {
        match command {
            Command::Path(arguments) => path::run(arguments).await,
            Command::Wan(arguments) => wan::run(arguments).await,
            Command::Dns(arguments) => dns::run(arguments).await,
            Command::Origin { .. } | Command::Spin => Ok(()),
        }
    };
    // However it ends, what was started ends with it.
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        measured = tokio::time::timeout(options.at_most(), measuring) => match measured {
            Ok(measured) => measured,
            Err(_) => bail!("not done within {} s", options.at_most().as_secs()),
        },
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = terminated.recv() => bail!("told to stop"),
    }
}

/// Tells people how it goes; results go to standard output.
fn say(text: &str) {
    // Without standard error nobody is left to tell.
    let _unheard = writeln!(std::io::stderr().lock(), "{text}");
}
