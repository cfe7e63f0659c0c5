//! How long the expressions of custom kinds' schemas take to compile and to evaluate. They are compiled where no server is
//! at hand; so these figures are kept for the whole process.

use std::sync::LazyLock;

use skiff_base::Clock;
use skiff_base::clock::SystemClock;
use skiff_base::figures::{Family, Series};

/// The upper bounds that upstream's client of Prometheus takes where none are named, in seconds.
const BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

static COMPILATION: Family = Family::buckets(
    "apiserver_cel_compilation_duration_seconds",
    "How long the rules of a schema took to compile, in seconds.",
    &BOUNDS,
);
static EVALUATION: Family = Family::buckets(
    "apiserver_cel_evaluation_duration_seconds",
    "How long the rules took to look at an object, in seconds.",
    &BOUNDS,
);

static COMPILED: LazyLock<Series> = LazyLock::new(|| COMPILATION.with(""));
static EVALUATED: LazyLock<Series> = LazyLock::new(|| EVALUATION.with(""));
static CLOCK: LazyLock<SystemClock> = LazyLock::new(SystemClock::default);

/// Compiles rules, and counts how long it took.
pub fn compiling<T>(work: impl FnOnce() -> T) -> T {
    timed(&COMPILED, work)
}

/// Evaluates rules, and counts how long it took.
pub fn evaluating<T>(work: impl FnOnce() -> T) -> T {
    timed(&EVALUATED, work)
}

fn timed<T>(series: &Series, work: impl FnOnce() -> T) -> T {
    let began = CLOCK.monotonic();
    let done = work();
    series.took(CLOCK.monotonic().saturating_sub(began));
    done
}
