//! `cargo xtask bench`: the figures of `docs/BENCHMARKS.md`, as medians of several runs. A file for each program that
//! measures; a new one is a line of `GROUPS`.

mod api;
mod churn;
mod net;
mod node;
mod sched;
mod store;
mod upstream;

use crate::needs;

/// What one program measures.
struct Group {
    /// The names that it can be asked for.
    names: &'static [&'static str],
    /// Measures those of its names that are wanted, in the order of `names`.
    run: fn(&[&str]) -> Result<(), String>,
}

/// Everything that can be measured, in the order in which it is.
const GROUPS: &[Group] = &[store::GROUP, sched::GROUP, api::GROUP, churn::GROUP, node::GROUP, net::GROUP];

/// Measures what is named, or all.
///
/// # Errors
/// A name is unknown, or something could not be built or measured.
pub fn run(arguments: &[&str]) -> Result<(), String> {
    if let Some(unknown) = arguments.iter().find(|name| !names().any(|known| known == **name)) {
        let known: Vec<_> = names().collect();
        return Err(format!("no benchmark is called {unknown:?}; there are {}", known.join(", ")));
    }
    needs::install()?;
    for group in GROUPS {
        let wants = |name: &&&str| arguments.is_empty() || arguments.contains(*name);
        let wanted: Vec<&str> = group.names.iter().filter(wants).copied().collect();
        if !wanted.is_empty() {
            (group.run)(&wanted)?;
        }
    }
    Ok(())
}

/// The names of all benchmarks.
pub fn names() -> impl Iterator<Item = &'static str> {
    GROUPS.iter().flat_map(|group| group.names.iter().copied())
}
