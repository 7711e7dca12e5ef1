use std::collections::HashMap;

use http::header::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::access::Places;
use crate::error::Refused;
use crate::snapshot::{
    self, HeaderMatch, HostMatch, Listener, ListenerProtocol, Match, PathMatch, QueryMatch, ValueMatch, VirtualHost,
    Weighted,
};
use crate::stats::Registry;
use crate::traffic::States;

fn respond(id: &str, matches: Match) -> snapshot::Rule {
    let action = snapshot::Action::Respond { status: StatusCode::OK, body: id.into() };
    snapshot::Rule {
        id: id.into(),
        matches,
        filters: Vec::new(),
        action,
        timeouts: Timeouts::default(),
        client: None,
        guard: snapshot::Guard::default(),
    }
}

fn listener(hosts: Vec<VirtualHost>) -> Listener {
    Listener {
        id: "l".into(),
        bind: ([127, 0, 0, 1], 0).into(),
        fallback: None,
        protocol: ListenerProtocol::Http,
        forwarded: Forwarded::Replace,
        admits: Admits::Anybody,
        peer_name: None,
        shows: None,
        for_callers: Vec::new(),
        hosts,
    }
}

fn compiled(hosts: Vec<VirtualHost>) -> Result<Table, Refused> {
    let backends = HashMap::new();
    let counters = Registry::new(1_000);
    let states = States::new(1_000);
    let (places, backends, counters, states) = (&Places::default(), &backends, &counters, &states);
    compile(&listener(hosts), &Ingredients { backends, places, counters, states })
}

fn any_host(rules: Vec<snapshot::Rule>) -> Vec<VirtualHost> {
    vec![VirtualHost { host: HostMatch::Any, rules }]
}

fn found(table: &Table, host: &str, method: &str, target: &str, headers: &[(&str, &str)]) -> Option<String> {
    let method: Method = method.parse().expect("a method");
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::try_from(*name).expect("a name"), HeaderValue::try_from(*value).expect("a value"));
    }
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let candidate = Candidate { method: &method, path, query, headers: (&map).into() };
    table.find(host, &candidate, None).map(|rule| rule.id.to_string())
}

fn prefix(path: &str) -> Match {
    Match { path: PathMatch::Prefix(path.into()), ..Match::default() }
}

fn exact(path: &str) -> Match {
    Match { path: PathMatch::Exact(path.into()), ..Match::default() }
}

#[test]
fn hosts_by_how_specific_they_are() {
    let host = |id: &str| VirtualHost { host: HostMatch::parse(id), rules: vec![respond(id, Match::default())] };
    let table = compiled(["a.test", "*.a.test", "*.b.a.test", "*", "*.test"].map(host).into()).expect("good hosts");
    for (name, expected) in [
        ("a.test", "a.test"),
        ("x.a.test", "*.a.test"),
        ("x.y.a.test", "*.a.test"),
        ("b.a.test", "*.a.test"),
        ("x.b.a.test", "*.b.a.test"),
        ("c.test", "*.test"),
        ("test", "*"),
        (".test", "*"),
        ("", "*"),
        ("127.0.0.1", "*"),
    ] {
        assert_eq!(found(&table, name, "GET", "/", &[]).as_deref(), Some(expected), "{name}");
    }
}

#[test]
fn paths_match_by_whole_segments() {
    let table = compiled(any_host(vec![
        respond("exact", exact("/a/b")),
        respond("a", prefix("/a/")),
        respond("regex", Match { path: PathMatch::Regex("/r[0-9]+".into()), ..Match::default() }),
    ]))
    .expect("good rules");
    for (path, expected) in [
        ("/a/b", Some("exact")),
        ("/a/b/", Some("a")),
        ("/a", Some("a")),
        ("/a/", Some("a")),
        ("/ab", None),
        ("/", None),
        ("/r12", Some("regex")),
        ("/r12/x", None),
        ("/x/r12", None),
    ] {
        assert_eq!(found(&table, "h", "GET", path, &[]).as_deref(), expected, "{path}");
    }
}

#[test]
fn method_headers_and_query_must_all_hold() {
    let full = Match {
        method: Some(Method::POST),
        headers: vec![
            HeaderMatch { name: HeaderName::from_static("x-a"), value: ValueMatch::Exact("1,2".into()) },
            HeaderMatch { name: HeaderName::from_static("x-b"), value: ValueMatch::Regex("v.+".into()) },
        ],
        query: vec![
            QueryMatch { name: "a b".into(), value: ValueMatch::Exact("c/d".into()) },
            QueryMatch { name: "e".into(), value: ValueMatch::Present },
        ],
        ..Match::default()
    };
    let table = compiled(any_host(vec![respond("full", full)])).expect("a good rule");
    let headers = [("x-a", "1"), ("x-a", "2"), ("x-b", "v1")];
    assert!(found(&table, "h", "POST", "/?a+b=c%2Fd&e", &headers).is_some());
    assert!(found(&table, "h", "POST", "/?a%20b=c/d&e=&a+b=other", &headers).is_some());
    assert!(found(&table, "h", "GET", "/?a+b=c%2Fd&e", &headers).is_none());
    assert!(found(&table, "h", "POST", "/?a+b=c&e", &headers).is_none());
    assert!(found(&table, "h", "POST", "/?a+b=c%2Fd", &headers).is_none());
    assert!(found(&table, "h", "POST", "/?a+b=c%2Fd&e", &headers[1..]).is_none());
    assert!(found(&table, "h", "POST", "/?a+b=c%2Fd&e", &headers[..2]).is_none());
    assert!(found(&table, "h", "POST", "/", &[]).is_none());
}

#[test]
fn bad_listeners_are_refused() {
    let bad_rule = |matches| matches!(compiled(any_host(vec![respond("r", matches)])), Err(Refused::BadRule { .. }));
    assert!(bad_rule(Match { path: PathMatch::Regex("(".into()), ..Match::default() }));
    assert!(bad_rule(prefix("a")));
    let twice = [any_host(Vec::new()), any_host(Vec::new())].concat();
    assert!(matches!(compiled(twice), Err(Refused::DuplicateHost { .. })));
    let weighted = Weighted { backend: "nowhere".into(), weight: 0, filters: Vec::new(), policy: None };
    let mut rule = respond("r", Match::default());
    rule.action = snapshot::Action::Forward { backends: vec![weighted] };
    assert!(matches!(compiled(any_host(vec![rule])), Err(Refused::UnknownBackend { .. })));
}

fn a_path() -> impl Strategy<Value = String> {
    prop::collection::vec("[ab]{0,2}", 0..4).prop_map(|segments| format!("/{}", segments.join("/")))
}

fn a_match() -> impl Strategy<Value = Match> {
    let path = (a_path(), 0..3u8).prop_map(|(path, kind)| match kind {
        0 => PathMatch::Exact(path.into()),
        1 => PathMatch::Prefix(path.into()),
        _ => PathMatch::Regex(format!("{path}.?").into()),
    });
    (path, prop::option::of(prop::sample::select(vec![Method::GET, Method::POST]))).prop_map(|(path, method)| Match {
        path,
        method,
        ..Match::default()
    })
}

proptest! {
    /// However many rules there are, the index finds what trying them one by one finds.
    #[test]
    fn the_index_agrees_with_trying_all(matches in prop::collection::vec(a_match(), 9..60), paths in prop::collection::vec(a_path(), 20)) {
        let rules = matches.iter().enumerate().map(|(i, m)| respond(&i.to_string(), m.clone())).collect();
        let table = compiled(any_host(rules)).expect("good rules");
        let conditions: Vec<_> = matches.iter().map(|m| Condition::compile(m).expect("a good match")).collect();
        for path in &paths {
            let headers = HeaderMap::new();
            let candidate = Candidate { method: &Method::GET, path, query: None, headers: (&headers).into() };
            let expected = conditions.iter().position(|condition| condition.holds(&candidate)).map(|i| i.to_string());
            prop_assert_eq!(found(&table, "h", "GET", path, &[]), expected, "{}", path);
        }
    }
}
