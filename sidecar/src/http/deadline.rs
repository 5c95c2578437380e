//! Deadlines that callers set: they shorten ours, never lengthen them, and travel on.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");

/// Digits of a gRPC timeout (gRPC over HTTP/2: at most eight).
const GRPC_DIGITS_MAX: usize = 8;

/// How long the caller will wait for the whole answer: the shorter of `grpc-timeout` (`250m`) and
/// `x-request-timeout` (`250ms`, `1.5s`, `2m`, or a number of seconds). What cannot be read is no
/// deadline.
pub(crate) fn caller_deadline(headers: &HeaderMap) -> Option<Duration> {
    let read = |name: &HeaderName, parse: fn(&str) -> Option<Duration>| {
        headers.get(name)?.to_str().ok().and_then(parse)
    };
    let deadlines = [
        read(&GRPC_TIMEOUT, parse_grpc),
        read(&REQUEST_TIMEOUT, parse_duration),
    ];
    deadlines.into_iter().flatten().min()
}

/// Tells the next hop how much of the deadline is left.
pub(crate) fn forward_deadline(headers: &mut HeaderMap, left: Duration) {
    let ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
    if headers.contains_key(&GRPC_TIMEOUT)
        && ms < 10_u64.pow(GRPC_DIGITS_MAX as u32)
        && let Ok(value) = HeaderValue::try_from(format!("{ms}m"))
    {
        headers.insert(GRPC_TIMEOUT, value);
    }
    if headers.contains_key(&REQUEST_TIMEOUT)
        && let Ok(value) = HeaderValue::try_from(format!("{ms}ms"))
    {
        headers.insert(REQUEST_TIMEOUT, value);
    }
}

fn parse_grpc(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty()
        || digits.len() > GRPC_DIGITS_MAX
        || !digits.bytes().all(|byte| byte.is_ascii_digit())
    {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let at = text
        .find(|letter: char| !(letter.is_ascii_digit() || letter == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let unit_s = match unit {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "us" => 1e-6,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit_s).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::try_from(*value).unwrap(),
            )
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn the_shorter_deadline_counts_and_nonsense_is_none() {
        let ms = Duration::from_millis;
        let table = [
            (vec![("grpc-timeout", "250m")], Some(ms(250))),
            (
                vec![("grpc-timeout", "2S"), ("x-request-timeout", "1.5s")],
                Some(ms(1500)),
            ),
            (vec![("x-request-timeout", "3")], Some(ms(3000))),
            (vec![("x-request-timeout", "250ms")], Some(ms(250))),
            (vec![("grpc-timeout", "123456789m")], None),
            (vec![("grpc-timeout", "m")], None),
            (vec![("grpc-timeout", "")], None),
            (vec![("x-request-timeout", "soon")], None),
            (vec![("x-request-timeout", "-1s")], None),
            (vec![], None),
        ];
        for (pairs, expected) in table {
            assert_eq!(caller_deadline(&headers(&pairs)), expected, "{pairs:?}");
        }
    }

    #[test]
    fn what_is_left_travels_on() {
        let mut set = headers(&[("grpc-timeout", "2S"), ("x-request-timeout", "3s")]);
        forward_deadline(&mut set, Duration::from_millis(1200));
        assert_eq!(set["grpc-timeout"], "1200m");
        assert_eq!(set["x-request-timeout"], "1200ms");
        let mut none = HeaderMap::new();
        forward_deadline(&mut none, Duration::from_millis(1200));
        assert!(none.is_empty());
    }
}
