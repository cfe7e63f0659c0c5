//! What the tests of sockets share.

use nix::sched::{CloneFlags, unshare};
use skiff_netd::netlink::{Batch, Protocol, Socket};

/// Runs `work` in a new network namespace that has a loopback interface and nothing else.
pub fn in_own_namespace<T: Send>(work: impl AsyncFnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("tests of the network run as root");
            let mut up = [0; 16];
            // The interface with index 1, flags and their mask: up.
            (up[4], up[8], up[12]) = (1, 1, 1);
            let mut batch = Batch::new();
            drop(batch.message("switch lo on", 16, 5, &up));
            Socket::open(Protocol::Route).expect("opens").execute(&batch).expect("the kernel does it");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("starts");
            runtime.block_on(work())
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
