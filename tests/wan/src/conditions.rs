//! What one direction of a link does to packets, and the words that say it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use crate::loss::Loss;

/// The queue in front of a rate limit unless one is given, in bytes.
pub const QUEUE_DEFAULT: usize = 256 << 10;
/// How far a reordered packet falls back unless it is given.
pub const REORDER_LAG_DEFAULT: Duration = Duration::from_millis(5);

/// What one direction of a link does to packets. The default does nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conditions {
    /// Added to every packet.
    pub delay: Duration,
    /// Added or taken, evenly distributed; packets still keep their order.
    pub jitter: Duration,
    pub loss: Loss,
    /// Bits per second; `None` is as fast as this machine.
    pub rate: Option<u64>,
    /// How many bytes wait for their turn under a rate limit; what comes on top is dropped.
    pub queue: usize,
    /// Which share of packets falls back, from 0 to 1.
    pub reorder: f64,
    /// How far they fall back; younger packets overtake them.
    pub reorder_lag: Duration,
    /// Nothing passes, not even what is under way; nobody is told.
    pub cut: bool,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: Loss::None,
            rate: None,
            queue: QUEUE_DEFAULT,
            reorder: 0.0,
            reorder_lag: REORDER_LAG_DEFAULT,
            cut: false,
        }
    }
}

/// Why a word does not say a condition.
#[derive(Debug, Error, PartialEq)]
pub enum WordError {
    #[error(
        "`{0}` is no condition; write delay=30ms, jitter=2ms, loss=1%, loss=1%/5 (bursts of 5), rate=100mbit, queue=256k, reorder=1%/5ms, cut=yes or cut=no"
    )]
    Unknown(String),
    #[error("`{0}` is no time; write 30ms or 1s")]
    Time(String),
    #[error("`{0}` is no share; write 1% or 0.5%, at most 100%")]
    Share(String),
    #[error("`{0}` is no number with an optional k, m or g")]
    Number(String),
}

impl Conditions {
    /// Changes what `word` says (`delay=30ms`) and leaves the rest.
    pub fn change(&mut self, word: &str) -> Result<(), WordError> {
        let unknown = || WordError::Unknown(word.to_owned());
        let (name, value) = word.split_once('=').ok_or_else(unknown)?;
        match name {
            "delay" => self.delay = time(value)?,
            "jitter" => self.jitter = time(value)?,
            "loss" => self.loss = loss(value)?,
            "rate" if value == "none" => self.rate = None,
            "rate" => self.rate = Some(number(value.strip_suffix("bit").unwrap_or(value), 1_000)?),
            "queue" => {
                self.queue = usize::try_from(number(value, 1_024)?).map_err(|_| unknown())?;
            }
            "reorder" => (self.reorder, self.reorder_lag) = reorder(value)?,
            "cut" if value == "yes" => self.cut = true,
            "cut" if value == "no" => self.cut = false,
            _ => return Err(unknown()),
        }
        Ok(())
    }
}

/// The words that say these conditions; what does nothing is left out.
impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = humantime::format_duration;
        write!(f, "delay={}", time(self.delay))?;
        if !self.jitter.is_zero() {
            write!(f, " jitter={}", time(self.jitter))?;
        }
        if self.loss != Loss::None {
            write!(f, " loss={}", self.loss)?;
        }
        if let Some(rate) = self.rate {
            write!(f, " rate={rate}bit queue={}", self.queue)?;
        }
        if self.reorder > 0.0 {
            let lag = time(self.reorder_lag);
            write!(f, " reorder={}%/{lag}", self.reorder * 100.0)?;
        }
        if self.cut {
            write!(f, " cut=yes")?;
        }
        Ok(())
    }
}

impl FromStr for Conditions {
    type Err = WordError;

    /// Reads words that are separated by spaces.
    fn from_str(text: &str) -> Result<Self, WordError> {
        let mut conditions = Self::default();
        for word in text.split_whitespace() {
            conditions.change(word)?;
        }
        Ok(conditions)
    }
}

fn time(text: &str) -> Result<Duration, WordError> {
    humantime::parse_duration(text).map_err(|_| WordError::Time(text.to_owned()))
}

fn share(text: &str) -> Result<f64, WordError> {
    text.strip_suffix('%')
        .and_then(|number| number.parse::<f64>().ok())
        .filter(|percent| (0.0..=100.0).contains(percent))
        .map(|percent| percent / 100.0)
        .ok_or_else(|| WordError::Share(text.to_owned()))
}

fn number(text: &str, step: u64) -> Result<u64, WordError> {
    let wrong = || WordError::Number(text.to_owned());
    let (digits, power) = match text.chars().last() {
        Some('k') => (&text[..text.len() - 1], 1),
        Some('m') => (&text[..text.len() - 1], 2),
        Some('g') => (&text[..text.len() - 1], 3),
        Some(_) | None => (text, 0),
    };
    let digits: u64 = digits.parse().map_err(|_| wrong())?;
    digits.checked_mul(step.pow(power)).ok_or_else(wrong)
}

fn loss(text: &str) -> Result<Loss, WordError> {
    let Some((mean, burst)) = text.split_once('/') else {
        return Ok(Loss::random(share(text)?));
    };
    let wrong = || WordError::Number(burst.to_owned());
    let burst: f64 = burst.parse().map_err(|_| wrong())?;
    if burst < 1.0 {
        return Err(wrong());
    }
    Ok(Loss::bursty(share(mean)?, burst))
}

fn reorder(text: &str) -> Result<(f64, Duration), WordError> {
    match text.split_once('/') {
        Some((part, lag)) => Ok((share(part)?, time(lag)?)),
        None => Ok((share(text)?, REORDER_LAG_DEFAULT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_conditions() {
        let conditions: Conditions =
            "delay=30ms jitter=2ms loss=1% rate=100mbit queue=64k reorder=2%/9ms cut=yes"
                .parse()
                .unwrap();
        assert_eq!(
            conditions,
            Conditions {
                delay: Duration::from_millis(30),
                jitter: Duration::from_millis(2),
                loss: Loss::random(0.01),
                rate: Some(100_000_000),
                queue: 65_536,
                reorder: 0.02,
                reorder_lag: Duration::from_millis(9),
                cut: true,
            }
        );
    }

    #[test]
    fn conditions_are_said_in_their_own_words() {
        for text in [
            "delay=0s",
            "delay=30ms jitter=2ms loss=2% rate=1000bit queue=7 reorder=25%/9ms cut=yes",
            "delay=1s loss=50%/4",
        ] {
            assert_eq!(text.parse::<Conditions>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_change_leaves_the_rest() {
        let mut conditions: Conditions = "delay=30ms loss=1%/5".parse().unwrap();
        conditions.change("rate=1mbit").unwrap();
        conditions.change("rate=none").unwrap();
        assert_eq!(conditions, "delay=30ms loss=1%/5".parse().unwrap());
    }

    #[test]
    fn wrong_words_are_named() {
        for word in [
            "delay",
            "delay=fast",
            "loss=1",
            "loss=101%",
            "loss=1%/0",
            "rate=x",
            "queue=-1",
            "cut=maybe",
            "speed=1",
        ] {
            let error = word.parse::<Conditions>().unwrap_err().to_string();
            let value = word
                .split('=')
                .next_back()
                .unwrap()
                .rsplit('/')
                .next()
                .unwrap();
            assert!(error.contains(value), "{word}: {error}");
        }
    }
}
