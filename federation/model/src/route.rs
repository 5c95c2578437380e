//! Routes: what the Gateway API's route kinds say of the traffic to a service, checked and normalised.
//!
//! The vocabulary is that of `gateway.networking.k8s.io` (HTTPRoute, GRPCRoute, TLSRoute, TCPRoute,
//! bound to services as GEP-1294 describes). What a rule cannot express is refused when it is read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::declared::Face;
use crate::names::{Namespace, ServiceKey, ServiceName};
use crate::pattern::Pattern;
use crate::resource::ResourceKey;
use crate::snapshot::Scope;

/// The most rules of one route.
pub const RULES_MAX: usize = 16;
/// The most matches of one rule.
pub const MATCHES_PER_RULE_MAX: usize = 64;
/// The most matches of one route.
pub const MATCHES_PER_ROUTE_MAX: usize = 128;
/// The most filters of one rule or backend.
pub const FILTERS_MAX: usize = 16;
/// The most backends of one rule.
pub const BACKENDS_MAX: usize = 16;
/// The most parents of one route.
pub const PARENTS_MAX: usize = 32;
/// The greatest weight of a backend.
pub const WEIGHT_MAX: u32 = 1_000_000;

/// What a declared route says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSpec {
    /// What it is attached to.
    pub parents: Vec<ParentRef>,
    /// Its valid rules, in their order.
    pub rules: Vec<Rule>,
    /// Rules that were left out, each with the reason (condition `PartiallyInvalid`).
    pub dropped: Vec<String>,
    /// Why nothing of it can be in force, where that is so.
    pub rejected: Option<(Rejection, String)>,
}

/// Why a stored route cannot be accepted, whatever it is attached to. When it is applied, this is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// It has a value that we don't know (condition reason `UnsupportedValue`).
    UnsupportedValue,
    /// Two of its filters exclude each other (condition reason `IncompatibleFilters`).
    IncompatibleFilters,
}

impl Rejection {
    /// The condition's reason.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnsupportedValue => "UnsupportedValue",
            Self::IncompatibleFilters => "IncompatibleFilters",
        }
    }
}

impl RouteSpec {
    /// The services that requests or copies of them may go to.
    #[must_use]
    pub fn backends(&self) -> BTreeSet<&ServiceKey> {
        let of_backends = self.rules.iter().flat_map(|rule| &rule.backends);
        let filters = self.rules.iter().flat_map(|rule| {
            let of_backends = rule.backends.iter().flat_map(|backend| &backend.filters);
            rule.filters.iter().chain(of_backends)
        });
        of_backends
            .map(|backend| &backend.to)
            .chain(filters.filter_map(Filter::mirror))
            .filter_map(|to| match to {
                BackendRef::Service(target) => Some(&target.service),
                BackendRef::Invalid(_) => None,
            })
            .collect()
    }
}

/// What a route wants to be attached to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ParentRef {
    /// The parent's API group; empty for the core group.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its namespace: the route's own where it names none.
    pub namespace: Namespace,
    /// Its name.
    pub name: String,
    /// Only this port of it.
    pub port: Option<u16>,
    /// Only the port of this name.
    pub section: Option<String>,
}

impl ParentRef {
    /// Which face of a service it is; `None` for kinds that are none of ours.
    #[must_use]
    pub fn face(&self) -> Option<Face> {
        match (self.group.as_str(), self.kind.as_str()) {
            ("", "Service") => Some(Face::Cluster),
            ("multicluster.x-k8s.io", "ServiceImport") => Some(Face::Set),
            _ => None,
        }
    }

    /// The service that it means; `None` for kinds that are none of ours and malformed names.
    #[must_use]
    pub fn service(&self) -> Option<ServiceKey> {
        self.face()?;
        let name = ServiceName::parse(&self.name).ok()?;
        Some(ServiceKey::new(self.namespace.clone(), name))
    }
}

/// A route as proxies obey it: accepted at one face of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Which declaration it is from.
    pub key: ResourceKey,
    /// When that was first stored, in milliseconds since the Unix epoch (precedence goes by it).
    pub created_ms: u64,
    /// Only for this port; for all without it.
    pub port: Option<u16>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// The accepted routes of one face of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Routes {
    /// Those of the service's own namespace: for every caller (GAMMA: producer routes).
    pub producer: Vec<Arc<Route>>,
    /// Those of other namespaces: for callers there, in place of the producer's (consumer routes).
    pub consumer: BTreeMap<Namespace, Vec<Arc<Route>>>,
}

impl Routes {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.producer.is_empty() && self.consumer.is_empty()
    }
}

/// One rule of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its name, where it has one.
    pub name: Option<String>,
    /// What it is for: any of these. Never empty for HTTP and gRPC; empty for TCP: everything.
    pub matches: Vec<Match>,
    /// What is done to each request, in this order.
    pub filters: Vec<Filter>,
    /// Where the requests go.
    pub backends: Vec<Backend>,
    /// How long they may take.
    pub timeouts: RuleTimeouts,
    /// When they are tried again; the policy's rules where it says nothing.
    pub retry: Option<RuleRetry>,
    /// What keeps a client's requests together.
    pub session: Option<SessionPersistence>,
}

/// One alternative of what a rule is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Match {
    /// Of an HTTPRoute.
    Http(HttpMatch),
    /// Of a GRPCRoute.
    Grpc(GrpcMatch),
    /// Of a TLSRoute: the server name; `*.` in front stands for one label or more.
    Sni(String),
}

/// What an HTTP request must be; all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpMatch {
    /// Its path.
    pub path: PathMatch,
    /// Its method.
    pub method: Option<String>,
    /// Its headers, by lower-case name.
    pub headers: Vec<ValueMatch>,
    /// Its query parameters.
    pub query: Vec<ValueMatch>,
}

/// What a request's path must be. Case matters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathMatch {
    /// Exactly this.
    Exact(String),
    /// This, or below it, element by element. Without a trailing `/`; empty for everything.
    Prefix(String),
    /// The whole path.
    Regex(Pattern),
}

/// What a header or query parameter must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueMatch {
    /// The name; of headers in lower case.
    pub name: String,
    /// The value.
    pub value: TextMatch,
}

/// What a text must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextMatch {
    /// Exactly this.
    Exact(String),
    /// The whole text.
    Regex(Pattern),
}

/// What a gRPC call must be; all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrpcMatch {
    /// The gRPC service's full name.
    pub service: Option<TextMatch>,
    /// The method's name.
    pub method: Option<TextMatch>,
    /// Its headers, by lower-case name.
    pub headers: Vec<ValueMatch>,
}

/// What is done to a request or its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Filter {
    /// Changes the request's headers.
    RequestHeaders(HeaderChanges),
    /// Changes the answer's headers.
    ResponseHeaders(HeaderChanges),
    /// Answers with a redirection.
    Redirect(Redirect),
    /// Changes what is asked for.
    Rewrite(Rewrite),
    /// Sends a copy elsewhere, and ignores its answer.
    Mirror(Mirror),
    /// Answers and marks cross-origin requests.
    Cors(Cors),
    /// One that we don't know: requests get an error and never skip it.
    Unsupported(String),
}

impl Filter {
    /// Where it sends copies, if it does.
    #[must_use]
    pub fn mirror(&self) -> Option<&BackendRef> {
        match self {
            Self::Mirror(mirror) => Some(&mirror.to),
            Self::RequestHeaders(_)
            | Self::ResponseHeaders(_)
            | Self::Redirect(_)
            | Self::Rewrite(_)
            | Self::Cors(_)
            | Self::Unsupported(_) => None,
        }
    }
}

/// Changes of headers. Names are in lower case, and each has one action only.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HeaderChanges {
    /// Replaced or put in.
    pub set: Vec<(String, String)>,
    /// Appended with `,` to what is there.
    pub add: Vec<(String, String)>,
    /// Taken out.
    pub remove: Vec<String>,
}

/// A redirection. What it does not name is the request's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// The host.
    pub hostname: Option<String>,
    /// The path.
    pub path: Option<PathChange>,
    /// The port.
    pub port: Option<u16>,
    /// The status: 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// A rewriting. What it does not name stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewrite {
    /// The `Host` that the app sees.
    pub hostname: Option<String>,
    /// The path.
    pub path: Option<PathChange>,
}

/// What becomes of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathChange {
    /// It is replaced.
    Full(String),
    /// What the rule's prefix matched is replaced.
    Prefix(String),
}

/// Where copies of requests go, and of how many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirror {
    /// Where.
    pub to: BackendRef,
    /// Of how many: `numerator` out of `denominator`, which is not 0.
    pub numerator: u32,
    /// See `numerator`.
    pub denominator: u32,
}

/// Cross-origin resource sharing (Fetch standard).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cors {
    /// Origins that may read answers: exact, `*`, or with `*` in the place of a label's beginning.
    pub allow_origins: Vec<String>,
    /// Whether they may with credentials.
    pub allow_credentials: bool,
    /// Methods; `*` for all.
    pub allow_methods: Vec<String>,
    /// Request headers; `*` for all.
    pub allow_headers: Vec<String>,
    /// Headers of answers that scripts may read.
    pub expose_headers: Vec<String>,
    /// For how many seconds a preflight's answer counts.
    pub max_age_s: u32,
}

/// One backend of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Where.
    pub to: BackendRef,
    /// Its share of the requests, relative to the others; 0 takes none.
    pub weight: u32,
    /// What is done to requests that go there, after the rule's own filters.
    pub filters: Vec<Filter>,
}

/// Where requests are sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendRef {
    /// To a service's port.
    Service(BackendTarget),
    /// To nothing that could be: these requests get 500 (gRPC: UNAVAILABLE). Says why.
    Invalid(String),
}

/// A service's port as a backend. Whether it exists shows when it is called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BackendTarget {
    /// The service.
    pub service: ServiceKey,
    /// A `Service` means this cluster, a `ServiceImport` the set (GEP-1748).
    pub scope: Scope,
    /// The port.
    pub port: u16,
}

/// How long a rule's requests may take (GEP-1742). `None`: as the policy says; zero: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RuleTimeouts {
    /// From the request's first byte to the answer's last, all tries included.
    pub request: Option<Duration>,
    /// Each try.
    pub backend_request: Option<Duration>,
}

/// When a rule's requests are tried again (GEP-1731).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RuleRetry {
    /// After which statuses, besides what is always safe; the policy's where empty.
    pub codes: Vec<u16>,
    /// Tries after the first.
    pub attempts: Option<u8>,
    /// The least wait before each.
    pub backoff: Option<Duration>,
}

/// What keeps a client's requests at one endpoint (GEP-1619).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionPersistence {
    /// What carries the session.
    pub carrier: SessionCarrier,
    /// How long a session lasts at most.
    pub absolute_timeout: Option<Duration>,
}

/// What carries a session from answer to request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionCarrier {
    /// A cookie.
    Cookie {
        /// Its name.
        name: String,
        /// Its path.
        path: String,
        /// Whether it outlives the browser's session: it then expires with the absolute timeout.
        permanent: bool,
    },
    /// A header.
    Header {
        /// Its name, in lower case.
        name: String,
    },
}
