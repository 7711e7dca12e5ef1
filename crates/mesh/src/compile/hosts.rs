//! Host names: which names a listener and a route have in common, and which listener a name belongs to.
//!
//! A request belongs to the listener with the most specific hostname, whether or not a route there answers it (Gateway API
//! calls this listener isolation). Within a listener the most specific hostname among its routes decides in the same way; a
//! request that none of that hostname's rules match is answered with 404, as the common implementations do.

use proxy::snapshot::HostMatch;

/// What `listener` and `route` have in common, or None.
pub(super) fn intersection(listener: &HostMatch, route: &HostMatch) -> Option<HostMatch> {
    if covers(listener, route) {
        Some(route.clone())
    } else if covers(route, listener) {
        Some(listener.clone())
    } else {
        None
    }
}

/// Whether every name that `narrow` stands for is also one of `wide`'s.
pub(super) fn covers(wide: &HostMatch, narrow: &HostMatch) -> bool {
    match (wide, narrow) {
        (HostMatch::Any, _) => true,
        (HostMatch::Exact(wide), HostMatch::Exact(narrow)) => wide == narrow,
        (HostMatch::Suffix(suffix), HostMatch::Exact(host)) => below(suffix, host),
        (HostMatch::Suffix(wide), HostMatch::Suffix(narrow)) => wide == narrow || below(wide, narrow),
        (HostMatch::Exact(_) | HostMatch::Suffix(_), _) => false,
    }
}

/// Whether `host` is `suffix` with at least one label before it.
fn below(suffix: &str, host: &str) -> bool {
    host.strip_suffix(suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

/// The most specific of `listeners` that has all of `host`.
pub(super) fn owner<'h>(listeners: impl IntoIterator<Item = &'h HostMatch>, host: &HostMatch) -> Option<&'h HostMatch> {
    listeners.into_iter().filter(|listener| covers(listener, host)).max_by_key(|listener| specificity(listener))
}

fn specificity(host: &HostMatch) -> (u8, usize) {
    match host {
        HostMatch::Any => (0, 0),
        HostMatch::Suffix(suffix) => (1, suffix.len()),
        HostMatch::Exact(_) => (2, 0),
    }
}

/// As it is written in a manifest.
pub(super) fn display(host: &HostMatch) -> String {
    match host {
        HostMatch::Any => "*".to_owned(),
        HostMatch::Exact(host) => host.to_string(),
        HostMatch::Suffix(suffix) => format!("*.{suffix}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_and_routes_meet_in_the_narrower_name() {
        for (listener, route, common) in [
            ("", "", Some("")),
            ("", "a.example.com", Some("a.example.com")),
            ("a.example.com", "", Some("a.example.com")),
            ("a.example.com", "a.example.com", Some("a.example.com")),
            ("a.example.com", "b.example.com", None),
            ("*.example.com", "a.example.com", Some("a.example.com")),
            ("*.example.com", "a.b.example.com", Some("a.b.example.com")),
            ("*.example.com", "example.com", None),
            ("*.example.com", "aexample.com", None),
            ("*.example.com", "*.example.com", Some("*.example.com")),
            ("*.example.com", "*.b.example.com", Some("*.b.example.com")),
            ("*.b.example.com", "*.example.com", Some("*.b.example.com")),
            ("*.example.com", "*.example.org", None),
            ("a.example.com", "*.example.com", Some("a.example.com")),
            ("example.com", "*.example.com", None),
            ("A.Example.com", "a.example.COM", Some("a.example.com")),
        ] {
            let met = intersection(&HostMatch::parse(listener), &HostMatch::parse(route));
            assert_eq!(met, common.map(HostMatch::parse), "{listener:?} and {route:?}");
        }
    }

    #[test]
    fn a_name_belongs_to_the_most_specific_listener() {
        let listeners = ["", "*.example.com", "*.b.example.com", "a.example.com"].map(HostMatch::parse);
        for (host, expected) in [
            ("a.example.com", "a.example.com"),
            ("c.example.com", "*.example.com"),
            ("c.b.example.com", "*.b.example.com"),
            ("*.b.example.com", "*.b.example.com"),
            ("*.c.example.com", "*.example.com"),
            ("example.com", ""),
            ("", ""),
        ] {
            assert_eq!(owner(&listeners, &HostMatch::parse(host)), Some(&HostMatch::parse(expected)), "{host:?}");
        }
        assert_eq!(owner(&listeners[1..2], &HostMatch::Any), None);
    }
}
