//! What a rule is for.

use std::collections::BTreeSet;

use portolan_model::Pattern;
use portolan_model::route::{GrpcMatch, HttpMatch, Match, PathMatch, TextMatch, ValueMatch};
use serde_json::Value;

use super::super::super::path::{field, item};
use super::super::text;
use super::Reader;
use super::headers::is_token;

const METHODS: &[&str] = &[
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];
const TEXT_TYPES: &[&str] = &["Exact", "RegularExpression"];
const PATH_TYPES: &[&str] = &["PathPrefix", "Exact", "RegularExpression"];
/// The longest path of a match, in bytes.
const PATH_MAX: usize = 1024;

impl Reader<'_> {
    pub(super) fn http_matches(&mut self, rule: &Value, path: &str) -> Vec<Match> {
        let mut matches = Vec::new();
        for (path, value) in listed(rule, path, "matches") {
            let method = text(value, "method").map(str::to_owned);
            if let Some(method) = method.as_deref().filter(|it| !METHODS.contains(it)) {
                self.unsupported(field(&path, "method"), method, METHODS);
            }
            matches.push(Match::Http(HttpMatch {
                path: self.path(value, &path),
                method,
                headers: self.conditions(value, &path, "headers"),
                query: self.conditions(value, &path, "queryParams"),
            }));
        }
        if matches.is_empty() {
            matches.push(Match::Http(HttpMatch {
                path: PathMatch::Prefix(String::new()),
                method: None,
                headers: Vec::new(),
                query: Vec::new(),
            }));
        }
        matches
    }

    pub(super) fn grpc_matches(&mut self, rule: &Value, path: &str) -> Vec<Match> {
        let mut matches = Vec::new();
        for (path, value) in listed(rule, path, "matches") {
            let (service, method) = match value.get("method") {
                Some(method) => self.grpc_method(method, &field(&path, "method")),
                None => (None, None),
            };
            matches.push(Match::Grpc(GrpcMatch {
                service,
                method,
                headers: self.conditions(value, &path, "headers"),
            }));
        }
        if matches.is_empty() {
            matches.push(Match::Grpc(GrpcMatch {
                service: None,
                method: None,
                headers: Vec::new(),
            }));
        }
        matches
    }

    fn grpc_method(&mut self, value: &Value, path: &str) -> (Option<TextMatch>, Option<TextMatch>) {
        let kind = self.word(value, path, "type", TEXT_TYPES);
        let words = ["service", "method"].map(|name| text(value, name).filter(|it| !it.is_empty()));
        if words == [None, None] {
            let remedy =
                "name the `service`, the `method` or both; or leave the whole `method` out";
            self.error(path, "it names neither service nor method", remedy);
        }
        let [service, method] = words;
        for (name, word) in [("service", service), ("method", method)] {
            if let Some(word) = word.filter(|it| kind == "Exact" && it.contains('/')) {
                let message = format!("`{word}` is no gRPC {name}: it has a `/`");
                let remedy = "write `service: foo.Bar` and `method: Login`";
                self.error(field(path, name), message, remedy);
            }
        }
        let mut read = |word: Option<&str>, name: &str| {
            word.and_then(|word| self.text_match(kind, word, &field(path, name)))
        };
        (read(service, "service"), read(method, "method"))
    }

    fn path(&mut self, value: &Value, path: &str) -> PathMatch {
        let Some(value) = value.get("path") else {
            return PathMatch::Prefix(String::new());
        };
        let path = field(path, "path");
        let kind = self.word(value, &path, "type", PATH_TYPES);
        let wanted = text(value, "value").unwrap_or("/");
        let path = field(&path, "value");
        if kind == "RegularExpression" {
            return match self.pattern(wanted, &path) {
                Some(pattern) => PathMatch::Regex(pattern),
                None => PathMatch::Exact(wanted.to_owned()),
            };
        }
        self.path_value(wanted, &path);
        if kind == "Exact" {
            PathMatch::Exact(wanted.to_owned())
        } else {
            PathMatch::Prefix(wanted.trim_end_matches('/').to_owned())
        }
    }

    /// What a path that is no expression must look like.
    fn path_value(&mut self, value: &str, path: &str) {
        if value.len() > PATH_MAX {
            let message = format!("the path is longer than {PATH_MAX} bytes");
            self.error(path, message, "write a shorter prefix");
        }
        if !value.starts_with('/') {
            let message = format!("the path `{value}` does not begin with `/`");
            self.error(path, message, format!("write `/{value}`"));
        }
        let inside = ["//", "/./", "/../", "%2f", "%2F", "#"];
        let ends = ["/..", "/."];
        let inside = inside.iter().find(|part| value.contains(**part));
        let end = ends.iter().find(|part| value.ends_with(**part));
        if let Some(part) = inside.or(end) {
            let message = format!("the path `{value}` has `{part}`, which no request's path has");
            self.error(path, message, "write the path as apps see it, normalised");
        }
        let odd =
            |byte: u8| !byte.is_ascii_alphanumeric() && !b"-/._~!$&'()*+,;=:@%".contains(&byte);
        if inside.or(end).is_none() && value.bytes().any(odd) {
            let message = format!("the path `{value}` has characters that no path has");
            self.error(path, message, "write them percent-encoded, as `%20`");
        }
    }

    /// Conditions on headers or query parameters. Of equal names the first counts.
    fn conditions(&mut self, value: &Value, path: &str, name: &str) -> Vec<ValueMatch> {
        let header = name == "headers";
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for (path, value) in listed(value, path, name) {
            let kind = self.word(value, &path, "type", TEXT_TYPES);
            let mut name = text(value, "name").unwrap_or_default().to_owned();
            if header {
                name.make_ascii_lowercase();
            }
            if !is_token(&name) {
                let message = format!("`{name}` is no valid name");
                self.error(
                    field(&path, "name"),
                    message,
                    "use letters, digits, `-` and `_`",
                );
            }
            let wanted = text(value, "value").unwrap_or_default();
            let wanted = self.text_match(kind, wanted, &field(&path, "value"));
            let first = seen.insert(name.clone());
            if let Some(value) = wanted.filter(|_| first) {
                found.push(ValueMatch { name, value });
            }
        }
        found
    }

    fn text_match(&mut self, kind: &str, value: &str, path: &str) -> Option<TextMatch> {
        if kind == "RegularExpression" {
            return self.pattern(value, path).map(TextMatch::Regex);
        }
        Some(TextMatch::Exact(value.to_owned()))
    }

    fn pattern(&mut self, value: &str, path: &str) -> Option<Pattern> {
        let remedy = "write it in RE2's syntax; it must match the whole text";
        value
            .parse::<Pattern>()
            .map_err(|error| self.error(path, error.to_string(), remedy))
            .ok()
    }
}

/// The items of a list, each with its path.
pub(super) fn listed<'v>(
    value: &'v Value,
    path: &str,
    name: &str,
) -> impl Iterator<Item = (String, &'v Value)> {
    let items = value.get(name).and_then(Value::as_array);
    let path = field(path, name);
    items
        .into_iter()
        .flatten()
        .enumerate()
        .map(move |(index, value)| (item(&path, index), value))
}
