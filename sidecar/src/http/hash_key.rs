//! What a request is hashed on.

use http::header::COOKIE;
use http::{HeaderMap, request};
use portolan_model::traffic::{Algorithm, HashKey};
use portolan_policy::balance::hash;

/// The hash of the first of the algorithm's keys that the request has; `source` is the caller's own. `None`
/// where the algorithm does not hash, or the request has none of them.
pub(crate) fn hash_key(algorithm: &Algorithm, head: &request::Parts, source: u64) -> Option<u64> {
    keys(algorithm).iter().find_map(|key| match key {
        HashKey::Header(name) => head.headers.get(name).map(|value| hash(value.as_bytes())),
        HashKey::Cookie(name) => cookie(&head.headers, name).map(|value| hash(value.as_bytes())),
        HashKey::Query(name) => query(head.uri.query()?, name).map(|value| hash(value.as_bytes())),
        HashKey::Source => Some(source),
    })
}

/// The same for a connection whose bytes nobody reads: all that it has is its caller.
pub(crate) fn connection_key(algorithm: &Algorithm, source: u64) -> Option<u64> {
    keys(algorithm).contains(&HashKey::Source).then_some(source)
}

fn keys(algorithm: &Algorithm) -> &[HashKey] {
    match algorithm {
        Algorithm::RingHash(on) | Algorithm::Maglev(on) => &on.keys,
        Algorithm::PeakEwma
        | Algorithm::LeastRequest
        | Algorithm::RoundRobin
        | Algorithm::Random => &[],
    }
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(COOKIE).iter();
    let pairs = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'));
    let mut named = pairs.filter_map(|pair| pair.trim().split_once('='));
    named
        .find(|(found, _)| *found == name)
        .map(|(_, value)| value)
}

fn query<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let pairs = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut named = pairs.filter(|(found, _)| *found == name);
    named.next().map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use portolan_model::traffic::HashOn;

    fn found(keys: &[HashKey]) -> Option<u64> {
        let request = Request::get("http://orders/a?user=7&b")
            .header("x-user", "ann")
            .header("cookie", "a=1; session=xyz")
            .header("cookie", "late=2");
        let (head, ()) = request.body(()).unwrap().into_parts();
        let algorithm = Algorithm::Maglev(HashOn {
            keys: keys.to_vec(),
        });
        hash_key(&algorithm, &head, 42)
    }

    #[test]
    fn the_first_key_that_the_request_has_counts() {
        let header = |name: &str| HashKey::Header(name.to_owned());
        let cookie = |name: &str| HashKey::Cookie(name.to_owned());
        let query = |name: &str| HashKey::Query(name.to_owned());
        let of = |text: &str| Some(hash(text.as_bytes()));
        assert_eq!(found(&[header("x-none"), header("x-user")]), of("ann"));
        assert_eq!(found(&[cookie("session"), header("x-user")]), of("xyz"));
        assert_eq!(found(&[cookie("late")]), of("2"));
        assert_eq!(found(&[query("user")]), of("7"));
        assert_eq!(found(&[query("b")]), of(""));
        assert_eq!(found(&[query("us"), HashKey::Source]), Some(42));
        assert_eq!(found(&[cookie("none")]), None);
    }

    #[test]
    fn a_connection_has_its_caller_alone() {
        let on = |keys: &[HashKey]| HashOn {
            keys: keys.to_vec(),
        };
        let header = HashKey::Header("x-user".to_owned());
        let both = Algorithm::RingHash(on(&[header.clone(), HashKey::Source]));
        assert_eq!(connection_key(&both, 42), Some(42));
        assert_eq!(connection_key(&Algorithm::Maglev(on(&[header])), 42), None);
        assert_eq!(connection_key(&Algorithm::LeastRequest, 42), None);
    }
}
