//! What is measured: paths from a caller to the origin, and the processes on them.

pub(crate) mod cluster;
pub(crate) mod direct;
mod envoy;
mod haproxy;
mod nginx;
pub(crate) mod portolan;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::certificates::Certificates;
use crate::child::Process;
use crate::load::bulk::BulkEntrance;
use crate::load::{Entrance, Work, probe};
use crate::network::{Network, Side};
use crate::say;

/// What every path is built on.
pub(crate) struct Ground<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) network: &'a Network,
    pub(crate) certificates: &'a Certificates,
    /// Where the origin answers requests; the next port is for bytes.
    pub(crate) origin: SocketAddr,
    /// How many entrances each path has that nobody has used.
    pub(crate) cold: usize,
    /// What will be asked for, so that the peers can be set up for it.
    pub(crate) work: Work,
    /// The `portolan` program.
    pub(crate) portolan: PathBuf,
    /// The `envoy` program, if there is one.
    pub(crate) envoy: Option<PathBuf>,
    /// Whether Portolan writes its access log.
    pub(crate) access_log: bool,
    /// How Portolan's gateways find their rate, if it is not the default.
    pub(crate) congestion: Option<&'a str>,
}

impl Ground<'_> {
    /// Where the origin sends and takes bytes.
    pub(crate) fn origin_bulk(&self) -> SocketAddr {
        (self.origin.ip(), self.origin.port() + 1).into()
    }

    /// Starts the origin.
    pub(crate) async fn start_origin(&self) -> Result<Process> {
        let program = std::env::current_exe()?;
        let (http, bulk) = (self.origin.to_string(), self.origin_bulk().to_string());
        let arguments = ["origin", "--http", &http, "--bulk", &bulk];
        let far = self.network.place(Side::Far);
        let mut origin = Process::start(far, "origin", &program, &arguments, self.folder)?;
        origin.listens(self.origin).await?;
        Ok(origin)
    }

    /// Starts a program on a side.
    pub(crate) fn process(
        &self,
        side: Side,
        name: &str,
        program: &Path,
        arguments: &[String],
    ) -> Result<Process> {
        Process::start(
            self.network.place(side),
            name,
            program,
            arguments,
            self.folder,
        )
    }
}

/// One path.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) entrance: Entrance,
    /// Entrances to the same origin for one call each: nothing behind them is connected yet, but for what
    /// all of them share.
    pub(crate) cold: Vec<Entrance>,
    pub(crate) bulk: Option<BulkEntrance>,
    /// The processes on the way, in its order.
    pub(crate) proxies: Vec<Proxy>,
}

/// A process on the way.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    pub(crate) role: &'static str,
    pub(crate) pid: u32,
}

/// Paths, and what must run for them.
#[derive(Default)]
pub(crate) struct Started {
    pub(crate) subjects: Vec<Subject>,
    processes: Vec<Process>,
}

impl Started {
    fn add(&mut self, other: Self) {
        self.subjects.extend(other.subjects);
        self.processes.extend(other.processes);
    }

    /// Keeps a process running, and tells its part on a way.
    fn keep(&mut self, role: &'static str, process: Process) -> Proxy {
        let pid = process.pid;
        self.processes.push(process);
        Proxy { role, pid }
    }

    /// Waits until each path has carried a request. None begins colder than the others then, and memory at
    /// rest is that of processes that have all done their work once.
    async fn carry_one(&mut self, work: Work) -> Result<()> {
        for subject in &self.subjects {
            let first = subject.proxies.first().map(|proxy| proxy.pid);
            let mut processes = self.processes.iter_mut();
            let Some(process) = processes.find(|process| Some(process.pid) == first) else {
                continue;
            };
            let mut why = String::new();
            let what = format!("no request is answered on the path `{}`", subject.name);
            let answered = async || {
                let called = probe(&subject.entrance, work).await;
                why = called
                    .as_ref()
                    .err()
                    .map_or_else(String::new, |error| format!("{error:#}"));
                called.is_ok()
            };
            let waited = process.until(&what, answered).await;
            waited.with_context(|| format!("the last request: {why}"))?;
        }
        Ok(())
    }
}

/// A path that is not measured, and why.
pub(crate) struct Skipped {
    pub(crate) name: &'static str,
    pub(crate) why: String,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.why)
    }
}

/// What all paths are called.
pub(crate) fn names() -> Vec<&'static str> {
    [direct::NAME, portolan::LOCAL, portolan::REMOTE]
        .into_iter()
        .chain(envoy::VARIANTS.iter().map(|it| it.name))
        .chain(haproxy::VARIANTS.iter().map(|it| it.name))
        .chain([nginx::NAME])
        .collect()
}

/// Starts every path whose name `wanted` accepts; of these, tells which could not be.
pub(crate) async fn start(
    ground: &Ground<'_>,
    wanted: impl Fn(&str) -> bool,
) -> Result<(Started, Vec<Skipped>)> {
    let mut started = Started::default();
    let mut skipped = Vec::new();
    if wanted(direct::NAME) {
        started.subjects.push(direct::subject(ground));
    }
    if wanted(portolan::LOCAL) || wanted(portolan::REMOTE) {
        started.add(portolan::start(ground, wanted(portolan::LOCAL)).await?);
    }
    let trailers = |http2| http2 || ground.work != Work::Grpc;
    let why = "HTTP/1.1 between the proxies loses gRPC's trailers";
    let lossy = |name| Skipped {
        name,
        why: why.to_owned(),
    };
    for variant in envoy::VARIANTS.into_iter().filter(|it| wanted(it.name)) {
        match &ground.envoy {
            _ if !trailers(variant.http2) => skipped.push(lossy(variant.name)),
            Some(program) => started.add(envoy::start(ground, program, variant).await?),
            None => skipped.push(Skipped {
                name: variant.name,
                why: "envoy is not installed (bench/setup)".to_owned(),
            }),
        }
    }
    for variant in haproxy::VARIANTS.into_iter().filter(|it| wanted(it.name)) {
        match crate::child::find("haproxy") {
            _ if !trailers(variant.http2 || variant.relays) => skipped.push(lossy(variant.name)),
            Some(program) => started.add(haproxy::start(ground, &program, variant).await?),
            None => skipped.push(Skipped {
                name: variant.name,
                why: "haproxy is not installed (bench/setup)".to_owned(),
            }),
        }
    }
    if wanted(nginx::NAME) {
        match (crate::child::find("nginx"), ground.work) {
            (_, Work::Http2) => skipped.push(Skipped {
                name: nginx::NAME,
                why: "it speaks HTTP/2 for gRPC only to where it forwards".to_owned(),
            }),
            (Some(program), Work::Http1 | Work::Fresh | Work::Grpc) => {
                let (nginx, without) = nginx::start(ground, &program).await?;
                started.add(nginx);
                skipped.extend(without);
            }
            (None, _) => skipped.push(Skipped {
                name: nginx::NAME,
                why: "nginx is not installed (bench/setup)".to_owned(),
            }),
        }
    }
    started.subjects.retain(|subject| wanted(subject.name));
    started.carry_one(ground.work).await?;
    for skipped in &skipped {
        say(&format!("SKIPPED: {skipped}"));
    }
    Ok((started, skipped))
}
