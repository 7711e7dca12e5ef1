//! One task for each repository in use: it knows the repository's references, and who waits for them hears of every change.
//!
//! What makes it look: a poke (a webhook, a push to our own remote, a person), a file event for a repository on this machine,
//! and, as the last resort, a period with jitter. While it fails it looks again after growing pauses.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::credentials::Credentials;
use super::file_events;
use super::git::{Credential, Git, GitError, Mirror, Refs};

/// How often a repository is looked at where nothing tells of changes.
#[derive(Debug, Clone)]
pub struct Period {
    /// At least this long.
    pub every: Duration,
    /// And up to so much longer.
    pub jitter: Duration,
}

/// What is known of a repository.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its references, as they were last seen.
    pub refs: Option<Arc<Refs>>,
    /// Why the last look failed.
    pub error: Option<GitError>,
    /// The credential that was used, for the fetch that may follow.
    pub credential: Credential,
    /// Counts looks.
    pub looks: u64,
}

/// A repository in use. It is followed as long as somebody holds it.
pub struct Repository {
    /// Its mirror.
    pub mirror: Mirror,
    url: String,
    secret: Option<(String, String)>,
    known: watch::Sender<Arc<Known>>,
    poke: Notify,
    stop: CancellationToken,
}

impl Drop for Repository {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Repository {
    /// Follows what is known.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Known>> {
        self.known.subscribe()
    }

    /// Look now.
    pub fn poke(&self) {
        self.poke.notify_one();
    }
}

/// The URL and the Secret with which a repository is reached.
type Key = (String, Option<(String, String)>);

/// All repositories in use.
pub struct Repositories {
    git: Git,
    credentials: Credentials,
    period: Period,
    all: Mutex<HashMap<Key, std::sync::Weak<Repository>>>,
    tasks: Mutex<JoinSet<()>>,
}

impl Repositories {
    /// Knows none yet.
    #[must_use]
    pub fn new(git: Git, credentials: Credentials, period: Period) -> Arc<Self> {
        Arc::new(Self { git, credentials, period, all: Mutex::default(), tasks: Mutex::default() })
    }

    /// The repository behind a URL; followed from now on where it was not.
    ///
    /// # Errors
    ///
    /// When the URL is none that is taken.
    pub fn get(
        &self,
        url: &str,
        secret: Option<&(String, String)>,
        interval: Option<Duration>,
    ) -> Result<Arc<Repository>, GitError> {
        let key = (url.to_owned(), secret.cloned());
        let mut all = self.all.lock();
        all.retain(|_, known| known.strong_count() > 0);
        if let Some(known) = all.get(&key).and_then(std::sync::Weak::upgrade) {
            return Ok(known);
        }
        let known = Known { refs: None, error: None, credential: Credential::default(), looks: 0 };
        let stop = CancellationToken::new();
        let repository = Arc::new(Repository {
            mirror: Mirror::new(&self.git, url)?,
            url: url.to_owned(),
            secret: secret.cloned(),
            known: watch::Sender::new(Arc::new(known)),
            poke: Notify::new(),
            stop: stop.clone(),
        });
        all.insert(key, Arc::downgrade(&repository));
        let period =
            Period { every: interval.unwrap_or(self.period.every).max(Duration::from_secs(5)), ..self.period.clone() };
        let weak = Arc::downgrade(&repository);
        let credentials = self.credentials.clone();
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(follow(weak, credentials, period, stop, url.to_owned()));
        Ok(repository)
    }

    /// Looks at every repository that a notice may mean; how many those are.
    pub fn poke(&self, means: impl Fn(&str) -> bool) -> usize {
        let all = self.all.lock();
        let hit = all.values().filter_map(std::sync::Weak::upgrade).filter(|one| means(&one.url));
        hit.inspect(|one| one.poke()).count()
    }

    /// Ends every task.
    pub async fn stop(&self) {
        for repository in self.all.lock().values().filter_map(std::sync::Weak::upgrade) {
            repository.stop.cancel();
        }
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.shutdown().await;
    }
}

async fn follow(
    repository: std::sync::Weak<Repository>,
    credentials: Credentials,
    period: Period,
    stop: CancellationToken,
    url: String,
) {
    let mut files = file_events::watch(&url);
    let mut failures = 0_u32;
    loop {
        let Some(this) = repository.upgrade() else { return };
        let looked = tokio::select! {
            () = stop.cancelled() => return,
            looked = look(&this, &credentials) => looked,
        };
        failures = if looked { 0 } else { failures.saturating_add(1) };
        let poked = this.poke.notified();
        tokio::pin!(poked);
        // Holding the repository while waiting would keep it for ever.
        poked.as_mut().enable();
        let jitter = period.jitter.mul_f64(fastrand::f64());
        let pause = match failures {
            0 => period.every + jitter,
            some => Duration::from_secs(2).saturating_mul(1 << some.min(6)).min(period.every + jitter),
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = &mut poked => {}
            () = file_events::changed(&mut files) => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Looks once. False where that failed.
async fn look(repository: &Repository, credentials: &Credentials) -> bool {
    let credential = credentials.of(&repository.url, repository.secret.as_ref()).await;
    let outcome = match &credential {
        Ok(credential) => repository.mirror.refs(credential).await,
        Err(error) => Err(error.clone()),
    };
    let before = repository.known.borrow().clone();
    let looks = before.looks + 1;
    let credential = credential.unwrap_or_default();
    let known = match outcome {
        Ok(refs) => Known { refs: Some(Arc::new(refs)), error: None, credential, looks },
        // What was seen last stays what is known.
        Err(error) => Known { refs: before.refs.clone(), error: Some(error), credential, looks },
    };
    let good = known.error.is_none();
    let same = known.refs == before.refs
        && known.error.as_ref().map(ToString::to_string) == before.error.as_ref().map(ToString::to_string);
    if same && before.looks > 0 {
        return good;
    }
    repository.known.send_replace(Arc::new(known));
    good
}
