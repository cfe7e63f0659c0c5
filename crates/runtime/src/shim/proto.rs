//! What skiff and a shim say to each other: one JSON message per packet of a unix socket,
//! with file descriptors beside it where a message says so.

use crate::oci::IdMaps;
use serde::{Deserialize, Serialize};

/// The longest message. Whatever can be long (specifications) travels as a file.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// The most descriptors beside one message.
pub const MAX_DESCRIPTORS: usize = 4;
/// The socket in the sandbox's folder that a shim listens on.
pub const SOCKET_NAME: &str = "s";
/// The file in a container's folder that the shim leaves when the container has ended.
pub const EXIT_FILE: &str = "exit.json";

/// A request to the shim; every one is answered by a [`Reply`] with the same number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the caller.
    pub number: u32,
    /// What to do.
    pub call: Call,
}

/// What a shim can be asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Call {
    /// The first request, once: become the holder of this sandbox.
    Setup(Setup),
    /// Start a container.
    Start(Start),
    /// Start a process in a running container. Beside it: the process as JSON in a file, then those of
    /// standard input, output and error that are marked.
    Exec(Exec),
    /// Send a signal to a container's first process, or to an exec.
    Signal {
        /// Container or exec.
        id: String,
        /// Number of the signal.
        signal: i32,
    },
    /// Set the size of the terminal of a container or an exec.
    Resize {
        /// Container or exec.
        id: String,
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
    /// Open the container's log anew.
    Reopen {
        /// Container.
        id: String,
    },
    /// Join a container's streams. Beside it: those of standard input (to read), output and error (to write)
    /// that are marked.
    Attach {
        /// Container.
        id: String,
        /// Which descriptors come along.
        streams: Streams,
    },
    /// Connect to a port on the sandbox's loopback; the socket comes back beside the answer.
    Connect {
        /// Port.
        port: u16,
    },
    /// Say what became of every container.
    List,
    /// Forget an ended container.
    Forget {
        /// Container.
        id: String,
    },
    /// End everything, and the shim itself.
    Shutdown,
}

/// Which of the three standard streams are meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

/// A sandbox to hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// The sandbox's folder, where the socket is made.
    pub dir: String,
    /// A network namespace of its own, with the loopback up.
    pub new_network: bool,
    /// An IPC namespace of its own.
    pub new_ipc: bool,
    /// A host name of its own; none for pods on the host's network.
    pub hostname: Option<String>,
    /// Kernel settings of the namespaces, by path below `/proc/sys`.
    pub sysctls: Vec<(String, String)>,
    /// Whether containers see each other's processes.
    pub share_pid: bool,
    /// A user namespace of its own, with these ids; it owns the others.
    pub user_namespace: Option<IdMaps>,
}

/// A container to start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Its id.
    pub id: String,
    /// Its folder, with the bundle.
    pub dir: String,
    /// Its log file; none keeps no log.
    pub log: Option<String>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its standard input stays open for those who attach.
    pub stdin: bool,
    /// Whether its standard input ends with the first that attached.
    pub stdin_once: bool,
    /// Its process ids.
    pub pid_namespace: PidNamespace,
    /// The files that it joins its cgroup by.
    pub cgroup_files: Vec<String>,
    /// On v2, the folder of its cgroup, to be made in.
    pub cgroup_folder: Option<String>,
    /// The file of its cgroup that counts kills for want of memory.
    pub oom_file: Option<String>,
}

/// Where a container's processes are numbered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidNamespace {
    /// On their own.
    #[default]
    Own,
    /// With the node.
    Host,
    /// With the sandbox's other containers.
    Sandbox,
    /// With this container of the sandbox.
    Container(String),
}

/// A process to start in a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Exec {
    /// Its id, chosen by the caller.
    pub id: String,
    /// The container.
    pub container: String,
    /// Whether it gets a terminal; the terminal comes back beside the answer.
    pub tty: bool,
    /// Which descriptors come along.
    pub streams: Streams,
    /// The files that it joins its cgroup by.
    pub cgroup_files: Vec<String>,
    /// On v2, the folder of its cgroup, to be made in.
    pub cgroup_folder: Option<String>,
}

/// What a shim says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// The answer to a request.
    Reply(Reply),
    /// A container ended; told to everyone connected.
    ContainerExited(ContainerReport),
    /// An exec ended; told to whoever started it.
    ExecExited {
        /// Its id.
        id: String,
        /// Its exit code.
        code: i32,
    },
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The number of the request.
    pub number: u32,
    /// What came of it, or what went wrong.
    pub result: Result<Answer, String>,
}

/// What came of a request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The process that was started, or the shim itself for `Setup`.
    pub pid: u32,
    /// When it was started, in nanoseconds.
    pub at: i64,
    /// The answer to `List`.
    pub containers: Vec<ContainerReport>,
}

/// What became of a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerReport {
    /// Its id.
    pub id: String,
    /// Its first process.
    pub pid: u32,
    /// When it was started, in nanoseconds.
    pub started_at: i64,
    /// How it ended; none while it runs.
    pub exit: Option<Exit>,
}

/// How a container ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 and the number when a signal ended it.
    pub code: i32,
    /// When, in nanoseconds.
    pub at: i64,
    /// When it was started, in nanoseconds; zero when it never was.
    pub started_at: i64,
    /// Whether the kernel killed one of its processes for want of memory.
    pub oom: bool,
    /// Why it could not be started, when that is what happened.
    pub message: String,
    /// Whether nobody saw it end.
    #[serde(default)]
    pub unknown: bool,
}
