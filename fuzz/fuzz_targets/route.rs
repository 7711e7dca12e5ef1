//! Rules and a request. Lines of the input are rules until an empty one; then come host, target and headers.
//!
//! A rule is `HOST PATH [METHOD] [HEADER=VALUE]`, where a path that begins with `=` is exact and one with `~` an expression.

#![no_main]

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use libfuzzer_sys::fuzz_target;
use proxy::fuzzing::{Asked, found};
use proxy::snapshot::{
    Action, Guard, HeaderMatch, HostMatch, Match, PathMatch, Rule, Timeouts, ValueMatch, VirtualHost,
};

fn rule(number: usize, line: &str) -> (HostMatch, Rule) {
    let mut words = line.split(' ');
    let host = HostMatch::parse(words.next().unwrap_or_default());
    let path = words.next().unwrap_or("/");
    let path = match (path.strip_prefix('='), path.strip_prefix('~')) {
        (Some(exact), _) => PathMatch::Exact(exact.into()),
        (_, Some(expression)) => PathMatch::Regex(expression.into()),
        _ => PathMatch::Prefix(path.into()),
    };
    let method = words.next().and_then(|word| word.parse::<Method>().ok());
    let headers = words.next().and_then(|word| word.split_once('=')).and_then(|(name, value)| {
        Some(HeaderMatch { name: HeaderName::try_from(name).ok()?, value: ValueMatch::Exact(value.into()) })
    });
    let matches = Match { path, method, headers: headers.into_iter().collect(), ..Match::default() };
    let rule = Rule {
        id: number.to_string().into(),
        matches,
        filters: Vec::new(),
        action: Action::Respond { status: StatusCode::OK, body: Arc::default() },
        timeouts: Timeouts::default(),
        client: None,
        guard: Guard::default(),
    };
    (host, rule)
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.lines();
    let mut hosts: Vec<VirtualHost> = Vec::new();
    for (number, line) in lines.by_ref().take_while(|line| !line.is_empty()).take(16).enumerate() {
        let (host, rule) = rule(number, line);
        match hosts.iter_mut().find(|one| one.host == host) {
            Some(same) => same.rules.push(rule),
            None => hosts.push(VirtualHost { host, rules: vec![rule] }),
        }
    }
    let (host, target) = (lines.next().unwrap_or_default(), lines.next().unwrap_or("/"));
    let mut headers = HeaderMap::new();
    for (name, value) in lines.take(16).filter_map(|line| line.split_once(':')) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    }
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    if !path.starts_with('/') {
        return;
    }
    for method in [Method::GET, Method::POST] {
        let asked = Asked { host, method: &method, path, query, headers: &headers };
        let Ok(first) = found(&hosts, &asked) else { return };
        let Some(virtual_host) = hosts.iter().find(|one| {
            first.is_some() && one.rules.iter().any(|rule| Some(&rule.id) == first.as_ref())
        }) else {
            continue;
        };
        // The same rules one at a time: the first that matches alone is the one that was found among all.
        let alone = virtual_host.rules.iter().find(|rule| {
            let single = VirtualHost { host: virtual_host.host.clone(), rules: vec![(*rule).clone()] };
            matches!(found(&[single], &asked), Ok(Some(_)))
        });
        assert_eq!(alone.map(|rule| &rule.id), first.as_ref());
    }
});
