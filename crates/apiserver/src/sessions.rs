//! What the API server needs to answer `pods/exec`, `pods/attach` and `pods/portforward`: a trait that whoever runs the Pods implements.

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

/// Which Pod is meant: the one of this uid, and no other that has its name now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its unique id.
    pub uid: String,
}

/// What is asked of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionOptions {
    /// The container; resolved against the Pod before [`PodSessions::session`] is called.
    pub container: String,
    /// The command to run beside the container's program; none to be joined to that program itself.
    pub command: Option<Vec<String>>,
    /// The client sends input.
    pub stdin: bool,
    /// The client wants the output.
    pub stdout: bool,
    /// The client wants the error output; never with a terminal, where both are one.
    pub stderr: bool,
    /// Input and output are a terminal.
    pub tty: bool,
}

/// Bytes to a program.
pub type Input = Box<dyn AsyncWrite + Send + Unpin>;
/// Bytes of a program.
pub type Output = Box<dyn AsyncRead + Send + Unpin>;

/// A connection to a port of a Pod.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// A session with a container. Dropping it ends what was started for it.
pub struct Session {
    /// Where the client's input goes; dropping it closes the program's input.
    pub stdin: Option<Input>,
    /// The program's output.
    pub stdout: Option<Output>,
    /// The program's error output.
    pub stderr: Option<Output>,
    /// Says how large the client's terminal is, in columns and rows.
    pub resize: Option<Box<dyn Fn(u16, u16) + Send + Sync>>,
    /// How it ends: the exit code, or why there is none.
    pub ended: BoxFuture<'static, Result<i32, String>>,
}

/// A session that begins when it is first waited for.
pub type Beginning = BoxFuture<'static, Result<Session, String>>;

/// Why there can be no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The container does not run on this node at the moment.
    #[error("container not found ({container:?}): it does not run at the moment")]
    NotRunning {
        /// Its name.
        container: String,
    },
    /// The node can't be asked yet.
    #[error("the node is still starting; try again")]
    NotStarted,
    /// The container is not declared as what is asked needs it.
    #[error("{0}")]
    Impossible(String),
}

/// Where containers can be talked to.
pub trait PodSessions: Send + Sync {
    /// A session with a container that runs. Nothing is started before the result is waited for.
    ///
    /// # Errors
    /// See [`SessionError`].
    fn session(&self, pod: &PodKey, options: SessionOptions) -> Result<Beginning, SessionError>;

    /// A connection to a port of a Pod, as a program of the Pod itself would get it.
    fn connect(&self, pod: &PodKey, port: u16) -> BoxFuture<'static, Result<Box<dyn Connection>, String>>;
}
