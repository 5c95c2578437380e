//! Timeouts, retries and sessions of a rule.

use std::time::Duration;

use portolan_model::duration;
use portolan_model::route::{RuleRetry, RuleTimeouts, SessionCarrier, SessionPersistence};
use serde_json::Value;

use super::super::super::path::field;
use super::super::text;
use super::Reader;
use super::headers::{is_own, is_token};

/// The name of the cookie or header that carries a session, where the rule names none.
const SESSION_NAME: &str = "portolan-session";

impl Reader<'_> {
    pub(super) fn timeouts(&mut self, rule: &Value, path: &str) -> RuleTimeouts {
        let value = &rule["timeouts"];
        let path = field(path, "timeouts");
        let request = self.duration(value, &path, "request");
        let backend_request = self.duration(value, &path, "backendRequest");
        if let (Some(request), Some(each)) = (request, backend_request)
            && !request.is_zero()
            && each > request
        {
            self.error(
                field(&path, "backendRequest"),
                format!(
                    "each try may take {}, which is longer than the whole request's {}",
                    duration::format(each),
                    duration::format(request)
                ),
                "write at most `request`",
            );
        }
        RuleTimeouts {
            request,
            backend_request,
        }
    }

    pub(super) fn retry(&mut self, rule: &Value, path: &str) -> Option<RuleRetry> {
        let value = rule.get("retry")?;
        let path = field(path, "retry");
        let codes = value.get("codes").and_then(Value::as_array);
        let attempts = value.get("attempts").and_then(Value::as_u64);
        Some(RuleRetry {
            codes: codes
                .into_iter()
                .flatten()
                .filter_map(|code| u16::try_from(code.as_u64()?).ok())
                .collect(),
            attempts: attempts.and_then(|attempts| u8::try_from(attempts).ok()),
            backoff: self.duration(value, &path, "backoff"),
        })
    }

    pub(super) fn session(&mut self, rule: &Value, path: &str) -> Option<SessionPersistence> {
        let value = rule.get("sessionPersistence")?;
        let path = &field(path, "sessionPersistence");
        let kind = self.word(value, path, "type", &["Cookie", "Header"]);
        let absolute_timeout = self.duration(value, path, "absoluteTimeout");
        let foreign = if kind == "Cookie" {
            ["header"].as_slice()
        } else {
            &["cookie", "cookieConfig"]
        };
        for name in foreign.iter().filter(|name| value.get(**name).is_some()) {
            let message = format!("`{name}` does not belong to the type `{kind}`");
            self.error(field(path, name), message, "leave it out");
        }
        let own = &value[if kind == "Cookie" { "cookie" } else { "header" }];
        let name = text(own, "name").or_else(|| text(value, "sessionName"));
        let name = name.unwrap_or(SESSION_NAME);
        if !is_token(name) || is_own(&name.to_ascii_lowercase()) {
            let message = format!("`{name}` cannot carry a session");
            self.error(path, message, "use letters, digits and `-`");
        }
        let carrier = if kind == "Cookie" {
            self.cookie(value, path, name, absolute_timeout)
        } else {
            SessionCarrier::Header {
                name: name.to_ascii_lowercase(),
            }
        };
        Some(SessionPersistence {
            carrier,
            absolute_timeout,
        })
    }

    fn cookie(
        &mut self,
        value: &Value,
        path: &str,
        name: &str,
        absolute_timeout: Option<Duration>,
    ) -> SessionCarrier {
        let (own, own_path) = if value.get("cookie").is_some() {
            (&value["cookie"], field(path, "cookie"))
        } else {
            (&value["cookieConfig"], field(path, "cookieConfig"))
        };
        let lifetime = self.word(own, &own_path, "lifetimeType", &["Session", "Permanent"]);
        let permanent = lifetime == "Permanent";
        if permanent && absolute_timeout.is_none() {
            let message = "a permanent cookie needs an end";
            self.error(path, message, "add `absoluteTimeout`");
        }
        let cookie_path = text(own, "path").unwrap_or("/");
        let odd = |byte: u8| !(0x21..0x7f).contains(&byte) || byte == b';';
        if !cookie_path.starts_with('/') || cookie_path.bytes().any(odd) {
            let message = format!("`{cookie_path}` is no cookie's path");
            self.error(field(&own_path, "path"), message, "begin it with `/`");
        }
        SessionCarrier::Cookie {
            name: name.to_owned(),
            path: cookie_path.to_owned(),
            permanent,
        }
    }

    fn duration(&mut self, value: &Value, path: &str, name: &str) -> Option<Duration> {
        let text = text(value, name)?;
        let read = duration::parse(text);
        if read.is_none() {
            let message = format!("`{text}` is no duration");
            let remedy = "write it as `10s`, `250ms` or `1h30m`: whole numbers with h, m, s, ms";
            self.error(field(path, name), message, remedy);
        }
        read
    }
}
