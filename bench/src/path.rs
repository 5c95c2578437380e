//! The experiment: every path, several times, in turns.

mod ratios;
mod report;

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use crate::load::bulk::{self, Way};
use crate::load::{Seen, Work, callers, closed, open};
use crate::machine::{Awake, Quiet, Used, describe, used_with_children};
use crate::network::{Network, Side};
use crate::options::Options;
use crate::subjects::{Ground, Started, Subject, direct, names, start};
use crate::{certificates, say};

use ratios::Ratios;

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
    /// How often each path is measured; 0: only idle memory
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// How long each measurement takes
    #[arg(long, default_value_t = 2.5)]
    seconds: f64,
    /// Fixed rates at which latency is measured, requests per second
    #[arg(long, value_delimiter = ',', default_value = "1000,5000")]
    rates: Vec<u32>,
    /// Measure these latencies once more while the processors are kept from halting, which shows what the
    /// processes themselves take
    #[arg(long)]
    awake: bool,
    /// Megabytes that are moved in each direction; 0 leaves it out
    #[arg(long, default_value_t = 256)]
    bulk: u64,
    /// With Portolan's access log, which is off otherwise, as the peers' are
    #[arg(long)]
    access_log: bool,
    /// Idle tunnels that are opened to see what memory one takes, twice as many in all; 0 leaves it out
    #[arg(long, default_value_t = 400)]
    tunnels: usize,
    #[command(flatten)]
    pub(crate) options: Options,
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
    pub(crate) paces: Vec<Pace>,
    pub(crate) warnings: Vec<String>,
    pub(crate) skipped: Vec<String>,
    pub(crate) paths: Vec<PathResults>,
    pub(crate) ratios: Vec<Ratios>,
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

/// How requests come.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pace {
    /// Requests per second.
    pub(crate) rate: u32,
    /// The processors are kept from halting.
    pub(crate) awake: bool,
}

/// Latency at one rate.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FixedRate {
    #[serde(flatten)]
    pub(crate) pace: Pace,
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
    /// Resident KiB after one request.
    pub(crate) idle: u64,
    /// Resident KiB, the most from its start to the end of the last repeat.
    pub(crate) loaded: u64,
    /// Private KiB, after one request, and the most that was seen at the end of some load.
    pub(crate) private_idle: u64,
    pub(crate) private_loaded: u64,
    /// Resident KiB for each idle tunnel.
    pub(crate) tunnel: Option<f64>,
}

pub(crate) async fn run(arguments: &PathArgs) -> Result<()> {
    let options = &arguments.options;
    options.named(&names())?;
    let folder = options.folder()?;
    let (quiet, mut warnings) = Quiet::begin(options.waits()).await;
    let network = Network::loopback()?;
    let certificates = certificates::create(folder.path())?;
    let ground = Ground {
        folder: folder.path(),
        network: &network,
        certificates: &certificates,
        origin: network.address(Side::Far),
        cold: 0,
        work: arguments.work,
        portolan: options.portolan()?,
        envoy: options.envoy()?,
        access_log: arguments.access_log,
        congestion: None,
    };
    let _origin = ground.start_origin().await?;
    say("starting all paths ...");
    let wants = |name: &str| name == direct::NAME || options.wants(name);
    let (started, skipped) = start(&ground, wants).await?;
    let keep_awake = || Awake::begin(network.place(Side::Near), folder.path());
    let (paths, repeats) = measure(arguments, keep_awake, &started, &mut warnings).await?;
    warnings.extend(quiet.end());
    let results = Results {
        machine: describe(),
        work: arguments.work,
        connections: arguments.connections,
        repeats,
        seconds: arguments.window().1.as_secs_f64(),
        paces: arguments.paces(),
        warnings,
        skipped: skipped.iter().map(ToString::to_string).collect(),
        ratios: ratios::all(&paths),
        paths,
    };
    report::print(&results)?;
    options.write_json(&results)
}

/// Every path in turns, and how many turns there were.
async fn measure(
    arguments: &PathArgs,
    keep_awake: impl Fn() -> Result<Awake>,
    started: &Started,
    warnings: &mut Vec<String>,
) -> Result<(Vec<PathResults>, usize)> {
    if !arguments.options.smoke {
        tokio::time::sleep(SETTLE).await;
    }
    let mut paths = Vec::new();
    for subject in &started.subjects {
        paths.push(PathResults::new(subject, &arguments.paces())?);
    }
    let mut turns = arguments.options.turns(arguments.repeats);
    while let Some(turn) = turns.next() {
        for (subject, path) in started.subjects.iter().zip(&mut paths) {
            say(&format!("{turn} of {}: {}", turns.count(), subject.name));
            one(arguments, &keep_awake, subject, path)
                .await
                .with_context(|| format!("on the path `{}`", subject.name))?;
        }
    }
    warnings.extend(turns.warning());
    for (subject, path) in started.subjects.iter().zip(&mut paths) {
        tunnels(arguments.tunnels(), subject, path)
            .await
            .with_context(|| format!("with idle tunnels on the path `{}`", subject.name))?;
    }
    Ok((paths, turns.taken()))
}

/// What memory idle tunnels take: of a second lot, since the first may use again what load has left.
async fn tunnels(count: usize, subject: &Subject, path: &mut PathResults) -> Result<()> {
    let Some(entrance) = subject.bulk.as_ref().filter(|_| count > 0) else {
        return Ok(());
    };
    let _first = bulk::idle(entrance, count).await?;
    let before = look(subject)?;
    let _second = bulk::idle(entrance, count).await?;
    for (proxy, (before, after)) in path
        .proxies
        .iter_mut()
        .zip(before.iter().zip(look(subject)?))
    {
        let grown = after.resident as f64 - before.resident as f64;
        proxy.tunnel = Some(grown / count as f64);
    }
    Ok(())
}

/// One path, once.
async fn one(
    arguments: &PathArgs,
    keep_awake: impl Fn() -> Result<Awake>,
    subject: &Subject,
    path: &mut PathResults,
) -> Result<()> {
    let window = arguments.window();
    let mut looks = Vec::new();
    let callers = async || callers(&subject.entrance, arguments.work, arguments.connections).await;
    let seen = closed(callers().await?, window, || {
        looks.push(look(subject)?);
        Ok(())
    })
    .await?
    .whole()?;
    path.full(&seen, &looks)?;
    for fixed in &mut path.fixed {
        let awake = fixed.pace.awake.then(&keep_awake).transpose()?;
        let seen = open(callers().await?, fixed.pace.rate, window)
            .await?
            .whole()?;
        drop(awake);
        fixed
            .latency
            .push([50.0, 90.0, 99.0, 99.9].map(|at| seen.microseconds(at)));
        loaded(&mut path.proxies, &look(subject)?);
    }
    if let Some(entrance) = subject.bulk.as_ref().filter(|_| arguments.bulk_bytes() > 0) {
        let bytes = arguments.bulk_bytes();
        for way in [Way::Up, Way::Down] {
            let before = look(subject)?;
            let took = bulk::carry(entrance, way, bytes).await?;
            let after = look(subject)?;
            path.moved(way, bytes, took, &before, &after);
            loaded(&mut path.proxies, &after);
        }
    }
    Ok(())
}

/// What each proxy on the way had used, children included.
fn look(subject: &Subject) -> Result<Vec<Used>> {
    let proxies = subject.proxies.iter();
    proxies.map(|proxy| used_with_children(proxy.pid)).collect()
}

/// Remembers the most memory that was seen after some load. The kernel tells no peak of the private part.
fn loaded(proxies: &mut [ProxyResults], after: &[Used]) {
    for (proxy, after) in proxies.iter_mut().zip(after) {
        proxy.loaded = proxy.loaded.max(after.peak);
        proxy.private_loaded = proxy.private_loaded.max(after.private);
    }
}

impl PathResults {
    fn new(subject: &Subject, paces: &[Pace]) -> Result<Self> {
        let proxies = subject.proxies.iter().zip(look(subject)?);
        Ok(Self {
            name: subject.name,
            throughput: Vec::new(),
            full_latency: Vec::new(),
            fixed: paces
                .iter()
                .map(|pace| FixedRate {
                    pace: *pace,
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
                    tunnel: None,
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
            .push([50.0, 99.0].map(|at| seen.microseconds(at)));
        for (proxy, (before, after)) in self.proxies.iter_mut().zip(before.iter().zip(after)) {
            let thousands = seen.answered as f64 / 1_000.0;
            proxy.cpu.push((after.cpu - before.cpu) / thousands);
        }
        loaded(&mut self.proxies, after);
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

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.rate)?;
        f.write_str(if self.awake { ", awake" } else { "" })
    }
}

impl PathArgs {
    /// At which rates latency is measured, and how.
    fn paces(&self) -> Vec<Pace> {
        let ways: &[bool] = if self.awake { &[false, true] } else { &[false] };
        let paces = self.rates.iter().flat_map(|rate| {
            ways.iter().map(|awake| Pace {
                rate: *rate,
                awake: *awake,
            })
        });
        paces.collect()
    }

    /// How long to warm up, and how long to measure.
    fn window(&self) -> (Duration, Duration) {
        if self.options.smoke {
            return (Duration::from_millis(50), Duration::from_millis(150));
        }
        let measured = Duration::from_secs_f64(self.seconds);
        (measured / 5, measured)
    }

    fn bulk_bytes(&self) -> u64 {
        let megabytes = if self.options.smoke {
            self.bulk.min(8)
        } else {
            self.bulk
        };
        megabytes * 1_000_000
    }

    /// How many tunnels are opened before memory is read, and again.
    fn tunnels(&self) -> usize {
        if self.options.smoke {
            self.tunnels.min(16)
        } else {
            self.tunnels
        }
    }
}
