//! What tests need: a folder that goes away, a network namespace of their own.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

/// A new folder, removed with all its content in the end.
pub(crate) struct TempFolder(PathBuf);

impl TempFolder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("skiff-netd-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a folder can be made");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("the folder can be removed");
    }
}

/// Runs `work` on a new thread in a new network namespace, which vanishes with the thread and all that is in it.
pub(crate) fn in_own_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("tests of the network run as root");
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The next client of a listener. One that nobody comes to fails the test, where waiting in the kernel would hang it.
pub(crate) fn accept(listener: &TcpListener, patience: Duration) -> (TcpStream, SocketAddr) {
    listener.set_nonblocking(true).expect("can be set");
    for _ in 0..patience.as_millis() {
        if let Ok((stream, peer)) = listener.accept() {
            stream.set_nonblocking(false).expect("can be set");
            return (stream, peer);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("nobody comes");
}

/// Another network namespace, kept by a thread that waits in it.
pub(crate) struct OtherNamespace {
    path: PathBuf,
    end: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl OtherNamespace {
    pub(crate) fn new() -> Self {
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("tests of the network run as root");
            ready.send(nix::unistd::gettid()).expect("the test waits for it");
            // Ends when the other side is dropped, which is an error to `recv` and all that it waits for.
            assert!(ended.recv().is_err());
        });
        let id = is_ready.recv().expect("the thread says so");
        let path = PathBuf::from(format!("/proc/self/task/{id}/ns/net"));
        Self { path, end: Some(end), thread: Some(thread) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` inside.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = crate::netlink::Namespace::open(&self.path).expect("the thread holds it");
        namespace.run(work).expect("it can be entered")
    }
}

impl Drop for OtherNamespace {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || std::thread::panicking());
        }
    }
}
