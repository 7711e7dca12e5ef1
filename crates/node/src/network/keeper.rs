//! Keeps the helper: starts it when it is first needed, asks it one thing after the other, and puts another in the place of
//! one that has ended or gives no answer, once that does nothing any more.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::wire::{Answer, Ask, receive, send};
use super::{Held, Order, PodNetwork, path};
use crate::shim::{NETWORK, SUBCOMMAND, user};

/// How long an answer may take: a namespace is made within milliseconds, on a machine that is not hopelessly busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// A helper that runs.
struct Helper {
    child: Child,
    /// Of packets, which the type does not say.
    socket: UnixStream,
    patience: Duration,
}

/// Who keeps the helper.
pub(crate) struct Keeper {
    network: PodNetwork,
    orders: mpsc::Receiver<Order>,
    shim: PathBuf,
    helper: Option<Helper>,
    patience: Duration,
}

/// What went wrong in talking to a helper.
enum Trouble {
    /// It said that it could not.
    Refused(String),
    /// It is gone, or makes no sense.
    Gone(String),
}

impl Keeper {
    pub(super) fn new(network: PodNetwork, orders: mpsc::Receiver<Order>, shim: PathBuf) -> Self {
        Self { network, orders, shim, helper: None, patience: PATIENCE }
    }

    /// Does what is asked, until `ended`.
    pub(crate) async fn run(mut self, ended: CancellationToken) {
        loop {
            let order = tokio::select! {
                () = ended.cancelled() => break,
                Some(order) = self.orders.recv() => order,
            };
            tokio::select! {
                () = ended.cancelled() => break,
                () = self.carry_out(order) => {}
            }
        }
        if let Some(Helper { mut child, socket, .. }) = self.helper.take() {
            // Upon which it ends.
            drop(socket);
            let _ = tokio::time::timeout(PATIENCE, child.wait()).await;
        }
    }

    async fn carry_out(&mut self, order: Order) {
        match order {
            Order::Sockets { kind, count, reply: Some(reply) } => {
                // Whoever asked may have gone.
                let _ = reply.send(self.ask(&Ask::Sockets { kind, count }, None).await);
            }
            Order::Sockets { kind, count, reply: None } => match self.ask(&Ask::Sockets { kind, count }, None).await {
                Ok(more) => {
                    let mut ready = self.network.state.sockets.lock();
                    let room = super::READY.saturating_sub(ready.len());
                    ready.extend(more.into_iter().take(room));
                }
                Err(why) => tracing::debug!(why, "no sockets of the pod network in advance"),
            },
            Order::Pod { address, reply } => {
                let services = self.network.state.services;
                let _ = reply.send(self.ask(&Ask::Pod { address, services }, None).await);
            }
            Order::Inside { namespace, reply } => {
                let _ = reply.send(self.ask(&Ask::Inside, Some(&namespace)).await);
            }
        }
    }

    /// Asks the helper; another one where it turns out to be gone.
    async fn ask(&mut self, ask: &Ask, with: Option<&OwnedFd>) -> Result<Vec<OwnedFd>, String> {
        for last in [false, true] {
            let helper = match self.helper.take() {
                Some(helper) => helper,
                None => self.start().await?,
            };
            match helper.ask(ask, with).await {
                Ok(beside) => {
                    self.helper = Some(helper);
                    return Ok(beside);
                }
                Err(Trouble::Refused(why)) => {
                    self.helper = Some(helper);
                    return Err(why);
                }
                Err(Trouble::Gone(why)) => {
                    // What it was asked it must not do any more: the address may be another Pod's by then.
                    helper.kill().await;
                    if last {
                        return Err(format!("the pod network's helper ended: {why}"));
                    }
                    tracing::warn!(why, "the pod network's helper ended; another takes its place");
                }
            }
        }
        Err("the pod network has no helper".to_owned())
    }

    async fn start(&self) -> Result<Helper, String> {
        let started = |e: io::Error| format!("can't start the pod network's helper {}: {e}", self.shim.display());
        let helper = Helper::spawn(&self.shim, self.patience).map_err(started)?;
        let held = self.network.state.held.borrow().clone();
        let there = held.as_ref().map(|held| (path(&held.user), path(&held.mesh)));
        let mut beside = match helper.begin(self.network.state.block.mesh(), there).await {
            Ok(beside) => beside,
            Err(trouble) => {
                helper.kill().await;
                return Err(match trouble {
                    Trouble::Refused(why) => why,
                    Trouble::Gone(why) => format!("the pod network's helper ended: {why}"),
                });
            }
        };
        if held.is_none() {
            let (Some(mesh), Some(user)) = (beside.pop(), beside.pop()) else {
                return Err("the pod network's helper gave no namespaces".to_owned());
            };
            self.network.state.held.send_replace(Some(Arc::new(Held { user, mesh })));
        }
        Ok(helper)
    }
}

impl Helper {
    fn spawn(shim: &PathBuf, patience: Duration) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        let child = Command::new(shim)
            .args([SUBCOMMAND, NETWORK])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let ours = std::os::unix::net::UnixStream::from(ours);
        ours.set_nonblocking(true)?;
        Ok(Self { child, socket: UnixStream::from_std(ours)?, patience })
    }

    /// Ends it, and waits until it has ended: nothing of what it was asked is done after this.
    async fn kill(mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, "the pod network's helper could not be ended");
        }
    }

    /// Has it make the namespaces, or enter those that are there.
    async fn begin(&self, address: Ipv4Addr, there: Option<(PathBuf, PathBuf)>) -> Result<Vec<OwnedFd>, Trouble> {
        let made_anew = there.is_none();
        self.tell(&Ask::Begin { address, there }, None)?;
        if made_anew {
            match self.hear().await? {
                (Answer::Unshared, _) => {}
                (Answer::Failed(why), _) => return Err(Trouble::Refused(why)),
                (Answer::Done, _) => return Err(Trouble::Gone("it began out of turn".to_owned())),
            }
            let pid = self.child.id().and_then(|id| i32::try_from(id).ok());
            let mapped = pid.ok_or_else(|| io::Error::other("it is gone")).and_then(user::map);
            mapped.map_err(|e| Trouble::Refused(format!("can't say who is who in a user namespace: {e}")))?;
            self.tell(&Ask::Mapped, None)?;
        }
        self.done().await
    }

    async fn ask(&self, ask: &Ask, with: Option<&OwnedFd>) -> Result<Vec<OwnedFd>, Trouble> {
        self.tell(ask, with)?;
        self.done().await
    }

    async fn done(&self) -> Result<Vec<OwnedFd>, Trouble> {
        match self.hear().await? {
            (Answer::Done, beside) => Ok(beside),
            (Answer::Failed(why), _) => Err(Trouble::Refused(why)),
            (Answer::Unshared, _) => Err(Trouble::Gone("it spoke out of turn".to_owned())),
        }
    }

    /// One short message at a time, so there is room for it.
    fn tell(&self, ask: &Ask, with: Option<&OwnedFd>) -> Result<(), Trouble> {
        let beside: Vec<_> = with.iter().map(|one| one.as_fd()).collect();
        send(&self.socket, ask, &beside).map_err(|e| Trouble::Gone(e.to_string()))
    }

    async fn hear(&self) -> Result<(Answer, Vec<OwnedFd>), Trouble> {
        let heard = async {
            loop {
                self.socket.readable().await?;
                match self.socket.try_io(Interest::READABLE, || receive(&self.socket)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    message => return message,
                }
            }
        };
        match tokio::time::timeout(self.patience, heard).await {
            Ok(Ok(Some(message))) => Ok(message),
            Ok(Ok(None)) => Err(Trouble::Gone("without a word".to_owned())),
            Ok(Err(error)) => Err(Trouble::Gone(error.to_string())),
            Err(_) => Err(Trouble::Gone(format!("it gave no answer within {:?}", self.patience))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Block;
    use super::*;

    #[tokio::test]
    async fn a_helper_that_gives_no_answer_does_nothing_more() {
        let folder = tempfile::tempdir().expect("a folder");
        let (shim, pid) = (folder.path().join("shim"), folder.path().join("pid"));
        let script = format!("#!/bin/sh\necho $$ > {0}.new && mv {0}.new {0}\nexec sleep 1000\n", pid.display());
        // By another process: what this one writes cannot be run as long as a child of another test's has it open as well.
        let write = "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"";
        let mut command = std::process::Command::new("sh");
        let written = command.args(["-c", write, "sh", &script]).arg(&shim).status();
        assert!(written.expect("a shell").success());
        let services = Block { network: Ipv4Addr::new(127, 96, 0, 0), prefix: 24 };
        let (_network, mut keeper) = PodNetwork::new(shim, services, Block::PODS);
        keeper.patience = Duration::from_millis(200);
        let mut text = String::new();
        while text.is_empty() {
            // On a busy machine it may not even have begun; longer the next time.
            let refused = keeper.ask(&Ask::Sockets { kind: super::super::wire::Kind::Tcp, count: 1 }, None).await;
            assert!(refused.expect_err("it says nothing").contains("no answer"));
            text = std::fs::read_to_string(&pid).unwrap_or_default();
            keeper.patience = (keeper.patience * 2).min(PATIENCE);
        }
        assert!(!std::path::Path::new("/proc").join(text.trim()).exists(), "it is gone, not only forgotten");
    }
}
