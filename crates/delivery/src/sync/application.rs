//! What is to be kept in sync, whichever kind says it: sources, where it goes, and how.
//!
//! Plain data, and the reading of sync options. Unknown options are named, never guessed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

use super::git::Wanted;
use crate::object;

/// The annotation that sets options for one object.
pub const OPTIONS_ANNOTATION: &str = "argocd.argoproj.io/sync-options";
/// The annotation that leaves an object out of the comparison (`IgnoreExtraneous`).
pub const COMPARE_ANNOTATION: &str = "argocd.argoproj.io/compare-options";

/// Which kind speaks for an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Front {
    /// `Application` of `argoproj.io`.
    Argo,
    /// `Kustomization` of `kustomize.toolkit.fluxcd.io`.
    Flux,
}

/// Which application is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppId {
    /// Which kind speaks for it.
    pub front: Front,
    /// The namespace of that object.
    pub namespace: String,
    /// The name of that object.
    pub name: String,
}

impl AppId {
    /// The kind of the object.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.front {
            Front::Argo => "Application",
            Front::Flux => "Kustomization",
        }
    }

    /// The path of the object in the API.
    #[must_use]
    pub fn path(&self) -> String {
        let collection = match self.front {
            Front::Argo => "argoproj.io/v1alpha1",
            Front::Flux => "kustomize.toolkit.fluxcd.io/v1",
        };
        let plural = match self.front {
            Front::Argo => "applications",
            Front::Flux => "kustomizations",
        };
        format!("/apis/{collection}/namespaces/{}/{plural}/{}", self.namespace, self.name)
    }
}

/// `application shop in argocd`.
impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} in {}", self.kind().to_lowercase(), self.name, self.namespace)
    }
}

/// What is to be kept in sync.
#[derive(Debug, Clone, PartialEq)]
pub struct Application {
    /// Which object says it.
    pub id: AppId,
    /// The project whose limits hold.
    pub project: String,
    /// Where the manifests come from; all together are one set.
    pub sources: Vec<Source>,
    /// The namespace of objects that name none.
    pub namespace: String,
    /// The ServiceAccount to act as, where the application names one.
    pub account: Option<String>,
    /// How it is synced.
    pub policy: Policy,
    /// What does not count as a difference.
    pub ignore: Vec<Ignore>,
    /// How many syncs are remembered.
    pub history: usize,
    /// Applications that must be ready before (names in the same namespace, or `namespace/name`).
    pub depends_on: Vec<(String, String)>,
    /// Whether nothing is to be done for now.
    pub suspended: bool,
    /// What is wrong that does not keep it from working.
    pub warnings: Vec<String>,
    /// Whether recipes in its repositories are built; where nothing is said, those of repositories on this machine.
    pub build: Option<bool>,
}

/// One place in one repository.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// The repository.
    pub url: String,
    /// The revision that is asked for.
    pub wanted: Wanted,
    /// The directory inside it.
    pub path: String,
    /// The Secret with its credential, where one is named (namespace and name).
    pub secret: Option<(String, String)>,
    /// How manifests are made of it.
    pub build: Build,
    /// How often it is looked at although nothing was heard.
    pub interval: Option<Duration>,
    /// The commit's signature must be by one of the keys in this Secret (namespace and name).
    pub verify: Option<(String, String)>,
}

/// How manifests are made of a directory.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Build {
    /// Read directories below too, where there is no kustomization.
    pub recurse: bool,
    /// Only files that match one of these (globs); all where there is none.
    pub include: Vec<String>,
    /// No files that match one of these (globs).
    pub exclude: Vec<String>,
    /// Fields of a kustomization that is laid over what is there.
    pub overlay: Map<String, Value>,
    /// Build a kustomization even where the directory holds none, of all its manifests.
    pub generate: bool,
    /// Variables to put in for `${NAME}`, and where more of them are (kind, name, optional).
    pub substitute: Option<Substitute>,
}

/// Variables that are put into manifests after they are built.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Substitute {
    /// Name to value.
    pub values: BTreeMap<String, String>,
    /// ConfigMaps and Secrets in the application's namespace: kind, name, and whether it may be missing.
    pub from: Vec<(String, String, bool)>,
}

/// How an application is synced.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Sync by itself; otherwise only when asked.
    pub automated: Option<Automated>,
    /// How often a failed sync is tried again.
    pub retry: Retry,
    /// Options for every object.
    pub options: Options,
    /// How long a revision may take until it is healthy.
    pub deadline: Duration,
    /// Only ready once everything is healthy (always so for the health gate; Flux asks for it).
    pub wait: bool,
    /// What becomes of the objects when the application is deleted.
    pub deletion: Deletion,
}

/// What an automated sync may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Automated {
    /// Delete what is no longer in the repository.
    pub prune: bool,
    /// Undo changes by others.
    pub self_heal: bool,
    /// Even delete everything.
    pub allow_empty: bool,
}

/// How often a failed sync is tried again.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// How many times; less than none means for ever.
    pub limit: i64,
    /// The first pause.
    pub first: Duration,
    /// By how much each pause is longer than the one before.
    pub factor: u32,
    /// The longest pause.
    pub longest: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { limit: 5, first: Duration::from_secs(5), factor: 2, longest: Duration::from_secs(180) }
    }
}

impl Retry {
    /// The pause after so many attempts; none where it is not tried again.
    #[must_use]
    pub fn pause(&self, attempts: u32) -> Option<Duration> {
        if self.limit >= 0 && i64::from(attempts) > self.limit {
            return None;
        }
        let grown = self.factor.max(1).saturating_pow(attempts.saturating_sub(1).min(31));
        Some(self.first.saturating_mul(grown).min(self.longest))
    }
}

/// What becomes of the objects when the application is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// They stay.
    Orphan,
    /// They are deleted first.
    Delete,
}

/// When an object is deleted that is no longer wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Prune {
    /// Whenever pruning is on.
    #[default]
    Yes,
    /// Never.
    No,
    /// When a person has agreed, by an annotation on the application.
    Confirm,
}

/// Sync options, for all objects or for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Make the destination's namespace.
    pub create_namespace: bool,
    /// Replace whole objects instead of applying.
    pub replace: bool,
    /// Delete and make anew what cannot be changed.
    pub force: bool,
    /// Refuse fields that the API does not know.
    pub validate: bool,
    /// Leave alone what is as it should be.
    pub only_out_of_sync: bool,
    /// Leave ignored fields as they are, when syncing too.
    pub respect_ignored: bool,
    /// Delete only after everything else is healthy.
    pub prune_last: bool,
    /// A kind that is not there yet is no error before the sync.
    pub skip_missing_kinds: bool,
    /// When an object may be deleted by a sync.
    pub prune: Prune,
    /// Whether an object may be deleted with its application.
    pub delete: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            create_namespace: false,
            replace: false,
            force: false,
            validate: true,
            only_out_of_sync: false,
            respect_ignored: false,
            prune_last: false,
            skip_missing_kinds: false,
            prune: Prune::Yes,
            delete: true,
        }
    }
}

impl Options {
    /// Takes `NAME=VALUE` into account.
    ///
    /// # Errors
    ///
    /// A sentence, where nothing is called so.
    pub fn set(&mut self, text: &str) -> Result<(), String> {
        let (name, value) = text.split_once('=').unwrap_or((text, "true"));
        let on = match value.trim() {
            "true" => true,
            "false" => false,
            "confirm" if name == "Prune" => {
                self.prune = Prune::Confirm;
                return Ok(());
            }
            _ => return Err(format!("the sync option {text:?} is neither true nor false")),
        };
        match name.trim() {
            "CreateNamespace" => self.create_namespace = on,
            "Replace" => self.replace = on,
            "Force" => self.force = on,
            "Validate" => self.validate = on,
            "ApplyOutOfSyncOnly" => self.only_out_of_sync = on,
            "RespectIgnoreDifferences" => self.respect_ignored = on,
            "PruneLast" => self.prune_last = on,
            "SkipDryRunOnMissingResource" => self.skip_missing_kinds = on,
            "Prune" => self.prune = if on { Prune::Yes } else { Prune::No },
            "Delete" => self.delete = on,
            // Everything is applied on the server's side already, and no object is taken from another application.
            "ServerSideApply" | "FailOnSharedResource" => {}
            // Everything that is deleted goes in the background, foreground or not at all by its own finalizers.
            "PrunePropagationPolicy" => {}
            other => return Err(format!("there is no sync option {other:?} here, and it has no effect")),
        }
        Ok(())
    }

    /// The options that hold for one object, its annotation over the application's.
    #[must_use]
    pub fn for_object(&self, object: &Value) -> Self {
        let mut options = self.clone();
        for text in object::annotation(object, OPTIONS_ANNOTATION).unwrap_or_default().split(',') {
            if !text.trim().is_empty() {
                // What is unknown there is another tool's affair.
                let _ = options.set(text.trim());
            }
        }
        options
    }
}

/// Fields of some objects that do not count as a difference.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ignore {
    /// The API group (`*` for every one).
    pub group: String,
    /// The kind (`*` for every one).
    pub kind: String,
    /// The name; every one where it is empty.
    pub name: String,
    /// The namespace; every one where it is empty.
    pub namespace: String,
    /// JSON pointers (RFC 6901).
    pub pointers: Vec<String>,
    /// Everything that these managers own.
    pub managers: Vec<String>,
}

impl Ignore {
    /// Whether an object is meant.
    #[must_use]
    pub fn means(&self, object: &Value) -> bool {
        let fits = |pattern: &str, text: &str| pattern == "*" || pattern == text;
        fits(&self.group, object::group(object))
            && fits(&self.kind, object::kind(object))
            && (self.name.is_empty() || fits(&self.name, object::name(object)))
            && (self.namespace.is_empty() || fits(&self.namespace, object::namespace(object)))
    }
}

/// Reads `90s`, `5m`, `1h30m`, `3m0s`, `500ms`, or seconds.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    if let Ok(seconds) = rest.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let mut all = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let scale = match &rest[digits..unit] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        all = all.checked_add(Duration::try_from_secs_f64(number * scale).ok()?)?;
        rest = &rest[unit..];
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_are_read_as_go_writes_them() {
        for (text, millis) in [
            ("5s", Some(5000)),
            ("3m0s", Some(180_000)),
            ("1h30m", Some(5_400_000)),
            ("500ms", Some(500)),
            ("60", Some(60_000)),
            ("1.5s", Some(1500)),
        ] {
            assert_eq!(duration(text).map(|time| time.as_millis()), millis, "{text}");
        }
        for text in ["", "s", "5x", "-5s", "1h 30m"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn pauses_grow_up_to_the_longest_and_end() {
        let retry = Retry { limit: 3, first: Duration::from_secs(5), factor: 2, longest: Duration::from_secs(12) };
        let pauses: Vec<Option<u64>> = (1..=4).map(|n| retry.pause(n).map(|pause| pause.as_secs())).collect();
        assert_eq!(pauses, [Some(5), Some(10), Some(12), None]);
        assert!(Retry { limit: -1, ..retry }.pause(1000).is_some());
    }

    #[test]
    fn an_objects_own_options_count_more() {
        let mut options = Options::default();
        options.set("CreateNamespace=true").unwrap();
        options.set("Validate=false").unwrap();
        assert!(options.set("Colour=true").unwrap_err().contains("Colour"));
        assert!(options.set("Replace=perhaps").is_err());
        let object =
            json!({"metadata": {"annotations": {OPTIONS_ANNOTATION: "Prune=confirm, Delete=false,Replace=true"}}});
        let own = options.for_object(&object);
        assert_eq!((own.prune, own.delete, own.replace, own.validate), (Prune::Confirm, false, true, false));
        assert_eq!(options.prune, Prune::Yes);
    }
}
