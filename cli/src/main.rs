//! `portolan`, the one binary: daemons, the command line that steers them, and the demo.

mod app;
mod args;
mod commands;
mod daemon;
mod demo;
mod exit;
mod render;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command, ConfigCommand, DaemonCli, DaemonKind, SidecarCommand};
use exit::{Code, Failure};

/// With the C library's, a request takes more of a proxy's time (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let command = match DaemonCli::try_parse() {
        Ok(daemon) => daemon.command.into(),
        Err(_) => Cli::parse().command,
    };
    if let Err(failure) = daemon::follow_parent() {
        return end(&failure);
    }
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => end(&failure),
    }
}

fn end(failure: &Failure) -> ExitCode {
    if !failure.message.is_empty() {
        render::complain(&format!("portolan: {failure}"));
    }
    ExitCode::from(failure.code as u8)
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Demo(args) => demo::run(args),
        Command::Apply(args) => commands::apply::apply(&args),
        Command::Diff(args) => commands::apply::diff(&args),
        Command::Get(args) => commands::get::run(&args),
        Command::Describe(args) => commands::describe::run(&args),
        Command::Delete(args) => commands::delete::run(&args),
        Command::Status(args) => commands::status::run(&args),
        Command::Explain(args) => commands::explain::run(&args),
        Command::Peer(args) => commands::peer::run(args.command),
        Command::Ca(args) => commands::ca::run(args.command),
        Command::Token(args) => commands::token::run(args.command),
        Command::Control(args) => daemon::control(&args.config),
        Command::Gateway(args) => daemon::gateway(&args.config),
        Command::Sidecar(args) => match (args.command, args.config) {
            (Some(SidecarCommand::Capture(capture)), _) => commands::capture::run(&capture),
            (None, Some(config)) => daemon::sidecar(&config),
            (None, None) => Err(Failure::new(
                Code::Usage,
                "name the configuration file with --config FILE",
            )),
        },
        Command::Config(args) => match args.command {
            ConfigCommand::Example { kind } => render::print(match kind {
                DaemonKind::Control => portolan_control::EXAMPLE,
                DaemonKind::Gateway => portolan_gateway::EXAMPLE,
                DaemonKind::Sidecar => portolan_sidecar::EXAMPLE,
            }),
        },
        Command::Schema(args) => commands::schema::run(&args),
        Command::Completions(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "portolan", &mut script);
            render::print(&String::from_utf8_lossy(&script))
        }
        Command::DemoApp(args) => app::run(args),
    }
}
