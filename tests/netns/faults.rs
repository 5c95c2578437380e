//! Faults under load: every request is counted while things break.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::instruments::Outcome;
use super::mesh::{By, Mesh};
use super::scenario::{Act, Scenario};
use super::scenarios::{PER_SECOND, SCENARIOS};
use super::{able, until};

const FRONTEND: &str = "us-east/frontend";
/// The longest part of a second that an answer takes besides the usual without counting as affected.
const USUAL: Duration = Duration::from_millis(250);

/// What is told of besides failures when logs are kept.
const SLOW_US: u64 = 1_000_000;
const SLOW_SHOWN_MAX: usize = 20;
/// The size of the disk of a mesh whose disk will be full, in MiB.
const DISK_MIB: u32 = 64;

/// So many of so many last answers must be from the cluster that answers in the end: who comes back gets its
/// share little by little, and the more slowly the more often it went.
const ENDS_MIN: usize = 5;
const LAST: usize = 100;

/// What a scenario did to the requests.
struct Report {
    scenario: &'static Scenario,
    requests: usize,
    /// How many failed of which reason.
    failed: BTreeMap<String, usize>,
    median: Duration,
    p99: Duration,
    longest: Duration,
    /// From an act until the last request that was hurt by it had its answer; the worst of all acts.
    recovered: Duration,
    /// How many were answered by which cluster.
    answered: BTreeMap<String, usize>,
    /// How many of the last answers came from where they should.
    ends: usize,
    /// Who ended without being told to.
    crashed: Vec<String>,
}

impl Report {
    fn new(scenario: &'static Scenario, outcomes: &[Outcome], acts: &[u64]) -> Self {
        let mut took: Vec<u64> = outcomes.iter().map(|outcome| outcome.took_us).collect();
        took.sort_unstable();
        let part = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
        let first = acts.first().copied().unwrap_or(u64::MAX);
        let usual = usual(outcomes, first);
        let hurt = |outcome: &&Outcome| outcome.failed.is_some() || outcome.took_us > usual;
        // A request is hurt by the last act before its answer that was not long over when it was due.
        let recovered = outcomes.iter().filter(hurt).filter_map(|outcome| {
            let end = outcome.at_us + outcome.took_us;
            let act = acts
                .iter()
                .rev()
                .find(|act| **act <= outcome.at_us)
                .or(acts.iter().find(|act| (outcome.at_us..end).contains(*act)))?;
            Some(end - act)
        });
        let count = |of: fn(&Outcome) -> Option<&String>| {
            let mut counts = BTreeMap::new();
            for value in outcomes.iter().filter_map(of) {
                *counts.entry(value.clone()).or_default() += 1;
            }
            counts
        };
        let last = outcomes.iter().rev().take(LAST);
        let last = last.filter_map(|outcome| outcome.from.as_deref());
        let ends = last.filter(|from| *from == scenario.bounds.ends).count();
        Self {
            scenario,
            requests: outcomes.len(),
            failed: count(|outcome| outcome.failed.as_ref()),
            median: Duration::from_micros(part(0.5)),
            p99: Duration::from_micros(part(0.99)),
            longest: Duration::from_micros(part(1.0)),
            recovered: Duration::from_micros(recovered.max().unwrap_or(0)),
            answered: count(|outcome| outcome.from.as_ref()),
            ends,
            crashed: Vec::new(),
        }
    }

    fn failures(&self) -> usize {
        self.failed.values().sum()
    }

    /// Why the outcome is not good enough, if it is not.
    fn wrong(&self) -> Option<String> {
        let bounds = self.scenario.bounds;
        if self.failures() > bounds.failed_max {
            return Some(format!("failed: {}", self.failures_by_reason()));
        }
        if self.longest > bounds.longest_max {
            return Some(format!("the longest took {:?}", self.longest));
        }
        if !self.crashed.is_empty() {
            return Some(format!("{} ended", self.crashed.join(", ")));
        }
        (self.ends < ENDS_MIN)
            .then(|| format!("{} of the last {LAST} are from {}", self.ends, bounds.ends))
    }

    /// How many failed, and of what if any did, the most frequent reason first.
    fn failures_by_reason(&self) -> String {
        let mut reasons: Vec<(&String, &usize)> = self.failed.iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let reasons: Vec<String> = reasons
            .iter()
            .map(|(reason, count)| format!("{count} × {reason}"))
            .collect();
        if reasons.is_empty() {
            return "0".to_owned();
        }
        format!("{} ({})", self.failures(), reasons.join(", "))
    }

    /// A line of the table in docs/reliability.md.
    fn row(&self) -> String {
        let ms = |time: Duration| format!("{} ms", time.as_millis());
        let answered: Vec<String> = self
            .answered
            .iter()
            .map(|(cluster, count)| format!("{cluster} {count}"))
            .collect();
        let recovered = if self.recovered.is_zero() {
            "–".to_owned()
        } else {
            ms(self.recovered)
        };
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            self.scenario.name,
            self.requests,
            self.failures_by_reason(),
            ms(self.median),
            ms(self.p99),
            ms(self.longest),
            recovered,
            answered.join(", "),
        )
    }
}

const HEAD: &str =
    "| what happens | requests | failed | median | p99 | longest | recovered after | answered by |
|---|---|---|---|---|---|---|---|";

/// What takes longer than this is hurt: the worst before the first act, and a little.
fn usual(outcomes: &[Outcome], first_act: u64) -> u64 {
    let before = outcomes
        .iter()
        .filter(|outcome| outcome.at_us + outcome.took_us < first_act);
    let worst = before.map(|outcome| outcome.took_us).max().unwrap_or(0);
    worst + u64::try_from(USUAL.as_micros()).unwrap()
}

fn play(scenario: &'static Scenario) -> Report {
    let mut acts = scenario.script.iter().map(|(_, act)| act);
    let disk = acts.any(|act| matches!(act, Act::Fill)).then_some(DISK_MIB);
    let mut mesh = Mesh::start(scenario.gateways, scenario.between, disk);
    for act in scenario.before {
        perform(&mut mesh, *act);
    }
    if scenario.by == By::Capture {
        mesh.capture(FRONTEND);
    }
    until(&format!("{} answers", scenario.begins), || {
        let answer = match scenario.by {
            By::Capture => mesh.answer_to_app(FRONTEND, scenario.url),
            By::Proxy => mesh.answer(FRONTEND, scenario.url),
        };
        answer.as_deref() == Some(scenario.begins)
    });
    let request = (scenario.method, scenario.url);
    let load = mesh.load(FRONTEND, scenario.by, request, PER_SECOND);
    let mut acts = Vec::new();
    for (at, act) in scenario.script {
        load.run_until(*at);
        acts.push(unix_us());
        perform(&mut mesh, *act);
    }
    load.run_until(scenario.seconds);
    let outcomes = load.stop();
    let mut report = Report::new(scenario, &outcomes, &acts);
    report.crashed = mesh.parts.crashed();
    if let Some(wrong) = report.wrong() {
        println!("{}: {wrong}\n{}", scenario.name, mesh.wan.show());
    }
    if let Some(lines) = std::env::var_os("PORTOLAN_KEEP_LOGS") {
        let lines = lines.to_string_lossy().parse().unwrap_or(12);
        println!("{}", mesh.parts.logs(lines));
        let slow = outcomes
            .iter()
            .filter(|outcome| outcome.failed.is_some() || outcome.took_us > SLOW_US);
        slow.take(SLOW_SHOWN_MAX)
            .for_each(|outcome| println!("{outcome:?}"));
    }
    report
}

fn perform(mesh: &mut Mesh, act: Act) {
    match act {
        Act::Kill(parts) => mesh.parts.kill(parts),
        Act::End(parts) => mesh.parts.end(parts),
        Act::Stop(parts) => mesh.stop(parts),
        Act::Resume(parts) => mesh.resume(parts),
        Act::Start(parts) => mesh.parts.start(&mesh.hosts, parts),
        Act::Wan(change) => mesh.wan.set(change),
        Act::Damage(cluster) => {
            let file = mesh.file(cluster, "control/registry.redb");
            let length = std::fs::metadata(&file).unwrap().len();
            let file = std::fs::File::options().write(true).open(file).unwrap();
            let noise = vec![0xA5; usize::try_from(length / 2).unwrap()];
            file.write_all_at(&noise, length / 4).unwrap();
        }
        Act::Garbage(host, tcp, udp) => mesh.garbage(host, tcp, udp),
        Act::Impersonate(gateway) => mesh.impersonate(gateway),
        Act::Fill => mesh.fill(),
        Act::Free => std::fs::remove_file(mesh.filler()).unwrap(),
    }
}

fn unix_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_micros()).unwrap()
}

fn check(name: &str) {
    if !able(name) {
        return;
    }
    let scenario = SCENARIOS
        .iter()
        .find(|scenario| scenario.name == name)
        .unwrap();
    let report = play(scenario);
    println!("{HEAD}\n{}", report.row());
    assert!(report.wrong().is_none(), "{name}: {:?}", report.wrong());
}

/// Those that take turns in every run of the tests.
macro_rules! checks {
    ($($test:ident: $scenario:literal;)*) => {
        $(#[test]
        fn $test() {
            check($scenario);
        })*
    };
}

checks! {
    killed_app: "app killed, started again";
    stopped_app: "app stopped (SIGSTOP), resumed";
    stopped_own_gateway: "one of two own gateways stopped (SIGSTOP), resumed";
    stopped_gateway_of_the_peer: "the peer's only gateway stopped (SIGSTOP)";
    silent_cluster: "whole cluster silent (cut off, nobody told)";
    killed_cluster: "whole cluster killed, started again";
    black_hole: "link black-holed, restored";
    rolling_restart: "rolling restart of all gateways, two per cluster, POST";
    no_control_planes: "all control planes killed";
    damaged_registry: "registry file damaged, control plane started again";
    full_disk: "disk full everywhere, an app killed and started meanwhile";
    garbage: "peer's gateway answers garbage";
    hostile_gateway: "peer's gateway taken over, talks nonsense, POST";
    lossy_link: "5 % loss, 60 ms";
}

/// Plays all scenarios, or those whose name contains a part of `PORTOLAN_FAULTS` (parts stand between
/// semicolons), and prints the table.
#[test]
#[ignore = "all scenarios take a quarter of an hour; docs/reliability.md has the command"]
fn every_fault() {
    if !able("every_fault") {
        return;
    }
    let wanted = std::env::var("PORTOLAN_FAULTS").unwrap_or_default();
    let mut wrong = Vec::new();
    println!("{HEAD}");
    for scenario in SCENARIOS
        .iter()
        .filter(|scenario| wanted.split(';').any(|part| scenario.name.contains(part)))
    {
        let report = play(scenario);
        println!("{}", report.row());
        wrong.extend(
            report
                .wrong()
                .map(|why| format!("{}: {why}", scenario.name)),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_row_says_of_what_requests_failed() {
    let outcome = |failed: Option<&str>| Outcome {
        at_us: 0,
        took_us: 1_000,
        from: failed.is_none().then(|| "us-east".to_owned()),
        failed: failed.map(str::to_owned),
    };
    let row = |failed: &[Option<&str>]| {
        let outcomes: Vec<Outcome> = failed.iter().map(|failed| outcome(*failed)).collect();
        Report::new(&SCENARIOS[0], &outcomes, &[]).row()
    };
    assert!(row(&[None, None]).contains("| 2 | 0 | 1 ms |"));
    let refused = "503: overloaded; hop=outbound";
    let failing = row(&[Some(refused), None, Some("reset"), Some("reset")]);
    let expected = "| 4 | 3 (2 × reset, 1 × 503: overloaded; hop=outbound) | 1 ms |";
    assert!(failing.contains(expected), "{failing}");
}
