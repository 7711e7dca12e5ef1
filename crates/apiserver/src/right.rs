//! The right to go on with a stream: a watch, a log that is followed or a session was allowed when it began, and lasts as long as it would be
//! allowed again, to its user and to whoever is taken for them.
//!
//! Invariants: what was written after a right was taken away is not shown to who had it, and a stream that has nothing to show ends all the
//! same; nothing is decided anew while neither a role, a binding nor the account of the token has changed.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use rules::rbac;
use store::WatchItem;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::authorize;
use crate::call::Call;
use crate::identity::User;
use crate::impersonation::Asker;
use crate::query::Query;
use crate::route::Target;
use crate::server::Server;
use crate::status::{Answer, Failure};

/// What a stream was asked for with.
pub(crate) struct Right {
    server: Arc<Server>,
    user: Arc<User>,
    /// Who is taken for them.
    asker: Option<Arc<Asker>>,
    method: Method,
    target: Target,
    query: Query,
    /// The state of the roles on which it was last decided.
    seen: Option<u64>,
    account: Option<Account>,
    losses: watch::Receiver<()>,
}

/// The service account whose token was shown.
struct Account {
    namespace: String,
    name: String,
    uid: Option<String>,
    key: String,
    /// The version of it that was last looked at.
    seen: Option<u64>,
}

impl Right {
    /// The right to what a call asks for.
    pub(crate) fn new(server: &Arc<Server>, call: &Call, target: &Target) -> Self {
        let shown = call.shown();
        let account = rbac::service_account(&shown.name).filter(|_| shown.until.is_some());
        let account = account.map(|(namespace, name)| Account {
            key: server.catalog.load().core("serviceaccounts").key(Some(namespace), name),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: shown.uid.clone(),
            seen: None,
        });
        Self {
            server: server.clone(),
            user: call.user.clone(),
            asker: call.asker.clone(),
            method: call.method.clone(),
            target: target.clone(),
            query: call.query.clone(),
            seen: None,
            account,
            losses: losses_of(&server.losses),
        }
    }

    /// Resolves when somebody has lost a right since it was asked for last; cancel safe.
    pub(crate) async fn may_be_lost(&mut self) {
        // The sender is the server's, which is held here.
        let _ = self.losses.changed().await;
    }

    /// Resolves when the right is gone.
    pub(crate) async fn gone(mut self) {
        loop {
            self.may_be_lost().await;
            if self.confirm().is_err() {
                return;
            }
        }
    }

    /// Refuses to go on, as the request would be refused now.
    pub(crate) fn confirm(&mut self) -> Answer<()> {
        let access = &self.server.access;
        let now = Some(access.changes());
        if now != self.seen {
            if let Some(asker) = &self.asker {
                asker.require(access)?;
            }
            let question = authorize::of_resource(&self.target, &self.method, &self.query);
            question.require(access, &self.user)?;
            self.seen = now;
        }
        if let Some(account) = &mut self.account {
            let now = self.server.store.get(&account.key).0.map(|entry| entry.revision);
            if now.is_none() || now != account.seen {
                if self.server.account_uid(&account.namespace, &account.name) != account.uid {
                    return Err(Failure::unauthorized());
                }
                account.seen = now;
            }
        }
        Ok(())
    }
}

/// What tells of losses, of which one counts as told: a right that was lost between the decision and now is looked for once more.
fn losses_of(server: &watch::Sender<()>) -> watch::Receiver<()> {
    let mut losses = server.subscribe();
    losses.mark_changed();
    losses
}

/// Tells all streams whenever a role, a binding or a service account has changed or gone: by a new one nobody loses anything.
pub(crate) async fn watch_for_losses(server: Arc<Server>, shutdown: CancellationToken) {
    let accounts = server.catalog.load().core("serviceaccounts").keys_in(None);
    let roles = format!("/{}/", rbac::GROUP);
    while !shutdown.is_cancelled() {
        let now = server.store.revision();
        let (Ok(mut roles), Ok(mut accounts)) = (server.store.watch(&roles, now), server.store.watch(&accounts, now))
        else {
            // So much is written that even the newest is compacted: there is a newer one at once.
            tokio::task::yield_now().await;
            continue;
        };
        // What happened before that may have been one.
        server.losses.send_replace(());
        loop {
            let item = tokio::select! {
                () = shutdown.cancelled() => return,
                item = roles.next() => item,
                item = accounts.next() => item,
            };
            match item {
                Ok(WatchItem::Event(event)) if event.previous.is_some() => {
                    server.losses.send_replace(());
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
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
    fn what_was_lost_before_a_stream_listens_is_looked_for() {
        let server = watch::Sender::new(());
        server.send_replace(());
        let mut losses = losses_of(&server);
        assert!(losses.has_changed().expect("the sender is there"));
        losses.borrow_and_update();
        assert!(!losses.has_changed().expect("the sender is there"), "once");
    }

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
