//! `wan`: a wide-area network between network namespaces.

use std::error::Error;
use std::io::{self, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ipnet::IpNet;

use portolan_wan::control::{self, Reply, Request};
use portolan_wan::emulator::{Emulator, Place};
use portolan_wan::network::Report;

/// A wide-area network between network namespaces: delay, jitter, loss, rate limits, reordering and cuts,
/// per direction, changed while it runs.
#[derive(Parser)]
struct Arguments {
    /// Where the running emulator is asked.
    #[arg(long, global = true, default_value = "/run/portolan-wan.sock")]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Joins namespaces until it is told to stop; each gets a device `wan0` and a default route to it.
    Run {
        /// NAME=NAMESPACE:NETWORK, with further networks after commas; at least two.
        #[arg(long = "site", required = true, value_parser = place)]
        sites: Vec<Place>,
        /// Decides which packets are lost; the same seed, the same decisions.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Changes directions: `wan set 'a->b' delay=30ms loss=1%`.
    Set {
        /// `a->b`, `a<->b`, `a` (all to and from it) or `all`.
        links: String,
        /// delay=30ms jitter=2ms loss=1% loss=1%/5 rate=100mbit queue=256k reorder=1%/5ms cut=yes cut=no
        #[arg(required = true)]
        conditions: Vec<String>,
    },
    /// Lets nothing pass, and tells nobody.
    Cut { links: String },
    /// Lets everything pass again.
    Restore { links: String },
    /// Prints every direction with its conditions and counters.
    Show {
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                text.push_str(&format!(": {error}"));
                cause = error.source();
            }
            let _nobody_reads = writeln!(io::stderr(), "wan: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let set = |links: String, words: &[&str]| {
        let conditions = words.iter().map(|word| (*word).to_owned()).collect();
        Request::Set { links, conditions }
    };
    let (request, as_json) = match arguments.command {
        Command::Run { sites, seed } => {
            let emulator = Emulator::start(sites, seed)?;
            let _left_by_another = std::fs::remove_file(&arguments.socket);
            control::serve(
                &UnixListener::bind(&arguments.socket)?,
                &emulator.controls(),
            );
            return Ok(());
        }
        Command::Set { links, conditions } => (Request::Set { links, conditions }, false),
        Command::Cut { links } => (set(links, &["cut=yes"]), false),
        Command::Restore { links } => (set(links, &["cut=no"]), false),
        Command::Show { json } => (Request::Show, json),
    };
    if let Reply::Links(links) = control::call(&arguments.socket, &request)? {
        print(&links, as_json)?;
    }
    Ok(())
}

fn print(links: &[Report], as_json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if as_json {
        return writeln!(out, "{}", serde_json::to_string(links)?);
    }
    for link in links {
        let counted = link.counters;
        writeln!(
            out,
            "{} -> {}: {}; {} delivered ({} bytes), {} lost, {} overflowed, {} cut, {} reordered",
            link.from,
            link.to,
            link.conditions,
            counted.delivered,
            counted.delivered_bytes,
            counted.lost,
            counted.overflowed,
            counted.cut,
            counted.reordered,
        )?;
    }
    Ok(())
}

fn place(text: &str) -> Result<Place, String> {
    let form = || "write NAME=NAMESPACE:NETWORK[,NETWORK]".to_owned();
    let (name, rest) = text.split_once('=').ok_or_else(form)?;
    let (namespace, networks) = rest.split_once(':').ok_or_else(form)?;
    let networks: Result<Vec<IpNet>, String> = networks
        .split(',')
        .map(|network| {
            network
                .parse()
                .map_err(|_| format!("`{network}` is no network; write 10.1.0.0/16"))
        })
        .collect();
    Ok(Place {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        networks: networks?,
    })
}
