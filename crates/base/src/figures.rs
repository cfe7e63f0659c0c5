//! Figures for `/metrics`: counters, gauges and histograms, each declared once as a [`Family`], kept in a [`Registry`].
//! Most are kept for the whole process, because that is what asks for them; a server that tests make many of has a
//! registry of its own. Nothing decides by them. Counting is a few atomic steps on a [`Series`] that its owner holds.
//! See <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;

/// So many series of a family are told; what comes then is counted by nobody, lest names that users choose fill the memory.
const MAX_SERIES: usize = 4096;

/// What is counted under one name.
#[derive(Debug, PartialEq, PartialOrd)]
pub struct Family {
    /// `workqueue_adds_total`.
    pub name: &'static str,
    /// What it tells.
    pub help: &'static str,
    /// How it is counted.
    pub kind: Kind,
}

/// How something is counted.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It is what it is just now.
    Gauge,
    /// How values spread over ranges: the first upper bound in millionths, the factor to the next, and how many there are.
    Histogram(u64, u64, usize),
    /// The same with these upper bounds.
    Buckets(&'static [f64]),
}

/// One series of a family. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Series(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// The bits of a number: the value, or the sum of all values.
    value: AtomicU64,
    bounds: Box<[f64]>,
    /// How many values are in each range; the last is that of what is above all bounds.
    counts: Box<[AtomicU64]>,
}

/// Tells the values of a gauge when it is asked, each with its labels.
pub type Source = dyn Fn() -> Vec<(String, f64)> + Send + Sync;

/// Families with their series.
#[derive(Default)]
pub struct Registry(Mutex<Families>);

#[derive(Default)]
struct Families {
    families: BTreeMap<&'static str, (&'static Family, BTreeMap<String, Series>)>,
    sources: Vec<(&'static Family, Weak<Source>)>,
}

static PROCESS: LazyLock<Registry> = LazyLock::new(Registry::default);

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

    /// A histogram with these upper bounds.
    pub const fn buckets(name: &'static str, help: &'static str, bounds: &'static [f64]) -> Self {
        Self { name, help, kind: Kind::Buckets(bounds) }
    }

    /// The process's series with these labels, `name="deployment"`; the same again is the same.
    pub fn with(&'static self, labels: &str) -> Series {
        PROCESS.series(self, labels)
    }

    /// Asks `source` for the values of this gauge for as long as it lives.
    pub fn told_by(&'static self, source: &Arc<Source>) {
        let mut process = PROCESS.0.lock();
        process.sources.retain(|(_, source)| source.strong_count() > 0);
        process.sources.push((self, Arc::downgrade(source)));
    }

    fn bounds(&self) -> Box<[f64]> {
        match self.kind {
            Kind::Counter | Kind::Gauge => Box::default(),
            Kind::Buckets(bounds) => bounds.into(),
            Kind::Histogram(first, factor, count) => {
                std::iter::successors(Some(first), |bound| bound.checked_mul(factor))
                    .take(count)
                    .map(|bound| bound as f64 / 1e6)
                    .collect()
            }
        }
    }

    /// Writes what comes before its values.
    pub fn write_head(&self, text: &mut String) {
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(..) | Kind::Buckets(_) => "histogram",
        };
        add(text, format_args!("# HELP {} {}\n# TYPE {} {kind}\n", self.name, self.help, self.name));
    }

    /// Writes one of its values; not of a histogram.
    pub fn write_value(&self, text: &mut String, labels: &str, value: f64) {
        line(text, self.name, labels, value);
    }

    /// Writes how values spread: so many in each range between `bounds`, which are the family's, and beyond the last.
    pub fn write_spread(
        &self,
        text: &mut String,
        labels: &str,
        bounds: &[f64],
        counts: impl IntoIterator<Item = u64>,
        sum: f64,
    ) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut below = 0;
        for (index, count) in counts.into_iter().enumerate() {
            below += count;
            let bound = bounds.get(index).map_or_else(|| "+Inf".to_owned(), |bound| number(*bound));
            add(text, format_args!("{}_bucket{{{labels}{comma}le=\"{bound}\"}} {below}\n", self.name));
        }
        line(text, &format!("{}_sum", self.name), labels, sum);
        line(text, &format!("{}_count", self.name), labels, below as f64);
    }
}

impl Registry {
    /// The series with these labels; the same again is the same. What is beyond the limit is counted and not told.
    pub fn series(&self, family: &'static Family, labels: &str) -> Series {
        let mut all = self.0.lock();
        let (_, known) = all.families.entry(family.name).or_insert_with(|| (family, BTreeMap::new()));
        if let Some(series) = known.get(labels) {
            return series.clone();
        }
        let bounds = family.bounds();
        let ranges = if bounds.is_empty() { 0 } else { bounds.len() + 1 };
        let counts = std::iter::repeat_with(AtomicU64::default).take(ranges).collect();
        let series = Series(Arc::new(State { value: AtomicU64::default(), bounds, counts }));
        if known.len() < MAX_SERIES {
            known.insert(labels.to_owned(), series.clone());
        }
        series
    }

    /// The exposition text of all that was counted.
    pub fn text(&self) -> String {
        let mut all = self.0.lock();
        all.sources.retain(|(_, source)| source.strong_count() > 0);
        let mut text = String::new();
        for (family, known) in all.families.values() {
            family.write_head(&mut text);
            for (labels, series) in known {
                series.0.write(&mut text, family, labels);
            }
        }
        let mut sources: Vec<_> =
            all.sources.iter().filter_map(|(family, source)| Some((*family, source.upgrade()?))).collect();
        drop(all);
        sources.sort_by_key(|(family, _)| family.name);
        let mut last = "";
        for (family, source) in sources {
            if family.name != last {
                family.write_head(&mut text);
                last = family.name;
            }
            for (labels, value) in source() {
                line(&mut text, family.name, &labels, value);
            }
        }
        text
    }
}

impl Series {
    /// Adds one.
    pub fn inc(&self) {
        self.0.add(1.0);
    }

    /// Takes one away.
    pub fn dec(&self) {
        self.0.add(-1.0);
    }

    /// Adds this much.
    pub fn add(&self, more: f64) {
        self.0.add(more);
    }

    /// Is this much now.
    pub fn set(&self, value: f64) {
        self.0.value.store(value.to_bits(), Ordering::Relaxed);
    }

    /// One value of a histogram.
    pub fn observe(&self, value: f64) {
        let state = &*self.0;
        let range = state.bounds.iter().position(|bound| value <= *bound).unwrap_or(state.bounds.len());
        if let Some(count) = state.counts.get(range) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        state.add(value);
    }

    /// One duration of a histogram of seconds.
    pub fn took(&self, time: Duration) {
        self.observe(time.as_secs_f64());
    }
}

impl State {
    fn add(&self, more: f64) {
        let mut known = self.value.load(Ordering::Relaxed);
        loop {
            let sum = (f64::from_bits(known) + more).to_bits();
            match self.value.compare_exchange_weak(known, sum, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => known = now,
            }
        }
    }

    fn write(&self, text: &mut String, family: &Family, labels: &str) {
        let value = f64::from_bits(self.value.load(Ordering::Relaxed));
        if self.counts.is_empty() {
            return line(text, family.name, labels, value);
        }
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        family.write_spread(text, labels, &self.bounds, counts, value);
    }
}

/// The exposition text of all that was counted for the process.
pub fn text() -> String {
    PROCESS.text()
}

/// A bound as Go writes it: large ones with an exponent, `2.592e+06`.
fn number(value: f64) -> String {
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((digits, exponent)) if value >= 1e6 => format!("{digits}e+{exponent:0>2}"),
        _ => value.to_string(),
    }
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
    fn bounds_are_written_as_go_writes_them() {
        let shown = [0.005, 604_800.0, 1e6, 2_592_000.0, 1e9].map(number);
        assert_eq!(shown, ["0.005", "604800", "1e+06", "2.592e+06", "1e+09"]);
    }

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
