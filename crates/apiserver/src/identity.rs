//! Who makes a request: bearer credentials, service account tokens, names of parts of this program, impersonation.
//!
//! Invariants: a credential is compared in constant time; nothing but health and version is answered to strangers.
//! Roles are not enforced in this version: everyone who is known may do everything.

use serde_json::{Value, json};

use crate::credential::{Credentials, same};
use crate::status::{Answer, Failure};

/// Why a review allows everything.
pub(crate) const NOT_ENFORCED: &str =
    "RBAC is stored but not enforced in this version: every authenticated user may do everything";

/// Who makes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: Option<String>,
    pub(crate) groups: Vec<String>,
}

impl User {
    /// The holder of the generated credential.
    pub(crate) fn admin() -> Self {
        Self {
            name: "kubernetes-admin".into(),
            uid: None,
            groups: vec!["system:masters".into(), "system:authenticated".into()],
        }
    }

    /// Someone without a credential.
    pub(crate) fn anonymous() -> Self {
        Self { name: "system:anonymous".into(), uid: None, groups: vec!["system:unauthenticated".into()] }
    }

    /// A part of this program.
    pub(crate) fn component(name: &str) -> Self {
        let mut groups = vec!["system:authenticated".to_owned()];
        if name.starts_with("system:node:") {
            groups.insert(0, "system:nodes".into());
        }
        if let Some(rest) = name.strip_prefix("system:serviceaccount:") {
            groups = service_account_groups(rest.split(':').next().unwrap_or_default());
        }
        Self { name: name.into(), uid: None, groups }
    }

    /// A service account, by token.
    pub(crate) fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        Self {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            uid: Some(uid.into()),
            groups: service_account_groups(namespace),
        }
    }

    /// As `userInfo` of the authentication API.
    pub(crate) fn to_value(&self) -> Value {
        let mut info = json!({ "username": self.name, "groups": self.groups });
        if let Some(uid) = &self.uid {
            info["uid"] = uid.as_str().into();
        }
        info
    }
}

fn service_account_groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}"), "system:authenticated".into()]
}

/// Says who sent `headers`, or `None` for a stranger without any credential. A wrong credential is refused.
/// `account_uid` looks up the uid of a service account that is to exist.
pub(crate) fn authenticate(
    headers: &http::HeaderMap,
    credentials: &Credentials,
    now: jiff::Timestamp,
    account_uid: &dyn Fn(&str, &str) -> Option<String>,
) -> Answer<Option<User>> {
    let Some(header) = headers.get(http::header::AUTHORIZATION) else { return Ok(None) };
    let token = header
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or_else(Failure::unauthorized)?;
    by_token(token, credentials, now, account_uid).map(Some).ok_or_else(Failure::unauthorized)
}

/// Whose token this is.
pub(crate) fn by_token(
    token: &str,
    credentials: &Credentials,
    now: jiff::Timestamp,
    account_uid: &dyn Fn(&str, &str) -> Option<String>,
) -> Option<User> {
    if same(token.as_bytes(), credentials.admin_token().as_bytes()) {
        return Some(User::admin());
    }
    let claims = credentials.verify(token, now)?;
    let uid = account_uid(&claims.namespace, &claims.account)?;
    (uid == claims.uid).then(|| User::service_account(&claims.namespace, &claims.account, &uid))
}

/// The user that a known user asks to be taken for (`kubectl --as`).
pub(crate) fn impersonate(user: User, headers: &http::HeaderMap) -> Answer<User> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let groups: Vec<String> = headers
        .get_all("impersonate-group")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .map(str::to_owned)
        .collect();
    let Some(name) = text("impersonate-user") else {
        if !groups.is_empty() || headers.contains_key("impersonate-uid") {
            return Err(Failure::bad_request("requested impersonation of a group or uid without impersonating a user"));
        }
        return Ok(user);
    };
    let mut other = User::component(&name);
    if !groups.is_empty() {
        other.groups = groups;
        if !other.groups.iter().any(|group| group == "system:authenticated") {
            other.groups.push("system:authenticated".into());
        }
    }
    other.uid = text("impersonate-uid");
    Ok(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> http::HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (http::HeaderName::from_static(name), http::HeaderValue::from_str(value).expect("a header value"))
            })
            .collect()
    }

    #[test]
    fn strangers_holders_and_forgers() {
        let folder = tempfile::tempdir().expect("a folder");
        let credentials = Credentials::open(folder.path()).expect("credentials");
        let now = jiff::Timestamp::now();
        let nobody = |_: &str, _: &str| None;
        let ask = |value: &str| authenticate(&headers(&[("authorization", value)]), &credentials, now, &nobody);
        assert_eq!(authenticate(&headers(&[]), &credentials, now, &nobody), Ok(None));
        assert_eq!(ask(&format!("Bearer {}", credentials.admin_token())), Ok(Some(User::admin())));
        for wrong in ["Bearer x", "Bearer ", "Basic YTpi", "nothing"] {
            assert_eq!(ask(wrong).map_err(|failure| failure.code), Err(401), "{wrong}");
        }
    }

    #[test]
    fn a_service_account_token_holds_while_its_account_does() {
        let folder = tempfile::tempdir().expect("a folder");
        let credentials = Credentials::open(folder.path()).expect("credentials");
        let now = jiff::Timestamp::now();
        let (token, _) = credentials.issue("shop", "robot", "u-1", &[], now, 600);
        let with = |uid: &'static str| move |_: &str, _: &str| Some(uid.to_owned());
        let user = by_token(&token, &credentials, now, &with("u-1")).expect("the account");
        assert_eq!(user.name, "system:serviceaccount:shop:robot");
        assert_eq!(by_token(&token, &credentials, now, &with("u-2")), None, "another account of that name");
        let later = now + jiff::SignedDuration::from_secs(601);
        assert_eq!(by_token(&token, &credentials, later, &with("u-1")), None, "expired");
    }

    #[test]
    fn impersonation_replaces_the_user() {
        let asked = headers(&[("impersonate-user", "bob"), ("impersonate-group", "dev")]);
        let bob = impersonate(User::admin(), &asked).expect("bob");
        assert_eq!((bob.name.as_str(), bob.groups.len()), ("bob", 2));
        assert_eq!(impersonate(User::admin(), &headers(&[("impersonate-group", "dev")])).map_err(|f| f.code), Err(400));
    }
}
