//! The right to go on with a stream: a watch or a log that is followed was allowed when it began, and lasts as long as it would be allowed again.
//!
//! Invariants: what was written after a right was taken away is not shown to who had it; nothing is decided anew while neither a role, a
//! binding nor the account of the token has changed.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use rules::rbac;

use crate::authorize;
use crate::call::Call;
use crate::identity::User;
use crate::query::Query;
use crate::route::Target;
use crate::server::Server;
use crate::status::{Answer, Failure};

/// What a stream was asked for with.
pub(crate) struct Right {
    server: Arc<Server>,
    user: Arc<User>,
    method: Method,
    target: Target,
    query: Query,
    /// The state of the roles on which it was last decided.
    seen: Option<u64>,
    account: Option<Account>,
}

/// The service account whose token was shown.
struct Account {
    namespace: String,
    name: String,
    key: String,
    /// The version of it that was last looked at.
    seen: Option<u64>,
}

impl Right {
    /// The right to what a call asks for.
    pub(crate) fn new(server: &Arc<Server>, call: &Call, target: &Target) -> Self {
        let shown = call.user.until.is_some() && !call.user.impersonated;
        let account = rbac::service_account(&call.user.name).filter(|_| shown).map(|(namespace, name)| Account {
            key: server.catalog.load().core("serviceaccounts").key(Some(namespace), name),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            seen: None,
        });
        Self {
            server: server.clone(),
            user: call.user.clone(),
            method: call.method.clone(),
            target: target.clone(),
            query: call.query.clone(),
            seen: None,
            account,
        }
    }

    /// Refuses to go on, as the request would be refused now.
    pub(crate) fn confirm(&mut self) -> Answer<()> {
        let access = &self.server.access;
        let now = Some(access.changes());
        if now != self.seen {
            let question = authorize::of_resource(&self.target, &self.method, &self.query);
            access.require(&self.user, &question.attributes())?;
            self.seen = now;
        }
        if let Some(account) = &mut self.account {
            let now = self.server.store.get(&account.key).0.map(|entry| entry.revision);
            if now.is_none() || now != account.seen {
                if self.server.account_uid(&account.namespace, &account.name) != self.user.uid {
                    return Err(Failure::unauthorized());
                }
                account.seen = now;
            }
        }
        Ok(())
    }
}

/// How long a stream may last: `wanted`, and no longer than what its client showed is good.
pub(crate) fn lasts(wanted: Duration, user: &User, now: jiff::Timestamp) -> Duration {
    let Some(until) = user.until else { return wanted };
    Duration::try_from(until.duration_since(now)).unwrap_or_default().min(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_longer_than_the_token() {
        let now = jiff::Timestamp::now();
        let hour = Duration::from_secs(3600);
        for (left, expected) in [(None, 3600), (Some(7200), 3600), (Some(600), 600), (Some(0), 0), (Some(-5), 0)] {
            let until = left.map(|left| now + jiff::SignedDuration::from_secs(left));
            let user = User { until, ..User::default() };
            assert_eq!(lasts(hour, &user, now), Duration::from_secs(expected), "{left:?}");
        }
    }
}
