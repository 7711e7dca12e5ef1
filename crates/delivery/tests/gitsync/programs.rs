//! What is rendered is kept from turn to turn, and with it what programs it names: they are made again where they are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use delivery::sync::programs::{Programs, Say, Tree};
use futures::future::BoxFuture;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;

use crate::harness::{Cluster, LIMIT, Repository, automated, deployment, healthy, hurried, look, put_back};

/// Where "programs" are kept: a digest is the name of what the file `program` holds.
struct Shelf {
    rooms: TempDir,
    /// What is there, and what was made, one after the other.
    there: watch::Sender<BTreeSet<String>>,
    made: watch::Sender<Vec<String>>,
    /// The next one takes the place of all others.
    full: AtomicBool,
}

impl Shelf {
    fn new() -> Arc<Self> {
        let rooms = tempfile::tempdir().expect("a folder");
        let (there, made) = (watch::Sender::default(), watch::Sender::default());
        Arc::new(Self { rooms, there, made, full: AtomicBool::new(false) })
    }

    /// Waits until so many were made; which.
    async fn made(&self, count: usize) -> Vec<String> {
        let mut made = self.made.subscribe();
        let waiting = made.wait_for(|all| all.len() >= count);
        tokio::time::timeout(LIMIT, waiting).await.expect("made in time").expect("the shelf is there").clone()
    }
}

fn digest(tree: &Tree) -> String {
    format!("sha256:{}", tree.files["deploy/program"])
}

impl Programs for Shelf {
    fn digests(&self, tree: &Tree, images: &BTreeSet<String>) -> Result<BTreeMap<String, String>, String> {
        Ok(images.iter().map(|image| (image.clone(), digest(tree))).collect())
    }

    fn has(&self, _: &str, digest: &str) -> bool {
        self.there.borrow().contains(digest)
    }

    fn room(&self, commit: &str) -> PathBuf {
        self.rooms.path().join(format!("{commit}-{}", self.made.borrow().len()))
    }

    fn make(
        &self,
        tree: Arc<Tree>,
        _: BTreeSet<String>,
        directory: PathBuf,
        _: Say,
    ) -> BoxFuture<'static, Result<(), String>> {
        assert!(directory.join("deploy/program").is_file(), "what it is made of is there");
        let full = self.full.swap(false, Ordering::SeqCst);
        self.there.send_modify(|there| {
            if full {
                there.clear();
            }
            there.insert(digest(&tree));
        });
        self.made.send_modify(|made| made.push(digest(&tree)));
        Box::pin(async { Ok(()) })
    }

    fn keep(&self, _: &BTreeSet<String>) {}
}

/// Waits until the Deployment's image has a digest.
async fn runs(cluster: &Cluster, digest: &str) {
    let image = format!("shop/web:1@{digest}");
    let is = |object: &Value| object["spec"]["template"]["spec"]["containers"][0]["image"] == image.as_str();
    let path = "/apis/apps/v1/namespaces/shop/deployments/web";
    cluster.until(path, &image, |object| object.is_some_and(is)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_gone_is_made_again_before_what_names_it_is_brought() {
    let shelf = Shelf::new();
    let (cluster, repository) = (Cluster::start_with(Some(shelf.clone())).await, Repository::new());
    repository.write("deploy/web.yaml", &deployment("shop/web:1"));
    repository.write("deploy/coracle.yaml", "images: {}\n");
    repository.write("deploy/program", "one");
    let first = repository.commit("First");
    let mut object = automated("shop", &repository);
    cluster.apply(&object).await;
    let one = shelf.made(1).await.remove(0);
    runs(&cluster, &one).await;
    healthy(&cluster).await;
    let good = |status: &Value| status["coracle"]["good"]["content"]["revisions"][0] == first.as_str();
    cluster.application("shop", "good", good).await;

    // It is what the repository says, as it was rendered before; its program is not there any more.
    shelf.there.send_modify(BTreeSet::clear);
    look(&cluster, "shop").await;
    assert_eq!(shelf.made(2).await, [one.clone(), one.clone()]);
    cluster.synced("shop", &first).await;

    // Another program by the same manifests, in whose favour the first is let go. It is bad, so the first is wanted again.
    hurried(&cluster, &mut object).await;
    shelf.full.store(true, Ordering::SeqCst);
    repository.write("deploy/program", "two");
    let second = repository.commit("Another program");
    let two = shelf.made(3).await.remove(2);
    assert_ne!(one, two);
    assert_eq!(shelf.made(4).await[3], one);
    runs(&cluster, &one).await;
    healthy(&cluster).await;
    let status = cluster.application("shop", "put back", put_back).await;
    assert_eq!(status["coracle"]["failed"][0]["content"]["revisions"][0], second.as_str(), "{status:#}");
    assert!(good(&status), "{status:#}");
    cluster.stop().await;
}
