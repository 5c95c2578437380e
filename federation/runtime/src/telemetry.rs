//! Logs and metrics.

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::config::ConfigError;
use crate::settings::{LogConfig, LogFormat};

/// The environment variable that overrides the configured log level.
pub const LOG_VARIABLE: &str = "PORTOLAN_LOG";

/// Starts logging to standard error and makes panics a part of the log. Later calls change nothing.
///
/// # Errors
/// When the level (or [`LOG_VARIABLE`]) cannot be read.
pub fn init(config: &LogConfig) -> Result<(), ConfigError> {
    let (field, level) = match std::env::var(LOG_VARIABLE) {
        Ok(level) => (LOG_VARIABLE, level),
        Err(_) => ("log.level", config.level.clone()),
    };
    let unusable =
        |problem| ConfigError::unusable(field, problem, "use error, warn, info or debug");
    if let Some(word) = unknown_level(&level) {
        return Err(unusable(format!("`{word}` is no log level")));
    }
    let filter = EnvFilter::try_new(&level)
        .map_err(|error| unusable(format!("`{level}` cannot be read ({error})")))?;
    let base = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // It would say so on standard error, which is what failed, and panic: the disk may be full.
        .log_internal_errors(false)
        .with_writer(io::stderr);
    let started = match config.format {
        LogFormat::Text => {
            let colour = io::stderr().is_terminal();
            tracing::subscriber::set_global_default(base.with_ansi(colour).finish())
        }
        LogFormat::Json => {
            tracing::subscriber::set_global_default(base.json().flatten_event(true).finish())
        }
    };
    if started.is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            tracing::error!(%panic, "a task panicked");
        }));
    }
    Ok(())
}

/// A directive that is one word and no level. The filter would take it for the name of a module,
/// and write the logs of nobody else: a misspelt level would silence the whole process.
fn unknown_level(directives: &str) -> Option<&str> {
    let mut words = directives.split(',').map(str::trim);
    words.find(|word| {
        let alone = !word.is_empty() && !word.contains(['=', '[']);
        alone && word.parse::<LevelFilter>().is_err()
    })
}

/// A duration as logs tell it: in milliseconds, to the microsecond.
#[must_use]
pub fn milliseconds(duration: Duration) -> f64 {
    // One division gives the nearest number, which is written with three decimals at most.
    duration.as_micros() as f64 / 1_000.0
}

/// The upper bounds of a histogram's buckets: each is twice the one before.
pub fn doubling(first: f64, count: usize) -> impl Iterator<Item = f64> {
    std::iter::successors(Some(first), |last| Some(last * 2.0)).take(count)
}

/// A process's metrics. Clones share one registry; every name gets the prefix `portolan_`.
#[derive(Clone)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// A registry that says which program this is: `component` is `control`, `gateway` or `sidecar`.
    #[must_use]
    pub fn new(component: &'static str) -> Self {
        let mut registry = Registry::with_prefix("portolan");
        let info = Info::new(vec![
            ("component", component),
            ("version", env!("CARGO_PKG_VERSION")),
        ]);
        registry.register("build", "What this program is", info);
        Self(Arc::new(Mutex::new(registry)))
    }

    /// Registers metrics. Every thread may register its own; do it once per thread.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All metrics in the OpenMetrics text format.
    ///
    /// # Errors
    /// When a metric cannot be written.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        let registry = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn metrics_carry_the_prefix_and_the_build() {
        let metrics = Metrics::new("gateway");
        let requests: Counter = Counter::default();
        metrics.register(|registry| registry.register("requests", "Requests", requests.clone()));
        requests.inc();
        let text = metrics.render().unwrap();
        assert!(text.contains("portolan_requests_total 1"), "{text}");
        assert!(
            text.contains("portolan_build_info{component=\"gateway\",version=\""),
            "{text}"
        );
    }

    #[test]
    fn buckets_double_exactly() {
        let bounds: Vec<_> = doubling(0.000_5, 4).collect();
        assert_eq!(bounds, [0.000_5, 0.001, 0.002, 0.004]);
    }

    #[test]
    fn durations_have_three_decimals_at_most() {
        let written = |nanos| milliseconds(Duration::from_nanos(nanos)).to_string();
        assert_eq!(written(8_097_976), "8.097");
        assert_eq!(written(1_000_000), "1");
        assert_eq!(written(3_600_000_001_999), "3600000.001");
    }

    #[test]
    fn a_wrong_level_is_refused() {
        for level in ["loud=very=much", "warning", "info,verbose"] {
            let config = LogConfig {
                level: level.to_owned(),
                ..LogConfig::default()
            };
            let error = init(&config).unwrap_err().to_string();
            assert!(error.contains("log.level"), "{error}");
        }
        for level in ["", "off", "WARN", "info,portolan_gateway=debug, access=off"] {
            assert_eq!(unknown_level(level), None, "{level}");
        }
    }
}
