//! Parts of a benchmark, of which each may fail without the others: what a table says of them.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Divides all counts, sizes and times, for a trial of the benchmark itself.
const SHARE: &str = "SKIFF_BENCH_SHARE";

/// By what all counts, sizes and times are divided.
pub fn share() -> u32 {
    std::env::var(SHARE).map_or(1, |text| text.parse().expect("SKIFF_BENCH_SHARE is a number"))
}

/// Measures something; what it fails with.
///
/// # Errors
/// It panicked: what it said.
pub fn attempt(measure: impl FnOnce()) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(measure)).map_err(|panic| said(&*panic))
}

/// What a panic said, on one line.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("without a word").replace('\n', " ")
}

/// A row of a table of three.
pub fn line(figure: &str, of: &str, text: &str) {
    println!("| {figure} | {of} | {text} |");
}

/// A folder that is gone when the value is.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new one.
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("skiff-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a writable temporary folder");
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap_or_else(|error| eprintln!("{}: {error}", self.0.display()));
    }
}
