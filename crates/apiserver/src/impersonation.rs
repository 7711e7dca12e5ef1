//! Impersonation: a known user asks to be taken for another (`kubectl --as`), and may where a role says so.
//!
//! Invariant: every part of the other identity (name, groups, uid, each extra value) is asked about by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use rules::rbac::{self, Attributes, Target};

use crate::access::Access;
use crate::identity::User;
use crate::query::percent_decode;
use crate::status::{Answer, Failure};

const EXTRA: &str = "impersonate-extra-";
/// Upstream's group of what is no object: uids and extra values.
const AUTHENTICATION: &str = "authentication.k8s.io";

/// Who is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    name: String,
    groups: Vec<String>,
    uid: Option<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// Who asked to be taken for whom.
#[derive(Debug)]
pub(crate) struct Asker {
    pub(crate) user: Arc<User>,
    pub(crate) wanted: Wanted,
}

impl Asker {
    /// Refuses one who may not, or not any more.
    pub(crate) fn require(&self, access: &Access) -> Answer<()> {
        require(&self.user, &self.wanted, access)
    }
}

/// Refuses a user who may not be taken for whom they want to be.
fn require(user: &User, wanted: &Wanted, access: &Access) -> Answer<()> {
    let ask = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let target = Target::Resource { group, resource, subresource, namespace, name };
        access.require(user, &Attributes { verb: "impersonate", target })
    };
    match rbac::service_account(&wanted.name) {
        Some((namespace, name)) => ask("", "serviceaccounts", "", namespace, name)?,
        None => ask("", "users", "", "", &wanted.name)?,
    }
    for group in &wanted.groups {
        ask("", "groups", "", "", group)?;
    }
    if let Some(uid) = &wanted.uid {
        ask(AUTHENTICATION, "uids", "", "", uid)?;
    }
    for (key, values) in &wanted.extra {
        for value in values {
            ask(AUTHENTICATION, "userextras", key, "", value)?;
        }
    }
    Ok(())
}

/// Who the headers ask for; `None` where they ask for nobody.
pub(crate) fn read(headers: &HeaderMap) -> Answer<Option<Wanted>> {
    let mut wanted = Wanted::default();
    let mut any = false;
    for (key, value) in headers {
        let Some(what) = key.as_str().strip_prefix("impersonate-") else { continue };
        any = true;
        let value =
            value.to_str().map_err(|_| Failure::bad_request(format!("the header {key} is not plain text")))?.to_owned();
        match what {
            "user" => wanted.name = value,
            "group" => wanted.groups.push(value),
            "uid" => wanted.uid = Some(value),
            _ => match key.as_str().strip_prefix(EXTRA).and_then(|name| percent_decode(name, false)) {
                Some(name) => wanted.extra.entry(name).or_default().push(value),
                None => return Err(Failure::bad_request(format!("the header {key} is not known"))),
            },
        }
    }
    if any && wanted.name.is_empty() {
        let what = "requested impersonation of a group, uid or extra value without impersonating a user";
        return Err(Failure::bad_request(what));
    }
    Ok(any.then_some(wanted))
}

impl Wanted {
    /// The user that it is, where it is allowed, as long as the credential of who asks is good.
    pub(crate) fn to_user(&self, until: Option<jiff::Timestamp>) -> User {
        let mut groups = self.groups.clone();
        if groups.is_empty()
            && let Some((namespace, _)) = rbac::service_account(&self.name)
        {
            groups = rbac::account_groups(namespace);
        }
        let stranger = self.name == "system:anonymous" || groups.iter().any(|group| group == rbac::UNAUTHENTICATED);
        let own = if stranger { rbac::UNAUTHENTICATED } else { rbac::AUTHENTICATED };
        if !groups.iter().any(|group| group == own) {
            groups.push(own.into());
        }
        let (name, uid, extra) = (self.name.clone(), self.uid.clone(), self.extra.clone());
        User { name, uid, groups, extra, until, impersonated: true, part: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(pairs: &[(&'static str, &str)]) -> Answer<Option<User>> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(http::HeaderName::from_static(name), http::HeaderValue::from_str(value).expect("a value"));
        }
        Ok(read(&headers)?.map(|wanted| wanted.to_user(None)))
    }

    #[test]
    fn who_is_asked_for() {
        for (headers, name, groups) in [
            (&[("impersonate-user", "bob")][..], "bob", &["system:authenticated"][..]),
            (&[("impersonate-user", "bob"), ("impersonate-group", "dev")], "bob", &["dev", "system:authenticated"]),
            // Names do not bring groups with them that nobody was asked about.
            (&[("impersonate-user", "system:node:coracle")], "system:node:coracle", &["system:authenticated"]),
            (&[("impersonate-user", "system:admin")], "system:admin", &["system:authenticated"]),
            (&[("impersonate-user", "system:anonymous")], "system:anonymous", &["system:unauthenticated"]),
            (
                &[("impersonate-user", "system:serviceaccount:a:b")],
                "system:serviceaccount:a:b",
                &["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"],
            ),
        ] {
            let user = wanted(headers).expect("right").expect("somebody");
            assert_eq!((user.name.as_str(), user.groups), (name, groups.iter().map(|one| (*one).to_owned()).collect()));
        }
        assert_eq!(wanted(&[]), Ok(None));
        let user = wanted(&[("impersonate-user", "b"), ("impersonate-uid", "u"), ("impersonate-extra-a%2fb", "c")]);
        let user = user.expect("right").expect("somebody");
        assert_eq!((user.uid.as_deref(), user.extra["a/b"].as_slice()), (Some("u"), &["c".to_owned()][..]));
        for wrong in ["impersonate-group", "impersonate-uid", "impersonate-extra-x", "impersonate-nothing"] {
            assert_eq!(wanted(&[(wrong, "x")]).map_err(|failure| failure.code), Err(400), "{wrong}");
        }
    }
}
