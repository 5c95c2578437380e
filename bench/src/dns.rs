//! Name servers, side by side: the control plane's, a sidecar's, and one that does nothing else. The same
//! client asks the same questions, over UDP.

mod knot;
mod report;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use crate::child::{Process, find};
use crate::load::{Seen, Work, ask, askers, closed, open};
use crate::machine::{Quiet, Used, describe, used_with_children};
use crate::network::{Network, Side};
use crate::options::Options;
use crate::subjects::Ground;
use crate::subjects::cluster::{Cluster, NAMESPACE, authorities};
use crate::{certificates, say};

const CONTROL: &str = "portolan control plane";
const SIDECAR: &str = "portolan sidecar";
/// The fastest rate that may be asked for: more would measure the client.
const RATE_MAX: u32 = 50_000;

#[derive(Args)]
pub(crate) struct DnsArgs {
    /// How many names there are
    #[arg(long, default_value_t = 1000)]
    names: usize,
    /// Questions under way at a time
    #[arg(long, default_value_t = 32)]
    askers: usize,
    /// How often each server is measured
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// How long each measurement takes
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Fixed rates at which latency is measured, questions per second
    #[arg(long, value_delimiter = ',', default_value = "1000,10000", value_parser = clap::value_parser!(u32).range(1..=i64::from(RATE_MAX)))]
    rates: Vec<u32>,
    #[command(flatten)]
    pub(crate) options: Options,
}

/// All results.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Results {
    machine: String,
    names: usize,
    askers: usize,
    repeats: usize,
    seconds: f64,
    rates: Vec<u32>,
    warnings: Vec<String>,
    skipped: Vec<String>,
    servers: Vec<ServerResults>,
}

/// What was measured of one server; a list has one entry for each repeat.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServerResults {
    name: &'static str,
    /// Answers per second, as many as it can with this client.
    throughput: Vec<f64>,
    /// CPU seconds for 1,000 answers at that (milliseconds for one).
    cpu: Vec<f64>,
    /// The share of one core that the server used at that.
    busy: Vec<f64>,
    /// Microseconds while it does as many as it can: p50, p99.
    full_latency: Vec<[f64; 2]>,
    /// At each rate, microseconds since the question was due: p50, p99.
    fixed: Vec<Vec<[f64; 2]>>,
    /// Resident KiB at the end.
    resident: u64,
}

/// A server that runs.
struct Server {
    name: &'static str,
    address: SocketAddr,
    process: Process,
}

pub(crate) async fn run(arguments: &DnsArgs) -> Result<()> {
    let options = &arguments.options;
    options.named(&[CONTROL, SIDECAR, knot::NAME])?;
    let folder = options.folder()?;
    let (quiet, mut warnings) = Quiet::begin(options.waits()).await;
    let network = Network::loopback()?;
    let certificates = certificates::create(folder.path())?;
    let ground = Ground {
        folder: folder.path(),
        network: &network,
        certificates: &certificates,
        origin: network.address(Side::Near),
        cold: 0,
        work: Work::Http1,
        portolan: options.portolan()?,
        envoy: None,
        access_log: false,
        congestion: None,
    };
    say("starting all servers ...");
    let services = arguments.services();
    let names: Vec<String> = services
        .iter()
        .map(|service| format!("{service}.{NAMESPACE}.svc.clusterset.local"))
        .collect();
    let mut skipped = Vec::new();
    let mut servers = portolan(&ground, &services).await?;
    match find("knotd") {
        Some(program) => servers.push(knot::start(&ground, &program, &names)?),
        None if !options.wants(knot::NAME) => {}
        None => skipped.push(format!("{}: it is not installed (bench/setup)", knot::NAME)),
    }
    servers.retain(|server| options.wants(server.name));
    for skipped in &skipped {
        say(&format!("SKIPPED: {skipped}"));
    }
    let (servers, repeats) = measure(arguments, &mut servers, &names, &mut warnings).await?;
    warnings.extend(quiet.end());
    let results = Results {
        machine: describe(),
        names: names.len(),
        askers: arguments.askers,
        repeats,
        seconds: arguments.window().1.as_secs_f64(),
        rates: arguments.rates.clone(),
        warnings,
        skipped,
        servers,
    };
    report::print(&results)?;
    options.write_json(&results)
}

/// A cluster whose control plane and one sidecar answer questions.
async fn portolan(ground: &Ground<'_>, services: &[String]) -> Result<Vec<Server>> {
    let folder = ground.folder.join("portolan");
    std::fs::create_dir_all(&folder)?;
    let cluster = Cluster::new(ground, Side::Near, &folder);
    authorities(std::slice::from_ref(&cluster), &folder).await?;
    let [control_dns, sidecar_dns] = std::array::from_fn(|_| ground.network.address(Side::Near));
    let control = cluster.start_control(Some(control_dns)).await?;
    cluster.declare(services, None).await?;
    let (sidecar, _) = cluster.start_caller_sidecar("caller", Some(sidecar_dns))?;
    Ok(vec![
        Server {
            name: CONTROL,
            address: control_dns,
            process: control,
        },
        Server {
            name: SIDECAR,
            address: sidecar_dns,
            process: sidecar,
        },
    ])
}

/// Every server in turns, and how many turns there were.
async fn measure(
    arguments: &DnsArgs,
    servers: &mut [Server],
    names: &[String],
    warnings: &mut Vec<String>,
) -> Result<(Vec<ServerResults>, usize)> {
    let mut all = Vec::new();
    for Server {
        name,
        address,
        process,
    } in servers.iter_mut()
    {
        let what = format!("{name} does not answer for every name");
        process
            .until(&what, async || ask(*address, names).await.is_ok())
            .await?;
        all.push(ServerResults::new(name, arguments.rates.len()));
    }
    let mut turns = arguments.options.turns(arguments.repeats);
    while let Some(turn) = turns.next() {
        for (server, results) in servers.iter().zip(&mut all) {
            say(&format!("{turn} of {}: {}", turns.count(), server.name));
            results
                .measure(arguments, server, names)
                .await
                .with_context(|| format!("asking {}", server.name))?;
        }
    }
    warnings.extend(turns.warning());
    Ok((all, turns.taken()))
}

impl ServerResults {
    fn new(name: &'static str, rates: usize) -> Self {
        Self {
            name,
            throughput: Vec::new(),
            cpu: Vec::new(),
            busy: Vec::new(),
            full_latency: Vec::new(),
            fixed: vec![Vec::new(); rates],
            resident: 0,
        }
    }

    async fn measure(
        &mut self,
        arguments: &DnsArgs,
        server: &Server,
        names: &[String],
    ) -> Result<()> {
        let window = arguments.window();
        let callers = async || askers(server.address, names, arguments.askers).await;
        let mut looks: Vec<Used> = Vec::new();
        let seen = closed(callers().await?, window, || {
            looks.push(used_with_children(server.process.pid)?);
            Ok(())
        })
        .await?
        .whole()?;
        self.full(&seen, &looks);
        for (rate, fixed) in arguments.rates.iter().zip(&mut self.fixed) {
            let seen = open(callers().await?, *rate, window).await?.whole()?;
            fixed.push([50.0, 99.0].map(|at| seen.microseconds(at)));
        }
        Ok(())
    }

    fn full(&mut self, seen: &Seen, looks: &[Used]) {
        let seconds = seen.over.as_secs_f64();
        self.throughput.push(seen.answered as f64 / seconds);
        self.full_latency
            .push([50.0, 99.0].map(|at| seen.microseconds(at)));
        if let [before, after] = looks {
            let cpu = after.cpu - before.cpu;
            self.cpu.push(cpu * 1_000.0 / seen.answered as f64);
            self.busy.push(cpu / seconds);
            self.resident = after.resident;
        }
    }
}

impl DnsArgs {
    fn services(&self) -> Vec<String> {
        let count = if self.options.smoke {
            self.names.min(20)
        } else {
            self.names
        };
        (0..count).map(|number| format!("svc-{number}")).collect()
    }

    /// How long to warm up, and how long to measure.
    fn window(&self) -> (Duration, Duration) {
        if self.options.smoke {
            return (Duration::from_millis(50), Duration::from_millis(200));
        }
        let measured = Duration::from_secs_f64(self.seconds);
        (measured / 5, measured)
    }
}
