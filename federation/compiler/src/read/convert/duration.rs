//! Lengths of time, as the Gateway API writes them (GEP-2257).

use std::time::Duration;

use serde_json::Value;

use super::super::finding::Findings;
use super::super::path::field;

/// What would be right.
const REMEDY: &str = "write one to four whole numbers of at most five digits, each with its unit `h`, `m`, `s` or `ms`: `250ms`, `1m30s`";
/// Parts of one duration, and digits of each.
const PARTS_MAX: usize = 4;
const DIGITS_MAX: usize = 5;

/// The duration in a field, if it is there.
pub(super) fn read(
    value: &Value,
    path: &str,
    name: &str,
    findings: &mut Findings,
) -> Option<Duration> {
    let text = value.get(name)?.as_str()?;
    let parsed = parse(text);
    if parsed.is_none() {
        let message = format!("`{text}` is not a duration");
        findings.error(field(path, name), message, REMEDY);
    }
    parsed
}

/// The duration in a field that must be longer than nothing.
pub(super) fn positive(
    value: &Value,
    path: &str,
    name: &str,
    findings: &mut Findings,
) -> Option<Duration> {
    let found = read(value, path, name, findings)?;
    if found.is_zero() {
        let message = format!("`{name}` must be longer than nothing");
        findings.error(field(path, name), message, "give a duration, as `250ms`");
        return None;
    }
    Some(found)
}

/// Reads `1h30m`: units may come in any order, each number with its unit.
fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit())?;
        if digits == 0 || digits > DIGITS_MAX || parts == PARTS_MAX {
            return None;
        }
        let (number, unit) = rest.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let (part, length) = if unit.starts_with("ms") {
            (Duration::from_millis(number), 2)
        } else if unit.starts_with('s') {
            (Duration::from_secs(number), 1)
        } else if unit.starts_with('m') {
            (Duration::from_secs(number * 60), 1)
        } else if unit.starts_with('h') {
            (Duration::from_secs(number * 3600), 1)
        } else {
            return None;
        };
        sum += part;
        rest = &unit[length..];
        parts += 1;
    }
    (parts > 0).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_gep_2257_says() {
        let ms = Duration::from_millis;
        for (text, expected) in [
            ("0s", Some(ms(0))),
            ("250ms", Some(ms(250))),
            ("1m30s", Some(ms(90_000))),
            ("1h1m1s1ms", Some(ms(3_661_001))),
            ("99999h", Some(Duration::from_secs(99_999 * 3_600))),
            ("10s30m1h", Some(ms(5_410_000))),
            ("", None),
            ("10", None),
            ("s", None),
            ("1.5s", None),
            ("-1s", None),
            ("1d", None),
            ("100000s", None),
            ("1s1s1s1s1s", None),
            ("1s ", None),
            ("1µs", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
