//! Who makes a request: bearer credentials, service account tokens, names of parts of this program.
//!
//! Invariants: a credential is compared in constant time; a token is good only for the audience that it was made for; a name
//! brings groups with it only where this program itself gave it.

use std::collections::BTreeMap;

use rules::rbac::{AUTHENTICATED, MASTERS, Subject, UNAUTHENTICATED, account_groups, account_user, service_account};
use serde_json::{Value, json};

use crate::credential::{AUDIENCE, Credentials, same};
use crate::status::{Answer, Failure};

/// Who makes a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: Option<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) extra: BTreeMap<String, Vec<String>>,
    /// When what they showed ends.
    pub(crate) until: Option<jiff::Timestamp>,
    /// Another user asked to be taken for this one.
    pub(crate) impersonated: bool,
    /// It is a part of this program, which is to know what it may do.
    pub(crate) part: bool,
}

impl User {
    fn new(name: &str, groups: Vec<String>) -> Self {
        Self { name: name.into(), groups, ..Self::default() }
    }

    /// The holder of the generated credential.
    pub(crate) fn admin() -> Self {
        Self::new("kubernetes-admin", vec![MASTERS.into(), AUTHENTICATED.into()])
    }

    /// This server itself.
    pub(crate) fn server() -> Self {
        Self::new("system:apiserver", vec![MASTERS.into(), AUTHENTICATED.into()])
    }

    /// Someone without a credential.
    pub(crate) fn anonymous() -> Self {
        Self::new("system:anonymous", vec![UNAUTHENTICATED.into()])
    }

    /// A part of this program, by the name that it was given. `system:admin` acts for whoever started it.
    pub(crate) fn part(name: &str) -> Self {
        let mut groups = vec![AUTHENTICATED.to_owned()];
        if name == "system:admin" {
            groups.insert(0, MASTERS.into());
        }
        if name.starts_with("system:node:") {
            groups.insert(0, "system:nodes".into());
        }
        if let Some((namespace, _)) = service_account(name) {
            groups = account_groups(namespace);
        }
        Self { part: true, ..Self::new(name, groups) }
    }

    /// A service account, by token.
    pub(crate) fn service_account(namespace: &str, name: &str, uid: &str, until: jiff::Timestamp) -> Self {
        Self {
            uid: Some(uid.into()),
            until: Some(until),
            ..Self::new(&account_user(namespace, name), account_groups(namespace))
        }
    }

    /// As the authorizer is asked about it.
    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject { name: &self.name, groups: &self.groups }
    }

    /// As `userInfo` of the authentication API.
    pub(crate) fn to_value(&self) -> Value {
        let mut info = json!({ "username": self.name, "groups": self.groups });
        if let Some(uid) = &self.uid {
            info["uid"] = uid.as_str().into();
        }
        if !self.extra.is_empty() {
            info["extra"] = json!(self.extra);
        }
        info
    }
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
    let held = by_token(token, credentials, now, account_uid).ok_or_else(Failure::unauthorized)?;
    // A token that was made to be shown to somebody else is not taken here: they could use it in its owner's name.
    if !held.audiences.iter().any(|one| one == AUDIENCE) {
        return Err(Failure::unauthorized());
    }
    Ok(Some(held.user))
}

/// Whose token it is, and for whom it was made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) user: User,
    pub(crate) audiences: Vec<String>,
}

/// Whose token this is.
pub(crate) fn by_token(
    token: &str,
    credentials: &Credentials,
    now: jiff::Timestamp,
    account_uid: &dyn Fn(&str, &str) -> Option<String>,
) -> Option<Held> {
    if same(token.as_bytes(), credentials.admin_token().as_bytes()) {
        return Some(Held { user: User::admin(), audiences: vec![AUDIENCE.to_owned()] });
    }
    let claims = credentials.verify(token, now)?;
    let uid = account_uid(&claims.namespace, &claims.account)?;
    (uid == claims.uid).then(|| Held {
        user: User::service_account(&claims.namespace, &claims.account, &uid, claims.ends),
        audiences: claims.audiences,
    })
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
        assert_eq!(user.user.name, "system:serviceaccount:shop:robot");
        assert_eq!(by_token(&token, &credentials, now, &with("u-2")), None, "another account of that name");
        let later = now + jiff::SignedDuration::from_secs(601);
        assert_eq!(by_token(&token, &credentials, later, &with("u-1")), None, "expired");
    }

    #[test]
    fn a_token_for_others_is_not_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        let credentials = Credentials::open(folder.path()).expect("credentials");
        let now = jiff::Timestamp::now();
        let uid = |_: &str, _: &str| Some("u".to_owned());
        for (audiences, code) in [(&["vault"][..], 401), (&[AUDIENCE], 200), (&["vault", AUDIENCE], 200), (&[], 200)] {
            let audiences: Vec<String> = audiences.iter().map(|one| (*one).to_owned()).collect();
            let (token, _) = credentials.issue("shop", "robot", "u", &audiences, now, 600);
            let headers = headers(&[("authorization", &format!("Bearer {token}"))]);
            let asked = authenticate(&headers, &credentials, now, &uid).map_or_else(|failure| failure.code, |_| 200);
            assert_eq!(asked, code, "{audiences:?}");
        }
    }

    #[test]
    fn names_of_parts_bring_their_groups() {
        for (name, groups) in [
            ("system:coracle:mesh", &["system:authenticated"][..]),
            ("system:admin", &["system:masters", "system:authenticated"]),
            ("system:node:coracle", &["system:nodes", "system:authenticated"]),
            (
                "system:serviceaccount:kube-system:job-controller",
                &["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"],
            ),
        ] {
            assert_eq!(User::part(name).groups, groups, "{name}");
        }
    }
}
