//! Where a redirection leads.

use portolan_model::route::{Match, Redirect};

use super::changed_path;

/// What of a request a redirection keeps.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The host, without a port.
    pub host: &'a str,
    /// The port that was called.
    pub port: u16,
    /// The path.
    pub path: &'a str,
    /// What stands behind the `?`.
    pub query: Option<&'a str>,
}

/// The `Location` of a redirection, for a request that fell under the match `by`. The port is the
/// filter's; else, if the filter names a scheme, that scheme's; else the one that was called. A scheme's
/// own port is not written.
#[must_use]
pub fn location(redirect: &Redirect, asked: Asked<'_>, by: Option<&Match>) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(asked.scheme);
    let host = redirect.hostname.as_deref().unwrap_or(asked.host);
    let usual = if scheme == "https" { 443 } else { 80 };
    let port = match (redirect.port, &redirect.scheme) {
        (Some(port), _) => port,
        (None, Some(_)) => usual,
        (None, None) => asked.port,
    };
    let path = match &redirect.path {
        Some(change) => changed_path(change, asked.path, by),
        None => asked.path.to_owned(),
    };
    let mut location = format!("{scheme}://{host}");
    if port != usual {
        location.push_str(&format!(":{port}"));
    }
    location.push_str(&path);
    if let Some(query) = asked.query {
        location.push('?');
        location.push_str(query);
    }
    location
}

#[cfg(test)]
mod tests {
    use super::super::tests::on_prefix;
    use super::*;
    use portolan_model::route::PathChange;

    #[test]
    fn what_a_redirection_does_not_name_is_the_request_s() {
        let none = Redirect {
            scheme: None,
            hostname: None,
            path: None,
            port: None,
            status: 302,
        };
        let scheme = |scheme: &str| Redirect {
            scheme: Some(scheme.to_owned()),
            ..none.clone()
        };
        let asked = |port| Asked {
            scheme: "http",
            host: "orders",
            port,
            path: "/a/b",
            query: Some("q=1"),
        };
        let with_port = |port, redirect: Redirect| Redirect {
            port: Some(port),
            ..redirect
        };
        let hostname = Redirect {
            hostname: Some("example.com".to_owned()),
            ..none.clone()
        };
        let path = |change| Redirect {
            path: Some(change),
            ..none.clone()
        };
        let table = [
            (none.clone(), 80, "http://orders/a/b?q=1"),
            (none.clone(), 8080, "http://orders:8080/a/b?q=1"),
            (scheme("https"), 8080, "https://orders/a/b?q=1"),
            (scheme("http"), 8080, "http://orders/a/b?q=1"),
            (
                with_port(443, scheme("https")),
                80,
                "https://orders/a/b?q=1",
            ),
            (
                with_port(80, scheme("https")),
                80,
                "https://orders:80/a/b?q=1",
            ),
            (with_port(80, none.clone()), 8080, "http://orders/a/b?q=1"),
            (
                with_port(8443, none.clone()),
                80,
                "http://orders:8443/a/b?q=1",
            ),
            (hostname, 80, "http://example.com/a/b?q=1"),
            (
                path(PathChange::Full("/x".to_owned())),
                80,
                "http://orders/x?q=1",
            ),
            (
                path(PathChange::Prefix("/x".to_owned())),
                80,
                "http://orders/x/b?q=1",
            ),
        ];
        for (redirect, port, expected) in table {
            let found = location(&redirect, asked(port), Some(&on_prefix("/a")));
            assert_eq!(found, expected, "{redirect:?}");
        }
    }
}
