//! How much of a level is used, told by how long it was used that much: histograms of time. Pure: time is passed in.
//! See <https://kubernetes.io/docs/concepts/cluster-administration/flow-control/#observability>.

use std::time::Duration;

use parking_lot::Mutex;
use skiff_base::figures::Family;

static SEATS: Family = Family::buckets(
    "apiserver_flowcontrol_priority_level_seat_utilization",
    "Observations, at the end of every nanosecond, of utilization of seats for any stage of execution (but only initial \
     stage for WATCHes)",
    OF_SEATS,
);
static REQUESTS: Family = Family::buckets(
    "apiserver_flowcontrol_priority_level_request_utilization",
    "Observations, at the end of every nanosecond, of number of requests (as a fraction of the relevant limit) waiting \
     or in any stage of execution (but only initial stage for WATCHes)",
    OF_REQUESTS,
);
static DEMAND: Family = Family::buckets(
    "apiserver_flowcontrol_demand_seats",
    "Observations, at the end of every nanosecond, of (the number of seats each priority level could use) / (nominal \
     number of seats for that level)",
    OF_DEMAND,
);
static KINDS: Family = Family::buckets(
    "apiserver_flowcontrol_read_vs_write_current_requests",
    "Observations, at the end of every nanosecond, of the number of requests (as a fraction of the relevant limit) \
     waiting or in regular stage of execution",
    OF_KINDS,
);

/// Upper bounds, as upstream's.
const OF_SEATS: &[f64] = &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];
const OF_REQUESTS: &[f64] = &[0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 1.0];
const OF_DEMAND: &[f64] = &[0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0, 2.8, 4.0, 6.0];
const OF_KINDS: &[f64] = &[0.0, 0.001, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];

/// How long something had which value.
#[derive(Debug, Clone)]
struct Timed {
    bounds: &'static [f64],
    /// Nanoseconds in each range, and beyond the last bound.
    spent: Vec<u64>,
    sum: f64,
    value: f64,
    /// The range of the value.
    range: usize,
    at: Duration,
}

impl Timed {
    fn new(bounds: &'static [f64], now: Duration) -> Self {
        let mut timed = Self { bounds, spent: vec![0; bounds.len() + 1], sum: 0.0, value: 0.0, range: 0, at: now };
        timed.set(0.0);
        timed
    }

    fn advance(&mut self, now: Duration) {
        let nanoseconds = u64::try_from(now.saturating_sub(self.at).as_nanos()).unwrap_or(u64::MAX);
        self.spent[self.range] += nanoseconds;
        self.sum += nanoseconds as f64 * self.value;
        self.at = now.max(self.at);
    }

    fn set(&mut self, value: f64) {
        if self.value != value || value == 0.0 {
            self.value = value;
            self.range = self.bounds.partition_point(|bound| *bound < value);
        }
    }

    fn write(&self, text: &mut String, family: &Family, labels: &str) {
        family.write_spread(text, labels, self.bounds, self.spent.iter().copied(), self.sum);
    }
}

/// What a level has at the moment, and of how much.
#[derive(Debug, Clone, Copy)]
pub struct Use {
    /// Seats that are taken, of so many.
    pub seats: (u32, u32),
    /// Seats that are taken or waited for, of the level's own.
    pub demand: (u32, u32),
    /// Requests that wait, of those that may.
    pub waiting: (usize, usize),
    /// Requests that are served.
    pub executing: usize,
}

/// How much of a level is used.
#[derive(Debug, Clone)]
pub struct Utilization {
    seats: Timed,
    demand: Timed,
    waiting: Timed,
    executing: Timed,
}

impl Utilization {
    /// Nothing is used yet.
    pub fn new(now: Duration) -> Self {
        Self {
            seats: Timed::new(OF_SEATS, now),
            demand: Timed::new(OF_DEMAND, now),
            waiting: Timed::new(OF_REQUESTS, now),
            executing: Timed::new(OF_REQUESTS, now),
        }
    }

    /// Time has gone by.
    pub fn advance(&mut self, now: Duration) {
        if now > self.seats.at {
            for timed in [&mut self.seats, &mut self.demand, &mut self.waiting, &mut self.executing] {
                timed.advance(now);
            }
        }
    }

    /// So much is used from now on.
    pub fn set(&mut self, now: Use) {
        let ratio = |(part, whole): (u32, u32)| f64::from(part) / f64::from(whole.max(1));
        self.seats.set(ratio(now.seats));
        self.demand.set(ratio(now.demand));
        self.waiting.set(now.waiting.0 as f64 / now.waiting.1.max(1) as f64);
        self.executing.set(now.executing as f64 / f64::from(now.seats.1.max(1)));
    }
}

/// Writes the figures of levels, by name.
pub fn write(text: &mut String, levels: &[(String, Utilization)]) {
    SEATS.write_head(text);
    for (level, own) in levels {
        own.seats.write(text, &SEATS, &format!("phase=\"executing\",priority_level={level:?}"));
    }
    REQUESTS.write_head(text);
    for (level, own) in levels {
        for (phase, timed) in [("executing", &own.executing), ("waiting", &own.waiting)] {
            timed.write(text, &REQUESTS, &format!("phase={phase:?},priority_level={level:?}"));
        }
    }
    DEMAND.write_head(text);
    for (level, own) in levels {
        own.demand.write(text, &DEMAND, &format!("priority_level={level:?}"));
    }
}

/// Requests of all levels that wait and are served, those that change something apart from the others.
#[derive(Debug)]
pub struct Kinds(Mutex<KindsNow>);

#[derive(Debug)]
struct KindsNow {
    /// How many may wait, and be served.
    limits: [usize; 2],
    counts: [[usize; 2]; 2],
    spent: [[Timed; 2]; 2],
}

/// What a request does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It waits.
    Waiting,
    /// It is served.
    Executing,
}

impl Kinds {
    /// None yet.
    pub fn new(now: Duration) -> Self {
        let timed = || Timed::new(OF_KINDS, now);
        let spent = [[timed(), timed()], [timed(), timed()]];
        Self(Mutex::new(KindsNow { limits: [1; 2], counts: [[0; 2]; 2], spent }))
    }

    /// So many may wait, and be served, altogether.
    pub fn set_limits(&self, waiting: usize, executing: usize) {
        self.0.lock().limits = [waiting.max(1), executing.max(1)];
    }

    /// One more, or one less, is in a phase.
    pub fn count(&self, now: Duration, phase: Phase, is_write: bool, comes: bool) {
        let (mut own, phase, kind) = (self.0.lock(), phase as usize, usize::from(is_write));
        let count = &mut own.counts[phase][kind];
        *count = if comes { *count + 1 } else { count.saturating_sub(1) };
        let value = own.counts[phase][kind] as f64 / own.limits[phase] as f64;
        let timed = &mut own.spent[phase][kind];
        timed.advance(now);
        timed.set(value);
    }

    /// Writes the figures.
    pub fn write(&self, text: &mut String, now: Duration) {
        KINDS.write_head(text);
        let mut own = self.0.lock();
        for (phase, kinds) in ["waiting", "executing"].into_iter().zip(&mut own.spent) {
            for (kind, timed) in ["readOnly", "mutating"].into_iter().zip(kinds) {
                timed.advance(now);
                timed.write(text, &KINDS, &format!("phase={phase:?},request_kind={kind:?}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines<'a>(text: &'a str, wanted: &str) -> Vec<&'a str> {
        text.lines().filter(|line| line.contains(wanted)).collect()
    }

    #[test]
    fn time_is_told_by_how_much_was_used() {
        let second = Duration::from_secs;
        let mut own = Utilization::new(second(0));
        own.advance(second(1));
        own.set(Use { seats: (1, 2), demand: (3, 2), waiting: (2, 100), executing: 1 });
        own.advance(second(3));
        own.advance(second(3));
        let mut text = String::new();
        write(&mut text, &[("tiny".to_owned(), own)]);
        let seats = "apiserver_flowcontrol_priority_level_seat_utilization";
        let labels = "phase=\"executing\",priority_level=\"tiny\"";
        assert_eq!(lines(&text, &format!("{seats}_bucket")).len(), 14);
        for line in [
            format!("{seats}_bucket{{{labels},le=\"0\"}} 1000000000"),
            format!("{seats}_bucket{{{labels},le=\"0.4\"}} 1000000000"),
            format!("{seats}_bucket{{{labels},le=\"0.5\"}} 3000000000"),
            format!("{seats}_bucket{{{labels},le=\"+Inf\"}} 3000000000"),
            format!("{seats}_sum{{{labels}}} 1000000000"),
            format!("{seats}_count{{{labels}}} 3000000000"),
            "apiserver_flowcontrol_demand_seats_bucket{priority_level=\"tiny\",le=\"1.4\"} 1000000000".to_owned(),
            "apiserver_flowcontrol_demand_seats_bucket{priority_level=\"tiny\",le=\"1.7\"} 3000000000".to_owned(),
            "apiserver_flowcontrol_priority_level_request_utilization_bucket{phase=\"waiting\",priority_level=\"tiny\",le=\"0.03\"} 3000000000".to_owned(),
        ] {
            assert!(text.lines().any(|own| own == line), "{line}\n{text}");
        }
    }

    #[test]
    fn those_that_change_something_are_told_apart() {
        let second = Duration::from_secs;
        let kinds = Kinds::new(second(0));
        kinds.set_limits(100, 10);
        kinds.count(second(1), Phase::Executing, true, true);
        kinds.count(second(2), Phase::Executing, true, false);
        let mut text = String::new();
        kinds.write(&mut text, second(4));
        let name = "apiserver_flowcontrol_read_vs_write_current_requests";
        let of = |kind: &str, what: &str| {
            let labels = format!("phase=\"executing\",request_kind={kind:?}");
            let begin = format!("{name}_{what}{{{labels}");
            lines(&text, &begin).into_iter().map(|line| line[begin.len()..].to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(of("mutating", "sum"), ["} 100000000"]);
        assert_eq!(of("mutating", "bucket")[2..4], [",le=\"0.01\"} 3000000000", ",le=\"0.1\"} 4000000000"]);
        assert_eq!(of("readOnly", "sum"), ["} 0"]);
        assert_eq!(of("readOnly", "count"), ["} 4000000000"]);
    }
}
