//! How matches are ranked, as types whose order is the rule.

use std::cmp::{Ordering, Reverse};

use portolan_model::route::Route;

/// What decides between two matches; the greater wins. Fields in the order in which they count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Precedence<'a> {
    specificity: Specificity,
    older: Reverse<u64>,
    name: Reverse<Name<'a>>,
    earlier: Reverse<usize>,
}

impl<'a> Precedence<'a> {
    pub(super) fn new(specificity: Specificity, route: &'a Route, rule: usize) -> Self {
        let namespace = route.key.namespace.as_ref();
        Self {
            specificity,
            older: Reverse(route.created_ms),
            name: Reverse(Name {
                namespace: namespace.map_or("", |it| it.as_str()),
                name: &route.key.name,
            }),
            earlier: Reverse(rule),
        }
    }
}

/// How specific a match is. Fields in the order in which they count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Specificity {
    /// The rule is for everything.
    Anything,
    /// Of a TLSRoute.
    ServerName {
        /// Without a `*`.
        exact: bool,
        /// The longer name wins.
        length: usize,
    },
    /// Of an HTTPRoute.
    Http {
        path: PathRank,
        /// It names a method.
        method: bool,
        headers: usize,
        query: usize,
    },
    /// Of a GRPCRoute.
    Grpc {
        /// Characters of the service.
        service: usize,
        /// Characters of the method.
        method: usize,
        headers: usize,
    },
}

/// How specific a path's match is: an exact one before an expression (which the API leaves open) before a
/// prefix, the longer before the shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PathRank {
    Prefix(usize),
    Regex(usize),
    Exact,
}

/// A route's name, in the order of `namespace/name` written out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Name<'a> {
    namespace: &'a str,
    name: &'a str,
}

impl<'a> Name<'a> {
    fn bytes(self) -> impl Iterator<Item = u8> + 'a {
        self.namespace
            .bytes()
            .chain([b'/'])
            .chain(self.name.bytes())
    }
}

impl Ord for Name<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes().cmp(other.bytes())
    }
}

impl PartialOrd for Name<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
