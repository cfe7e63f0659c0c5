//! Chance that follows from a seed: in this program the system's source of it gives every thread the same numbers.
//! The order of hash maps and the turns that tokio's `select!` and `watch` take come from there; with it a seed is run again
//! just as it was. Nothing else has it, and the process of a run does nothing but that.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

static START: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static STATE: Cell<u64> = Cell::new(START.load(Ordering::Relaxed));
}

/// The numbers of threads that begin from now on follow from `seed`.
pub fn begin(seed: u64) {
    START.store(seed, Ordering::Relaxed);
}

/// The next number of this thread (SplitMix64).
fn next() -> u64 {
    // A thread that ends has no state any more, and needs no chance.
    let state = STATE.try_with(|state| state.replace(state.get().wrapping_add(0x9E37_79B9_7F4A_7C15)));
    let z = state.unwrap_or_default();
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Stands in for the C library's function of this name.
#[expect(unsafe_code, reason = "the standard library has no other way to be given the keys of its hash maps")]
#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: as for getrandom(2), the buffer is the caller's and `length` bytes long.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    for piece in bytes.chunks_mut(8) {
        piece.copy_from_slice(&next().to_le_bytes()[..piece.len()]);
    }
    length.cast_signed()
}
