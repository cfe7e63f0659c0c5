//! `cargo xtask bench`: figures for `docs/BENCHMARKS.md`, as medians of several runs.

/// Measures one thing, or all.
///
/// # Errors
/// The name is unknown, or something could not be measured.
pub fn run(arguments: &[&str]) -> Result<(), String> {
    Err(format!("no benchmark is called {arguments:?}"))
}
