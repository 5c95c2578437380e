//! The experiment over a wide-area network: the caller in one place, the origin in another, and a link
//! between them that takes its time and loses packets.

mod ratios;
mod report;
mod sites;

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use crate::load::bulk::{self, Way};
use crate::load::{Seen, Work, callers, closed, first};
use crate::machine::{Quiet, describe};
use crate::network::Side;
use crate::options::Options;
use crate::subjects::{Ground, Started, Subject, direct, names, portolan, start};
use crate::{certificates, say};

use ratios::Ratios;
use sites::Sites;

/// What is measured unless something is asked for: each peer in its usual shape.
const USUAL: [&str; 6] = [
    direct::NAME,
    portolan::REMOTE,
    "envoy gateways",
    "envoy gateways h2",
    "envoy gateways h3 tunnel",
    "haproxy gateways",
];
/// How many destinations are called for the first time, and how often each once more.
const COLD: usize = 12;
const WARM: usize = 3;
/// What is left of a flow must not stand in the way of the next measurement.
const SETTLE: Duration = Duration::from_millis(500);

#[derive(Args)]
pub(crate) struct WanArgs {
    /// What callers do
    #[arg(long, value_enum, default_value = "http1")]
    work: Work,
    /// Callers at a time
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// The link's round trip, in milliseconds
    #[arg(long, default_value_t = 60)]
    rtt_ms: u32,
    /// Packets lost in each direction, percent; each is measured in turn
    #[arg(long, value_delimiter = ',', default_value = "0,0.1,1,2")]
    loss: Vec<f64>,
    /// The link's rate in each direction, in Mbit/s; 0 is as fast as the machine
    #[arg(long, default_value_t = 500)]
    rate_mbit: u32,
    /// How the kernel's TCP finds its rate on both sides: cubic, bbr, reno (the kernel's default without it)
    #[arg(long)]
    tcp: Option<String>,
    /// How Portolan's gateways find their rate, as their configuration says it (its default without it)
    #[arg(long)]
    congestion: Option<String>,
    /// How often each path is measured at each loss
    #[arg(long, default_value_t = 2)]
    repeats: usize,
    /// How long each measurement takes
    #[arg(long, default_value_t = 2.4)]
    seconds: f64,
    #[command(flatten)]
    pub(crate) options: Options,
}

/// All results.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Results {
    machine: String,
    work: Work,
    connections: usize,
    rtt_ms: u32,
    rate_mbit: u32,
    /// How the kernel's TCP finds its rate.
    tcp: String,
    /// How Portolan's gateways do, if it is not their default.
    congestion: Option<String>,
    repeats: usize,
    seconds: f64,
    warnings: Vec<String>,
    skipped: Vec<String>,
    paths: Vec<PathResults>,
    ratios: Vec<Ratios>,
}

/// What was measured on one path.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PathResults {
    name: &'static str,
    /// Milliseconds that the first call to each destination took, on a link that loses nothing, if the path has
    /// such destinations.
    cold: Vec<f64>,
    /// Milliseconds that further calls took.
    warm: Vec<f64>,
    /// At each loss.
    lossy: Vec<Lossy>,
}

/// What was measured at one loss; a list has one entry for each repeat.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Lossy {
    /// Percent.
    loss: f64,
    /// Requests per second.
    throughput: Vec<f64>,
    /// Milliseconds.
    p50: Vec<f64>,
    p99: Vec<f64>,
    /// Requests without an answer.
    failed: u64,
    /// Megabits per second in one connection, from the caller to the origin; none where it broke.
    up: Vec<Option<f64>>,
    /// And back.
    down: Vec<Option<f64>>,
    /// Connections that broke while bytes flowed, and why.
    broken: Vec<String>,
}

pub(crate) async fn run(arguments: &WanArgs) -> Result<()> {
    let options = &arguments.options;
    let named = options.named(&names())?;
    let folder = options.folder()?;
    let (quiet, mut warnings) = Quiet::begin(options.waits()).await;
    let sites = Sites::create().context("cannot make two places far apart (are you root?)")?;
    let (network, tcp) = sites.enter(arguments.tcp.as_deref())?;
    let certificates = certificates::create(folder.path())?;
    let ground = Ground {
        folder: folder.path(),
        network: &network,
        certificates: &certificates,
        origin: network.address(Side::Far),
        cold: if options.smoke { 1 } else { COLD },
        work: arguments.work,
        portolan: options.portolan()?,
        envoy: options.envoy()?,
        access_log: false,
        congestion: arguments.congestion.as_deref(),
    };
    // Starting is no part of what is measured.
    sites.set(&arguments.link(0.0))?;
    let _origin = ground.start_origin().await?;
    say("starting all paths ...");
    let wants = |name: &str| {
        if named {
            name == direct::NAME || options.wants(name)
        } else {
            USUAL.contains(&name)
        }
    };
    let (started, skipped) = start(&ground, wants).await?;
    let (paths, repeats) = measure(arguments, &sites, &started, &mut warnings).await?;
    warnings.extend(quiet.end());
    let results = Results {
        machine: describe(),
        work: arguments.work,
        connections: arguments.connections,
        rtt_ms: arguments.rtt_ms,
        rate_mbit: arguments.rate_mbit,
        tcp,
        congestion: arguments.congestion.clone(),
        repeats,
        seconds: arguments.requests().1.as_secs_f64(),
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
    arguments: &WanArgs,
    sites: &Sites,
    started: &Started,
    warnings: &mut Vec<String>,
) -> Result<(Vec<PathResults>, usize)> {
    let mut paths = Vec::new();
    for subject in &started.subjects {
        say(&format!("first calls: {}", subject.name));
        let (cold, warm) = first_calls(subject)
            .await
            .with_context(|| format!("with first calls on the path `{}`", subject.name))?;
        paths.push(PathResults {
            name: subject.name,
            cold,
            warm,
            lossy: arguments
                .loss
                .iter()
                .map(|loss| Lossy::new(*loss))
                .collect(),
        });
    }
    let mut turns = arguments.options.turns(arguments.repeats);
    while let Some(turn) = turns.next() {
        for (index, loss) in arguments.loss.iter().enumerate() {
            sites.set(&arguments.link(*loss))?;
            for (subject, path) in started.subjects.iter().zip(&mut paths) {
                let name = subject.name;
                say(&format!(
                    "{turn} of {}: {loss} % loss: {name}",
                    turns.count()
                ));
                path.lossy[index]
                    .measure(arguments, subject)
                    .await
                    .with_context(|| format!("on the path `{name}` at {loss} % loss"))?;
            }
        }
    }
    warnings.extend(turns.warning());
    Ok((paths, turns.taken()))
}

/// How long first calls and further ones take, in milliseconds; nothing where no destination is left for a first.
async fn first_calls(subject: &Subject) -> Result<(Vec<f64>, Vec<f64>)> {
    let milliseconds = |took: Duration| took.as_secs_f64() * 1_000.0;
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    if subject.cold.is_empty() {
        return Ok((cold, warm));
    }
    // What all destinations share, such as a link between gateways, is there after this.
    first(&subject.entrance, 1).await?;
    for entrance in &subject.cold {
        let (once, again) = first(entrance, WARM).await?;
        cold.push(milliseconds(once));
        warm.extend(again.into_iter().map(milliseconds));
    }
    Ok((cold, warm))
}

impl Lossy {
    fn new(loss: f64) -> Self {
        Self {
            loss,
            throughput: Vec::new(),
            p50: Vec::new(),
            p99: Vec::new(),
            failed: 0,
            up: Vec::new(),
            down: Vec::new(),
            broken: Vec::new(),
        }
    }

    async fn measure(&mut self, arguments: &WanArgs, subject: &Subject) -> Result<()> {
        let count = arguments.connections;
        let callers = callers(&subject.entrance, arguments.work, count).await?;
        let seen = closed(callers, arguments.requests(), || Ok(())).await?;
        self.add(&seen);
        if let Some(entrance) = &subject.bulk {
            for way in [Way::Up, Way::Down] {
                let flow = bulk::flow(entrance, way, arguments.flow()).await;
                let rate = flow.as_ref().ok().map(|bytes| bytes * 8.0 / 1e6);
                match way {
                    Way::Up => self.up.push(rate),
                    Way::Down => self.down.push(rate),
                }
                self.broken
                    .extend(flow.err().map(|error| format!("{error:#}")));
                tokio::time::sleep(SETTLE).await;
            }
        }
        Ok(())
    }

    fn add(&mut self, seen: &Seen) {
        let seconds = seen.over.as_secs_f64();
        self.throughput.push(seen.answered as f64 / seconds);
        self.p50.push(seen.microseconds(50.0) / 1_000.0);
        self.p99.push(seen.microseconds(99.0) / 1_000.0);
        self.failed += seen.failed;
    }
}

impl WanArgs {
    /// How long requests warm up, and how long they are measured.
    fn requests(&self) -> (Duration, Duration) {
        if self.options.smoke {
            return (Duration::from_millis(150), Duration::from_millis(250));
        }
        (
            Duration::from_millis(500),
            Duration::from_secs_f64(self.seconds),
        )
    }

    /// The same for a flow, which needs some round trips to find its rate.
    fn flow(&self) -> (Duration, Duration) {
        if self.options.smoke {
            return self.requests();
        }
        (
            Duration::from_secs(1),
            Duration::from_secs_f64(self.seconds * 2.0 / 3.0),
        )
    }

    /// The link's conditions.
    fn link(&self, loss: f64) -> Vec<String> {
        let mut words = vec![
            format!("delay={}us", self.rtt_ms * 500),
            format!("loss={loss}%"),
        ];
        if self.rate_mbit == 0 {
            words.push("rate=none".to_owned());
        } else {
            // What the link holds in one round trip.
            let queue = u64::from(self.rate_mbit) * 1_000_000 / 8 * u64::from(self.rtt_ms) / 1_000;
            words.push(format!("rate={}mbit", self.rate_mbit));
            words.push(format!("queue={queue}"));
        }
        words
    }
}
