//! The account that an application acts as: the one that is named, or its own, whose roles follow the project.

use super::Actor;
use crate::api::Api;
use crate::kinds::Kinds;
use crate::sync::account::Wanted;
use crate::sync::account::plan::Account;
use crate::sync::front::project::Project;
use crate::sync::guard::{Acting, Guard};

impl Actor {
    /// Keeps the roles of the application's own account as its project says, also when nothing else is to be done: what a project
    /// does not allow any more, nobody may do with a token that was made before.
    pub(super) async fn keep_account(&mut self) {
        let Ok((project, Acting::Own(account, destination))) = self.acting() else { return };
        if self.application.is_none() {
            return;
        }
        let Some(kinds) = self.kinds(&[]).await else { return };
        let wanted = Wanted { account, project, kinds, destination };
        if let Err(reason) = self.shared.accounts.ensure(&wanted).await {
            self.report.conditions.push(("ComparisonError", reason));
        }
    }

    /// The API as this application.
    pub(super) fn guarded(&self, kinds: &Kinds) -> Result<Api, String> {
        let (project, acting) = self.acting()?;
        let (client, accounts) = (self.shared.client.clone(), self.shared.accounts.clone());
        let client = Guard::client(client, accounts, project, kinds.clone(), acting, self.id.to_string());
        Ok(Api::over(client))
    }

    fn acting(&self) -> Result<(Project, Acting), String> {
        let project = self.project()?;
        let namespace = self.application.as_ref().map(|one| one.namespace.clone()).unwrap_or_default();
        let named = self.application.as_ref().and_then(|one| one.account.clone());
        let acting = match named.or_else(|| project.account(&namespace)) {
            Some(account) => Acting::Named(account),
            None => Acting::Own(Account::of(&self.id), namespace),
        };
        Ok((project, acting))
    }
}
