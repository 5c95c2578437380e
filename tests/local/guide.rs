//! The guide does what it says: every command in it is run, and every output that it shows is compared.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::demo::{PORTOLAN, turn};
use super::tools::have;

const GUIDE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../docs/guides/link-two-clusters.md"
);
/// The longest that all commands together may take on a busy machine.
const TIME_MAX: Duration = Duration::from_secs(180);
/// What the script prints before each block's output.
const MARK: &str = "=== block ";
/// What all of the guide's addresses begin with.
const NETWORK: &str = "127.30.";
/// Where the guide runs when somebody else uses its addresses: 127.N.x.y.
const NETWORKS: std::ops::Range<u8> = 30..40;
/// Who listens here, in a network, has the network.
const CLAIM: &str = "0.1:30000";

/// A ```sh block, and the ```text block right after it, if there is one.
#[derive(Debug, Default, PartialEq, Eq)]
struct Step {
    line: usize,
    commands: String,
    promised: Option<String>,
}

#[test]
fn every_command_of_the_guide_works_and_shows_what_the_guide_shows() {
    let test = "every_command_of_the_guide_works_and_shows_what_the_guide_shows";
    if !["bash", "curl", "dig", "python3"]
        .iter()
        .all(|program| have(program, test))
    {
        return;
    }
    let _turn = turn();
    let guide = std::fs::read_to_string(GUIDE).unwrap();
    let (network, _claim) = free_network(&guide);
    let steps = steps(&guide.replace(NETWORK, &network));
    let dir = tempfile::tempdir().unwrap();
    let (status, output) = run(&steps, dir.path());
    let shown: Vec<&str> = output.split(MARK).skip(1).collect();
    for (number, step) in steps.iter().enumerate() {
        let whole = || {
            format!(
                "the guide's commands at line {}; everything:\n{output}\n{}",
                step.line,
                logs(dir.path())
            )
        };
        let shown = shown
            .get(number)
            .unwrap_or_else(|| panic!("not reached: {}", whole()));
        let shown = shown.split_once('\n').map_or("", |(_, shown)| shown);
        if let Some(promised) = &step.promised {
            assert!(
                matches(promised, shown),
                "the guide shows, after line {}:\n{promised}\nbut it was:\n{shown}\n{}",
                step.line,
                whole()
            );
        }
    }
    assert!(status.success(), "{status}\n{output}\n{}", logs(dir.path()));
}

/// A network in which all of the guide's addresses are free, and the claim to it.
fn free_network(guide: &str) -> (String, TcpListener) {
    let addresses: BTreeSet<&str> = guide
        .split(NETWORK)
        .skip(1)
        .filter_map(|rest| {
            rest.split(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')
                .next()
        })
        .filter(|address| address.contains(':') && !address.ends_with(':'))
        .collect();
    assert!(
        addresses.len() > 5,
        "the guide's addresses are found: {addresses:?}"
    );
    for number in NETWORKS {
        let network = format!("127.{number}.");
        let free = |address: &str| TcpListener::bind(format!("{network}{address}"));
        if let Ok(claim) = free(CLAIM)
            && addresses.iter().all(|address| free(address).is_ok())
        {
            return (network, claim);
        }
    }
    panic!(
        "all of 127.{}.0.0 to 127.{}.0.0 are in use",
        NETWORKS.start,
        NETWORKS.end - 1
    );
}

/// Runs all steps as one script, which ends, with all that it started, before this returns.
fn run(steps: &[Step], dir: &Path) -> (ExitStatus, String) {
    let mut script = "set -euo pipefail\n".to_owned();
    for (number, step) in steps.iter().enumerate() {
        script.push_str(&format!("echo '{MARK}{number}'\n{}", step.commands));
    }
    let shown = dir.join("output");
    let file = File::create(&shown).unwrap();
    let programs = Path::new(PORTOLAN).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let shell = Command::new("bash")
        .args(["-c", &script])
        .current_dir(dir)
        .env("PATH", path)
        .env_remove("PORTOLAN_ADMIN")
        .env_remove("http_proxy")
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .process_group(0)
        .spawn()
        .unwrap();
    let mut group = Group(shell);
    let begin = Instant::now();
    let status = loop {
        match group.0.try_wait().unwrap() {
            Some(status) => break status,
            None if begin.elapsed() > TIME_MAX => break group.end(),
            None => std::thread::park_timeout(Duration::from_millis(20)),
        }
    };
    drop(group);
    (status, std::fs::read_to_string(shown).unwrap())
}

/// The shell and everything that it started: one process group.
struct Group(Child);

impl Group {
    fn end(&mut self) -> ExitStatus {
        if let Some(group) = rustix::process::Pid::from_raw(self.0.id().cast_signed()) {
            let _gone = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        self.0.wait().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

/// The ends of the logs that the guide's processes wrote.
fn logs(dir: &Path) -> String {
    let mut text = String::new();
    for folder in [
        "portolan-guide",
        "portolan-guide/us-east",
        "portolan-guide/eu-west",
    ] {
        for entry in std::fs::read_dir(dir.join(folder))
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let log = std::fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = &lines[lines.len().saturating_sub(20)..];
                text.push_str(&format!("--- {}\n{}\n", path.display(), tail.join("\n")));
            }
        }
    }
    text
}

/// The guide's commands, in order.
fn steps(guide: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = guide.lines().enumerate();
    // Only a block that follows with nothing but blank lines between belongs to the commands before it.
    let mut adjacent = false;
    while let Some((number, line)) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else {
            adjacent = adjacent && line.is_empty();
            continue;
        };
        let block: String = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| *line != "```")
            .flat_map(|line| [line, "\n"])
            .collect();
        match (kind, steps.last_mut()) {
            ("sh", _) => steps.push(Step {
                line: number + 1,
                commands: block,
                promised: None,
            }),
            ("text", Some(step)) if adjacent => step.promised = Some(block),
            _ => panic!(
                "line {}: a block that is neither commands nor their output",
                number + 1
            ),
        }
        adjacent = kind == "sh";
    }
    steps
}

/// Whether `shown` is as promised: a line `...` stands for any lines, `...` in a line for any characters,
/// and blanks for blanks.
fn matches(promised: &str, shown: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines = |text: &str| {
        text.lines()
            .map(words)
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
    };
    let (promised, shown) = (lines(promised), lines(shown));
    wild(
        &promised,
        &shown,
        |line| line == "...",
        |promised, shown| {
            let pieces = pieces(promised);
            let shown: Vec<char> = shown.chars().collect();
            wild(&pieces, &shown, Option::is_none, |promised, shown| {
                *promised == Some(*shown)
            })
        },
    )
}

/// A line's characters; `None` where `...` stands for any.
fn pieces(line: &str) -> Vec<Option<char>> {
    let mut pieces = Vec::new();
    for (number, part) in line.split("...").enumerate() {
        if number > 0 {
            pieces.push(None);
        }
        pieces.extend(part.chars().map(Some));
    }
    pieces
}

/// Matches a pattern in which some items stand for any number of things.
fn wild<P, S>(pattern: &[P], things: &[S], any: fn(&P) -> bool, same: fn(&P, &S) -> bool) -> bool {
    match pattern.split_first() {
        None => things.is_empty(),
        Some((first, rest)) if any(first) => {
            (0..=things.len()).any(|skip| wild(rest, &things[skip..], any, same))
        }
        Some((first, rest)) => things
            .split_first()
            .is_some_and(|(thing, things)| same(first, thing) && wild(rest, things, any, same)),
    }
}

#[test]
fn outputs_are_compared_with_wildcards() {
    let promised = "cluster a\n...\nlink up ...ms, ... entries\n";
    assert!(matches(
        promised,
        "cluster  a\nx\n\ny\nlink up 0.3ms, 1 entries\n"
    ));
    assert!(matches(
        promised,
        "cluster a\nlink up 1ms, many more entries\n"
    ));
    assert!(!matches(promised, "cluster b\nlink up 0.3ms, 1 entries\n"));
    assert!(!matches(
        promised,
        "cluster a\nlink up 0.3ms, 1 entries\nand more\n"
    ));
    assert!(!matches("a\n", ""));
}

#[test]
fn blocks_are_read_in_order() {
    let found = steps("# x\n```sh\na\nb\n```\n\n```text\nout\n```\nwords\n```sh\nc\n```\n");
    let step = |line, commands: &str, promised: Option<&str>| Step {
        line,
        commands: commands.to_owned(),
        promised: promised.map(str::to_owned),
    };
    assert_eq!(
        found,
        [step(2, "a\nb\n", Some("out\n")), step(11, "c\n", None)]
    );
}
