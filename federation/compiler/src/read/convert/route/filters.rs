//! Filters.

use std::collections::BTreeSet;

use portolan_model::declared::ResourceKind;
use portolan_model::route::{
    Cors, Filter, HeaderChanges, Match, Mirror, PathChange, PathMatch, Redirect, Rejection, Rewrite,
};
use serde_json::Value;

use super::super::super::path::field;
use super::super::{port_number, text};
use super::headers::{is_own, is_token, is_value};
use super::matches::listed;
use super::{Reader, is_hostname};

/// Every filter type with its field.
const TYPES: &[(&str, &str)] = &[
    ("RequestHeaderModifier", "requestHeaderModifier"),
    ("ResponseHeaderModifier", "responseHeaderModifier"),
    ("RequestMirror", "requestMirror"),
    ("ExtensionRef", "extensionRef"),
    ("RequestRedirect", "requestRedirect"),
    ("URLRewrite", "urlRewrite"),
    ("CORS", "cors"),
    ("ExternalAuth", "externalAuth"),
];
/// The first so many of them are for gRPC, too.
const GRPC_TYPES: usize = 4;
/// For how many seconds a preflight's answer counts unless the filter says.
const MAX_AGE_S: u32 = 5;

impl Reader<'_> {
    /// Reads the filters of a rule or backend.
    pub(super) fn filters(&mut self, value: &Value, path: &str, matches: &[Match]) -> Vec<Filter> {
        let known = if self.kind == ResourceKind::GrpcRoute {
            &TYPES[..GRPC_TYPES]
        } else {
            TYPES
        };
        let mut seen = BTreeSet::new();
        let mut filters = Vec::new();
        for (path, value) in listed(value, path, "filters") {
            let Some(kind) = text(value, "type") else {
                continue;
            };
            let Some((_, own)) = known.iter().find(|(name, _)| *name == kind) else {
                let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                self.unsupported(field(&path, "type"), kind, &names);
                continue;
            };
            let repeatable = matches!(kind, "RequestMirror" | "ExtensionRef");
            if !seen.insert(kind) && !repeatable {
                let message = format!("there are two filters of the type `{kind}`");
                self.error(path, message, "put them together");
                continue;
            }
            self.only(value, own, &path);
            filters.extend(self.filter(kind, &value[*own], &field(&path, own), matches));
        }
        if seen.contains("RequestRedirect") && seen.contains("URLRewrite") {
            let message = "`RequestRedirect` and `URLRewrite` exclude each other";
            let path = field(path, "filters");
            self.rejected.get_or_insert_with(|| {
                (Rejection::IncompatibleFilters, format!("{path}: {message}"))
            });
            self.error(path, message, "leave one of them out");
        }
        filters
    }

    /// A filter has the field of its type, and of no other type.
    fn only(&mut self, value: &Value, own: &str, path: &str) {
        for (kind, name) in TYPES {
            let there = value.get(*name).is_some();
            if there && *name != own {
                let message = format!("`{name}` belongs to the type `{kind}`");
                self.error(
                    field(path, name),
                    message,
                    "leave it out, or write a filter for it",
                );
            } else if !there && *name == own {
                let message = format!("a filter of the type `{kind}` needs `{name}`");
                self.error(path, message, format!("add `{name}`"));
            }
        }
    }

    fn filter(
        &mut self,
        kind: &str,
        value: &Value,
        path: &str,
        matches: &[Match],
    ) -> Option<Filter> {
        Some(match kind {
            "RequestHeaderModifier" => Filter::RequestHeaders(self.header_changes(value, path)),
            "ResponseHeaderModifier" => Filter::ResponseHeaders(self.header_changes(value, path)),
            "RequestMirror" => Filter::Mirror(self.mirror(value, path)?),
            "RequestRedirect" => Filter::Redirect(self.redirect(value, path, matches)),
            "URLRewrite" => Filter::Rewrite(Rewrite {
                hostname: self.hostname(value, path),
                path: self.path_change(value, path, matches),
            }),
            "CORS" => Filter::Cors(self.cors(value, path)),
            other => {
                self.findings.warning(
                    path,
                    format!("filters of the type `{other}` are not supported: requests get the status 500"),
                    "leave it out",
                );
                Filter::Unsupported(other.to_owned())
            }
        })
    }

    fn header_changes(&mut self, value: &Value, path: &str) -> HeaderChanges {
        let mut seen = BTreeSet::new();
        let mut changes = HeaderChanges::default();
        for (list, name) in [(&mut changes.set, "set"), (&mut changes.add, "add")] {
            for (path, pair) in listed(value, path, name) {
                let name = text(pair, "name").unwrap_or_default();
                let name = self.header(name, &field(&path, "name"), &mut seen);
                let value = text(pair, "value").unwrap_or_default();
                if !is_value(value) {
                    let message = "it has characters that no header's value has";
                    self.error(
                        field(&path, "value"),
                        message,
                        "leave control characters out",
                    );
                }
                list.push((name, value.to_owned()));
            }
        }
        for (path, name) in listed(value, path, "remove") {
            let name = self.header(name.as_str().unwrap_or_default(), &path, &mut seen);
            changes.remove.push(name);
        }
        changes
    }

    fn header(&mut self, name: &str, path: &str, seen: &mut BTreeSet<String>) -> String {
        let name = name.to_ascii_lowercase();
        if !is_token(&name) {
            let message = format!("`{name}` is no header's name");
            self.error(path, message, "use letters, digits and `-`");
        } else if is_own(&name) {
            let message = format!("the header `{name}` is the proxies' own");
            self.error(path, message, "leave it out; `URLRewrite` changes the host");
        }
        if !seen.insert(name.clone()) {
            let message = format!("the header `{name}` has two actions");
            self.error(path, message, "give each header one");
        }
        name
    }

    fn mirror(&mut self, value: &Value, path: &str) -> Option<Mirror> {
        let whole = |name: &str| {
            let number = value.pointer(name).and_then(Value::as_u64)?;
            u32::try_from(number).ok()
        };
        let (percent, numerator) = (whole("/percent"), whole("/fraction/numerator"));
        let (numerator, denominator) = match (percent, numerator) {
            (Some(_), Some(_)) => {
                self.error(
                    path,
                    "it has both `percent` and `fraction`",
                    "leave one out",
                );
                (1, 1)
            }
            (Some(percent), None) => (percent, 100),
            (None, Some(numerator)) => {
                let denominator = whole("/fraction/denominator").unwrap_or(100).max(1);
                if numerator > denominator {
                    let message = format!("{numerator} of {denominator} is more than all");
                    self.error(field(path, "fraction"), message, "write at most all");
                }
                (numerator, denominator)
            }
            (None, None) => (1, 1),
        };
        let to = self.backend_ref(&value["backendRef"], &field(path, "backendRef"))?;
        Some(Mirror {
            to,
            numerator,
            denominator,
        })
    }

    fn redirect(&mut self, value: &Value, path: &str, matches: &[Match]) -> Redirect {
        let scheme = text(value, "scheme").map(str::to_owned);
        if let Some(scheme) = &scheme {
            let known = ["http", "https"];
            if !known.contains(&scheme.as_str()) {
                self.unsupported(field(path, "scheme"), scheme, &known);
            }
        }
        let status = value
            .get("statusCode")
            .and_then(Value::as_u64)
            .unwrap_or(302);
        let known = ["301", "302", "303", "307", "308"];
        if !known.contains(&status.to_string().as_str()) {
            self.unsupported(field(path, "statusCode"), &status.to_string(), &known);
        }
        Redirect {
            scheme,
            hostname: self.hostname(value, path),
            path: self.path_change(value, path, matches),
            port: value.get("port").and_then(port_number),
            status: u16::try_from(status).unwrap_or(302),
        }
    }

    fn hostname(&mut self, value: &Value, path: &str) -> Option<String> {
        let name = text(value, "hostname")?;
        if !is_hostname(name) || name.starts_with('*') {
            let message = format!("`{name}` is no host name");
            let remedy = "write it as `orders.example.com`, in lower case and without a port";
            self.error(field(path, "hostname"), message, remedy);
        }
        Some(name.to_owned())
    }

    fn path_change(&mut self, value: &Value, path: &str, matches: &[Match]) -> Option<PathChange> {
        let value = value.get("path")?;
        let path = field(path, "path");
        let kind = text(value, "type")?;
        let known = ["ReplaceFullPath", "ReplacePrefixMatch"];
        let (own, other) = match kind {
            "ReplaceFullPath" => ("replaceFullPath", "replacePrefixMatch"),
            "ReplacePrefixMatch" => ("replacePrefixMatch", "replaceFullPath"),
            _ => {
                self.unsupported(field(&path, "type"), kind, &known);
                return None;
            }
        };
        if value.get(other).is_some() {
            let message = format!("`{other}` does not belong to the type `{kind}`");
            self.error(field(&path, other), message, "leave it out");
        }
        let Some(replacement) = text(value, own) else {
            self.error(
                path,
                format!("the type `{kind}` needs `{own}`"),
                format!("add `{own}`"),
            );
            return None;
        };
        let odd = |byte: u8| !(0x21..0x7f).contains(&byte) || b"?#\"<>\\^`{|}".contains(&byte);
        if replacement.bytes().any(odd) {
            let message = format!("`{replacement}` has characters that no path has");
            self.error(
                field(&path, own),
                message,
                "write them percent-encoded, as `%20`",
            );
        }
        if own == "replaceFullPath" {
            return Some(PathChange::Full(replacement.to_owned()));
        }
        let one_prefix = matches!(
            matches,
            [Match::Http(only)] if matches!(only.path, PathMatch::Prefix(_))
        );
        if !one_prefix {
            self.error(
                field(&path, "type"),
                "`ReplacePrefixMatch` needs a rule with exactly one match, which has a `PathPrefix`",
                "split the rule, or use `ReplaceFullPath`",
            );
        }
        Some(PathChange::Prefix(replacement.to_owned()))
    }

    fn cors(&mut self, value: &Value, path: &str) -> Cors {
        let mut words = |name: &str, good: fn(&str) -> bool, what: &str| {
            let mut words = Vec::new();
            for (path, word) in listed(value, path, name) {
                let word = word.as_str().unwrap_or_default();
                if word != "*" && !good(word) {
                    self.error(
                        path,
                        format!("`{word}` is no {what}"),
                        "write one, or `*` for all",
                    );
                }
                words.push(word.to_owned());
            }
            words
        };
        let cors = Cors {
            allow_origins: words(
                "allowOrigins",
                is_origin,
                "origin, as `https://example.com`",
            ),
            allow_credentials: value["allowCredentials"].as_bool().unwrap_or(false),
            allow_methods: words("allowMethods", is_token, "method"),
            allow_headers: words("allowHeaders", is_token, "header's name"),
            expose_headers: words("exposeHeaders", is_token, "header's name"),
            max_age_s: value["maxAge"]
                .as_u64()
                .and_then(|age| u32::try_from(age).ok())
                .unwrap_or(MAX_AGE_S),
        };
        let lists = [
            ("allowOrigins", &cors.allow_origins),
            ("allowMethods", &cors.allow_methods),
            ("allowHeaders", &cors.allow_headers),
            ("exposeHeaders", &cors.expose_headers),
        ];
        for (name, list) in lists {
            if list.len() > 1 && list.iter().any(|word| word == "*") {
                let message = "`*` stands for all, so it stands alone";
                self.error(field(path, name), message, "leave the others out");
            }
        }
        cors
    }
}

/// Whether it is `scheme://host[:port]`, where the host may begin with `*.` or be `*`.
fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (rest, None),
    };
    let scheme_good = scheme.bytes().all(|byte| byte.is_ascii_lowercase()) && !scheme.is_empty();
    let host_good = host == "*"
        || host
            .strip_prefix("*.")
            .unwrap_or(host)
            .parse::<portolan_model::WorkloadName>()
            .is_ok();
    scheme_good && host_good && port.is_none_or(|port| port == "*" || port.parse::<u16>().is_ok())
}
