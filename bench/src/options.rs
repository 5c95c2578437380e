//! What every measurement can be told, and how long it may take.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use crate::child::find;

/// What a measurement may take on top of its limit: waiting for an idle machine, starting, and the last turn.
const GRACE: Duration = Duration::from_secs(150);

#[derive(Args)]
pub(crate) struct Options {
    /// Only these subjects (the direct path always takes part)
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
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
    pub(crate) smoke: bool,
    /// Begin at once, however busy the machine is: what runs counts, and not how fast
    #[arg(long)]
    busy: bool,
    /// Keep configuration files and logs in this folder, which is empty or new
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Begin no repeat that would end later than this
    #[arg(long, default_value_t = 8.0)]
    minutes: f64,
}

impl Options {
    /// Whether subjects were named; those that were must be among `all`.
    pub(crate) fn named(&self, all: &[&str]) -> Result<bool> {
        let unknown = self.only.iter().find(|name| !all.contains(&name.as_str()));
        if let Some(unknown) = unknown {
            bail!(
                "no subject is called `{unknown}`: name one of these with --only: {}",
                all.join(", ")
            );
        }
        Ok(!self.only.is_empty())
    }

    /// Whether a subject was named, or none was.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == name)
    }

    pub(crate) fn portolan(&self) -> Result<PathBuf> {
        let program = match &self.portolan {
            Some(program) => program.clone(),
            None => std::env::current_exe()?.with_file_name("portolan"),
        };
        if program.is_file() {
            return Ok(program.canonicalize()?);
        }
        bail!(
            "{} is not there: build it (`cargo build --release -p portolan`), or name one with --portolan",
            program.display()
        )
    }

    /// The envoy program; there may be none unless one was named.
    pub(crate) fn envoy(&self) -> Result<Option<PathBuf>> {
        if let Some(given) = &self.envoy {
            if !given.is_file() {
                bail!(
                    "{} is not there: name the envoy program with --envoy, or run bench/setup",
                    given.display()
                );
            }
            return Ok(Some(given.clone()));
        }
        let installed = || {
            let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
            let cache =
                cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
            let program = cache.join("portolan-bench/envoy");
            program.is_file().then_some(program)
        };
        Ok(installed().or_else(|| find("envoy")))
    }

    /// The folder for configuration and logs; a temporary one ends with what is returned.
    pub(crate) fn folder(&self) -> Result<Folder> {
        let Some(folder) = &self.keep else {
            let folder = tempfile::Builder::new()
                .prefix("portolan-bench-")
                .tempdir()?;
            return Ok(Folder::Temporary(folder));
        };
        std::fs::create_dir_all(folder)?;
        if std::fs::read_dir(folder)?.next().is_some() {
            bail!(
                "{} is not empty: name another with --keep",
                folder.display()
            );
        }
        Ok(Folder::Kept(folder.canonicalize()?))
    }

    /// Whether a run begins only when the machine is idle.
    pub(crate) fn waits(&self) -> bool {
        !self.smoke && !self.busy
    }

    pub(crate) fn write_json(&self, results: &impl Serialize) -> Result<()> {
        let Some(file) = &self.json else {
            return Ok(());
        };
        std::fs::write(file, serde_json::to_string_pretty(results)?)
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// The longest that the whole measurement may take.
    pub(crate) fn at_most(&self) -> Duration {
        Duration::from_secs_f64(self.minutes * 60.0) + GRACE
    }

    /// The turns of a measurement, as many as there is time for.
    pub(crate) fn turns(&self, count: usize) -> Turns {
        Turns {
            count: if self.smoke { 1 } else { count },
            taken: 0,
            begun: Instant::now(),
            longest: Duration::ZERO,
            last: None,
            limit: Duration::from_secs_f64(self.minutes * 60.0),
        }
    }
}

/// Where configuration and logs are.
pub(crate) enum Folder {
    Temporary(tempfile::TempDir),
    Kept(PathBuf),
}

impl Folder {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.path(),
            Self::Kept(folder) => folder,
        }
    }
}

/// Turns of the same length, within a limit.
pub(crate) struct Turns {
    count: usize,
    taken: usize,
    begun: Instant,
    longest: Duration,
    last: Option<Instant>,
    limit: Duration,
}

impl Turns {
    /// The number of the next turn, counted from 1; `None` after the last one, or when another would take
    /// too long.
    pub(crate) fn next(&mut self) -> Option<usize> {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.longest = self.longest.max(now - last);
        }
        let late = self.begun.elapsed() + self.longest > self.limit;
        if self.taken == self.count || (self.taken > 0 && late) {
            return None;
        }
        self.taken += 1;
        Some(self.taken)
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// What is wrong with the number of turns.
    pub(crate) fn warning(&self) -> Option<String> {
        (self.taken < self.count).then(|| {
            format!(
                "time for {} of {} repeats only: allow more with --minutes",
                self.taken, self.count
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn options(arguments: &[&str]) -> Options {
        let arguments = ["portolan-bench"].iter().chain(arguments);
        clap::Parser::try_parse_from(arguments)
            .map(|cli: Cli| cli.options)
            .unwrap()
    }

    #[test]
    fn who_names_nobody_wants_all() {
        let options = options(&[]);
        assert!(!options.named(&["direct", "envoy h2"]).unwrap());
        assert!(options.wants("envoy h2"));
    }

    #[test]
    fn who_names_some_wants_these_and_names_them_right() {
        let options = options(&["--only", "envoy h2"]);
        assert!(options.named(&["direct", "envoy h2"]).unwrap());
        assert!(options.wants("envoy h2") && !options.wants("envoy"));
        let error = options.named(&["direct", "envoy"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no subject is called `envoy h2`: name one of these with --only: direct, envoy"
        );
    }

    fn turns(count: usize, limit: Duration) -> Turns {
        Turns {
            count,
            taken: 0,
            begun: Instant::now(),
            longest: Duration::ZERO,
            last: None,
            limit,
        }
    }

    #[test]
    fn there_are_as_many_turns_as_were_asked_for() {
        let mut turns = turns(2, Duration::from_secs(3600));
        assert_eq!(
            [turns.next(), turns.next(), turns.next()],
            [Some(1), Some(2), None]
        );
        assert_eq!(turns.warning(), None);
    }

    #[test]
    fn without_time_there_is_one_turn_and_a_warning() {
        let mut turns = turns(3, Duration::ZERO);
        assert_eq!([turns.next(), turns.next()], [Some(1), None]);
        assert!(turns.warning().unwrap().starts_with("time for 1 of 3"));
    }
}
