//! Tables of the specification's rules, and a slow reference for precedence.

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method};
use portolan_model::declared::{ResourceKey, ResourceKind};
use portolan_model::route::{GrpcMatch, HttpMatch, PathMatch, RuleTimeouts, TextMatch, ValueMatch};
use proptest::prelude::*;

use super::*;

fn rule(matches: Vec<Match>) -> Rule {
    Rule {
        name: None,
        matches,
        filters: vec![],
        backends: vec![],
        timeouts: RuleTimeouts::default(),
        retry: None,
        session: None,
    }
}

fn route(name: &str, created_ms: u64, rules: Vec<Rule>) -> Arc<Route> {
    let (namespace, name) = name.split_once('/').unwrap();
    Arc::new(Route {
        key: ResourceKey::namespaced(ResourceKind::HttpRoute, namespace.parse().unwrap(), name),
        created_ms,
        port: None,
        rules,
    })
}

fn value(name: &str, text: &str) -> ValueMatch {
    ValueMatch {
        name: name.to_owned(),
        value: TextMatch::Exact(text.to_owned()),
    }
}

fn on_path(path: PathMatch) -> HttpMatch {
    HttpMatch {
        path,
        method: None,
        headers: vec![],
        query: vec![],
    }
}

fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.trim_end_matches('/').to_owned())
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(
            name.parse::<HeaderName>().unwrap(),
            value.parse::<HeaderValue>().unwrap(),
        );
    }
    headers
}

/// Which rule a request falls under, as `route#rule`.
fn found(routes: &Routes, caller: &str, facts: &Facts<'_>) -> String {
    match select(routes, &caller.parse().unwrap(), 80, facts) {
        Selection::Unrouted => "unrouted".to_owned(),
        Selection::Unmatched => "unmatched".to_owned(),
        Selection::Matched(matched) => format!("{}#{}", matched.route.key.name, matched.index),
    }
}

fn produced(routes: Vec<Arc<Route>>) -> Routes {
    Routes {
        producer: routes,
        ..Routes::default()
    }
}

fn get<'a>(path: &'a str, query: Option<&'a str>, headers: &'a HeaderMap) -> Facts<'a> {
    Facts::Request(Request {
        method: &Method::GET,
        path,
        query,
        headers,
        host: "orders",
        grpc: false,
    })
}

fn matches(by: HttpMatch, path: &str, query: Option<&str>, headers: &HeaderMap) -> bool {
    let routes = produced(vec![route("shop/a", 1, vec![rule(vec![Match::Http(by)])])]);
    found(&routes, "shop", &get(path, query, headers)) == "a#0"
}

#[test]
fn prefixes_match_whole_elements() {
    let none = HeaderMap::new();
    for (wanted, path, expected) in [
        ("/abc", "/abc", true),
        ("/abc", "/abc/", true),
        ("/abc/", "/abc", true),
        ("/abc", "/abc/d", true),
        ("/abc", "/abcd", false),
        ("/abc", "/ABC", false),
        ("/", "/anything", true),
        ("/", "*", true),
    ] {
        let by = on_path(prefix(wanted));
        assert_eq!(matches(by, path, None, &none), expected, "{wanted} {path}");
    }
    let exact = || on_path(PathMatch::Exact("/abc".to_owned()));
    assert!(matches(exact(), "/abc", None, &none) && !matches(exact(), "/abc/", None, &none));
    let regex = || on_path(PathMatch::Regex("/a.".parse().unwrap()));
    assert!(matches(regex(), "/ab", None, &none) && !matches(regex(), "/abc", None, &none));
}

#[test]
fn headers_and_parameters_are_read_as_the_specification_says() {
    let everything = || on_path(prefix("/"));
    let with_header = |text: &str| HttpMatch {
        headers: vec![value("x-a", text)],
        ..everything()
    };
    assert!(matches(
        with_header("1"),
        "/",
        None,
        &headers(&[("X-A", "1")])
    ));
    assert!(!matches(
        with_header("1"),
        "/",
        None,
        &headers(&[("x-a", "12")])
    ));
    let by_host = |host: &str| HttpMatch {
        headers: vec![value("host", host)],
        ..everything()
    };
    assert!(matches(by_host("orders"), "/", None, &HeaderMap::new()));
    assert!(!matches(by_host("other"), "/", None, &HeaderMap::new()));
    let twice = headers(&[("x-a", "1"), ("x-a", "2")]);
    assert!(matches(with_header("1,2"), "/", None, &twice));
    let with_query = |text: &str| HttpMatch {
        query: vec![value("q", text)],
        ..everything()
    };
    let none = HeaderMap::new();
    for (query, wanted, expected) in [
        (Some("q=1"), "1", true),
        (Some("a=b&q=1&q=2"), "1", true),
        (Some("q=2&q=1"), "1", false),
        (Some("q=a%20b"), "a b", true),
        (Some("q=a+b"), "a b", true),
        (Some("q=%zz"), "%zz", true),
        (Some("q"), "", true),
        (Some("Q=1"), "1", false),
        (None, "", false),
    ] {
        let by = with_query(wanted);
        assert_eq!(matches(by, "/", query, &none), expected, "{query:?}");
    }
}

#[test]
fn a_grpc_call_is_known_by_service_and_method() {
    let by = |service: Option<&str>, method: Option<&str>| {
        let exact = |text: &str| TextMatch::Exact(text.to_owned());
        Match::Grpc(GrpcMatch {
            service: service.map(exact),
            method: method.map(exact),
            headers: vec![],
        })
    };
    let routes = produced(vec![route(
        "shop/a",
        1,
        vec![
            rule(vec![by(None, Some("Echo"))]),
            rule(vec![by(Some("demo.Echo"), None)]),
            rule(vec![by(Some("demo.Echo"), Some("Echo"))]),
        ],
    )]);
    let headers = HeaderMap::new();
    let call = |path, grpc| {
        Facts::Request(Request {
            method: &Method::POST,
            path,
            query: None,
            headers: &headers,
            host: "orders",
            grpc,
        })
    };
    for (path, grpc, expected) in [
        ("/demo.Echo/Echo", true, "a#2"),
        ("/demo.Echo/Other", true, "a#1"),
        ("/other.Echo/Echo", true, "a#0"),
        ("/other.Echo/Other", true, "unmatched"),
        ("/demo.Echo/Echo", false, "unmatched"),
        ("/demo.Echo", true, "unmatched"),
    ] {
        assert_eq!(
            found(&routes, "shop", &call(path, grpc)),
            expected,
            "{path}"
        );
    }
}

#[test]
fn one_alternative_is_enough_and_none_fits_all() {
    let headers = headers(&[("x-tenant", "blue"), ("x-tenant", "red")]);
    let Facts::Request(request) = get("/a", Some("a+b=1%262&a+b=3"), &headers) else {
        unreachable!("it is a request");
    };
    let all = HttpMatch {
        method: Some("GET".to_owned()),
        headers: vec![value("x-tenant", "blue,red")],
        query: vec![value("a b", "1&2")],
        ..on_path(prefix("/a"))
    };
    let other = HttpMatch {
        method: Some("POST".to_owned()),
        ..all.clone()
    };
    for (alternatives, fits) in [
        (vec![], true),
        (vec![all.clone()], true),
        (vec![other.clone()], false),
        (vec![other.clone(), all], true),
        (vec![other.clone(), other], false),
    ] {
        assert_eq!(request.fits(&alternatives), fits, "{alternatives:?}");
    }
    assert_eq!(request.header("x-tenant").as_deref(), Some("blue,red"));
    assert_eq!(request.header("host").as_deref(), Some("orders"));
    assert_eq!(request.header("x-none"), None);
}

#[test]
fn server_names_match_exactly_or_below_a_zone() {
    let routes = produced(vec![route(
        "shop/a",
        1,
        vec![
            rule(vec![Match::Sni("*.example.com".to_owned())]),
            rule(vec![Match::Sni("*.b.example.com".to_owned())]),
            rule(vec![Match::Sni("a.example.com".to_owned())]),
        ],
    )]);
    for (name, expected) in [
        (Some("A.example.com"), "a#2"),
        (Some("c.example.com"), "a#0"),
        (Some("c.b.example.com"), "a#1"),
        (Some("example.com"), "unmatched"),
        (None, "unmatched"),
    ] {
        let facts = Facts::Connection { server_name: name };
        assert_eq!(found(&routes, "shop", &facts), expected, "{name:?}");
    }
    assert!(wants_server_name(&routes, &"shop".parse().unwrap(), 80));
}

#[test]
fn a_consumer_s_routes_replace_the_producer_s_for_its_port() {
    let none = HeaderMap::new();
    let of_port = |name: &str, port| {
        Arc::new(Route {
            port,
            ..Route::clone(&route(name, 1, vec![rule(vec![])]))
        })
    };
    let consumer = |port| Routes {
        producer: vec![of_port("shop/producer", None)],
        consumer: [("web".parse().unwrap(), vec![of_port("web/consumer", port)])].into(),
    };
    let facts = get("/", None, &none);
    assert_eq!(found(&consumer(None), "web", &facts), "consumer#0");
    assert_eq!(found(&consumer(Some(80)), "web", &facts), "consumer#0");
    assert_eq!(found(&consumer(Some(81)), "web", &facts), "producer#0");
    assert_eq!(found(&consumer(None), "other", &facts), "producer#0");
    assert_eq!(found(&Routes::default(), "shop", &facts), "unrouted");
    let other_port = produced(vec![of_port("shop/producer", Some(81))]);
    assert_eq!(found(&other_port, "shop", &facts), "unrouted");
}

/// One match out of few, so that many are equal.
fn some_match() -> impl Strategy<Value = HttpMatch> {
    let path = prop_oneof![
        Just(prefix("/")),
        Just(prefix("/a")),
        Just(prefix("/a/b")),
        Just(PathMatch::Exact("/a/b".to_owned())),
        Just(PathMatch::Exact("/a".to_owned())),
    ];
    let names = ["x", "y"];
    let some = prop::sample::subsequence(names.to_vec(), 0..=2);
    (path, any::<bool>(), some.clone(), some).prop_map(|(path, method, headers, query)| HttpMatch {
        path,
        method: method.then(|| "GET".to_owned()),
        headers: headers.into_iter().map(|name| value(name, "1")).collect(),
        query: query.into_iter().map(|name| value(name, "1")).collect(),
    })
}

/// The specification's list, sentence by sentence, on everything that matches.
fn reference(routes: &[Arc<Route>], path: &str, headers: &HeaderMap) -> String {
    let mut left: Vec<(&Arc<Route>, usize, &HttpMatch)> = Vec::new();
    for route in routes {
        for (index, rule) in route.rules.iter().enumerate() {
            for by in &rule.matches {
                let Match::Http(by) = by else { continue };
                let on_path = match &by.path {
                    PathMatch::Exact(wanted) => wanted == path,
                    PathMatch::Prefix(wanted) => {
                        let elements = |path: &str| -> Vec<String> {
                            let parts = path.split('/').filter(|part| !part.is_empty());
                            parts.map(str::to_owned).collect()
                        };
                        elements(path).starts_with(&elements(wanted))
                    }
                    PathMatch::Regex(_) => false,
                };
                let with_headers = by.headers.iter().all(|it| headers.contains_key(&it.name));
                // Requests of the property have every parameter and are all GET.
                if on_path && with_headers {
                    left.push((route, index, by));
                }
            }
        }
    }
    fn keep<K: Ord>(
        left: &mut Vec<(&Arc<Route>, usize, &HttpMatch)>,
        key: impl Fn(&Arc<Route>, usize, &HttpMatch) -> K,
    ) {
        let best = left.iter().map(|(route, at, by)| key(route, *at, by)).max();
        left.retain(|(route, at, by)| Some(key(route, *at, by)) == best);
    }
    keep(&mut left, |_, _, by| matches!(by.path, PathMatch::Exact(_)));
    keep(&mut left, |_, _, by| match &by.path {
        PathMatch::Prefix(prefix) => prefix.chars().count(),
        PathMatch::Exact(_) | PathMatch::Regex(_) => 0,
    });
    keep(&mut left, |_, _, by| by.method.is_some());
    keep(&mut left, |_, _, by| by.headers.len());
    keep(&mut left, |_, _, by| by.query.len());
    keep(&mut left, |route, _, _| std::cmp::Reverse(route.created_ms));
    keep(&mut left, |route, _, _| {
        let namespace = route.key.namespace.as_ref().unwrap();
        std::cmp::Reverse(format!("{namespace}/{}", route.key.name))
    });
    keep(&mut left, |_, at, _| std::cmp::Reverse(at));
    left.first()
        .map_or("unmatched".to_owned(), |(route, at, _)| {
            format!("{}#{at}", route.key.name)
        })
}

proptest! {
    #[test]
    fn precedence_is_the_specification_s(
        all in prop::collection::vec(
            (0_u64..2, prop::collection::vec(prop::collection::vec(some_match(), 1..3), 1..4)),
            1..4,
        ),
        path in prop::sample::select(vec!["/", "/a", "/a/b", "/a/b/c", "/ab"]),
        with in prop::sample::subsequence(vec!["x", "y"], 0..=2),
    ) {
        // `a/r3` stands after `a-b/r2` although `a` stands before `a-b`.
        let names = ["b/r0", "a/r1", "a-b/r2"];
        let routes: Vec<Arc<Route>> = all
            .into_iter()
            .zip(names)
            .map(|((created_ms, rules), name)| {
                let rules = rules
                    .into_iter()
                    .map(|matches| rule(matches.into_iter().map(Match::Http).collect()));
                route(name, created_ms, rules.collect())
            })
            .collect();
        let pairs: Vec<(&str, &str)> = with.iter().map(|name| (*name, "1")).collect();
        let headers = headers(&pairs);
        let expected = reference(&routes, path, &headers);
        let facts = get(path, Some("x=1&y=1"), &headers);
        prop_assert_eq!(found(&produced(routes), "shop", &facts), expected);
    }
}
