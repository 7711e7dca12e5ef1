//! Notices of pushes: whether one is genuine, and which repositories it means. GitHub, GitLab, and a generic form.
//!
//! Genuine is what is signed with (GitHub: `X-Hub-Signature-256`; generic: `X-Signature`, both HMAC-SHA256 of the body, written
//! `sha256=HEX`) or carries (GitLab: `X-Gitlab-Token`) the secret that Argo CD's `argocd-secret` holds. Comparisons take the
//! same time whatever differs.

use std::collections::{BTreeMap, BTreeSet};

use http::HeaderMap;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::api::Api;
use crate::sync::credentials::decoded;

/// The Secret that holds the shared secrets, as in Argo CD.
const SECRET: &str = "/api/v1/namespaces/argocd/secrets/argocd-secret";

/// The shared secrets by sender: `github`, `gitlab`, `generic`.
pub(super) async fn secrets(api: &Api) -> Result<BTreeMap<String, String>, String> {
    let found = api.find(SECRET).await.map_err(|error| format!("cannot read the shared secrets: {error}"))?;
    let data = found.map(|secret| decoded(&secret)).unwrap_or_default();
    let named = data.into_iter().filter_map(|(name, value)| {
        let sender = name.strip_prefix("webhook.")?.strip_suffix(".secret")?.to_owned();
        (!value.is_empty()).then_some((sender, value))
    });
    Ok(named.collect())
}

/// Whether a notice is genuine.
///
/// # Errors
///
/// A sentence that says what is missing.
pub(super) fn check(headers: &HeaderMap, body: &[u8], secrets: &BTreeMap<String, String>) -> Result<(), String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (sender, header) = if headers.contains_key("x-github-event") {
        ("github", "x-hub-signature-256")
    } else if headers.contains_key("x-gitlab-event") {
        ("gitlab", "x-gitlab-token")
    } else {
        ("generic", "x-signature")
    };
    let Some(secret) = secrets.get(sender) else {
        return Err(format!(
            "no secret for {sender} is set: put webhook.{sender}.secret into the Secret argocd-secret in the namespace argocd"
        ));
    };
    match sender {
        "gitlab" if same(text(header).as_bytes(), secret.as_bytes()) => Ok(()),
        "gitlab" => Err(format!("{header} does not fit the secret for {sender}")),
        "github" => {
            let (given, header) = of_github(headers);
            signed(given, header, secret, body)
        }
        _ => signed(text(header), header, secret, body),
    }
}

/// The signature that GitHub sends, and its header: the older one where there is no other, to be refused by name.
pub(crate) fn of_github(headers: &HeaderMap) -> (&str, &'static str) {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match (text("x-hub-signature-256"), text("x-hub-signature")) {
        (None, Some(older)) => (older, "x-hub-signature"),
        (given, _) => (given.unwrap_or_default(), "x-hub-signature-256"),
    }
}

/// A body's signature, as `X-Hub-Signature-256` has it.
pub(crate) fn signature(secret: &str, body: &[u8]) -> String {
    format!("sha256={}", hex(&hmac(secret.as_bytes(), body)))
}

/// Whether a header signs a body.
///
/// # Errors
///
/// A sentence that says what is wrong.
pub(crate) fn signed(given: &str, header: &str, secret: &str, body: &[u8]) -> Result<(), String> {
    match given.split_once('=') {
        Some(("sha256", _)) if same(given.as_bytes(), signature(secret, body).as_bytes()) => Ok(()),
        Some(("sha256", _)) => Err(format!("{header} does not fit the secret")),
        Some((other, _)) => Err(format!("{header}: signatures by {other} are not taken; sign with sha256")),
        None => Err(format!("{header} is missing, or no signature sha256=…")),
    }
}

/// The repositories that a notice may mean, as [`plain`] writes them.
pub(super) fn urls(payload: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for object in [payload, &payload["repository"], &payload["project"]] {
        for name in [
            "url",
            "clone_url",
            "ssh_url",
            "git_url",
            "html_url",
            "homepage",
            "git_http_url",
            "git_ssh_url",
            "web_url",
            "http_url",
        ] {
            if let Some(url) = object[name].as_str().filter(|url| !url.is_empty()) {
                found.insert(plain(url));
            }
        }
    }
    found
}

/// Host and path of a URL, whatever leads there: `https://u@host/a/b.git` and `git@host:a/b` are both `host/a/b`.
pub(super) fn plain(url: &str) -> String {
    let rest = match url.split_once("://") {
        Some((_, rest)) => rest.to_owned(),
        None => url.replacen(':', "/", 1),
    };
    let (authority, path) = rest.split_once('/').unwrap_or((&rest, ""));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = host.split(':').next().unwrap_or(host).to_lowercase();
    format!("{host}/{}", path.trim_matches('/').trim_end_matches(".git"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// HMAC-SHA256 (RFC 2104).
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

/// Takes the same time whatever differs.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().expect("a value")))
            .collect()
    }

    #[test]
    fn the_hmac_is_the_one_of_the_rfc() {
        // RFC 4231, test cases 2 and 6.
        assert_eq!(
            hex(&hmac(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        let long = hmac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First");
        assert_eq!(hex(&long), "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    }

    #[test]
    fn only_genuine_notices_pass() {
        let secrets = BTreeMap::from([("github".to_owned(), "s".to_owned()), ("gitlab".to_owned(), "t".to_owned())]);
        let good = format!("sha256={}", hex(&hmac(b"s", b"{}")));
        for (sent, passes) in [
            (headers(&[("x-github-event", "push"), ("x-hub-signature-256", &good)]), true),
            (headers(&[("x-github-event", "push"), ("x-hub-signature-256", "sha256=00")]), false),
            (headers(&[("x-github-event", "push")]), false),
            (headers(&[("x-gitlab-event", "Push Hook"), ("x-gitlab-token", "t")]), true),
            (headers(&[("x-gitlab-event", "Push Hook"), ("x-gitlab-token", "s")]), false),
            // No secret, no notice.
            (headers(&[("x-signature", &good)]), false),
        ] {
            assert_eq!(check(&sent, b"{}", &secrets).is_ok(), passes, "{sent:?}");
        }
        let generic = BTreeMap::from([("generic".to_owned(), "s".to_owned())]);
        assert!(check(&headers(&[("x-signature", &good)]), b"{}", &generic).is_ok());
        assert!(check(&headers(&[("x-signature", &good)]), b"{} ", &generic).is_err());
    }

    #[test]
    fn a_notice_means_a_repository_however_it_is_reached() {
        let github = json!({ "repository": { "clone_url": "https://github.com/team/shop.git", "ssh_url": "git@github.com:team/shop.git" } });
        assert_eq!(urls(&github), BTreeSet::from(["github.com/team/shop".to_owned()]));
        for url in
            ["https://me:x@GitHub.com/team/shop", "ssh://git@github.com:22/team/shop.git", "git@github.com:team/shop"]
        {
            assert_eq!(plain(url), "github.com/team/shop", "{url}");
        }
        assert!(urls(&json!({ "project": { "git_http_url": "http://gl/a/b.git" } })).contains("gl/a/b"));
    }
}
