//! Figures of the process for `/metrics`: counters, gauges and histograms, each declared once as a [`Family`]. They are
//! kept for the whole process, because that is what asks for them; nothing decides by them.
//! See <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;

/// So many series of a family are told; what comes then is counted by nobody, lest names that users choose fill the memory.
const MAX_SERIES: usize = 4096;

/// What is counted under one name.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Family {
    /// `workqueue_adds_total`.
    pub name: &'static str,
    /// What it tells.
    pub help: &'static str,
    /// How it is counted.
    pub kind: Kind,
}

/// How something is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It is what it is just now.
    Gauge,
    /// How values spread over ranges: the first upper bound in millionths, the factor to the next, and how many there are.
    Histogram(u64, u64, usize),
}

/// One series of a family. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Series(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    value: f64,
    count: u64,
    bounds: Vec<f64>,
    below: Vec<u64>,
}

/// Tells the values of a gauge when it is asked, each with its labels.
pub type Source = dyn Fn() -> Vec<(String, f64)> + Send + Sync;

#[derive(Default)]
struct Registry {
    families: BTreeMap<&'static str, (&'static Family, BTreeMap<String, Series>)>,
    sources: Vec<(&'static Family, Weak<Source>)>,
}

static REGISTRY: LazyLock<Mutex<Registry>> = LazyLock::new(Mutex::default);

impl Family {
    /// A counter.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Counter }
    }

    /// A gauge.
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Gauge }
    }

    /// A histogram whose bounds grow by a factor from the first one, in millionths.
    pub const fn histogram(name: &'static str, help: &'static str, first: u64, factor: u64, count: usize) -> Self {
        Self { name, help, kind: Kind::Histogram(first, factor, count) }
    }

    /// The series with these labels, `name="deployment"`; the same again is the same.
    pub fn with(&'static self, labels: &str) -> Series {
        let mut registry = REGISTRY.lock();
        let (_, all) = registry.families.entry(self.name).or_insert_with(|| (self, BTreeMap::new()));
        if let Some(series) = all.get(labels) {
            return series.clone();
        }
        let bounds: Vec<f64> = match self.kind {
            Kind::Histogram(first, factor, count) => {
                std::iter::successors(Some(first), |bound| bound.checked_mul(factor))
                    .take(count)
                    .map(|bound| bound as f64 / 1e6)
                    .collect()
            }
            Kind::Counter | Kind::Gauge => Vec::new(),
        };
        let state = State { below: vec![0; bounds.len()], bounds, ..State::default() };
        let series = Series(Arc::new(Mutex::new(state)));
        if all.len() < MAX_SERIES {
            all.insert(labels.to_owned(), series.clone());
        }
        series
    }

    /// Asks `source` for the values of this gauge for as long as it lives.
    pub fn told_by(&'static self, source: &Arc<Source>) {
        let mut registry = REGISTRY.lock();
        registry.sources.retain(|(_, source)| source.strong_count() > 0);
        registry.sources.push((self, Arc::downgrade(source)));
    }
}

impl Series {
    /// Adds one.
    pub fn inc(&self) {
        self.0.lock().value += 1.0;
    }

    /// Is this much now.
    pub fn set(&self, value: f64) {
        self.0.lock().value = value;
    }

    /// One value of a histogram.
    pub fn observe(&self, value: f64) {
        let mut state = self.0.lock();
        if let Some(at) = state.bounds.iter().position(|bound| value <= *bound) {
            state.below[at] += 1;
        }
        state.value += value;
        state.count += 1;
    }

    /// One duration of a histogram of seconds.
    pub fn took(&self, time: Duration) {
        self.observe(time.as_secs_f64());
    }
}

/// The exposition text of all that was counted.
pub fn text() -> String {
    let mut registry = REGISTRY.lock();
    registry.sources.retain(|(_, source)| source.strong_count() > 0);
    let mut text = String::new();
    for (family, all) in registry.families.values() {
        head(&mut text, family);
        for (labels, series) in all {
            write(&mut text, family, labels, &series.0.lock());
        }
    }
    let mut sources: Vec<_> =
        registry.sources.iter().filter_map(|(family, source)| Some((*family, source.upgrade()?))).collect();
    drop(registry);
    sources.sort_by_key(|(family, _)| family.name);
    let mut last = "";
    for (family, source) in sources {
        if family.name != last {
            head(&mut text, family);
            last = family.name;
        }
        for (labels, value) in source() {
            line(&mut text, family.name, &labels, value);
        }
    }
    text
}

fn head(text: &mut String, family: &Family) {
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram(..) => "histogram",
    };
    add(text, format_args!("# HELP {} {}\n# TYPE {} {kind}\n", family.name, family.help, family.name));
}

fn write(text: &mut String, family: &Family, labels: &str, state: &State) {
    let Kind::Histogram(..) = family.kind else { return line(text, family.name, labels, state.value) };
    let comma = if labels.is_empty() { "" } else { "," };
    let mut below = 0;
    for (bound, count) in state.bounds.iter().zip(&state.below) {
        below += count;
        add(text, format_args!("{}_bucket{{{labels}{comma}le=\"{bound}\"}} {below}\n", family.name));
    }
    add(text, format_args!("{}_bucket{{{labels}{comma}le=\"+Inf\"}} {}\n", family.name, state.count));
    line(text, &format!("{}_sum", family.name), labels, state.value);
    line(text, &format!("{}_count", family.name), labels, state.count as f64);
}

fn line(text: &mut String, name: &str, labels: &str, value: f64) {
    if labels.is_empty() {
        add(text, format_args!("{name} {value}\n"));
    } else {
        add(text, format_args!("{name}{{{labels}}} {value}\n"));
    }
}

fn add(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    static ADDS: Family = Family::counter("test_adds_total", "What was added.");
    static TIMES: Family = Family::histogram("test_seconds", "How long it took.", 1_000, 10, 3);
    static DEPTH: Family = Family::gauge("test_depth", "How many wait.");

    #[test]
    fn figures_are_told_as_prometheus_reads_them() {
        ADDS.with("name=\"a\"").inc();
        ADDS.with("name=\"a\"").inc();
        TIMES.with("").took(Duration::from_millis(5));
        TIMES.with("").observe(7.0);
        let source: Arc<Source> = Arc::new(|| vec![("queue=\"active\"".to_owned(), 3.0)]);
        DEPTH.told_by(&source);
        let told = text();
        let ours: Vec<_> = told.lines().filter(|line| line.starts_with("test_")).collect();
        assert_eq!(
            ours,
            [
                "test_adds_total{name=\"a\"} 2",
                "test_seconds_bucket{le=\"0.001\"} 0",
                "test_seconds_bucket{le=\"0.01\"} 1",
                "test_seconds_bucket{le=\"0.1\"} 1",
                "test_seconds_bucket{le=\"+Inf\"} 2",
                "test_seconds_sum 7.005",
                "test_seconds_count 2",
                "test_depth{queue=\"active\"} 3",
            ]
        );
        drop(source);
        assert!(!text().contains("test_depth"), "who told of it is gone");
    }
}
