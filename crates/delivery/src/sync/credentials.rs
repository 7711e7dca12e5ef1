//! Which Secret holds the credential for a repository: the one that is named, or Argo CD's repository Secrets by URL.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::git::{Credential, GitError, shown};
use crate::api::Api;
use crate::object;

/// The label of Argo CD's Secrets for repositories: `repository`, or `repo-creds` for all that begin with its URL.
const SECRET_TYPE: &str = "argocd.argoproj.io/secret-type";
/// Where Argo CD keeps the keys of SSH hosts.
const KNOWN_HOSTS: &str = "/api/v1/namespaces/argocd/configmaps/argocd-ssh-known-hosts-cm";

/// Finds credentials in the API.
#[derive(Clone)]
pub struct Credentials {
    api: Api,
}

impl Credentials {
    /// Reads Secrets through this API.
    #[must_use]
    pub fn new(api: Api) -> Self {
        Self { api }
    }

    /// The credential for a URL; an empty one where there is none.
    ///
    /// # Errors
    ///
    /// When a Secret that is named cannot be read.
    pub async fn of(&self, url: &str, secret: Option<&(String, String)>) -> Result<Credential, GitError> {
        let failed =
            |reason: String| GitError::Refused { attempt: "find the credential for", repository: shown(url), reason };
        let found = match secret {
            Some((namespace, name)) => {
                let path = format!("/api/v1/namespaces/{namespace}/secrets/{name}");
                Some(self.api.get(&path).await.map_err(|error| failed(error.to_string()))?)
            }
            None if super::file_events::local_path(url).is_some() => None,
            None => {
                let query = format!("labelSelector={}%20in%20(repository,repo-creds)", SECRET_TYPE.replace('/', "%2F"));
                let all = self.api.list("/api/v1/secrets", &query).await.map_err(|error| failed(error.to_string()))?;
                best(&all, url).cloned()
            }
        };
        let Some(secret) = found else { return Ok(Credential::default()) };
        let credential = Credential::of_secret(&decoded(&secret));
        let ssh = url.starts_with("ssh://") || !url.contains("://");
        if !ssh {
            return Ok(credential);
        }
        let known = self.api.find(KNOWN_HOSTS).await.map_err(|error| failed(error.to_string()))?;
        Ok(credential.or_known_hosts(known.and_then(|map| map["data"]["ssh_known_hosts"].as_str().map(str::to_owned))))
    }
}

/// A Secret's data as text; what is no text is left out.
#[must_use]
pub(crate) fn decoded(secret: &Value) -> BTreeMap<String, String> {
    let data = secret["data"].as_object().into_iter().flatten();
    let read = |value: &Value| String::from_utf8(STANDARD.decode(value.as_str()?).ok()?).ok();
    data.filter_map(|(name, value)| Some((name.clone(), read(value)?))).collect()
}

/// The Secret for exactly this URL, else the one for the longest beginning of it.
fn best<'a>(secrets: &'a [Value], url: &str) -> Option<&'a Value> {
    let plain = |url: &str| url.trim_end_matches('/').trim_end_matches(".git").to_owned();
    let of = |secret: &Value| decoded(secret).remove("url").map(|url| plain(&url)).unwrap_or_default();
    let kind = |secret: &Value| object::label(secret, SECRET_TYPE).unwrap_or_default().to_owned();
    let exact = secrets.iter().find(|secret| kind(secret) == "repository" && of(secret) == plain(url));
    let begins = |secret: &&Value| {
        let prefix = of(secret);
        let rest = plain(url).strip_prefix(&prefix).map(str::to_owned);
        // `https://host/team` is not the beginning of `https://host/team-b/x`.
        !prefix.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
    };
    let prefixed = secrets.iter().filter(|secret| kind(secret) == "repo-creds").filter(begins);
    exact.or_else(|| prefixed.max_by_key(|secret| of(secret).len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_nearest_secret_is_taken() {
        let secret = |name: &str, kind: &str, url: &str| json!({ "metadata": { "name": name, "labels": { SECRET_TYPE: kind } }, "data": { "url": STANDARD.encode(url) } });
        let all = [
            secret("team", "repo-creds", "https://example.com/team"),
            secret("host", "repo-creds", "https://example.com"),
            secret("one", "repository", "https://example.com/team/one.git"),
        ];
        for (url, wanted) in [
            ("https://example.com/team/one", Some("one")),
            ("https://example.com/team/two.git", Some("team")),
            ("https://example.com/team-b/x", Some("host")),
            ("https://elsewhere.com/x", None),
        ] {
            assert_eq!(best(&all, url).map(object::name), wanted, "{url}");
        }
    }
}
