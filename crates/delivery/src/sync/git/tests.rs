//! Real repositories in temporary directories, good and bad.

use super::*;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// Runs git for a test, as a user would; its output.
fn git(dir: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.arg("-C").arg(dir).args(arguments).env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", dir);
    for (name, value) in [("NAME", "Ann"), ("EMAIL", "ann@example.com"), ("DATE", "2026-01-02T03:04:05Z")] {
        command.env(format!("GIT_AUTHOR_{name}"), value).env(format!("GIT_COMMITTER_{name}"), value);
    }
    let output = command.output().expect("git runs");
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

struct Fixture {
    all: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let all = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(all.path().join("work")).expect("a folder");
        let this = Self { all };
        git(&this.work(), &["init", "-q", "-b", "main"]);
        this
    }

    fn work(&self) -> std::path::PathBuf {
        self.all.path().join("work")
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.work().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, content).expect("a file");
    }

    fn commit(&self, message: &str) -> String {
        git(&self.work(), &["add", "-A"]);
        git(&self.work(), &["commit", "-q", "--allow-empty", "-m", message]);
        git(&self.work(), &["rev-parse", "HEAD"])
    }

    fn mirror(&self, limits: Limits) -> Mirror {
        let git = Git::new(&self.all.path().join("home"), limits).expect("a home");
        Mirror::new(&git, self.work().to_str().expect("UTF-8")).expect("a mirror")
    }

    async fn export(&self, mirror: &Mirror, path: &str) -> Result<Export, GitError> {
        let refs = mirror.refs(&Credential::default()).await?;
        let wanted = refs.resolve(&Wanted::Any("HEAD".to_owned())).expect("a commit");
        let commit = mirror.obtain(&wanted, &Credential::default()).await?;
        mirror.export(&commit.sha, path, &self.all.path().join(format!("out-{}-{}", commit.sha, path.len()))).await
    }
}

#[tokio::test]
async fn a_commit_is_fetched_told_of_and_written() {
    let fixture = Fixture::new();
    fixture.write("app/a.yaml", "a: 1\n");
    std::os::unix::fs::symlink("a.yaml", fixture.work().join("app/b.yaml")).expect("a link");
    let sha = fixture.commit("First words");
    let mirror = fixture.mirror(Limits::default());
    let export = fixture.export(&mirror, "app").await.expect("an export");
    assert_eq!(std::fs::read_to_string(export.root.join("app/b.yaml")).expect("the link is followed"), "a: 1\n");
    let commit = mirror.read(&sha).await.expect("the commit");
    assert_eq!((commit.author.as_str(), commit.message.as_str()), ("Ann <ann@example.com>", "First words"));

    // Pushed over: the old commit is still here, the new one is what counts.
    git(&fixture.work(), &["checkout", "-q", "--orphan", "other"]);
    fixture.write("app/a.yaml", "a: 2\n");
    let new = fixture.commit("Other words");
    git(&fixture.work(), &["branch", "-q", "-M", "other", "main"]);
    let export = fixture.export(&mirror, "app").await.expect("an export");
    assert!(export.root.to_string_lossy().contains(&new));
    assert_eq!(std::fs::read_to_string(export.root.join("app/a.yaml")).expect("a file"), "a: 2\n");
    mirror.read(&sha).await.expect("the old one is kept");
}

#[tokio::test]
async fn what_is_bad_where_it_matters_is_refused_and_elsewhere_left_out() {
    let fixture = Fixture::new();
    fixture.write("good/a.yaml", "a: 1\n");
    fixture.write("huge/big.bin", &"x".repeat(5000));
    std::fs::create_dir_all(fixture.work().join("bad")).expect("a folder");
    std::os::unix::fs::symlink("/etc/passwd", fixture.work().join("bad/link")).expect("a link");
    fixture.commit("All kinds");
    let limits = Limits { file: 4096, ..Limits::default() };
    let mirror = fixture.mirror(limits);
    let export = fixture.export(&mirror, "good").await.expect("the good part");
    let paths: Vec<&str> = export.left_out.iter().map(|left| left.path.as_str()).collect();
    assert_eq!(paths, ["huge/big.bin", "bad/link"]);
    assert!(!export.root.join("bad/link").exists() && !export.root.join("huge/big.bin").exists());
    for (path, words) in [("bad", "leads out"), ("huge", "more than the limit"), ("", "limit"), ("../x", "..")] {
        let error = fixture.export(&mirror, path).await.expect_err("refused").to_string();
        assert!(error.contains(words), "{path}: {error}");
    }
}

#[tokio::test]
async fn names_made_by_hand_are_refused() {
    let fixture = Fixture::new();
    fixture.write("a.yaml", "a: 1\n");
    fixture.commit("Good");
    let blob = git(&fixture.work(), &["hash-object", "-w", "a.yaml"]);
    // git's own commands make no such tree, so its bytes are written by hand.
    let raw: Vec<u8> = (0..20).map(|at| u8::from_str_radix(&blob[at * 2..at * 2 + 2], 16).expect("hex")).collect();
    for (mode, name, words) in [("40000", &b".."[..], "out of the repository"), ("100644", b"caf\xe9.yaml", "UTF-8")] {
        let inner = [b"100644 evil.yaml\0", raw.as_slice()].concat();
        let file = fixture.all.path().join("tree");
        std::fs::write(&file, inner).expect("a file");
        let hash = |path: &Path| {
            let path = path.to_str().expect("UTF-8");
            git(&fixture.work(), &["hash-object", "-w", "--literally", "-t", "tree", path])
        };
        let target = if mode == "40000" { hash(&file) } else { blob.clone() };
        let raw: Vec<u8> =
            (0..20).map(|at| u8::from_str_radix(&target[at * 2..at * 2 + 2], 16).expect("hex")).collect();
        std::fs::write(&file, [mode.as_bytes(), b" ", name, b"\0", &raw].concat()).expect("a file");
        let commit = git(&fixture.work(), &["commit-tree", &hash(&file), "-m", "evil"]);
        git(&fixture.work(), &["update-ref", "refs/heads/main", &commit]);
        let mirror = fixture.mirror(Limits::default());
        let error = fixture.export(&mirror, "").await.expect_err("refused").to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn what_is_too_large_to_fetch_is_not_fetched() {
    let fixture = Fixture::new();
    let noise: String = (0..400_000_u64).map(|n| format!("{:x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect();
    fixture.write("noise", &noise);
    fixture.commit("Noise");
    let mirror = fixture.mirror(Limits { pack: 100 * 1024, ..Limits::default() });
    let error = fixture.export(&mirror, "").await.expect_err("refused");
    assert!(matches!(error, GitError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn a_repository_that_is_gone_says_so_and_a_mirror_mends() {
    let fixture = Fixture::new();
    fixture.write("a.yaml", "a: 1\n");
    let sha = fixture.commit("One");
    let mirror = fixture.mirror(Limits::default());
    fixture.export(&mirror, "").await.expect("an export");
    // A killed run leaves locks; a broken disk leaves less.
    std::fs::write(mirror.directory().join("shallow.lock"), "").expect("a file");
    std::fs::remove_dir_all(mirror.directory().join("objects")).expect("objects");
    let mirror = fixture.mirror(Limits::default());
    let wanted = Resolved { commit: sha, reference: Reference::Commit };
    mirror.obtain(&wanted, &Credential::default()).await.expect("mended");
    std::fs::rename(fixture.work(), fixture.all.path().join("elsewhere")).expect("a move");
    let error = mirror.refs(&Credential::default()).await.expect_err("it is gone");
    assert!(error.may_pass() && error.to_string().contains("does not appear to be a git repository"), "{error}");
}

#[tokio::test]
async fn nothing_in_a_repository_or_a_home_runs() {
    let fixture = Fixture::new();
    let proof = fixture.all.path().join("proof");
    fixture.write("a.yaml", "a: 1\n");
    fixture.write(".gitattributes", "* filter=evil export-subst\n");
    fixture.commit("One");
    let run = format!("touch {}", proof.display());
    for (name, value) in [("filter.evil.smudge", run.as_str()), ("core.fsmonitor", &run), ("core.sshCommand", &run)] {
        git(&fixture.work(), &["config", name, value]);
    }
    let mirror = fixture.mirror(Limits::default());
    fixture.export(&mirror, "").await.expect("an export");
    assert!(!proof.exists());
}

#[tokio::test]
async fn only_the_keys_that_are_given_count() {
    if Command::new("ssh-keygen").arg("-?").output().is_err() {
        eprintln!("ssh-keygen is not here; git needs it for SSH signatures");
        return;
    }
    let fixture = Fixture::new();
    fixture.write("a.yaml", "a: 1\n");
    let unsigned = fixture.commit("Unsigned");
    let key = |name: &str| {
        let path = fixture.all.path().join(name);
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path).status();
        assert!(made.expect("ssh-keygen runs").success());
        (path.clone(), std::fs::read_to_string(path.with_extension("pub")).expect("a public key"))
    };
    let ((private, public), (_, other)) = (key("mine"), key("other"));
    git(&fixture.work(), &["config", "gpg.format", "ssh"]);
    git(&fixture.work(), &["config", "user.signingkey", private.to_str().expect("UTF-8")]);
    git(&fixture.work(), &["commit", "-q", "--allow-empty", "-S", "-m", "Signed"]);
    let signed = git(&fixture.work(), &["rev-parse", "HEAD"]);
    let mirror = fixture.mirror(Limits::default());
    for (commit, keys, good) in [
        (&signed, Keys::of([public.clone()]), true),
        (&signed, Keys::of([other]), false),
        (&signed, Keys::default(), false),
        (&unsigned, Keys::of([public]), false),
    ] {
        let wanted = Resolved { commit: commit.clone(), reference: Reference::Commit };
        mirror.obtain(&wanted, &Credential::default()).await.expect("the commit");
        let verdict = mirror.verify(commit, &keys).await.expect("an answer");
        assert_eq!(matches!(verdict, Verdict::Good(_)), good, "{verdict:?}");
    }
}

#[test]
fn a_secret_is_read_in_both_dialects_and_never_printed() {
    let of = |pairs: &[(&str, &str)]| {
        Credential::of_secret(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    };
    let home = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(home.path().join("keys")).expect("a folder");
    let basic = of(&[("username", "ann"), ("password", "hidden")]);
    let held = basic.hold(home.path()).expect("held");
    assert!(held.settings().iter().any(|(_, value)| value == "Authorization: Basic YW5uOmhpZGRlbg=="));
    drop(held);
    for secret in [of(&[("sshPrivateKey", "hidden")]), of(&[("identity", "hidden"), ("known_hosts", "h k v")])] {
        let held = secret.hold(home.path()).expect("held");
        assert!(held.ssh().contains("StrictHostKeyChecking=yes") && !held.ssh().contains("hidden"));
        assert!(!format!("{secret:?}").contains("hidden"));
    }
    assert!(std::fs::read_dir(home.path().join("keys")).expect("a folder").next().is_none(), "key files are gone");
}

#[tokio::test]
async fn a_checkout_keeps_what_may_be_run_and_takes_larger_files() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::new();
    fixture.write("run.sh", "#!/bin/sh\n");
    std::fs::set_permissions(fixture.work().join("run.sh"), std::fs::Permissions::from_mode(0o755)).expect("a mode");
    fixture.write("deploy/a.yaml", "a: 1\n");
    fixture.write("assets/large", &"x".repeat(5000));
    let sha = fixture.commit("A program");
    let mirror = fixture.mirror(Limits { file: 1000, ..Limits::default() });
    // Too large for a manifest, and left out where only those matter.
    let export = fixture.export(&mirror, "deploy").await.expect("an export");
    assert_eq!(export.left_out[0].path, "assets/large");
    let mode =
        |root: &Path, name: &str| std::fs::metadata(root.join(name)).expect("a file").permissions().mode() & 0o111;
    assert_ne!(mode(&export.root, "run.sh"), 0);
    assert_eq!(mode(&export.root, "deploy/a.yaml"), 0);
    assert!(export.files["run.sh"].ends_with("+x") && !export.files["deploy/a.yaml"].ends_with("+x"));
    let out = mirror.check_out(&sha, "deploy", &fixture.all.path().join("checkout")).await.expect("a checkout");
    assert!(out.left_out.is_empty() && out.root.join("assets/large").is_file());
}
