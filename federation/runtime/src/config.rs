//! Reading configuration files: YAML, with mistakes named by file, line and column.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_saphyr::{Options, UserMessageFormatter};

use crate::start::{ByKind, problem};

/// The largest configuration file, in bytes.
pub const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// What is wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {file}: {problem}; {remedy}")]
    Unreadable {
        /// The file.
        file: String,
        /// What is wrong.
        problem: String,
        /// What would be right.
        remedy: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It does not say what it should.
    #[error("{file}:{line}:{column}: {problem}; {remedy}")]
    Invalid {
        /// The file.
        file: String,
        /// The line, beginning at 1; 0 where unknown.
        line: u64,
        /// The column, beginning at 1; 0 where unknown.
        column: u64,
        /// What is wrong.
        problem: String,
        /// What would be right.
        remedy: &'static str,
    },
    /// A value is well-formed but cannot be used.
    #[error("{field}: {problem}; {remedy}")]
    Unusable {
        /// The field, as `join.tokenFile`.
        field: String,
        /// What is wrong.
        problem: String,
        /// What would be right.
        remedy: String,
    },
}

impl ConfigError {
    /// A value that is well-formed but cannot be used.
    pub fn unusable(
        field: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::Unusable {
            field: field.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

/// Reads the configuration file at `path`.
///
/// # Errors
/// Says which file, where in it, what is wrong, and what would be right.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = read(path)?;
    parse(&path.display().to_string(), &text)
}

/// Reads a configuration from `text`; `file` is how errors name it.
///
/// # Errors
/// As for [`load`].
pub fn parse<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, ConfigError> {
    let options = serde_saphyr::options! { with_snippet: false };
    from_str(text, options).map_err(|error| invalid(file, &error))
}

fn from_str<T: DeserializeOwned>(text: &str, options: Options) -> Result<T, serde_saphyr::Error> {
    serde_saphyr::from_str_with_options(text, options)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let fail = |source: io::Error| ConfigError::Unreadable {
        file: path.display().to_string(),
        problem: problem(&source),
        remedy: REMEDIES.of(source.kind()),
        source,
    };
    let file = fs::File::open(path).map_err(fail)?;
    let mut text = String::new();
    let limited = file.take(CONFIG_BYTES_MAX + 1).read_to_string(&mut text);
    match limited.map_err(fail)? as u64 {
        read if read > CONFIG_BYTES_MAX => Err(fail(io::Error::other("it is too large"))),
        _ => Ok(text),
    }
}

fn invalid(file: &str, error: &serde_saphyr::Error) -> ConfigError {
    let location = error.location();
    let rendered = error
        .without_snippet()
        .render_with_formatter(&UserMessageFormatter);
    let problem = without_position(&rendered);
    ConfigError::Invalid {
        file: file.to_owned(),
        line: location.map_or(0, |at| at.line()),
        column: location.map_or(0, |at| at.column()),
        remedy: remedy(problem),
        problem: problem.to_owned(),
    }
}

/// The position stands before the message already.
fn without_position(message: &str) -> &str {
    let line = message.lines().next().unwrap_or_default();
    line.split(" at line ")
        .next()
        .unwrap_or(line)
        .trim_end_matches([',', ' '])
}

const REMEDIES: ByKind<&str> = ByKind(
    &[
        (
            io::ErrorKind::NotFound,
            "correct the path, or begin with what `portolan config example` prints",
        ),
        (
            io::ErrorKind::PermissionDenied,
            "give this user the right to read it",
        ),
    ],
    "it must be a YAML file of at most 1 MiB in UTF-8",
);

fn remedy(problem: &str) -> &'static str {
    if problem.contains("unknown field") {
        "remove it or correct its name"
    } else if problem.contains("missing field") {
        "add it"
    } else if problem.contains("duplicate") {
        "keep one of them"
    } else {
        "`portolan config example` prints a file that is right"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::ControlClientConfig;

    const GOOD: &str = "\
control: [127.0.0.1:15010]
cluster: us-east
trustDomain: us-east.demo
trustBundle: /etc/portolan/roots.pem
stateDir: /var/lib/portolan
join:
  tokenFile: /etc/portolan/token
";

    fn error(text: &str) -> String {
        parse::<ControlClientConfig>("a.yaml", text)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_good_file_is_read() {
        let config: ControlClientConfig = parse("a.yaml", GOOD).unwrap();
        assert_eq!(config.cluster.as_str(), "us-east");
        assert_eq!(
            config.control_identity().to_string(),
            "spiffe://us-east.demo/portolan/control/us-east"
        );
    }

    #[test]
    fn mistakes_are_named_with_place_and_remedy() {
        let unknown = error(&GOOD.replace("tokenFile", "tokenfile"));
        assert!(unknown.starts_with("a.yaml:7:3: "), "{unknown}");
        assert!(
            unknown.contains("`tokenfile`") && unknown.contains("correct its name"),
            "{unknown}"
        );
        let wrong = error(&GOOD.replace("us-east\n", "US_East\n"));
        assert!(wrong.starts_with("a.yaml:2:10: "), "{wrong}");
        assert!(
            wrong.contains("RFC 1123") && !wrong.contains("at line"),
            "{wrong}"
        );
        let missing = error(&GOOD.replace("stateDir: /var/lib/portolan\n", ""));
        assert!(
            missing.contains("missing field `stateDir`; add it"),
            "{missing}"
        );
        let broken = error("control: [127.0.0.1:15010\ncluster: x");
        assert!(broken.starts_with("a.yaml:"), "{broken}");
    }

    #[test]
    fn a_missing_file_is_one_clear_sentence() {
        let error = load::<ControlClientConfig>(Path::new("/nowhere/x.yaml")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot read /nowhere/x.yaml: it does not exist; correct the path, or begin with what `portolan config example` prints"
        );
    }
}
