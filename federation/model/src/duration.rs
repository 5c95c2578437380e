//! Durations as the Gateway API writes them (GEP-2257): `1h30m`, `10s`, `250ms`.

use std::fmt::Write as _;
use std::time::Duration;

/// The most parts of one duration.
const PARTS_MAX: usize = 4;
/// The most digits of one part.
const DIGITS_MAX: usize = 5;
/// Each unit with its milliseconds, the largest first.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads a duration: one to four parts, each of at most five digits and a unit (`h`, `m`, `s`, `ms`).
/// `None` for anything else.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total_ms = 0;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, tail) = tail.split_at(letters);
        let (_, unit_ms) = UNITS.iter().find(|(name, _)| *name == unit)?;
        if !(1..=DIGITS_MAX).contains(&digits) {
            return None;
        }
        total_ms += number.parse::<u64>().ok()? * unit_ms;
        parts += 1;
        rest = tail;
    }
    (1..=PARTS_MAX)
        .contains(&parts)
        .then(|| Duration::from_millis(total_ms))
}

/// Writes a duration, the largest unit first; what is below a millisecond is left out.
#[must_use]
pub fn format(duration: Duration) -> String {
    let mut left_ms = duration.as_millis();
    let mut text = String::new();
    for (unit, unit_ms) in UNITS {
        let count = left_ms / u128::from(unit_ms);
        left_ms %= u128::from(unit_ms);
        if count > 0 {
            // Writing to a String cannot fail.
            let _ = write!(text, "{count}{unit}");
        }
    }
    if text.is_empty() {
        text.push_str("0s");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_specification_s_examples_are_read() {
        for (text, ms) in [
            ("0h", 0),
            ("0s", 0),
            ("0h0m0s", 0),
            ("1h", 3_600_000),
            ("30m", 1_800_000),
            ("10s", 10_000),
            ("500ms", 500),
            ("2h30m", 9_000_000),
            ("150m", 9_000_000),
            ("7230s", 7_230_000),
            ("1h30m10s", 5_410_000),
            ("10s30m1h", 5_410_000),
            ("100ms200ms300ms", 600),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for bad in [
            "",
            "1",
            "1m1",
            "1h30m10s20ms50h",
            "999999h",
            "1.5h",
            "-15m",
            "1d",
            "1 s",
            "s",
            "1S",
            "1µs",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_specification_s_examples_are_written() {
        for (ms, text) in [
            (0, "0s"),
            (3_600_000, "1h"),
            (1_800_000, "30m"),
            (10_000, "10s"),
            (500, "500ms"),
            (9_000_000, "2h30m"),
            (5_410_000, "1h30m10s"),
            (600, "600ms"),
            (7_200_600, "2h600ms"),
            (9_000_600, "2h30m600ms"),
            (9_010_600, "2h30m10s600ms"),
        ] {
            assert_eq!(format(Duration::from_millis(ms)), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(ms in 0_u64..99_999 * 3_600_000) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse(&format(duration)), Some(duration));
        }

        #[test]
        fn nothing_panics(text in "\\PC{0,20}") {
            let _ = parse(&text);
        }
    }
}
