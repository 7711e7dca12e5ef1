//! One request after authentication, and what a step may answer with. No IO.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use store::Entry;

use crate::body::Body;
use crate::catalog::Resource;
use crate::identity::User;
use crate::impersonation::Asker;
use crate::query::Query;
use crate::streaming::Upgrade;

/// Whose idea a call was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A client's.
    Client,
    /// This server's own: nobody's policy holds it up.
    Server,
    /// This server's own, to show what aggregated roles come to: nothing more follows from it.
    Aggregation,
}

/// A request as the steps see it: its body is there as a whole, who sent it is known.
pub(crate) struct Call {
    pub(crate) method: http::Method,
    pub(crate) user: Arc<User>,
    pub(crate) origin: Origin,
    /// Its body says that nothing is to be changed, as the query may.
    pub(crate) rehearsed: bool,
    /// Who is taken for the user, where somebody is.
    pub(crate) asker: Option<Arc<Asker>>,
    pub(crate) query: Query,
    pub(crate) accept: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) user_agent: Option<String>,
    /// What it wants to become.
    pub(crate) upgrade: Option<Upgrade>,
    pub(crate) body: Bytes,
    pub(crate) now: jiff::Timestamp,
    /// What the client is told beside the answer.
    pub(crate) warnings: Vec<String>,
}

/// The most warnings that one answer carries.
const WARNINGS: usize = 50;

impl Call {
    /// A call that the server makes itself.
    pub(crate) fn internal(manager: &str, now: jiff::Timestamp) -> Self {
        Self {
            method: http::Method::PUT,
            user: Arc::new(User::server()),
            asker: None,
            origin: Origin::Server,
            rehearsed: false,
            query: Query::default(),
            accept: None,
            content_type: None,
            user_agent: Some(manager.to_owned()),
            upgrade: None,
            body: Bytes::new(),
            now,
            warnings: Vec::new(),
        }
    }

    /// Tells the client something beside the answer.
    pub(crate) fn warn(&mut self, text: impl Into<String>) {
        let text = text.into();
        if self.warnings.len() < WARNINGS && !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }

    /// Who showed a credential: whoever is taken for another, else the user.
    pub(crate) fn shown(&self) -> &Arc<User> {
        self.asker.as_ref().map_or(&self.user, |asker| &asker.user)
    }

    /// The field manager: the parameter, or the first word of the user agent.
    pub(crate) fn manager(&self) -> String {
        let from_agent = || {
            let agent = self.user_agent.as_deref().unwrap_or_default();
            let word = agent.split(['/', ' ']).next().unwrap_or_default();
            if word.is_empty() { "unknown".to_owned() } else { word.chars().take(128).collect() }
        };
        self.query.get("fieldManager").map_or_else(from_agent, str::to_owned)
    }
}

/// What a step answers with when all went well.
pub(crate) enum Reply {
    /// An object (or a `Status`) as it is, in no other form.
    Plain(u16, Value),
    /// An object of a resource, which may be wanted as a Table.
    Object(u16, Arc<Resource>, Value),
    /// An object of a resource as it is stored.
    Stored(Arc<Resource>, Entry),
    /// A list of objects of a resource.
    List(Arc<Resource>, Listed),
    /// Text.
    Text(u16, String),
    /// JSON made before, with its media type and an entity tag.
    Made { media: &'static str, tag: Option<String>, body: Bytes },
    /// Something that is produced as it is read.
    Stream { media: &'static str, body: Body },
    /// The connection is something else from now on, as these headers say.
    Switch(Vec<(&'static str, String)>),
}

/// A page of a list.
pub(crate) struct Listed {
    /// The objects as they are stored; they are read one at a time while the answer is written.
    pub(crate) items: Vec<Entry>,
    pub(crate) revision: u64,
    pub(crate) continue_token: Option<String>,
    pub(crate) remaining: Option<u64>,
}
