//! The processes of a mesh, each on its host, each with a name: `us-east/gateway-1`, `us-east/orders-app`.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::hosts::Hosts;
use super::portolan;

/// Every process of a mesh.
pub(crate) struct Parts {
    logs: PathBuf,
    parts: BTreeMap<String, Part>,
}

struct Part {
    host: String,
    argv: Vec<String>,
    child: Option<Child>,
}

impl Parts {
    pub(crate) fn new(logs: PathBuf) -> Self {
        std::fs::create_dir_all(&logs).unwrap();
        Self {
            logs,
            parts: BTreeMap::new(),
        }
    }

    /// Starts `portolan ARGUMENTS` on a host.
    pub(crate) fn add(&mut self, hosts: &Hosts, name: &str, host: &str, arguments: &[&str]) {
        self.add_program(hosts, name, host, portolan(), arguments);
    }

    /// Starts `PROGRAM ARGUMENTS` on a host.
    pub(crate) fn add_program(
        &mut self,
        hosts: &Hosts,
        name: &str,
        host: &str,
        program: &str,
        arguments: &[&str],
    ) {
        let words = std::iter::once(program).chain(arguments.iter().copied());
        let part = Part {
            host: host.to_owned(),
            argv: words.map(str::to_owned).collect(),
            child: None,
        };
        self.parts.insert(name.to_owned(), part);
        self.start(hosts, name);
    }

    /// Starts again what does not run.
    pub(crate) fn start(&mut self, hosts: &Hosts, pattern: &str) {
        for name in self.matching(pattern) {
            let log = self.logs.join(format!("{}.log", name.replace('/', "-")));
            let log = File::options().create(true).append(true).open(log).unwrap();
            let part = self.parts.get_mut(&name).unwrap();
            if part.child.is_some() {
                continue;
            }
            let child = hosts
                .command(&part.host, &part.argv[0])
                .args(&part.argv[1..])
                .env("PORTOLAN_DEMO_PARENT", std::process::id().to_string())
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn();
            part.child = Some(child.unwrap());
        }
    }

    /// Kills at once, as a crash would.
    pub(crate) fn kill(&mut self, pattern: &str) {
        self.signal(pattern, Signal::KILL);
        self.bury(pattern);
    }

    /// Asks to end, and waits for the end.
    pub(crate) fn end(&mut self, pattern: &str) {
        self.signal(pattern, Signal::TERM);
        self.bury(pattern);
    }

    /// Sends a signal to every running part that matches: a name, `us-east/*`, `*/control` or `*`.
    pub(crate) fn signal(&self, pattern: &str, signal: Signal) {
        for name in self.matching(pattern) {
            if let Some(child) = &self.parts[&name].child {
                kill_process(Pid::from_child(child), signal).unwrap();
            }
        }
    }

    /// Those that ended though nobody told them to.
    pub(crate) fn crashed(&mut self) -> Vec<String> {
        let ended = |part: &mut Part| {
            let child = part.child.as_mut();
            child.is_some_and(|child| child.try_wait().unwrap().is_some())
        };
        let parts = self.parts.iter_mut();
        parts
            .filter_map(|(name, part)| ended(part).then(|| name.clone()))
            .collect()
    }

    /// What a part said so far.
    pub(crate) fn log(&self, name: &str) -> String {
        let log = self.logs.join(format!("{}.log", name.replace('/', "-")));
        std::fs::read_to_string(log).unwrap_or_default()
    }

    /// The end of every part's log: so many lines.
    pub(crate) fn logs(&self, lines_max: usize) -> String {
        let mut text = String::new();
        for name in self.parts.keys() {
            let log = self.log(name);
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(lines_max)..].join("\n");
            text.push_str(&format!("--- {name}\n{tail}\n"));
        }
        text
    }

    fn bury(&mut self, pattern: &str) {
        for name in self.matching(pattern) {
            if let Some(mut child) = self.parts.get_mut(&name).unwrap().child.take() {
                child.wait().unwrap();
            }
        }
    }

    fn matching(&self, pattern: &str) -> Vec<String> {
        let matches = |name: &&String| {
            let ((cluster, part), (any_cluster, any_part)) = (split(name), split(pattern));
            let same = |asked: &str, is: &str| {
                asked == is
                    || asked
                        .strip_suffix('*')
                        .is_some_and(|begin| is.starts_with(begin))
            };
            same(any_cluster, cluster) && same(any_part, part)
        };
        let found: Vec<String> = self.parts.keys().filter(matches).cloned().collect();
        assert!(!found.is_empty(), "no part is called {pattern}");
        found
    }
}

fn split(name: &str) -> (&str, &str) {
    name.split_once('/').unwrap_or((name, "*"))
}

impl Drop for Parts {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.logs(12));
        }
        for part in self.parts.values_mut() {
            if let Some(child) = &mut part.child {
                let _gone = child.kill();
                let _gone = child.wait();
            }
        }
    }
}
