//! A priority level at work: requests take its seats, or wait in its queues until somebody gives some back. Who is next
//! is decided in [`queues`](super::queues), how many seats there are in [`shares`](super::shares).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use skiff_base::Timestamp;
use skiff_base::clock::SharedClock;
use skiff_base::figures::{Family, Series};
use skiff_object::Object;
use skiff_object::meta::Meta;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::Flow;
use super::queues::{Arrival, QueueSet, Queuing, Refusal, Ticket, Virtual};
use super::shares::{self, Bounds, Share, Wanted};
use super::utilization::{self, Kinds, Phase};
use super::width::{self, Width};
use crate::http::request::RequestInfo;
use crate::metrics::Metrics;

const DURATIONS: [f64; 13] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];

static DISPATCHED: Family = Family::counter(
    "apiserver_flowcontrol_dispatched_requests_total",
    "Number of requests executed by API Priority and Fairness subsystem",
);
static REJECTED: Family = Family::counter(
    "apiserver_flowcontrol_rejected_requests_total",
    "Number of requests rejected by API Priority and Fairness subsystem",
);
static EXECUTING: Family = Family::gauge(
    "apiserver_flowcontrol_current_executing_requests",
    "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and \
     Fairness subsystem",
);
static SEATS: Family = Family::gauge(
    "apiserver_flowcontrol_current_executing_seats",
    "Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage \
     otherwise) requests in the API Priority and Fairness subsystem",
);
static WAITING: Family = Family::gauge(
    "apiserver_flowcontrol_current_inqueue_requests",
    "Number of requests currently pending in queues of the API Priority and Fairness subsystem",
);
static WAITED: Family = Family::buckets(
    "apiserver_flowcontrol_request_wait_duration_seconds",
    "Length of time a request spent waiting in its queue",
    &DURATIONS,
);
static EXECUTED: Family = Family::buckets(
    "apiserver_flowcontrol_request_execution_seconds",
    "Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution in the API Priority \
     and Fairness subsystem",
    &DURATIONS,
);
static WORK: Family = Family::buckets(
    "apiserver_flowcontrol_work_estimated_seats",
    "Number of estimated seats (maximum of initial and final seats) associated with requests in API Priority and \
     Fairness",
    &[1.0, 2.0, 4.0, 10.0],
);
static WATCHED: Family = Family::buckets(
    "apiserver_flowcontrol_watch_count_samples",
    "count of watchers for mutating requests in API Priority and Fairness",
    &[0.0, 1.0, 10.0, 100.0, 1000.0, 10000.0],
);
static SET_BACK: Family = Family::counter(
    "apiserver_flowcontrol_epoch_advance_total",
    "Number of times the queueset's progress meter jumped backward",
);
static NOMINAL: Family = Family::gauge(
    "apiserver_flowcontrol_nominal_limit_seats",
    "Nominal number of execution seats configured for each priority level",
);
static LOWER: Family = Family::gauge(
    "apiserver_flowcontrol_lower_limit_seats",
    "Configured lower bound on number of execution seats available to each priority level",
);
static UPPER: Family = Family::gauge(
    "apiserver_flowcontrol_upper_limit_seats",
    "Configured upper bound on number of execution seats available to each priority level",
);
static CURRENT: Family = Family::gauge(
    "apiserver_flowcontrol_current_limit_seats",
    "current derived number of execution seats available to each priority level",
);
static DEMAND_HIGH: Family = Family::gauge(
    "apiserver_flowcontrol_demand_seats_high_watermark",
    "High watermark, over last adjustment period, of demand_seats",
);
static DEMAND_AVERAGE: Family = Family::gauge(
    "apiserver_flowcontrol_demand_seats_average",
    "Time-weighted average, over last adjustment period, of demand_seats",
);
static DEMAND_DEVIATION: Family = Family::gauge(
    "apiserver_flowcontrol_demand_seats_stdev",
    "Time-weighted standard deviation, over last adjustment period, of demand_seats",
);
static DEMAND_SMOOTHED: Family = Family::gauge("apiserver_flowcontrol_demand_seats_smoothed", "Smoothed seat demands");

static WAITING_SEATS: Family = Family::gauge(
    "apiserver_flowcontrol_current_inqueue_seats",
    "Number of seats currently pending in queues of the API Priority and Fairness subsystem",
);
static QUEUE_LENGTH: Family = Family::buckets(
    "apiserver_flowcontrol_request_queue_length_after_enqueue",
    "Length of queue in the API Priority and Fairness subsystem, as seen by each request after it is enqueued",
    &[0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0],
);
static NO_ROOM: Family = Family::counter(
    "apiserver_flowcontrol_request_dispatch_no_accommodation_total",
    "Number of times a dispatch attempt resulted in a non accommodation due to lack of available seats",
);
static CURRENT_R: Family = Family::gauge("apiserver_flowcontrol_current_r", "R(time of last change)");
static DISPATCH_R: Family = Family::gauge("apiserver_flowcontrol_dispatch_r", "R(time of last dispatch)");
static LATEST_S: Family = Family::gauge("apiserver_flowcontrol_latest_s", "S(most recently dispatched request)");
static NEXT_S: Family = Family::gauge(
    "apiserver_flowcontrol_next_s_bounds",
    "min and max, over queues, of S(oldest waiting request in queue)",
);
static NEXT_DISCOUNTED_S: Family = Family::gauge(
    "apiserver_flowcontrol_next_discounted_s_bounds",
    "min and max, over queues, of S(oldest waiting request in queue) - estimated work in progress",
);
static TARGET: Family = Family::gauge("apiserver_flowcontrol_target_seats", "Seat allocation targets");
static FAIR: Family = Family::gauge(
    "apiserver_flowcontrol_seat_fair_frac",
    "Fair fraction of server's concurrency to allocate to each priority level that can use it",
);

/// A request that waits.
pub struct Asker {
    /// Its schema.
    pub flow: Flow,
    /// What tells its flow from others of the schema.
    pub distinguisher: String,
    /// Who asks.
    pub user: String,
    /// What for.
    pub info: RequestInfo,
    /// When it came.
    pub arrived: Timestamp,
}

/// A request that waits, and how it is told that it is served.
pub struct Waiter {
    /// The request.
    pub asker: Asker,
    turn: oneshot::Sender<Ticket>,
}

/// What is counted of one schema.
pub struct Figures {
    dispatched: Series,
    executing: Series,
    seats: Series,
    waiting: Series,
    waited: Series,
    waited_for_nothing: Series,
    executed: Series,
    executed_watch: Series,
    work: Series,
    watched: Series,
    waiting_seats: Series,
    queue_length: Series,
    no_room: Series,
    rejected: [Series; 3],
}

impl Figures {
    /// Notes of how many watches a write is told.
    pub fn watched(&self, count: usize) {
        self.watched.observe(count as f64);
    }

    /// Those of a schema that leads to a level.
    pub fn of(metrics: &Metrics, schema: &str, level: &str) -> Self {
        let labels = format!("flow_schema={schema:?},priority_level={level:?}");
        let series = |family| metrics.series(family, &labels);
        let with = |family, more: &str| metrics.series(family, &format!("{more},{labels}"));
        let refused = |why: Refusal| metrics.series(&REJECTED, &format!("{labels},reason={:?}", why.name()));
        Self {
            dispatched: series(&DISPATCHED),
            executing: series(&EXECUTING),
            seats: series(&SEATS),
            waiting: series(&WAITING),
            waited: with(&WAITED, "execute=\"true\""),
            waited_for_nothing: with(&WAITED, "execute=\"false\""),
            executed: with(&EXECUTED, "type=\"regular\""),
            executed_watch: with(&EXECUTED, "type=\"watch\""),
            waiting_seats: series(&WAITING_SEATS),
            queue_length: series(&QUEUE_LENGTH),
            no_room: series(&NO_ROOM),
            work: series(&WORK),
            watched: series(&WATCHED),
            rejected: [Refusal::QueueFull, Refusal::ConcurrencyLimit, Refusal::TimeOut].map(refused),
        }
    }
}

/// A priority level.
pub struct Level {
    /// Its name.
    pub name: String,
    /// Whether its requests never wait.
    pub is_exempt: bool,
    clock: SharedClock,
    set: Mutex<QueueSet<Waiter>>,
    kinds: Arc<Kinds>,
    state: Mutex<State>,
    most_seats: AtomicU32,
}

#[derive(Default)]
struct State {
    bounds: Bounds,
    smoothed: f64,
}

/// Seats that a request has; they are given back when it is dropped.
pub struct Seat {
    flow: Flow,
    ticket: Ticket,
    seats: u32,
    sort: Sort,
}

/// What matters here of what a request does.
#[derive(Debug, Clone, Copy)]
pub struct Sort {
    /// Whether it changes anything.
    pub is_write: bool,
    /// Whether it watches.
    pub is_watch: bool,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let (facts, now) = (&self.flow.0, self.flow.0.level.clock.monotonic());
        facts.figures.executing.dec();
        let executed = if self.sort.is_watch { &facts.figures.executed_watch } else { &facts.figures.executed };
        executed.took(self.ticket.held(now));
        facts.level.kinds.count(now, Phase::Executing, self.sort.is_write, false);
        self.flow.give_back(now, self.ticket, self.seats);
    }
}

impl Flow {
    /// Gives seats back: at once, or when what the request set off is over.
    fn give_back(&self, now: Duration, ticket: Ticket, seats: u32) {
        match Handle::try_current() {
            Ok(runtime) if !ticket.after().is_zero() => {
                self.change(now, |set| set.end(now, ticket));
                let flow = self.clone();
                runtime.spawn(async move {
                    tokio::time::sleep(ticket.after()).await;
                    let now = flow.0.level.clock.monotonic();
                    flow.0.figures.seats.add(-f64::from(seats));
                    flow.change(now, |set| set.free(now, ticket));
                });
            }
            _ => {
                self.0.figures.seats.add(-f64::from(seats));
                self.change(now, |set| set.leave(now, ticket));
            }
        }
    }

    /// Changes who has seats, and serves all for whom there are some then.
    fn change(&self, now: Duration, change: impl FnOnce(&mut QueueSet<Waiter>)) {
        let mut set = self.0.level.set.lock();
        change(&mut set);
        serve(&mut set, now);
    }
}

/// A place in a queue; who gives it up leaves the queue, or the seats that came in the same moment.
struct Place<'a> {
    level: &'a Level,
    id: u64,
    turn: oneshot::Receiver<Ticket>,
    is_over: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let now = self.level.clock.monotonic();
        let mut set = self.level.set.lock();
        if set.give_up(now, self.id).is_none()
            && let Ok(ticket) = self.turn.try_recv()
        {
            set.leave(now, ticket);
        }
        // Who was behind it may fit where it did not.
        serve(&mut set, now);
    }
}

/// Tells all for whom there are seats.
fn serve(set: &mut QueueSet<Waiter>, now: Duration) {
    while let Some((waiter, ticket)) = set.dispatch(now) {
        if let Err(ticket) = waiter.turn.send(ticket) {
            set.leave(now, ticket);
        }
    }
    if let Some(waiter) = set.blocked() {
        waiter.asker.flow.0.figures.no_room.inc();
    }
}

impl Level {
    /// The most seats that one request may take.
    pub fn most_seats(&self) -> u32 {
        self.most_seats.load(Ordering::Relaxed)
    }

    /// Takes seats of a flow's level, at once or within `patience`.
    pub async fn enter(
        flow: &Flow,
        hash: u64,
        (width, sort): (Width, Sort),
        patience: Duration,
        asker: impl FnOnce() -> Asker,
    ) -> Result<Seat, Refusal> {
        let (level, figures) = (&flow.0.level, &flow.0.figures);
        let (now, mut turn, seats) = (level.clock.monotonic(), None, width.seats());
        let arrival = {
            let mut set = level.set.lock();
            let arrival = set.arrive(now, hash, width, || {
                let (sender, receiver) = oneshot::channel();
                turn = Some(receiver);
                Waiter { asker: asker(), turn: sender }
            });
            if let Arrival::Wait(id) = arrival {
                figures.queue_length.observe(set.length_with(id) as f64);
                serve(&mut set, now);
            }
            arrival
        };
        figures.work.observe(f64::from(seats));
        let outcome = match (arrival, turn) {
            (Arrival::Run(ticket), _) => Ok(ticket),
            (Arrival::Wait(id), Some(turn)) => {
                let counted = Counted::new(level, figures, seats, sort);
                let outcome = Self::wait(Place { level, id, turn, is_over: false }, patience).await;
                drop(counted);
                outcome
            }
            (Arrival::Refused(why), _) => Err(why),
            (Arrival::Wait(_), None) => Err(Refusal::QueueFull),
        };
        let waited = level.clock.monotonic().saturating_sub(now);
        match outcome {
            Ok(ticket) => {
                figures.dispatched.inc();
                figures.executing.inc();
                figures.seats.add(f64::from(seats));
                figures.waited.took(waited);
                level.kinds.count(level.clock.monotonic(), Phase::Executing, sort.is_write, true);
                Ok(Seat { flow: flow.clone(), ticket, seats, sort })
            }
            Err(why) => {
                figures.rejected[why as usize].inc();
                figures.waited_for_nothing.took(waited);
                Err(why)
            }
        }
    }

    async fn wait(mut place: Place<'_>, patience: Duration) -> Result<Ticket, Refusal> {
        match tokio::time::timeout(patience, &mut place.turn).await {
            Ok(Ok(ticket)) => {
                place.is_over = true;
                Ok(ticket)
            }
            _ => Err(Refusal::TimeOut),
        }
    }

    /// Looks at the queues.
    pub fn look<T>(&self, look: impl FnOnce(&QueueSet<Waiter>) -> T) -> T {
        look(&self.set.lock())
    }

    fn set_limit(&self, seats: u32, metrics: &Metrics) {
        if !self.is_exempt {
            let (mut set, now) = (self.set.lock(), self.clock.monotonic());
            set.set_limit(now, Some(seats));
            serve(&mut set, now);
        }
        self.tell(metrics, &CURRENT, f64::from(seats));
    }

    fn tell(&self, metrics: &Metrics, family: &'static Family, value: f64) {
        metrics.series(family, &format!("priority_level={:?}", self.name)).set(value);
    }
}

/// Counts somebody who waits for as long as it lives.
struct Counted<'a> {
    level: &'a Level,
    figures: &'a Figures,
    seats: u32,
    sort: Sort,
}

impl<'a> Counted<'a> {
    fn new(level: &'a Level, figures: &'a Figures, seats: u32, sort: Sort) -> Self {
        figures.waiting.inc();
        figures.waiting_seats.add(f64::from(seats));
        level.kinds.count(level.clock.monotonic(), Phase::Waiting, sort.is_write, true);
        Self { level, figures, seats, sort }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.figures.waiting.dec();
        self.figures.waiting_seats.add(-f64::from(self.seats));
        self.level.kinds.count(self.level.clock.monotonic(), Phase::Waiting, self.sort.is_write, false);
    }
}

/// The levels of these objects; who is there already stays, with all who wait.
pub fn digest(
    known: &BTreeMap<String, Arc<Level>>,
    objects: &[Object],
    total: u32,
    (clock, kinds): (&SharedClock, &Arc<Kinds>),
    metrics: &Metrics,
) -> BTreeMap<String, Arc<Level>> {
    let shares: Vec<Share> = objects.iter().map(share_of).collect();
    let bounds = shares::bounds(total, &shares);
    let mut levels = BTreeMap::new();
    for ((object, share), bounds) in objects.iter().zip(&shares).zip(bounds) {
        let (name, queuing) = (object.name().to_owned(), queuing_of(object));
        let same = known.get(&name).filter(|level| level.is_exempt == share.is_exempt);
        let level = same.cloned().unwrap_or_else(|| {
            let limit = (!share.is_exempt).then_some(bounds.nominal);
            Arc::new(Level {
                name: name.clone(),
                is_exempt: share.is_exempt,
                clock: clock.clone(),
                set: Mutex::new(QueueSet::new(limit, queuing, clock.monotonic())),
                kinds: kinds.clone(),
                state: Mutex::default(),
                most_seats: AtomicU32::new(1),
            })
        });
        {
            let mut set = level.set.lock();
            set.set_queuing(queuing);
            set.set_nominal(clock.monotonic(), bounds.nominal);
        }
        level.most_seats.store(width::most(bounds.nominal, queuing.hand), Ordering::Relaxed);
        if std::mem::replace(&mut level.state.lock().bounds, bounds) != bounds {
            level.set_limit(bounds.nominal, metrics);
        }
        for (family, seats) in [(&NOMINAL, bounds.nominal), (&LOWER, bounds.least), (&UPPER, bounds.most)] {
            level.tell(metrics, family, f64::from(seats));
        }
        levels.insert(name, level);
    }
    kinds.set_limits(levels.values().map(|level| level.set.lock().room()).sum(), total as usize);
    levels
}

/// Writes what is told of levels as they are, and were until now.
pub fn write(text: &mut String, levels: &[Arc<Level>]) {
    let own = |level: &Arc<Level>| {
        let mut set = level.set.lock();
        (level.name.clone(), set.utilization(level.clock.monotonic()))
    };
    utilization::write(text, &levels.iter().map(own).collect::<Vec<_>>());
    let queuing = levels.iter().filter(|level| !level.is_exempt);
    let times: Vec<_> = queuing.map(|level| (&level.name, level.set.lock().virtual_times())).collect();
    let plain: [(&Family, fn(&Virtual) -> f64); 3] =
        [(&CURRENT_R, |own| own.now), (&DISPATCH_R, |own| own.dispatched), (&LATEST_S, |own| own.latest)];
    for (family, of) in plain {
        family.write_head(text);
        for (level, own) in &times {
            family.write_value(text, &format!("priority_level={level:?}"), of(own));
        }
    }
    let jumps = levels.iter().flat_map(|level| {
        let [whole, behind] = level.set.lock().times_set_back();
        let label = |is_whole: bool| format!("priority_level={:?},success=\"{is_whole}\"", level.name);
        [(label(true), whole), (label(false), behind)]
    });
    let mut jumps = jumps.filter(|(_, count)| *count > 0).peekable();
    if jumps.peek().is_some() {
        SET_BACK.write_head(text);
        jumps.for_each(|(labels, count)| SET_BACK.write_value(text, &labels, count as f64));
    }
    let bounds: [(&Family, fn(&Virtual) -> (f64, f64)); 2] =
        [(&NEXT_S, |own| own.next), (&NEXT_DISCOUNTED_S, |own| own.discounted)];
    for (family, of) in bounds {
        family.write_head(text);
        for (level, own) in &times {
            let (least, most) = of(own);
            family.write_value(text, &format!("bound=\"max\",priority_level={level:?}"), most);
            family.write_value(text, &format!("bound=\"min\",priority_level={level:?}"), least);
        }
    }
}

/// Divides the seats anew by what was asked for since the last time.
pub fn adjust(levels: &[Arc<Level>], total: u32, metrics: &Metrics) {
    let mut wanted = Vec::with_capacity(levels.len());
    for level in levels {
        let demand = level.set.lock().take_demand(level.clock.monotonic());
        let mut state = level.state.lock();
        state.smoothed = shares::smoothed(state.smoothed, demand.average(), demand.deviation());
        for (family, value) in [
            (&DEMAND_HIGH, f64::from(demand.high)),
            (&DEMAND_AVERAGE, demand.average()),
            (&DEMAND_DEVIATION, demand.deviation()),
            (&DEMAND_SMOOTHED, state.smoothed),
        ] {
            level.tell(metrics, family, value);
        }
        let (bounds, smoothed) = (state.bounds, state.smoothed);
        wanted.push(Wanted { bounds, is_exempt: level.is_exempt, high: demand.high, smoothed });
    }
    let divided = shares::divide(total, &wanted);
    metrics.series(&FAIR, "").set(divided.proportion);
    for ((level, seats), target) in levels.iter().zip(divided.seats).zip(divided.targets) {
        level.tell(metrics, &TARGET, target);
        level.set_limit(seats, metrics);
    }
}

fn share_of(level: &Object) -> Share {
    let is_exempt = level.str_at(&["spec", "type"]) == "Exempt";
    let part = if is_exempt { "exempt" } else { "limited" };
    let number = |field: &str| level.int_at(&["spec", part, field]).and_then(|number| u32::try_from(number).ok());
    Share {
        shares: number("nominalConcurrencyShares").unwrap_or(if is_exempt { 0 } else { 30 }),
        lendable_percent: number("lendablePercent").unwrap_or(0),
        borrowing_percent: number("borrowingLimitPercent"),
        is_exempt,
    }
}

fn queuing_of(level: &Object) -> Queuing {
    let response = ["spec", "limited", "limitResponse"];
    if level.str_at(&[response[0], response[1], response[2], "type"]) != "Queue" {
        return Queuing { queues: 0, hand: 0, length: 0 };
    }
    let number = |field: &str, usual: usize| {
        let own = level.int_at(&[response[0], response[1], response[2], "queuing", field]);
        own.and_then(|number| usize::try_from(number).ok()).unwrap_or(usual)
    };
    Queuing { queues: number("queues", 64), hand: number("handSize", 8), length: number("queueLengthLimit", 50) }
}
