//! Carries what comes to ports of this machine to the nodes of a cluster: a thread of the switch's keeper that stands in the
//! machine's network, so that it outlives every node and goes with the cluster. It knows addresses only, which a file
//! tells; `skiff cluster` writes that anew when nodes come and go.

mod choice;
mod tcp;
mod udp;

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::sched::{CloneFlags, setns};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use skiff_base::SystemClock;
use skiff_base::clock::SharedClock;

use crate::paths::{Paths, named, remove_file, write_atomically};
use crate::process::Process;
use choice::Choice;

/// A node that takes longer to answer than this is passed over.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// After a failure to take what comes: it is mostly that there is too little memory or too many open files, which wants time.
const PAUSE: Duration = Duration::from_millis(50);
/// How often the beginning relay is looked for.
const START_POLL: Duration = Duration::from_millis(5);
/// It has listened by then, or something is very wrong.
const START_LIMIT: Duration = Duration::from_secs(30);

/// What is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// Where it is on this machine.
    pub listen: SocketAddr,
    /// What is carried.
    pub transport: Transport,
    /// Where it leads.
    pub targets: Vec<SocketAddr>,
}

/// What the relay said when it began.
#[derive(Debug, Serialize, Deserialize)]
struct Beginning {
    error: Option<String>,
}

fn plan_file(root: &Path) -> PathBuf {
    root.join("relay.json")
}

fn beginning_file(root: &Path) -> PathBuf {
    root.join("run/relay.began")
}

/// Whether the keeper of this folder is to carry anything.
pub fn is_wanted(root: &Path) -> bool {
    plan_file(root).exists()
}

/// Tells the relay where ports lead from now on; which ports there are is read when the keeper begins.
///
/// # Errors
/// The file cannot be written.
pub fn tell(paths: &Paths, ways: &[Way]) -> io::Result<()> {
    let bytes = serde_json::to_vec_pretty(ways).map_err(io::Error::other)?;
    write_atomically(&plan_file(&paths.root), &bytes, 0o644)
}

/// Forgets what an earlier relay said; before a keeper is started.
///
/// # Errors
/// The file cannot be removed.
pub fn forget(paths: &Paths) -> io::Result<()> {
    remove_file(&beginning_file(&paths.root))
}

/// Waits until the keeper's relay listens on all its ports.
///
/// # Errors
/// It cannot have one, or the keeper ended.
pub fn wait(paths: &Paths, keeper: Process) -> io::Result<()> {
    let file = beginning_file(&paths.root);
    for _ in 0..START_LIMIT.as_millis() / START_POLL.as_millis() {
        match fs::read(&file) {
            Ok(bytes) => {
                let beginning: Beginning = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
                return beginning.error.map_or(Ok(()), |error| Err(io::Error::other(error)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && keeper.is_alive() => {
                std::thread::sleep(START_POLL);
            }
            Err(error) => return Err(named(&file, "read", error)),
        }
    }
    Err(io::Error::other(format!("the cluster's ports are not listened on; {} says more", paths.log().display())))
}

/// Begins to carry. Standard input is the network that the ports are in.
///
/// # Errors
/// The thread cannot be started.
pub fn start(root: &Path) -> io::Result<()> {
    let root = root.to_owned();
    let thread = std::thread::Builder::new().name("relay".to_owned());
    let run = move || {
        let outcome = begin(&root).and_then(|(runtime, ways)| {
            say(&root, None)?;
            runtime.block_on(carry(ways));
            Ok(())
        });
        if let Err(error) = outcome {
            eprintln!("skiff: the cluster's ports: {error}");
            if let Err(error) = say(&root, Some(error.to_string())) {
                eprintln!("skiff: {error}");
            }
        }
    };
    thread.spawn(run).map(drop)
}

fn say(root: &Path, error: Option<String>) -> io::Result<()> {
    let bytes = serde_json::to_vec(&Beginning { error }).map_err(io::Error::other)?;
    write_atomically(&beginning_file(root), &bytes, 0o644)
}

/// A port that is listened on.
enum Listening {
    Tcp(tokio::net::TcpListener, Arc<Led>),
    Udp(tokio::net::UdpSocket, Arc<Led>),
}

/// Enters the machine's network and listens.
fn begin(root: &Path) -> io::Result<(tokio::runtime::Runtime, Vec<Listening>)> {
    // The thread stays there, and opens all its sockets there.
    setns(io::stdin().as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
    // Every connection is two files.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).map_err(io::Error::from)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).map_err(io::Error::from)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let book = Arc::new(Book::open(plan_file(root))?);
    let listen = |(place, way): (usize, Way)| {
        let led = Arc::new(Led { book: book.clone(), place, choice: Mutex::default(), clock: SystemClock::shared() });
        let failed = |error| io::Error::other(format!("listen on {}/{}: {error}", way.listen, way.transport));
        let _entered = runtime.enter();
        Ok::<_, io::Error>(match way.transport {
            Transport::Tcp => {
                let listener = std::net::TcpListener::bind(way.listen).map_err(failed)?;
                listener.set_nonblocking(true)?;
                Listening::Tcp(tokio::net::TcpListener::from_std(listener)?, led)
            }
            Transport::Udp => {
                let socket = std::net::UdpSocket::bind(way.listen).map_err(failed)?;
                socket.set_nonblocking(true)?;
                Listening::Udp(tokio::net::UdpSocket::from_std(socket)?, led)
            }
        })
    };
    let ways = book.ways().into_iter().enumerate().map(listen).collect::<io::Result<_>>()?;
    Ok((runtime, ways))
}

async fn carry(ways: Vec<Listening>) {
    let mut tasks = tokio::task::JoinSet::new();
    for way in ways {
        match way {
            Listening::Tcp(listener, led) => tasks.spawn(tcp::serve(listener, led)),
            Listening::Udp(socket, led) => tasks.spawn(udp::serve(socket, led)),
        };
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            eprintln!("skiff: a port of the cluster: {error}");
        }
    }
}

/// What the file says, read again when it is another.
struct Book {
    file: PathBuf,
    /// Which file that was, by its time and number: one is never written to, but put into the place of another.
    read: Mutex<(Option<(SystemTime, u64)>, Vec<Way>)>,
}

impl Book {
    fn open(file: PathBuf) -> io::Result<Self> {
        let book = Self { file, read: Mutex::new((None, Vec::new())) };
        book.look()?;
        Ok(book)
    }

    /// What it said when it was looked at last.
    fn ways(&self) -> Vec<Way> {
        self.read.lock().1.clone()
    }

    fn look(&self) -> io::Result<()> {
        let failed = |error| named(&self.file, "read", error);
        let data = fs::metadata(&self.file).map_err(failed)?;
        let found = Some((data.modified().map_err(failed)?, data.ino()));
        let mut read = self.read.lock();
        if read.0 != found {
            let bytes = fs::read(&self.file).map_err(failed)?;
            *read = (found, serde_json::from_slice(&bytes).map_err(|error| failed(io::Error::other(error)))?);
        }
        Ok(())
    }
}

/// Where one port leads, and what is known of those nodes.
struct Led {
    book: Arc<Book>,
    place: usize,
    choice: Mutex<Choice>,
    clock: SharedClock,
}

impl Led {
    /// How many nodes there are.
    fn count(&self) -> usize {
        self.book.read.lock().1.get(self.place).map_or(0, |way| way.targets.len())
    }

    /// In which order the nodes are tried now.
    fn order(&self) -> Vec<SocketAddr> {
        if let Err(error) = self.book.look() {
            // What was read before holds meanwhile.
            eprintln!("skiff: {error}");
        }
        let read = self.book.read.lock();
        let targets = read.1.get(self.place).map_or(&[][..], |way| &way.targets);
        self.choice.lock().order(targets, self.clock.monotonic())
    }

    fn failed(&self, target: SocketAddr) {
        self.choice.lock().failed(target, self.clock.monotonic());
    }

    fn answered(&self, target: SocketAddr) {
        self.choice.lock().answered(target);
    }
}

#[cfg(test)]
mod tests;
