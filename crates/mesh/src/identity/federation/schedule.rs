//! Whose bundle is asked for where, and when: what the ConfigMaps say, as a table.
//!
//! Invariants: no source is asked more often than every [`RETRY`] for one domain, however often its ConfigMap is listed, changed or made
//! anew; what is followed is one certain version of one certain ConfigMap, so that an answer is not taken for another's.
//! It must not know of the network or the API.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use tokio::time::Instant;

use super::fetch::{Profile, Source};
use super::follow::{ENDPOINT_CA_KEY, ENDPOINT_ID_KEY, ENDPOINT_KEY, PROFILE_KEY};
use crate::identity::{BUNDLE_KEY, Bundle, DOMAIN_KEY, PROXY_ACCOUNT, SYSTEM_NAMESPACE, TrustDomain};

/// How long until the first fetch, so that those who judge the endpoint know of the bundle by then.
const FIRST: Duration = Duration::from_secs(1);
/// How long until a fetch that failed is tried again, and the least between two of one source.
pub(super) const RETRY: Duration = Duration::from_secs(30);

/// One bundle that is followed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Followed {
    pub domain: TrustDomain,
    pub source: Source,
    pub known: Option<Bundle>,
    /// The ConfigMap that says so, and which version of it.
    pub uid: Option<String>,
    pub version: Option<String>,
}

/// What a ConfigMap asks for; none where it names no endpoint.
pub(super) fn followed(map: &ConfigMap) -> Result<Option<Followed>, String> {
    let Some(data) = &map.data else { return Ok(None) };
    let text = |key: &str| data.get(key).map(|text| text.trim()).filter(|text| !text.is_empty());
    let Some(url) = text(ENDPOINT_KEY) else { return Ok(None) };
    let domain: TrustDomain = text(DOMAIN_KEY)
        .ok_or("it has no trust-domain")?
        .parse()
        .map_err(|error: crate::identity::BadId| error.to_string())?;
    let profile = match text(PROFILE_KEY) {
        None | Some("https_spiffe") => {
            let own = domain.account(SYSTEM_NAMESPACE, PROXY_ACCOUNT).map_err(|error| error.to_string())?;
            Profile::Spiffe(text(ENDPOINT_ID_KEY).map_or_else(|| own.shared(), Into::into))
        }
        Some("https_web") => Profile::Web(text(ENDPOINT_CA_KEY).map(Into::into)),
        Some(other) => return Err(format!("{PROFILE_KEY} {other:?} is neither https_spiffe nor https_web")),
    };
    let known = text(BUNDLE_KEY).and_then(|text| Bundle::read(text.as_bytes()).ok());
    let source = Source { url: url.to_owned(), profile };
    Ok(Some(Followed { domain, source, known, uid: map.uid(), version: map.resource_version() }))
}

/// All bundles that are followed, by the names of their ConfigMaps.
#[derive(Default)]
pub(super) struct Schedule {
    all: BTreeMap<String, (Followed, Instant)>,
    /// When a source was last asked for a domain, for as long as that counts.
    asked: BTreeMap<(TrustDomain, String), Instant>,
    /// What a list that is under way has brought.
    listed: Option<BTreeSet<String>>,
}

impl Schedule {
    /// A list begins.
    pub(super) fn begin(&mut self) {
        self.listed = Some(BTreeSet::new());
    }

    /// A list is whole: what it has not brought is gone.
    pub(super) fn settle(&mut self) {
        if let Some(listed) = self.listed.take() {
            self.all.retain(|name, _| listed.contains(name));
        }
    }

    /// Takes in what a ConfigMap asks for.
    pub(super) fn put(&mut self, name: String, wanted: Option<Followed>, now: Instant) {
        if let Some(listed) = &mut self.listed {
            listed.insert(name.clone());
        }
        let Some(followed) = wanted else { return self.remove(&name) };
        let due = match self.all.get(&name) {
            Some((before, due)) if (&before.domain, &before.source) == (&followed.domain, &followed.source) => *due,
            _ => {
                let last = self.asked.get(&(followed.domain.clone(), followed.source.url.clone()));
                last.map_or(now + FIRST, |last| (now + FIRST).max(*last + RETRY))
            }
        };
        self.all.insert(name, (followed, due));
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.all.remove(name);
    }

    /// Who is to be asked next, and when.
    pub(super) fn next(&self) -> Option<(String, Instant)> {
        self.all.iter().min_by_key(|(_, (_, due))| *due).map(|(name, (_, due))| (name.clone(), *due))
    }

    /// What is followed there now, as it is asked for at `now`.
    pub(super) fn ask(&mut self, name: &str, now: Instant) -> Option<Followed> {
        let (followed, _) = self.all.get(name)?;
        self.asked.retain(|_, asked| now.duration_since(*asked) < RETRY);
        self.asked.insert((followed.domain.clone(), followed.source.url.clone()), now);
        Some(followed.clone())
    }

    /// Says how long after `now` to ask again.
    pub(super) fn again(&mut self, name: &str, now: Instant, wait: Duration) {
        if let Some((_, due)) = self.all.get_mut(name) {
            *due = now + wait.max(RETRY);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(version: &str, data: serde_json::Value) -> ConfigMap {
        let meta = json!({"name": "m", "uid": "u", "resourceVersion": version});
        serde_json::from_value(json!({"metadata": meta, "data": data})).unwrap()
    }

    fn of(domain: &str, url: &str) -> Option<Followed> {
        followed(&map("1", json!({"trust-domain": domain, "endpoint": url}))).unwrap()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_config_map_says_whose_bundle_is_asked_for_and_whom_to_believe() {
        let proxy = Profile::Spiffe("spiffe://b.test/ns/coracle-system/sa/proxy".into());
        for (data, expected) in [
            (json!({"trust-domain": "b.test"}), Ok(None)),
            (json!({"trust-domain": "b.test", "endpoint": " "}), Ok(None)),
            (json!({"trust-domain": "b.test ", "endpoint": " https://b/\n"}), Ok(Some(proxy.clone()))),
            (
                json!({"trust-domain": "b.test", "endpoint": "https://b/", "endpoint-spiffe-id": "spiffe://b.test/x"}),
                Ok(Some(Profile::Spiffe("spiffe://b.test/x".into()))),
            ),
            (
                json!({"trust-domain": "b.test", "endpoint": "https://b/", "endpoint-profile": "https_web"}),
                Ok(Some(Profile::Web(None))),
            ),
            (json!({"endpoint": "https://b/"}), Err("no trust-domain")),
            (json!({"trust-domain": "b.test", "endpoint": "https://b/", "endpoint-profile": "web"}), Err("neither")),
            (json!({"trust-domain": "B test", "endpoint": "https://b/"}), Err("")),
        ] {
            let found = followed(&map("7", data.clone()));
            match (found, expected) {
                (Ok(None), Ok(None)) => {}
                (Ok(Some(found)), Ok(Some(profile))) => {
                    assert_eq!(found.source, Source { url: "https://b/".to_owned(), profile }, "{data}");
                    assert_eq!((found.uid.as_deref(), found.version.as_deref()), (Some("u"), Some("7")));
                }
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
                (found, expected) => panic!("{data}: {found:?} and not {expected:?}"),
            }
        }
    }

    #[test]
    fn a_list_begun_again_asks_nobody_sooner_and_forgets_what_is_gone() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        for name in ["a", "b"] {
            schedule.put(name.to_owned(), of("b.test", &format!("https://{name}/")), start);
        }
        assert_eq!(schedule.next(), Some(("a".to_owned(), start + FIRST)));
        for name in ["a", "b"] {
            schedule.ask(name, start + SECOND).unwrap();
            schedule.again(name, start + SECOND, 300 * SECOND);
        }
        schedule.begin();
        schedule.put("a".to_owned(), of("b.test", "https://a/"), start + 2 * SECOND);
        assert!(schedule.all.contains_key("b"), "it is there until the list is whole");
        schedule.settle();
        assert_eq!(schedule.next(), Some(("a".to_owned(), start + 301 * SECOND)));
        assert_eq!(schedule.all.len(), 1);
    }

    #[test]
    fn a_source_is_asked_every_30_s_at_most_however_its_config_map_changes() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        let put = |schedule: &mut Schedule, wanted, at| {
            schedule.put("m".to_owned(), wanted, at);
            schedule.next().map(|(_, due)| due.duration_since(start).as_secs())
        };
        assert_eq!(put(&mut schedule, of("b.test", "https://a/"), start), Some(1));
        schedule.ask("m", start + SECOND).unwrap();
        schedule.again("m", start + SECOND, SECOND);
        assert_eq!(put(&mut schedule, of("b.test", "https://a/"), start + 2 * SECOND), Some(31));
        // Made anew, changed there and back, or for another name.
        schedule.remove("m");
        assert_eq!(put(&mut schedule, of("b.test", "https://a/"), start + 3 * SECOND), Some(31));
        assert_eq!(put(&mut schedule, of("b.test", "https://b/"), start + 4 * SECOND), Some(5));
        assert_eq!(put(&mut schedule, of("b.test", "https://a/"), start + 5 * SECOND), Some(31));
        // Another domain's is another question.
        assert_eq!(put(&mut schedule, of("c.test", "https://a/"), start + 6 * SECOND), Some(7));
        assert_eq!(put(&mut schedule, None, start + 7 * SECOND), None);
        assert_eq!(put(&mut schedule, of("b.test", "https://a/"), start + 90 * SECOND), Some(91));
    }
}
