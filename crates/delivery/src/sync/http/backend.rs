//! The Git remote: `git http-backend` behind our authentication, and a word to the pusher at the end.
//!
//! Invariants: a repository's name is a plain word; nothing is run for a stranger; the push is kept whatever becomes of the sync.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::progress::{self, Pushed};
use super::{Body, Front, HttpSettings, say};
use crate::sync::git::{GitError, Held, Refs, remove_leftovers};

/// How many repositories there may be.
const REPOSITORIES: usize = 100;
/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(1500);
/// How many git programs answer requests at once, also for clients that are gone.
pub(super) const PROGRAMS: usize = 64;
/// How much of a request is looked at for what the client can do.
const SNIFFED: usize = 4096;
/// The longest line that is told a pusher, in bytes.
const LINE: usize = 900;

/// The hook that every repository of the remote has.
const PRE_RECEIVE: &str = "#!/bin/sh\n# Looks for secrets in what is pushed. Written at every start.\n\
    [ -n \"$CORACLE_HOOK\" ] || exit 0\nexec \"$CORACLE_HOOK\" git-hook pre-receive\n";

/// Makes what the remote needs on the disk.
pub(super) fn prepare(settings: &HttpSettings) -> Result<(), GitError> {
    let hooks = settings.repositories.join("hooks");
    let hook = hooks.join("pre-receive");
    let write = || {
        std::fs::create_dir_all(&hooks)?;
        std::fs::write(&hook, PRE_RECEIVE)?;
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o700))
    };
    write().map_err(|error| GitError::Disk {
        attempt: "write",
        path: hook.display().to_string(),
        reason: error.to_string(),
    })?;
    // A killed push leaves locks behind, and nobody else is at work here.
    for entry in std::fs::read_dir(&settings.repositories).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|end| end == "git") {
            remove_leftovers(&entry.path(), 0);
        }
    }
    Ok(())
}

/// The repository and the rest of the path: `/git/NAME.git/REST`.
fn parse(path: &str) -> Option<(&str, &str)> {
    let (name, rest) = path.strip_prefix("/git/")?.split_once(".git/")?;
    let known = ["info/refs", "git-upload-pack", "git-receive-pack"].contains(&rest);
    (is_repository_name(name) && known).then_some((name, rest))
}

/// Whether a repository of the remote may be called so: up to 53 letters, digits, - and _.
#[must_use]
pub fn is_repository_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    !name.is_empty() && name.len() <= 53 && name.chars().all(plain) && !name.starts_with('-')
}

pub(super) async fn answer(front: &Arc<Front>, request: Request<Incoming>) -> Response<Body> {
    let Some((name, rest)) = parse(request.uri().path()) else {
        return say(StatusCode::NOT_FOUND, "write /git/NAME.git with a NAME of letters, digits, - and _\n");
    };
    let (name, rest) = (name.to_owned(), rest.to_owned());
    let user = match who(front, request.headers()).await {
        Ok(Some(user)) => user,
        Ok(None) => {
            let mut response =
                say(StatusCode::UNAUTHORIZED, "give a token of the API as the password, with any user name\n");
            let ask = header::HeaderValue::from_static("Basic realm=\"coracle\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, ask);
            return response;
        }
        Err(reason) => return say(StatusCode::SERVICE_UNAVAILABLE, &format!("{reason}\n")),
    };
    let pushing = rest == "git-receive-pack" || request.uri().query().unwrap_or_default().contains("git-receive-pack");
    let (verb, path) = (if pushing { "update" } else { "get" }, format!("/git/{name}.git"));
    match may(front, &user, verb, &path).await {
        Ok(true) => {}
        Ok(false) => {
            let user = text(&user, "username");
            let hint = format!("a ClusterRole with nonResourceURLs [{path:?}] and verbs [{verb:?}] allows it");
            return say(StatusCode::FORBIDDEN, &format!("User {user:?} cannot {verb} path {path:?}; {hint}\n"));
        }
        Err(reason) => return say(StatusCode::SERVICE_UNAVAILABLE, &format!("{reason}\n")),
    }
    let user = text(&user, "username").to_owned();
    let directory = front.settings.repositories.join(format!("{name}.git"));
    if !directory.is_dir() {
        if !pushing {
            return say(StatusCode::NOT_FOUND, "there is no such repository; the first push makes it\n");
        }
        if let Err(reason) = create(front, &directory).await {
            return say(StatusCode::INSUFFICIENT_STORAGE, &format!("{reason}\n"));
        }
    }
    match run(front, request, &directory, &rest, &user).await {
        Ok(response) => response,
        Err(reason) => say(StatusCode::INTERNAL_SERVER_ERROR, &format!("{reason}\n")),
    }
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

/// Whether somebody may do something with a repository: roles say so, as of a path of the API.
async fn may(front: &Front, user: &Value, verb: &str, path: &str) -> Result<bool, String> {
    let review = json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
        "user": user["username"], "groups": user["groups"], "nonResourceAttributes": { "verb": verb, "path": path } } });
    let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let answer = front.handle.api().create(reviews, &review, crate::sync::engine::compare::MANAGER).await;
    let answer = answer.map_err(|error| format!("whether it is allowed cannot be checked: {error}"))?;
    Ok(answer["status"]["allowed"] == true)
}

/// Whose token this is: the `user` of a review.
async fn who(front: &Front, headers: &HeaderMap) -> Result<Option<Value>, String> {
    let Some(token) = headers.get(header::AUTHORIZATION).and_then(|value| token(value.to_str().ok()?)) else {
        return Ok(None);
    };
    let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": { "token": token } });
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let answer = front.handle.api().create(path, &review, crate::sync::engine::compare::MANAGER).await;
    let mut status = answer.map_err(|error| format!("the token cannot be checked: {error}"))?["status"].take();
    Ok((status["authenticated"] == true).then(|| status["user"].take()))
}

/// The token of `Bearer TOKEN`, or the password of `Basic …`.
fn token(header: &str) -> Option<String> {
    let (scheme, rest) = header.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
    Some(pair.split_once(':')?.1.to_owned())
}

async fn create(front: &Front, directory: &Path) -> Result<(), String> {
    let there = std::fs::read_dir(&front.settings.repositories).map_err(|error| error.to_string())?;
    let count = there.flatten().filter(|entry| entry.path().extension() == Some(OsStr::new("git"))).count();
    if count >= REPOSITORIES {
        return Err(format!("there are {count} repositories already, which is the limit"));
    }
    let path = directory.display().to_string();
    let doing = crate::sync::git::Doing { attempt: "make", repository: &path };
    front
        .git
        .run(&["init", "--quiet", "--bare", "--", &path], doing, Vec::new())
        .await
        .map(drop)
        .map_err(|error| error.to_string())
}

/// The branches of a repository: name and commit.
async fn branches(front: &Front, directory: &Path) -> Vec<(String, String)> {
    let path = directory.display().to_string();
    let doing = crate::sync::git::Doing { attempt: "read the branches of", repository: &path };
    let arguments = ["-C", &path, "for-each-ref", "--format=%(objectname) %(refname:lstrip=2)", "refs/heads"];
    let listing = front.git.run(&arguments, doing, Vec::new()).await.unwrap_or_default();
    let listing = String::from_utf8_lossy(&listing).into_owned();
    listing
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(commit, name)| (name.to_owned(), commit.to_owned()))
        .collect()
}

/// The folders at a commit's root.
async fn folders(front: &Front, directory: &Path, commit: &str) -> Vec<String> {
    let path = directory.display().to_string();
    let doing = crate::sync::git::Doing { attempt: "list the folders of", repository: &path };
    let arguments = ["-C", &path, "ls-tree", "-d", "--name-only", commit];
    let listing = front.git.run(&arguments, doing, Vec::new()).await.unwrap_or_default();
    String::from_utf8_lossy(&listing).lines().map(str::to_owned).collect()
}

/// Every reference of a repository.
async fn references(front: &Front, directory: &Path) -> Refs {
    let path = directory.display().to_string();
    let doing = crate::sync::git::Doing { attempt: "read the references of", repository: &path };
    let listing = front.git.run(&["ls-remote", "--symref", "--", &path], doing, Vec::new()).await.unwrap_or_default();
    Refs::parse(&String::from_utf8_lossy(&listing))
}

/// Runs git's own server side for one request.
async fn run(
    front: &Arc<Front>,
    request: Request<Incoming>,
    directory: &Path,
    rest: &str,
    user: &str,
) -> Result<Response<Body>, String> {
    let (head, mut body) = request.into_parts();
    // It outlives the connection whose client has gone.
    let Ok(permit) = Arc::clone(&front.room).try_acquire_owned() else {
        return Err(format!("{PROGRAMS} requests are answered already; try again later"));
    };
    let before = if rest == "git-receive-pack" { Some(branches(front, directory).await) } else { None };
    if let Some(before) = &before {
        note_push(directory, before);
        crate::fault::point("push.begun");
    }
    let mut command = command(front, &head, directory, rest, user);
    let mut child = command.spawn().map_err(|error| format!("cannot run git: {error}; is it installed?"))?;
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("git has no input or output".to_owned());
    };
    let (frames, mut waiting) = mpsc::channel::<Bytes>(16);
    let (answered, heads) = tokio::sync::oneshot::channel();
    let (front_of_task, directory) = (Arc::clone(front), directory.to_owned());
    front.tasks.spawn(async move {
        let (front, _permit) = (front_of_task, permit);
        let work = async {
            let mut sniffed = BytesMut::new();
            let feed = async {
                while let Some(Ok(frame)) = body.frame().await {
                    let Ok(data) = frame.into_data() else { continue };
                    if sniffed.len() < SNIFFED {
                        sniffed.extend_from_slice(&data[..data.len().min(SNIFFED)]);
                    }
                    if stdin.write_all(&data).await.is_err() {
                        break;
                    }
                }
                let _ = stdin.shutdown().await;
                drop(stdin);
            };
            // Its output goes with it: a git that nobody listens to ends, but for one that stores.
            let pass = pass_on(stdout, answered, &frames, before.is_some());
            let ((), held) = tokio::join!(feed, pass);
            let ended = child.wait().await;
            let Some(before) = before else { return };
            crate::fault::point("push.stored");
            if ended.is_ok_and(|status| status.success()) {
                let listens = held.is_some() && String::from_utf8_lossy(&sniffed).contains("side-band-64k");
                tell(&front, &directory, &before, listens.then_some(&frames)).await;
            } else {
                forget_push(&directory);
            }
            if let Some(held) = held {
                let _ = frames.send(held).await;
            }
        };
        tokio::select! {
            () = front.stop.cancelled() => {}
            outcome = tokio::time::timeout(LIMIT, work) => if outcome.is_err() {
                tracing::warn!("a request for Git took too long and was ended");
            }
        }
    });
    let (status, headers) = heads.await.map_err(|_| "git answered nothing".to_owned())?;
    let stream = futures::stream::poll_fn(move |context| waiting.poll_recv(context));
    let stream = futures::StreamExt::map(stream, |bytes| Ok::<_, std::convert::Infallible>(Frame::data(bytes)));
    let mut response = Response::new(StreamBody::new(stream).boxed_unsync());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// `git http-backend` as a CGI program (RFC 3875).
fn command(
    front: &Front,
    head: &http::request::Parts,
    directory: &Path,
    rest: &str,
    user: &str,
) -> tokio::process::Command {
    let limits = front.git.limits();
    let hooks = front.settings.repositories.join("hooks").display().to_string();
    let held = Held::with_settings([
        ("core.hooksPath".to_owned(), hooks),
        ("receive.fsckObjects".to_owned(), "true".to_owned()),
        ("receive.maxInputSize".to_owned(), limits.pack.to_string()),
        ("receive.autogc".to_owned(), "false".to_owned()),
    ]);
    let mut command = front.git.command(&["http-backend"], &held, limits.pack);
    let text =
        |name: header::HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let path = PathBuf::from("/").join(directory.file_name().unwrap_or_default()).join(rest);
    command
        .env("GIT_PROJECT_ROOT", &front.settings.repositories)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", path);
    command.env("REMOTE_USER", user).env("REMOTE_ADDR", "127.0.0.1").env("REQUEST_METHOD", head.method.as_str());
    command.env("QUERY_STRING", head.uri.query().unwrap_or_default()).env("CONTENT_TYPE", text(header::CONTENT_TYPE));
    command.env("HTTP_CONTENT_ENCODING", text(header::CONTENT_ENCODING));
    command.env("GIT_PROTOCOL", text(header::HeaderName::from_static("git-protocol")));
    if let Some(hook) = &front.settings.hook {
        command.env("CORACLE_HOOK", hook);
    }
    command.stdin(Stdio::piped()).stderr(Stdio::null());
    command
}

type Answered = tokio::sync::oneshot::Sender<(StatusCode, HeaderMap)>;

/// Passes git's answer on. With `hold` its last packet (`0000`) is kept back and returned, so that more can be said before it, and
/// git may say everything though nobody listens any more.
async fn pass_on(
    mut stdout: tokio::process::ChildStdout,
    answered: Answered,
    frames: &mpsc::Sender<Bytes>,
    hold: bool,
) -> Option<Bytes> {
    let mut held = BytesMut::new();
    let mut answered = Some(answered);
    loop {
        let mut chunk = BytesMut::with_capacity(32 * 1024);
        match stdout.read_buf(&mut chunk).await {
            Ok(1..) => held.extend_from_slice(&chunk),
            _ => break,
        }
        if answered.is_some() {
            let Some((end, length)) = head_end(&held) else {
                if held.len() > 64 * 1024 {
                    return None;
                }
                continue;
            };
            let head = held.split_to(end + length);
            if let Some(answered) = answered.take() {
                let _ = answered.send(heads(&head[..end]));
            }
        }
        let keep = if hold { 4 } else { 0 };
        if held.len() > keep {
            let ready = held.split_to(held.len() - keep).freeze();
            if frames.send(ready).await.is_err() {
                if hold {
                    let _ = tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await;
                }
                return None;
            }
        }
    }
    if answered.is_some() {
        return None;
    }
    hold.then(|| held.freeze())
}

/// Where a CGI answer's head ends, and how long the empty line is.
fn head_end(bytes: &[u8]) -> Option<(usize, usize)> {
    let find = |end: &[u8]| bytes.windows(end.len()).position(|window| window == end).map(|at| (at, end.len()));
    find(b"\r\n\r\n").or_else(|| find(b"\n\n"))
}

/// Reads a CGI answer's head.
fn heads(bytes: &[u8]) -> (StatusCode, HeaderMap) {
    let (mut status, mut headers) = (StatusCode::OK, HeaderMap::new());
    for line in String::from_utf8_lossy(bytes).lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        if name.eq_ignore_ascii_case("status") {
            let code = value.split(' ').next().and_then(|code| StatusCode::from_bytes(code.as_bytes()).ok());
            status = code.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        } else if let (Ok(name), Ok(value)) = (header::HeaderName::from_bytes(name.as_bytes()), value.parse()) {
            headers.insert(name, value);
        }
    }
    (status, headers)
}

/// The file that stands in a repository from the beginning of a push until it is sure that the push will be looked at.
const NOTE: &str = "coracle-push";

/// Notes which branches there are before a push.
fn note_push(directory: &Path, before: &[(String, String)]) {
    let text = serde_json::to_vec(before).unwrap_or_default();
    if let Err(error) = std::fs::write(directory.join(NOTE), text) {
        tracing::warn!(%error, "a push could not be noted; if Coracle is killed now, push again after a change");
    }
}

fn forget_push(directory: &Path) {
    let _ = std::fs::remove_file(directory.join(NOTE));
}

/// The branches that a push has changed.
async fn pushed(front: &Front, directory: &Path, before: &[(String, String)]) -> Vec<Pushed> {
    let after = branches(front, directory).await;
    let changed = after.into_iter().filter(|branch| !before.contains(branch));
    changed.map(|(branch, commit)| Pushed { branch, commit }).collect()
}

/// Has everything looked at that was pushed when an earlier life was killed.
pub(super) async fn finish_pushes(front: &Front) {
    for entry in std::fs::read_dir(&front.settings.repositories).into_iter().flatten().flatten() {
        let directory = entry.path();
        let Ok(text) = std::fs::read(directory.join(NOTE)) else { continue };
        // A note that was cut short itself is one of an empty repository.
        let before: Vec<(String, String)> = serde_json::from_slice(&text).unwrap_or_default();
        let pushed = pushed(front, &directory, &before).await;
        let folders = match pushed.first() {
            Some(first) => folders(front, &directory, &first.commit).await,
            None => Vec::new(),
        };
        match progress::follow(&front.handle, &directory, &pushed, &folders).await {
            Ok(said) => {
                tracing::info!(repository = %directory.display(), said = said.unwrap_or_default(), "a push of an earlier life is looked at");
                forget_push(&directory);
            }
            Err(reason) => {
                tracing::warn!(repository = %directory.display(), reason, "a push of an earlier life could not be looked at")
            }
        }
    }
}

/// Has a push looked at, whoever still listens, and says what becomes of it, as `remote:` lines, to a client that takes them.
async fn tell(front: &Front, directory: &Path, before: &[(String, String)], frames: Option<&mpsc::Sender<Bytes>>) {
    let pushed = pushed(front, directory, before).await;
    let Some(first) = pushed.first() else { return forget_push(directory) };
    let folders = folders(front, directory, &first.commit).await;
    let listening = progress::listen(&front.handle);
    let followed = progress::follow(&front.handle, directory, &pushed, &folders).await;
    match &followed {
        Ok(_) => forget_push(directory),
        Err(reason) => tracing::warn!(reason, "a push could not be looked at; it is with the next start"),
    }
    let Some(frames) = frames else { return };
    let failed = |reason| Some(format!("no Application follows this repository, and none could be made: {reason}"));
    if let Some(said) = followed.unwrap_or_else(failed)
        && frames.send(packet(&said)).await.is_err()
    {
        return;
    }
    let refs = references(front, directory).await;
    let (sender, mut lines) = mpsc::channel(64);
    let telling = async {
        progress::tell(listening, &front.handle, directory, &pushed, &refs, front.settings.wait, &sender).await;
        drop(sender);
    };
    let passing = async {
        while let Some(line) = lines.recv().await {
            if frames.send(packet(&line)).await.is_err() {
                return;
            }
        }
    };
    let mut telling = std::pin::pin!(telling);
    let mut passing = std::pin::pin!(passing);
    tokio::select! {
        // Its sender is dropped with it, so the other one ends after the last line.
        () = &mut passing => {}
        () = &mut telling => passing.await,
        // Nobody waits for an answer any more.
        () = frames.closed() => {}
    }
}

/// A line for the pusher's terminal: a packet of the second side band (gitprotocol-pack).
fn packet(line: &str) -> Bytes {
    let mut text = format!("coracle: {}", line.replace('\n', " "));
    while text.len() > LINE {
        text.pop();
    }
    Bytes::from(format!("{:04x}\u{2}{text}\n", text.len() + 6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_repositories() {
        for (path, wanted) in [
            ("/git/shop.git/info/refs", Some(("shop", "info/refs"))),
            ("/git/shop.git/git-receive-pack", Some(("shop", "git-receive-pack"))),
            ("/git/../x.git/info/refs", None),
            ("/git/a/b.git/info/refs", None),
            ("/git/-x.git/info/refs", None),
            ("/git/.git/info/refs", None),
            ("/git/shop.git/objects/info/packs", None),
            ("/git/shop.git/HEAD", None),
        ] {
            assert_eq!(parse(path), wanted, "{path}");
        }
    }

    #[test]
    fn tokens_come_as_bearer_or_as_password() {
        assert_eq!(token("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(token(&format!("Basic {}", STANDARD.encode("any:a:b"))).as_deref(), Some("a:b"));
        assert_eq!(token("Digest x"), None);
    }

    #[test]
    fn a_line_is_a_packet_of_the_second_band() {
        assert_eq!(packet("hi"), Bytes::from("0011\u{2}coracle: hi\n"));
        assert!(packet(&"é".repeat(2000)).len() < 1000);
        let (status, headers) = heads(b"Status: 403 Forbidden\r\nContent-Type: text/plain");
        assert_eq!((status.as_u16(), headers[header::CONTENT_TYPE].to_str().ok()), (403, Some("text/plain")));
    }
}
