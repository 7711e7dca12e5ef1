//! Programs of commits: each commit that something had to be made of is written out into a directory of its own, built there,
//! and kept as long as Pods may run it.
//!
//! Invariants: a directory counts only once its record is there, and that comes last, so that a build which was killed leaves
//! nothing that is taken for a program, and a program that has one is never lost to another's remains; a digest is never answered with
//! another program; the newest few of each repository are kept and those in use, by digest or by a container that runs, nothing
//! else; at most [`BUILDS`] builds run at once, and one of a repository, whose cache nobody else touches meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::digest::Tree;
use super::{BuildFailed, BuildProgress, Recipe, RecipeError, Recipes, image_name};

/// How many builds run at once.
const BUILDS: usize = 2;
/// How long the builds of one commit may take.
const LIMIT: Duration = Duration::from_secs(1800);
/// A repository's cache that has grown beyond this, in bytes, is begun anew.
const CACHE_LIMIT: u64 = 8 << 30;
/// How many checkouts of one repository are kept though no Pod uses them.
const KEPT: usize = 5;
/// A directory that a build may keep what it likes in, from one commit to the next.
const CACHE: &str = "CORACLE_CACHE_DIR";
/// Where builds note what they have done, while they run; in a place of its own, as a program's own files are all in `trees`.
const STATES: &str = "states";
/// The commit that is built.
const COMMIT: &str = "CORACLE_COMMIT";

/// A program could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The recipe file is wrong.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The build failed.
    #[error(transparent)]
    Build(#[from] BuildFailed),
    /// The build took too long.
    #[error("the builds of one commit took longer than {} s and were ended", limit.as_secs())]
    TooLong {
        /// The limit.
        limit: Duration,
    },
    /// A disk failed.
    #[error("can't keep the program in {path}: {source}")]
    Disk {
        /// What was to be written.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// What is kept of a checkout, beside its directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    repository: String,
    commit: String,
    /// The recipe file in it.
    recipe: String,
    /// When it was made: nanoseconds since 1970, so that the newest is known after a restart.
    made: i128,
    /// Image name to digest, for the programs that were made here.
    digests: BTreeMap<String, String>,
}

struct Kept {
    id: String,
    record: Record,
    recipes: Recipes,
    /// Besides the shelf's own, one for each container that runs it.
    leases: Arc<()>,
}

/// What keeps a program from going while it is held. The default one holds nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lease(#[expect(dead_code, reason = "it is held, and counted")] Option<Arc<()>>);

/// All programs of commits. Cheap to clone. The default one is empty and takes nothing.
#[derive(Clone)]
pub struct Shelf {
    home: PathBuf,
    kept: Arc<RwLock<Vec<Kept>>>,
    builds: Arc<Semaphore>,
    /// The repositories whose caches somebody uses or waits for.
    caches: Arc<Mutex<BTreeMap<String, Arc<Turn>>>>,
}

/// A repository's cache is one build's at a time.
type Turn = tokio::sync::Mutex<()>;

impl Default for Shelf {
    fn default() -> Self {
        let builds = Arc::new(Semaphore::new(BUILDS));
        Self { home: PathBuf::new(), kept: Arc::default(), builds, caches: Arc::default() }
    }
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shelf({})", self.home.display())
    }
}

/// What the shelf says of an image.
pub(crate) enum Found {
    /// This is its program.
    Program(Box<Recipe>, Lease),
    /// There are programs of that name, but not this one any more.
    Gone,
    /// It knows nothing of that name.
    Unknown,
}

/// A directory that goes when dropped, unless it is kept.
struct Unfinished(Option<PathBuf>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

impl Shelf {
    /// What is kept in a directory. What a killed build left there is removed.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made or read.
    pub fn open(home: PathBuf) -> std::io::Result<Self> {
        let trees = home.join("trees");
        std::fs::create_dir_all(&trees)?;
        // What builds note while they run is nobody's now.
        let _ = std::fs::remove_dir_all(home.join(STATES));
        let mut kept = Vec::new();
        for entry in std::fs::read_dir(&trees)?.flatten() {
            let path = entry.path();
            let whole = path.extension().is_none() && path.is_dir();
            match whole.then(|| read(&path)).flatten() {
                Some(one) => kept.push(one),
                None if whole => forget(&path),
                // A record without its directory, a half of one, and anything else.
                None if path.is_dir() => drop(std::fs::remove_dir_all(&path)),
                None if path.extension().is_some_and(|of| of == "json") && path.with_extension("").is_dir() => {}
                None => drop(std::fs::remove_file(&path)),
            }
        }
        kept.sort_by_key(|one: &Kept| one.record.made);
        Ok(Self { home, kept: Arc::new(RwLock::new(kept)), ..Self::default() })
    }

    /// The digests of those images that the recipes of a commit make.
    ///
    /// # Errors
    ///
    /// When the recipe file is wrong.
    pub fn digests(&self, tree: &Tree, images: &BTreeSet<String>) -> Result<BTreeMap<String, String>, RecipeError> {
        let recipes = tree.recipes()?;
        let of = |image: &String| Some((image.clone(), tree.digest(recipes.lookup(image)?)));
        Ok(images.iter().filter_map(of).collect())
    }

    /// Whether a program is there.
    #[must_use]
    pub fn has(&self, image: &str, digest: &str) -> bool {
        let name = image_name(image);
        self.kept.read().iter().any(|one| one.record.digests.get(&name).is_some_and(|known| known == digest))
    }

    /// A directory to write a commit to, which is not there yet.
    #[must_use]
    pub fn room(&self, commit: &str) -> PathBuf {
        let short: String = commit.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
        self.home.join("trees").join(format!("{short}-{:08x}", fastrand::u32(..)))
    }

    /// Makes programs in a directory that the commit was written to, and keeps them. Dropped midway, nothing is left of it.
    ///
    /// # Errors
    ///
    /// When a build fails; nothing is kept then.
    pub async fn make(
        &self,
        tree: &Tree,
        images: &BTreeSet<String>,
        directory: &Path,
        progress: impl FnMut(BuildProgress<'_>) + Send,
    ) -> Result<(), MakeError> {
        let mut unfinished = Unfinished(Some(directory.to_owned()));
        let recipes = Recipes::load(&directory.join(&tree.recipe))?;
        let digests = self.digests(tree, images)?;
        let names: Vec<String> = digests.keys().cloned().collect();
        let disk = |path: &Path| {
            let path = path.to_owned();
            move |source| MakeError::Disk { path, source }
        };
        let cache = self.home.join("cache").join(cache_name(&tree.repository));
        let of_repository = self.turn(&tree.repository);
        let _cache = of_repository.lock().await;
        let place = cache.clone();
        // Looking through many files may take its time.
        let grown = tokio::task::spawn_blocking(move || size(&place, CACHE_LIMIT) > CACHE_LIMIT).await.unwrap_or(false);
        if grown {
            std::fs::remove_dir_all(&cache).map_err(disk(&cache))?;
        }
        std::fs::create_dir_all(&cache).map_err(disk(&cache))?;
        let state = self.home.join(STATES).join(directory.file_name().unwrap_or_default());
        let _state = Unfinished(Some(state.clone()));
        let environment = [(CACHE, cache.display().to_string()), (COMMIT, tree.commit.clone())];
        // The semaphore is never closed.
        let _turn = self.builds.acquire().await;
        let building = recipes.build_with(&names, &state, &environment, progress);
        tokio::time::timeout(LIMIT, building).await.map_err(|_| MakeError::TooLong { limit: LIMIT })??;
        let digests = digests.into_iter().map(|(image, digest)| (image_name(&image), digest)).collect();
        let made = jiff::Timestamp::now().as_nanosecond();
        let (repository, commit) = (tree.repository.clone(), tree.commit.clone());
        let record = Record { repository, commit, recipe: tree.recipe.clone(), made, digests };
        let (place, of) = (directory.to_owned(), record.clone());
        // A disk may take its time.
        let written = tokio::task::spawn_blocking(move || write(&place, &of)).await;
        written.map_err(std::io::Error::other).flatten().map_err(disk(directory))?;
        unfinished.0 = None;
        let id = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.kept.write().push(Kept { id, record, recipes, leases: Arc::default() });
        Ok(())
    }

    /// The lock of a repository's cache. Those that nobody holds or waits for are forgotten.
    fn turn(&self, repository: &str) -> Arc<Turn> {
        let mut caches = self.caches.lock();
        caches.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(caches.entry(repository.to_owned()).or_default())
    }

    /// Lets go of what is neither in use (by digest, or by a lease) nor among the newest of its repository.
    pub fn keep(&self, used: &BTreeSet<String>) {
        let mut kept = self.kept.write();
        let surplus = surplus(&kept, used);
        for id in &surplus {
            forget(&self.home.join("trees").join(id));
        }
        kept.retain(|one| !surplus.contains(&one.id));
    }

    /// The program of an image. Without a digest it is the newest.
    pub(crate) fn lookup(&self, image: &str) -> Found {
        let name = image_name(image);
        let digest = image.split_once('@').map(|(_, digest)| digest);
        let kept = self.kept.read();
        let mut of_name = kept.iter().rev().filter(|one| one.record.digests.contains_key(&name)).peekable();
        if of_name.peek().is_none() {
            return Found::Unknown;
        }
        let fits = |one: &&Kept| digest.is_none_or(|digest| one.record.digests[&name] == digest);
        let found = of_name.find(fits).and_then(|one| Some((one.recipes.lookup(&name)?, &one.leases)));
        match found {
            Some((recipe, leases)) => Found::Program(Box::new(recipe.clone()), Lease(Some(Arc::clone(leases)))),
            None => Found::Gone,
        }
    }
}

/// The checkouts that may go.
fn surplus(kept: &[Kept], used: &BTreeSet<String>) -> BTreeSet<String> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut out = BTreeSet::new();
    for one in kept.iter().rev() {
        let count = seen.entry(one.record.repository.as_str()).or_default();
        *count += 1;
        let leased = Arc::strong_count(&one.leases) > 1;
        let in_use = leased || one.record.digests.values().any(|digest| used.contains(digest));
        if *count > KEPT && !in_use {
            out.insert(one.id.clone());
        }
    }
    out
}

/// The bytes below a directory, counted until they are more than `enough`. Links are not followed.
fn size(directory: &Path, enough: u64) -> u64 {
    let mut sum = 0;
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                _ => sum += entry.metadata().map_or(0, |meta| meta.len()),
            }
            if sum > enough {
                return sum;
            }
        }
    }
    sum
}

fn cache_name(repository: &str) -> String {
    use sha2::{Digest, Sha256};
    super::build::hex(&Sha256::digest(repository.as_bytes())[..8])
}

fn record_of(directory: &Path) -> PathBuf {
    directory.with_extension("json")
}

fn read(directory: &Path) -> Option<Kept> {
    let text = std::fs::read_to_string(record_of(directory)).ok()?;
    let record: Record = serde_json::from_str(&text).ok()?;
    let recipes = Recipes::load(&directory.join(&record.recipe)).ok()?;
    let id = directory.file_name()?.to_string_lossy().into_owned();
    Some(Kept { id, record, recipes, leases: Arc::default() })
}

/// Writes the record, once all that it speaks for is on the disk: also after a power loss there is no record without its program.
fn write(directory: &Path, record: &Record) -> std::io::Result<()> {
    use std::io::Write as _;
    // A tree may have many thousands of files; of those one by one each would be waited for.
    nix::unistd::syncfs(std::fs::File::open(directory)?)?;
    let path = record_of(directory);
    let beside = path.with_extension("new");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.sync_all()?;
    std::fs::rename(beside, &path)?;
    path.parent().map_or(Ok(()), |trees| std::fs::File::open(trees)?.sync_all())
}

fn forget(directory: &Path) {
    // The record first: without it the rest is nobody's.
    let _ = std::fs::remove_file(record_of(directory));
    let _ = std::fs::remove_dir_all(directory);
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "images:\n  a: {build: 'cp source made; echo built'}\n  b: {command: [y]}\n";

    fn tree(content: &str) -> Tree {
        let files = BTreeMap::from([("source".to_owned(), content.to_owned())]);
        let (recipe, text) = ("coracle.yaml".to_owned(), TEXT.to_owned());
        Tree { repository: "r".into(), commit: content.into(), manifests: "deploy".into(), recipe, text, files }
    }

    async fn make(shelf: &Shelf, content: &str, text: &str) -> Result<String, MakeError> {
        let directory = shelf.room(content);
        std::fs::create_dir_all(&directory).expect("a folder");
        std::fs::write(directory.join("coracle.yaml"), text).expect("a file");
        std::fs::write(directory.join("source"), content).expect("a file");
        let images = BTreeSet::from(["a:1".to_owned(), "elsewhere".to_owned()]);
        let digests = shelf.digests(&tree(content), &images)?;
        assert_eq!(digests.keys().collect::<Vec<_>>(), ["a:1"], "only what has a recipe");
        shelf.make(&tree(content), &images, &directory, |_| {}).await?;
        Ok(digests["a:1"].clone())
    }

    fn place(shelf: &Shelf, image: &str) -> String {
        match shelf.lookup(image) {
            Found::Program(recipe, _) => {
                std::fs::read_to_string(recipe.working_dir.join("made")).expect("it was made in its own place")
            }
            Found::Gone => "gone".into(),
            Found::Unknown => "unknown".into(),
        }
    }

    #[tokio::test]
    async fn each_commit_has_its_own_program_and_is_known_after_a_restart() {
        let home = tempfile::tempdir().expect("a folder");
        let shelf = Shelf::open(home.path().to_owned()).expect("it opens");
        let first = make(&shelf, "one", TEXT).await.expect("made");
        let second = make(&shelf, "two", TEXT).await.expect("made");
        let left = shelf.room("half");
        std::fs::create_dir_all(&left).expect("a folder");
        let again = Shelf::open(home.path().to_owned()).expect("it opens");
        assert!(!left.exists(), "what a killed build left is removed");
        for shelf in [shelf, again] {
            assert_eq!(place(&shelf, &format!("a:1@{first}")), "one");
            assert_eq!(place(&shelf, &format!("a@{second}")), "two");
            assert_eq!((place(&shelf, "a").as_str(), place(&shelf, "b").as_str()), ("two", "unknown"));
            assert_eq!(place(&shelf, "a@sha256:00"), "gone", "a digest is never answered with another program");
            assert!(shelf.has("a:1", &first) && !shelf.has("a:1", "sha256:00"));
        }
    }

    #[tokio::test]
    async fn what_a_killed_build_left_beside_a_program_takes_nothing_of_it_along() {
        let home = tempfile::tempdir().expect("a folder");
        let shelf = Shelf::open(home.path().to_owned()).expect("it opens");
        let digest = make(&shelf, "one", TEXT).await.expect("made");
        let id = shelf.kept.read()[0].id.clone();
        let trees = home.path().join("trees");
        // As an earlier version named what a build notes, a kill amid writing a record, and one amid letting go.
        std::fs::create_dir_all(trees.join(format!("{id}.state/builds"))).expect("a folder");
        std::fs::create_dir_all(home.path().join("states").join(&id)).expect("a folder");
        for file in [format!("{id}.new"), "gone-1.json".to_owned()] {
            std::fs::write(trees.join(file), "{}").expect("a file");
        }
        let again = Shelf::open(home.path().to_owned()).expect("it opens");
        assert_eq!(place(&again, &format!("a@{digest}")), "one");
        let names = |of: &Path| {
            let entries = std::fs::read_dir(of).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<BTreeSet<_>>()
        };
        assert_eq!(names(&trees), BTreeSet::from([id.clone(), format!("{id}.json")]));
        assert!(names(&home.path().join("states")).is_empty());
    }

    #[tokio::test]
    async fn what_a_container_runs_stays() {
        let home = tempfile::tempdir().expect("a folder");
        let shelf = Shelf::open(home.path().to_owned()).expect("it opens");
        let first = make(&shelf, "c", TEXT).await.expect("made");
        let Found::Program(_, lease) = shelf.lookup("a") else { panic!("it is there") };
        for index in 0..KEPT {
            make(&shelf, &format!("c{index}"), TEXT).await.expect("made");
        }
        shelf.keep(&BTreeSet::new());
        assert!(shelf.has("a", &first), "a container runs it");
        drop(lease);
        shelf.keep(&BTreeSet::new());
        assert!(!shelf.has("a", &first));
    }

    #[tokio::test]
    async fn a_repositorys_cache_is_one_builds_at_a_time() {
        const ALONE: &str = "images:\n  a: {build: 'mkdir $CORACLE_CACHE_DIR/in && sleep 0.3 && cp source made && rmdir $CORACLE_CACHE_DIR/in'}\n";
        let home = tempfile::tempdir().expect("a folder");
        let shelf = Shelf::open(home.path().to_owned()).expect("it opens");
        let (one, two) = tokio::join!(make(&shelf, "one", ALONE), make(&shelf, "two", ALONE));
        one.and(two).expect("both are made, one after the other");
        assert!(shelf.caches.lock().values().all(|turn| Arc::strong_count(turn) == 1));
    }

    #[test]
    fn a_cache_is_measured_as_far_as_needed() {
        let home = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(home.path().join("a/b")).expect("a folder");
        for name in ["one", "a/two", "a/b/three"] {
            std::fs::write(home.path().join(name), [0; 100]).expect("a file");
        }
        assert_eq!(size(home.path(), 1000), 300);
        assert!(size(home.path(), 150) > 150);
        assert_eq!(size(&home.path().join("none"), 1), 0);
    }

    #[tokio::test]
    async fn a_failed_build_leaves_nothing_and_the_old_go_when_nobody_uses_them() {
        let home = tempfile::tempdir().expect("a folder");
        let shelf = Shelf::open(home.path().to_owned()).expect("it opens");
        let failed = make(&shelf, "zero", "images: {a: {build: 'echo oh; exit 3'}}").await.expect_err("fails");
        assert!(failed.to_string().contains("oh"), "{failed}");
        let trees = || std::fs::read_dir(home.path().join("trees")).expect("a folder").count();
        assert_eq!(trees(), 0);
        let mut digests = Vec::new();
        for index in 0..KEPT + 3 {
            digests.push(make(&shelf, &format!("c{index}"), TEXT).await.expect("made"));
        }
        shelf.keep(&BTreeSet::from([digests[0].clone()]));
        let there: Vec<bool> = digests.iter().map(|digest| shelf.has("a", digest)).collect();
        assert_eq!(there, [true, false, false, true, true, true, true, true]);
        assert_eq!(trees(), 2 * (KEPT + 1), "a directory and a record each");
    }
}
