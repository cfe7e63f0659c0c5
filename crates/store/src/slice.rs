//! How long a thread runs at a time. One that asks for short slices is given the processor soon after it wakes, also where
//! others would go on for milliseconds; it is given no more of it in all. What the thread starts has slices as all others.
//! See EEVDF in the kernel's documentation, <https://docs.kernel.org/scheduler/sched-eevdf.html>.
#![allow(unsafe_code, reason = "these two calls have no safe wrapper")]

use std::cell::Cell;
use std::io;

use nix::libc;

/// The shortest slice that Linux gives.
const SHORTEST_NANOSECONDS: u64 = 100_000;
/// As the calls have it: how large the structure is.
const ATTRIBUTES_BYTES: u32 = size_of::<libc::sched_attr>() as u32;

/// Asks for the shortest slices for the thread that calls this. A kernel before Linux 6.12 agrees and does nothing.
///
/// # Errors
/// The system forbids it, or does not know the calls.
pub fn shorten() -> io::Result<()> {
    // All else stays as it is, so it is read first.
    let mut attributes = current()?;
    attributes.sched_runtime = SHORTEST_NANOSECONDS;
    attributes.sched_flags |= libc::SCHED_FLAG_RESET_ON_FORK as u64;
    // SAFETY: the structure is of the size that it says, and only read.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })
}

/// The same for a thread that calls this again and again: it asks once, and goes on as it was where it is told no.
pub fn shorten_once() {
    thread_local! {
        static HAS_ASKED: Cell<bool> = const { Cell::new(false) };
    }
    if !HAS_ASKED.replace(true)
        && let Err(error) = shorten()
    {
        tracing::debug!(%error, "a thread takes its turn as all others do");
    }
}

/// How the thread that calls this is scheduled.
fn current() -> io::Result<libc::sched_attr> {
    let mut attributes = libc::sched_attr {
        size: ATTRIBUTES_BYTES,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: no more is written than the size that the call is told.
    check(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, ATTRIBUTES_BYTES, 0) })?;
    Ok(attributes)
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_short_slices_and_stays_what_it_was() {
        std::thread::spawn(|| {
            let before = current().expect("told");
            shorten().expect("allowed");
            shorten_once();
            let after = current().expect("told");
            assert_eq!((after.sched_policy, after.sched_nice), (before.sched_policy, before.sched_nice));
            // A kernel that has no slices of threads' own tells none.
            if before.sched_runtime != 0 {
                assert_eq!(after.sched_runtime, SHORTEST_NANOSECONDS);
                let started = std::thread::spawn(current).join().expect("no panic").expect("told");
                assert_eq!(started.sched_runtime, before.sched_runtime, "what it starts is as it was");
            }
        })
        .join()
        .expect("no panic");
    }
}
