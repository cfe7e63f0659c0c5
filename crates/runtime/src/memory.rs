//! The binary's allocator. The server's threads allocate all the time, and the C library's allocator takes a quarter of
//! their work; another one does it in half the time, for a quarter of a megabyte more at the start. There is a shim for
//! each pod, and it allocates next to nothing: there the C library's own is the better one.
#![allow(unsafe_code, reason = "an allocator is unsafe by its nature; this one only passes on to one of two others")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{CStr, c_char};
use std::sync::atomic::{AtomicU8, Ordering};

use mimalloc::MiMalloc;

/// The names that the binary gives to those of its processes that are to stay small. The program's own file may have any
/// other name.
const SMALL_NAMES: [&str; 2] = [crate::shim::PROGRAM_NAME, KEEPER_NAME];
/// The name of the first process of an isolated node.
pub const KEEPER_NAME: &str = "skiff-keeper";

const UNDECIDED: u8 = 0;
const SMALL: u8 = 1;
const FAST: u8 = 2;

/// What was decided at the first allocation, by the name under which the process was started.
static CHOICE: AtomicU8 = AtomicU8::new(UNDECIDED);

unsafe extern "C" {
    /// The last part of the program's name as it was started; the C library sets it before anything else runs.
    static program_invocation_short_name: *const c_char;
}

/// The allocator of the binary, whichever process it is.
pub struct Allocator;

fn is_small() -> bool {
    match CHOICE.load(Ordering::Relaxed) {
        UNDECIDED => decide(),
        choice => choice == SMALL,
    }
}

/// Decides the same for each thread that may come here, and allocates nothing.
#[cold]
fn decide() -> bool {
    // SAFETY: the C library has set the pointer to a text of its own before any code of the program runs, and nothing
    // changes it.
    let name = unsafe { program_invocation_short_name };
    // SAFETY: as above; where there is no name, the pointer may be null, which is looked at first.
    let name = if name.is_null() { c"" } else { unsafe { CStr::from_ptr(name) } };
    let is_small = SMALL_NAMES.iter().any(|small| small.as_bytes() == name.to_bytes());
    CHOICE.store(if is_small { SMALL } else { FAST }, Ordering::Relaxed);
    is_small
}

// SAFETY: every call goes to one allocator for the whole life of the process, which keeps the contract.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout is passed on.
        if is_small() { unsafe { System.alloc(layout) } } else { unsafe { MiMalloc.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout is passed on.
        if is_small() { unsafe { System.alloc_zeroed(layout) } } else { unsafe { MiMalloc.alloc_zeroed(layout) } }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block comes from the same allocator, because the choice never changes.
        if is_small() { unsafe { System.dealloc(block, layout) } } else { unsafe { MiMalloc.dealloc(block, layout) } }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if is_small() {
            // SAFETY: the block comes from the same allocator, because the choice never changes.
            unsafe { System.realloc(block, layout, size) }
        } else {
            // SAFETY: as above.
            unsafe { MiMalloc.realloc(block, layout, size) }
        }
    }
}
