//! The accounts that applications act as, kept as their projects say: made before the first request, narrowed when a project
//! narrows, taken away with the application.
//!
//! Invariants: what an account may do no more is taken away before anything is added; one account is written by one task at a
//! time.

pub(crate) mod plan;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tokio::sync::Mutex;

use self::plan::{Account, FOR, LABEL};
use super::application::AppId;
use super::engine::compare;
use super::front::project::Project;
use crate::api::{Api, ApiError, escape};
use crate::kinds::Kinds;
use crate::object;

/// Where what is made for accounts is, and its place in a cluster.
const COLLECTIONS: [(&str, &str); 4] = [
    ("/apis/rbac.authorization.k8s.io/v1", "rolebindings"),
    ("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings"),
    ("/apis/rbac.authorization.k8s.io/v1", "clusterroles"),
    ("/api/v1", "serviceaccounts"),
];

/// What an account is to be made from.
pub(crate) struct Wanted {
    pub(crate) account: Account,
    pub(crate) project: Project,
    pub(crate) kinds: Kinds,
    /// The application's own namespace.
    pub(crate) destination: String,
}

/// What is known to be there for each account.
pub(crate) struct Accounts {
    api: Api,
    written: Mutex<BTreeMap<Account, Vec<(String, Value)>>>,
}

impl Accounts {
    pub(crate) fn new(api: Api) -> Self {
        Self { api, written: Mutex::default() }
    }

    /// Brings what an account may do up to what its project says. The namespaces that there are, where that matters.
    pub(crate) async fn ensure(&self, wanted: &Wanted) -> Result<Option<BTreeSet<String>>, String> {
        let failed = |error: ApiError| format!("cannot give the account {} its role: {error}", wanted.account.name);
        let anywhere = wanted.project.allows_every_namespace();
        let namespaces: Vec<String> = match anywhere {
            true => Vec::new(),
            false => {
                let all = self.api.list("/api/v1/namespaces", "").await.map_err(failed)?;
                let there = all.iter().filter(|one| one["metadata"]["deletionTimestamp"].is_null());
                there.map(|one| object::name(one).to_owned()).collect()
            }
        };
        let objects = plan::plan(&wanted.account, &wanted.project, &wanted.kinds, &namespaces, &wanted.destination);
        let mut written = self.written.lock().await;
        if written.get(&wanted.account) != Some(&objects) {
            written.remove(&wanted.account);
            let keep: BTreeSet<&str> = objects.iter().map(|(path, _)| path.as_str()).collect();
            self.take_away(&wanted.account, &keep).await.map_err(failed)?;
            for (path, object) in &objects {
                match self.api.apply(path, object, compare::mode(false)).await {
                    // A namespace that has gone in this moment needs no binding.
                    Err(error) if error.is_not_found() => {}
                    other => drop(other.map_err(failed)?),
                }
            }
            written.insert(wanted.account.clone(), objects);
        }
        Ok((!anywhere).then(|| namespaces.into_iter().collect()))
    }

    /// Looks at an account again before its next request: somebody may have changed what it may do.
    pub(crate) async fn doubt(&self, account: &Account) {
        self.written.lock().await.remove(account);
    }

    /// Takes an account away where its application is gone.
    pub(crate) async fn leave(&self, id: &AppId) {
        let account = Account::of(id);
        if let Err(error) = self.leave_where_gone(&account).await {
            tracing::warn!(account = account.name, %error, "the account of a deleted application could not be taken away");
        }
    }

    async fn leave_where_gone(&self, account: &Account) -> Result<(), ApiError> {
        if self.api.find(&account.path).await?.is_some() {
            return Ok(());
        }
        let mut written = self.written.lock().await;
        written.remove(account);
        self.take_away(account, &BTreeSet::new()).await
    }

    /// Takes away the accounts of applications that went while nobody looked.
    pub(crate) async fn sweep(&self) {
        let listed = self.api.list("/api/v1/namespaces/kube-system/serviceaccounts", &escape_label(LABEL)).await;
        for one in listed.unwrap_or_default() {
            let Some(path) = object::annotation(&one, FOR) else { continue };
            let account = Account { name: object::name(&one).to_owned(), path: path.to_owned() };
            if let Err(error) = self.leave_where_gone(&account).await {
                tracing::debug!(account = account.name, %error, "it is looked at again at the next start");
            }
        }
    }

    /// Deletes what is marked as the account's and is not to be kept.
    async fn take_away(&self, account: &Account, keep: &BTreeSet<&str>) -> Result<(), ApiError> {
        let query = escape_label(&format!("{LABEL}={}", account.mark()));
        for (root, plural) in COLLECTIONS {
            for one in self.api.list(&format!("{root}/{plural}"), &query).await? {
                let (namespace, name) = (object::namespace(&one), object::name(&one));
                let path = match namespace {
                    "" => format!("{root}/{plural}/{name}"),
                    namespace => format!("{root}/namespaces/{namespace}/{plural}/{name}"),
                };
                if keep.contains(path.as_str()) {
                    continue;
                }
                match self.api.delete(&path, object::uid(&one)).await {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn escape_label(selector: &str) -> String {
    format!("labelSelector={}", escape(selector))
}
