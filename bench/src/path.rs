//! The experiment: every path, several times, in turns.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use crate::child::Process;
use crate::load::bulk::{self, Way};
use crate::load::{Seen, Work, closed, open};
use crate::machine::{Quiet, Used, describe, family, used};
use crate::network::Network;
use crate::subjects::{Ground, Skipped, Started, Subject, direct, start};
use crate::{certificates, report, say};

/// The pause before idle memory is read.
const SETTLE: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(crate) struct PathArgs {
    /// What callers do
    #[arg(long, value_enum, default_value = "http1")]
    work: Work,
    /// Callers at a time
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// How often each path is measured
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// How long each measurement takes
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Fixed rates at which latency is measured, requests per second
    #[arg(long, value_delimiter = ',', default_value = "1000,5000")]
    rates: Vec<u32>,
    /// Megabytes that are moved in each direction; 0 leaves it out
    #[arg(long, default_value_t = 512)]
    bulk: u64,
    /// Only these paths (`direct` always takes part)
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// With Portolan's access log, which is off otherwise, as the peers' are
    #[arg(long)]
    access_log: bool,
    /// The portolan program (the one beside this program without it)
    #[arg(long)]
    portolan: Option<PathBuf>,
    /// The envoy program (the one that bench/setup installed without it)
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// Where to write the results as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Seconds instead of minutes: see whether it runs, and believe no figure
    #[arg(long)]
    smoke: bool,
    /// Keep the folder with configuration files and logs here
    #[arg(long)]
    keep: Option<PathBuf>,
}

/// All results.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Results {
    pub(crate) machine: String,
    pub(crate) work: Work,
    pub(crate) connections: usize,
    pub(crate) repeats: usize,
    pub(crate) seconds: f64,
    pub(crate) rates: Vec<u32>,
    pub(crate) warnings: Vec<String>,
    pub(crate) skipped: Vec<String>,
    pub(crate) paths: Vec<PathResults>,
}

/// What was measured on one path; a list has one entry for each repeat.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PathResults {
    pub(crate) name: &'static str,
    /// Requests per second, as many as it can.
    pub(crate) throughput: Vec<f64>,
    /// Microseconds while it does as many as it can: p50, p99.
    pub(crate) full_latency: Vec<[f64; 2]>,
    /// At each rate.
    pub(crate) fixed: Vec<FixedRate>,
    /// Gigabits per second from the caller to the origin.
    pub(crate) up: Vec<f64>,
    /// Gigabits per second from the origin to the caller.
    pub(crate) down: Vec<f64>,
    /// The proxies on the way.
    pub(crate) proxies: Vec<ProxyResults>,
}

/// Latency at one rate.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FixedRate {
    pub(crate) rate: u32,
    /// Microseconds since the request was due: p50, p90, p99, p99.9.
    pub(crate) latency: Vec<[f64; 4]>,
}

/// What one process used.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProxyResults {
    pub(crate) role: &'static str,
    /// CPU seconds for 1,000 requests at full throughput (milliseconds for one).
    pub(crate) cpu: Vec<f64>,
    /// CPU seconds for each gigabyte from the caller to the origin, and back.
    pub(crate) cpu_up: Vec<f64>,
    pub(crate) cpu_down: Vec<f64>,
    /// Resident KiB before the first request.
    pub(crate) idle: u64,
    /// Resident KiB, the most that was seen at the end of a measurement.
    pub(crate) loaded: u64,
    /// Private KiB, before the first request and at most.
    pub(crate) private_idle: u64,
    pub(crate) private_loaded: u64,
}

pub(crate) async fn run(arguments: &PathArgs) -> Result<()> {
    let temporary = tempfile::Builder::new()
        .prefix("portolan-bench-")
        .tempdir()?;
    let folder = match &arguments.keep {
        Some(folder) => {
            std::fs::create_dir_all(folder)?;
            folder.canonicalize()?
        }
        None => temporary.path().to_owned(),
    };
    let (quiet, mut warnings) = Quiet::begin();
    let (network, certificates) = (Network::choose()?, certificates::create(&folder)?);
    let origin = network.address();
    let ground = Ground {
        folder: &folder,
        network: &network,
        certificates: &certificates,
        origin,
        origin_bulk: (origin.ip(), origin.port() + 1).into(),
        work: arguments.work,
        portolan: arguments.portolan()?,
        envoy: arguments.envoy(),
        access_log: arguments.access_log,
    };
    let _origin = start_origin(&ground).await?;
    say("starting all paths ...");
    let (started, skipped) = start(&ground, |name| arguments.wants(name)).await?;
    for Skipped { name, why } in &skipped {
        say(&format!("SKIPPED: {name}: {why}"));
    }
    let paths = measure(arguments, &started).await?;
    warnings.extend(quiet.end());
    let results = Results {
        machine: describe(),
        work: arguments.work,
        connections: arguments.connections,
        repeats: arguments.repeats(),
        seconds: arguments.window().1.as_secs_f64(),
        rates: arguments.rates.clone(),
        warnings,
        skipped: skipped
            .iter()
            .map(|it| format!("{}: {}", it.name, it.why))
            .collect(),
        paths,
    };
    report::print(&results)?;
    if let Some(file) = &arguments.json {
        std::fs::write(file, serde_json::to_string_pretty(&results)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

async fn start_origin(ground: &Ground<'_>) -> Result<Process> {
    let program = std::env::current_exe()?;
    let (http, bulk) = (ground.origin.to_string(), ground.origin_bulk.to_string());
    let arguments = ["origin", "--http", &http, "--bulk", &bulk];
    let mut origin = Process::start("origin", &program, &arguments, ground.folder)?;
    origin.listens(ground.origin).await?;
    Ok(origin)
}

async fn measure(arguments: &PathArgs, started: &Started) -> Result<Vec<PathResults>> {
    tokio::time::sleep(if arguments.smoke {
        Duration::ZERO
    } else {
        SETTLE
    })
    .await;
    let mut paths = Vec::new();
    for subject in &started.subjects {
        paths.push(PathResults::new(subject, &arguments.rates)?);
    }
    for repeat in 1..=arguments.repeats() {
        for (subject, path) in started.subjects.iter().zip(&mut paths) {
            say(&format!(
                "{repeat} of {}: {}",
                arguments.repeats(),
                subject.name
            ));
            one(arguments, subject, path)
                .await
                .with_context(|| format!("on the path `{}`", subject.name))?;
        }
    }
    Ok(paths)
}

/// One path, once.
async fn one(arguments: &PathArgs, subject: &Subject, path: &mut PathResults) -> Result<()> {
    let window = arguments.window();
    let mut looks = Vec::new();
    let seen = closed(
        &subject.entrance,
        arguments.work,
        arguments.connections,
        window,
        || {
            looks.push(look(subject)?);
            Ok(())
        },
    )
    .await?;
    path.full(&seen, &looks)?;
    for fixed in &mut path.fixed {
        let seen = open(
            &subject.entrance,
            arguments.work,
            arguments.connections,
            fixed.rate,
            window,
        )
        .await?;
        fixed
            .latency
            .push([50.0, 90.0, 99.0, 99.9].map(|at| microseconds(&seen, at)));
    }
    if let Some(entrance) = subject.bulk.as_ref().filter(|_| arguments.bulk_bytes() > 0) {
        let bytes = arguments.bulk_bytes();
        for way in [Way::Up, Way::Down] {
            let before = look(subject)?;
            let took = bulk::carry(entrance, way, bytes).await?;
            path.moved(way, bytes, took, &before, &look(subject)?);
        }
    }
    Ok(())
}

/// What each proxy on the way had used, children included.
fn look(subject: &Subject) -> Result<Vec<Used>> {
    let all = |pid| -> Result<Used> {
        let mut sum = Used::default();
        for pid in family(pid) {
            let one = used(pid)?;
            sum.cpu += one.cpu;
            sum.resident += one.resident;
            sum.private += one.private;
        }
        Ok(sum)
    };
    subject.proxies.iter().map(|proxy| all(proxy.pid)).collect()
}

fn microseconds(seen: &Seen, percentile: f64) -> f64 {
    seen.latency.value_at_percentile(percentile) as f64 / 1_000.0
}

impl PathResults {
    fn new(subject: &Subject, rates: &[u32]) -> Result<Self> {
        let proxies = subject.proxies.iter().zip(look(subject)?);
        Ok(Self {
            name: subject.name,
            throughput: Vec::new(),
            full_latency: Vec::new(),
            fixed: rates
                .iter()
                .map(|rate| FixedRate {
                    rate: *rate,
                    latency: Vec::new(),
                })
                .collect(),
            up: Vec::new(),
            down: Vec::new(),
            proxies: proxies
                .map(|(proxy, idle)| ProxyResults {
                    role: proxy.role,
                    cpu: Vec::new(),
                    cpu_up: Vec::new(),
                    cpu_down: Vec::new(),
                    idle: idle.resident,
                    loaded: idle.resident,
                    private_idle: idle.private,
                    private_loaded: idle.private,
                })
                .collect(),
        })
    }

    fn full(&mut self, seen: &Seen, looks: &[Vec<Used>]) -> Result<()> {
        let [before, after] = looks else {
            bail!("the proxies are looked at before and after");
        };
        let seconds = seen.over.as_secs_f64();
        self.throughput.push(seen.answered as f64 / seconds);
        self.full_latency
            .push([50.0, 99.0].map(|at| microseconds(seen, at)));
        for (proxy, (before, after)) in self.proxies.iter_mut().zip(before.iter().zip(after)) {
            let thousands = seen.answered as f64 / 1_000.0;
            proxy.cpu.push((after.cpu - before.cpu) / thousands);
            proxy.loaded = proxy.loaded.max(after.resident);
            proxy.private_loaded = proxy.private_loaded.max(after.private);
        }
        Ok(())
    }

    fn moved(&mut self, way: Way, bytes: u64, took: Duration, before: &[Used], after: &[Used]) {
        let rate = bytes as f64 * 8.0 / 1e9 / took.as_secs_f64();
        match way {
            Way::Up => self.up.push(rate),
            Way::Down => self.down.push(rate),
        }
        for (proxy, (before, after)) in self.proxies.iter_mut().zip(before.iter().zip(after)) {
            let cpu = (after.cpu - before.cpu) / (bytes as f64 / 1e9);
            match way {
                Way::Up => proxy.cpu_up.push(cpu),
                Way::Down => proxy.cpu_down.push(cpu),
            }
        }
    }

    /// CPU of all proxies on the way, for each repeat.
    pub(crate) fn cpu(&self) -> Vec<f64> {
        (0..self.throughput.len())
            .map(|repeat| {
                self.proxies
                    .iter()
                    .filter_map(|it| it.cpu.get(repeat))
                    .sum()
            })
            .collect()
    }
}

impl PathArgs {
    fn wants(&self, name: &str) -> bool {
        let everything = self.only.is_empty();
        everything || name == direct::NAME || self.only.iter().any(|wanted| wanted == name)
    }

    fn repeats(&self) -> usize {
        if self.smoke { 1 } else { self.repeats }
    }

    /// How long to warm up, and how long to measure.
    fn window(&self) -> (Duration, Duration) {
        if self.smoke {
            return (Duration::from_millis(100), Duration::from_millis(200));
        }
        let measured = Duration::from_secs_f64(self.seconds);
        (measured / 3, measured)
    }

    fn bulk_bytes(&self) -> u64 {
        let megabytes = if self.smoke {
            self.bulk.min(8)
        } else {
            self.bulk
        };
        megabytes * 1_000_000
    }

    fn portolan(&self) -> Result<PathBuf> {
        let program = match &self.portolan {
            Some(program) => program.clone(),
            None => std::env::current_exe()?.with_file_name("portolan"),
        };
        if program.is_file() {
            return Ok(program);
        }
        bail!(
            "{} is not there: build it (`cargo build --release -p portolan`), or name one with --portolan",
            program.display()
        )
    }

    fn envoy(&self) -> Option<PathBuf> {
        let installed = || {
            let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
            let cache =
                cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
            let program = cache.join("portolan-bench/envoy");
            program.is_file().then_some(program)
        };
        let given = self.envoy.clone().filter(|program| program.is_file());
        given
            .or_else(installed)
            .or_else(|| crate::child::find("envoy"))
    }
}
