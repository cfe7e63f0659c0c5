//! Who is served next: the seats of one priority level, and the queues in which requests wait for them. Pure: time is
//! passed in, and a waiting request is whatever its owner keeps of it.
//!
//! Each request is dealt a hand of queues by its flow and waits in the one with the least work, so that a flow that
//! floods fills its own hand and leaves others a way past it. Queues are served in the order of their virtual time: what
//! a queue was given counts by seats and duration.
//! See <https://kubernetes.io/docs/concepts/cluster-administration/flow-control/#concepts>.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::utilization::{Use, Utilization};
use super::width::{ESTIMATED_SECONDS, Width};

/// Where virtual time is set back, and by how much, so that its parts stay exact: where upstream's would overflow.
const FAR_SECONDS: f64 = BACK_SECONDS * 1.5;
const BACK_SECONDS: f64 = 92_233_720_368.547_76;
/// This part of the seats is kept for flows that have none: whoever asks for one thing at a time finds a seat, however many
/// wait. A level with fewer seats keeps none.
const KEPT_DIVISOR: u32 = 16;
/// The most queues of a hand: the kind's rules allow no more than 60 bits of choice.
const MAX_HAND: usize = 60;

/// How requests wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queuing {
    /// How many queues there are; none where what does not fit is refused.
    pub queues: usize,
    /// How many of them a flow may use.
    pub hand: usize,
    /// How many requests may wait in each.
    pub length: usize,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Its queue is full.
    QueueFull,
    /// All seats are taken, and nobody waits at this level.
    ConcurrencyLimit,
    /// It waited for too long.
    TimeOut,
}

impl Refusal {
    /// As figures name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::ConcurrencyLimit => "concurrency-limit",
            Self::TimeOut => "time-out",
        }
    }
}

/// Seats that a request has; to be given back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ticket {
    flow: u64,
    queue: Option<usize>,
    width: Width,
    began: Duration,
}

impl Ticket {
    /// How long the request has had them.
    pub fn held(&self, now: Duration) -> Duration {
        now.saturating_sub(self.began)
    }

    /// How long the request keeps them when it has ended.
    pub fn after(&self) -> Duration {
        self.width.after
    }
}

/// What becomes of a request that comes.
#[derive(Debug, PartialEq)]
pub enum Arrival {
    /// It is served.
    Run(Ticket),
    /// It waits, under this number.
    Wait(u64),
    /// It is not served.
    Refused(Refusal),
}

/// A request that waits.
#[derive(Debug)]
pub struct Waiting<W> {
    id: u64,
    flow: u64,
    /// What it takes.
    pub width: Width,
    /// What its owner keeps of it.
    pub payload: W,
}

/// A queue.
#[derive(Debug)]
pub struct Queue<W> {
    /// Those who wait, in order.
    pub waiting: VecDeque<Waiting<W>>,
    /// How many of its requests are served.
    pub executing: usize,
    /// How many seats these have.
    pub seats: u32,
    /// How far it is in virtual time.
    pub next: f64,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), executing: 0, seats: 0, next: 0.0 }
    }
}

impl<W> Queue<W> {
    fn is_active(&self) -> bool {
        self.executing > 0 || !self.waiting.is_empty()
    }

    /// Whether nobody will give seats of it back.
    fn is_free(&self) -> bool {
        !self.is_active() && self.seats == 0
    }

    /// The seats of those who wait.
    pub fn waiting_seats(&self) -> u32 {
        self.waiting.iter().map(|waiting| waiting.width.seats()).sum()
    }

    /// What those who wait are taken to need.
    pub fn waiting_seconds(&self) -> f64 {
        self.waiting.iter().map(|waiting| waiting.width.work_seconds()).sum()
    }
}

/// What was asked for over a period: seats that are taken or waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Demand {
    since: Duration,
    at: Duration,
    present: u32,
    sum: f64,
    squares: f64,
    /// The most.
    pub high: u32,
}

impl Demand {
    fn advance(&mut self, now: Duration) {
        let (seconds, present) = (now.saturating_sub(self.at).as_secs_f64(), f64::from(self.present));
        self.sum += seconds * present;
        self.squares += seconds * present * present;
        self.at = now.max(self.at);
    }

    fn set(&mut self, present: u32) {
        self.present = present;
        self.high = self.high.max(present);
    }

    /// The mean.
    pub fn average(&self) -> f64 {
        let seconds = self.at.saturating_sub(self.since).as_secs_f64();
        if seconds > 0.0 { self.sum / seconds } else { f64::from(self.present) }
    }

    /// The standard deviation.
    pub fn deviation(&self) -> f64 {
        let seconds = self.at.saturating_sub(self.since).as_secs_f64();
        if seconds > 0.0 { (self.squares / seconds - self.average().powi(2)).max(0.0).sqrt() } else { 0.0 }
    }
}

/// Virtual times of a level, in seconds that a seat is had.
#[derive(Debug, Clone, Copy)]
pub struct Virtual {
    /// Where it is.
    pub now: f64,
    /// Where it was when somebody was last served from a queue.
    pub dispatched: f64,
    /// Where that queue was.
    pub latest: f64,
    /// The least and the most of queues in which somebody waits.
    pub next: (f64, f64),
    /// The same without what their requests are taken to do yet.
    pub discounted: (f64, f64),
}

fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let found = values.fold(None, |known: Option<(f64, f64)>, value| {
        Some(known.map_or((value, value), |(least, most)| (least.min(value), most.max(value))))
    });
    found.unwrap_or_default()
}

/// The seats and queues of a level. `W` is what is kept of those who wait.
#[derive(Debug)]
pub struct QueueSet<W> {
    /// How many seats there are; without a limit everybody has one.
    limit: Option<u32>,
    queuing: Queuing,
    queues: Vec<Queue<W>>,
    /// The seats of each flow that has any.
    flows: HashMap<u64, u32>,
    active: usize,
    seats: u32,
    executing: usize,
    waiting: usize,
    waiting_seats: u32,
    /// Virtual time: how far a queue is that always got its share.
    virtual_now: f64,
    at: Duration,
    demand: Demand,
    /// The seats that are its own, whether lent or not.
    nominal: u32,
    utilization: Utilization,
    /// Where it was in virtual time when somebody was last served from a queue, and where that queue was.
    served: (f64, f64),
    /// How often virtual time was set back: as it should be, and where a queue was behind.
    set_back: [u64; 2],
    /// The queue whose first would be next, and does not fit.
    blocked: Option<usize>,
    next_id: u64,
    /// The queue that was served last; the next one behind it comes first among equals.
    last: usize,
}

impl<W> QueueSet<W> {
    /// Seats that nobody has yet.
    pub fn new(limit: Option<u32>, queuing: Queuing, now: Duration) -> Self {
        let mut set = Self {
            limit,
            queuing,
            queues: Vec::new(),
            flows: HashMap::new(),
            active: 0,
            seats: 0,
            executing: 0,
            waiting: 0,
            waiting_seats: 0,
            virtual_now: 0.0,
            at: now,
            demand: Demand { since: now, at: now, ..Demand::default() },
            nominal: limit.unwrap_or_default(),
            utilization: Utilization::new(now),
            served: (0.0, 0.0),
            set_back: [0; 2],
            blocked: None,
            next_id: 0,
            last: 0,
        };
        set.queues.resize_with(queuing.queues, Queue::default);
        set
    }

    /// A request of the flow with this hash comes. `payload` is asked for where it has to wait.
    pub fn arrive(&mut self, now: Duration, flow: u64, width: Width, payload: impl FnOnce() -> W) -> Arrival {
        self.advance(now);
        let seats = width.seats();
        if self.limit.is_none() {
            return Arrival::Run(self.run(now, flow, None, width));
        }
        if self.queues.is_empty() {
            let fits = self.fits(seats);
            return if fits {
                Arrival::Run(self.run(now, flow, None, width))
            } else {
                Arrival::Refused(Refusal::ConcurrencyLimit)
            };
        }
        let index = self.dealt(flow);
        if self.waiting == 0 && self.suits(flow, seats) {
            self.wake(index);
            return Arrival::Run(self.run(now, flow, Some(index), width));
        }
        if self.queues[index].waiting.len() >= self.queuing.length {
            return Arrival::Refused(Refusal::QueueFull);
        }
        self.wake(index);
        let id = self.next_id;
        self.next_id += 1;
        self.queues[index].waiting.push_back(Waiting { id, flow, width, payload: payload() });
        self.waiting += 1;
        self.waiting_seats += seats;
        self.note();
        Arrival::Wait(id)
    }

    /// A request has ended and gives its seats back. Then some who wait may be served: [`QueueSet::dispatch`] tells who.
    pub fn leave(&mut self, now: Duration, ticket: Ticket) {
        self.end(now, ticket);
        self.free(now, ticket);
    }

    /// A request has ended; it has its seats until [`QueueSet::free`].
    pub fn end(&mut self, now: Duration, ticket: Ticket) {
        self.advance(now);
        self.executing -= 1;
        if let Some(index) = ticket.queue {
            let queue = &mut self.queues[index];
            queue.executing -= 1;
            // It was charged what such a request is taken to last.
            queue.next += (ticket.held(now).as_secs_f64() - ESTIMATED_SECONDS) * f64::from(ticket.width.first);
            self.rest(index);
        }
        self.note();
    }

    /// The seats of a request that has ended are free.
    pub fn free(&mut self, now: Duration, ticket: Ticket) {
        self.advance(now);
        self.seats -= ticket.width.seats();
        if let Some(index) = ticket.queue {
            self.queues[index].seats -= ticket.width.seats();
            if let Entry::Occupied(mut own) = self.flows.entry(ticket.flow) {
                *own.get_mut() -= ticket.width.seats();
                if *own.get() == 0 {
                    own.remove();
                }
            }
        }
        self.note();
    }

    /// Gives up to wait; none where the request is served already, or never waited.
    pub fn give_up(&mut self, now: Duration, id: u64) -> Option<W> {
        self.advance(now);
        for index in 0..self.queues.len() {
            let waiting = &mut self.queues[index].waiting;
            let Some(place) = waiting.iter().position(|waiting| waiting.id == id) else { continue };
            let gone = waiting.remove(place)?;
            self.waiting -= 1;
            self.waiting_seats -= gone.width.seats();
            self.rest(index);
            self.note();
            return Some(gone.payload);
        }
        None
    }

    /// The next one who is served, if there is room; to be asked until there is none.
    pub fn dispatch(&mut self, now: Duration) -> Option<(W, Ticket)> {
        self.blocked = None;
        if self.waiting == 0 {
            return None;
        }
        self.advance(now);
        let count = self.queues.len();
        // Of all, and of those whose flow has nothing yet.
        let (mut best, mut best_new): (Option<(f64, usize)>, Option<(f64, usize)>) = (None, None);
        for index in (1..=count).map(|step| (self.last + step) % count) {
            let queue = &self.queues[index];
            let Some(first) = queue.waiting.front() else { continue };
            let finish = queue.next + first.width.work_seconds();
            let is_new = !self.flows.contains_key(&first.flow);
            for best in [Some(&mut best), is_new.then_some(&mut best_new)].into_iter().flatten() {
                if best.is_none_or(|(least, _)| finish < least) {
                    *best = Some((finish, index));
                }
            }
        }
        let suiting = |(_, index): &(f64, usize)| {
            let first = self.queues[*index].waiting.front();
            first.is_some_and(|first| self.suits(first.flow, first.width.seats()))
        };
        let Some((_, index)) = best.filter(suiting).or(best_new.filter(suiting)) else {
            self.blocked = best.map(|(_, index)| index);
            return None;
        };
        let waiting = self.queues[index].waiting.pop_front()?;
        self.waiting -= 1;
        self.waiting_seats -= waiting.width.seats();
        self.last = index;
        let ticket = self.run(now, waiting.flow, Some(index), waiting.width);
        Some((waiting.payload, ticket))
    }

    /// Who would have been the next, had there been room when that was last asked.
    pub fn blocked(&self) -> Option<&W> {
        Some(&self.queues.get(self.blocked?)?.waiting.front()?.payload)
    }

    /// There are so many seats from now on.
    pub fn set_limit(&mut self, now: Duration, limit: Option<u32>) {
        self.advance(now);
        self.limit = limit;
        self.note();
    }

    /// So many seats are its own from now on.
    pub fn set_nominal(&mut self, now: Duration, nominal: u32) {
        self.advance(now);
        self.nominal = nominal;
        self.note();
    }

    /// How many may wait.
    pub fn room(&self) -> usize {
        self.queuing.queues * self.queuing.length
    }

    /// How much is used, until now.
    pub fn utilization(&mut self, now: Duration) -> Utilization {
        self.advance(now);
        self.utilization.clone()
    }

    /// How long the queue of a request that waits is, with it.
    pub fn length_with(&self, id: u64) -> usize {
        let own = |queue: &&Queue<W>| queue.waiting.back().is_some_and(|waiting| waiting.id == id);
        self.queues.iter().find(own).map_or(0, |queue| queue.waiting.len())
    }

    /// Virtual times.
    pub fn virtual_times(&self) -> Virtual {
        let waiting = || self.queues.iter().filter(|queue| !queue.waiting.is_empty());
        let work = |queue: &Queue<W>| f64::from(queue.seats) * ESTIMATED_SECONDS;
        let (now, (dispatched, latest)) = (self.virtual_now, self.served);
        let next = bounds(waiting().map(|queue| queue.next));
        Virtual { now, dispatched, latest, next, discounted: bounds(waiting().map(|queue| queue.next - work(queue))) }
    }

    /// Requests wait otherwise from now on; those who wait already stay where they are.
    pub fn set_queuing(&mut self, queuing: Queuing) {
        self.queuing = queuing;
        if self.queues.len() < queuing.queues {
            self.queues.resize_with(queuing.queues, Queue::default);
        }
        while self.queues.len() > queuing.queues && self.queues.last().is_some_and(Queue::is_free) {
            self.queues.pop();
        }
    }

    /// What was asked for since this was last asked.
    pub fn take_demand(&mut self, now: Duration) -> Demand {
        self.advance(now);
        let present = self.demand.present;
        std::mem::replace(
            &mut self.demand,
            Demand { since: now, at: now, present, high: present, sum: 0.0, squares: 0.0 },
        )
    }

    /// How many requests are served, and wait.
    pub fn counts(&self) -> (usize, usize) {
        (self.executing, self.waiting)
    }

    /// How many seats are taken.
    #[cfg(test)]
    fn seats(&self) -> u32 {
        self.seats
    }

    /// The queues, for those who look.
    pub fn queues(&self) -> &[Queue<W>] {
        &self.queues
    }

    /// A request that needs more seats than there are is served alone.
    fn fits(&self, seats: u32) -> bool {
        self.limit
            .is_none_or(|limit| self.seats + seats <= limit || (self.executing == 0 && seats > limit && limit > 0))
    }

    /// Whether a flow may have so many more: while others are served, one that has some leaves a few to those that have none.
    fn suits(&self, flow: u64, seats: u32) -> bool {
        let leaves_some = self.executing == 0
            || !self.flows.contains_key(&flow)
            || self.limit.is_none_or(|limit| self.seats + seats + limit / KEPT_DIVISOR <= limit);
        self.fits(seats) && leaves_some
    }

    fn run(&mut self, now: Duration, flow: u64, queue: Option<usize>, width: Width) -> Ticket {
        let seats = width.seats();
        self.seats += seats;
        self.executing += 1;
        if let Some(index) = queue {
            let queue = &mut self.queues[index];
            self.served = (self.virtual_now, queue.next);
            queue.executing += 1;
            queue.seats += seats;
            queue.next += width.work_seconds();
            *self.flows.entry(flow).or_default() += seats;
        }
        self.note();
        Ticket { flow, queue, width, began: now }
    }

    /// A queue that had nothing to do begins where the others are: time in which nobody asked is not saved up.
    fn wake(&mut self, index: usize) {
        let queue = &mut self.queues[index];
        if !queue.is_active() {
            queue.next = queue.next.max(self.virtual_now);
            self.active += 1;
        }
    }

    fn rest(&mut self, index: usize) {
        if !self.queues[index].is_active() {
            self.active -= 1;
        }
    }

    fn note(&mut self) {
        let wanted = self.seats + self.waiting_seats;
        self.demand.set(wanted);
        self.utilization.set(Use {
            seats: (self.seats, self.limit.unwrap_or(self.nominal)),
            demand: (wanted, self.nominal),
            waiting: (self.waiting, self.room()),
            executing: self.executing,
        });
    }

    fn advance(&mut self, now: Duration) {
        self.demand.advance(now);
        self.utilization.advance(now);
        let seconds = now.saturating_sub(self.at).as_secs_f64();
        self.at = now.max(self.at);
        if self.active > 0 {
            let asked = (self.seats + self.waiting_seats).min(self.limit.unwrap_or(u32::MAX));
            self.virtual_now += seconds * f64::from(asked) / self.active as f64;
        }
        if self.virtual_now >= FAR_SECONDS {
            self.set_back();
        }
    }

    /// Sets virtual time back everywhere. A queue where nobody is begins anew when somebody comes.
    fn set_back(&mut self) {
        self.virtual_now -= BACK_SECONDS;
        let mut is_whole = true;
        for queue in &mut self.queues {
            queue.next = if queue.is_active() { queue.next - BACK_SECONDS } else { 0.0 };
            is_whole &= queue.next >= 0.0;
        }
        self.set_back[usize::from(!is_whole)] += 1;
    }

    /// How often virtual time was set back: as it should be, and where a queue was so far behind that it is before all
    /// time now.
    pub fn times_set_back(&self) -> [u64; 2] {
        self.set_back
    }

    /// The queue of the flow's hand with the least work.
    fn dealt(&self, hash: u64) -> usize {
        let mut hand = [0; MAX_HAND];
        let deck = self.queuing.queues.min(self.queues.len());
        let hand = deal(hash, deck, &mut hand[..self.queuing.hand.clamp(1, deck.min(MAX_HAND))]);
        let work = |index: &&usize| {
            let queue = &self.queues[**index];
            (queue.waiting_seats() + queue.seats, queue.waiting.len())
        };
        hand.iter().min_by_key(work).copied().unwrap_or(0)
    }
}

/// Deals different cards of a deck by a hash: the same hand for the same hash.
fn deal(mut hash: u64, deck: usize, hand: &mut [usize]) -> &[usize] {
    for dealt in 0..hand.len() {
        let left = (deck - dealt) as u64;
        let mut card = (hash % left) as usize;
        hash /= left;
        // The card among those that are left; what was dealt is kept in order while the hand grows.
        for own in &mut hand[..dealt] {
            if *own <= card {
                card += 1;
            }
        }
        let place = hand[..dealt].partition_point(|own| *own < card);
        hand[place..=dealt].rotate_right(1);
        hand[place] = card;
    }
    hand
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use skiff_base::ids::Ids;

    use super::*;

    const QUEUING: Queuing = Queuing { queues: 8, hand: 2, length: 3 };

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn all(set: &mut QueueSet<u64>, now: Duration) -> Vec<(u64, Ticket)> {
        std::iter::from_fn(|| set.dispatch(now)).collect()
    }

    #[test]
    fn hands_are_cards_of_the_deck_and_each_is_dealt_as_often() {
        let ids = Ids::seeded(1);
        let mut dealt = [0; 16];
        for _ in 0..4000 {
            let mut hand = [0; 4];
            let hand: BTreeSet<usize> = deal(ids.next_u64(), 16, &mut hand).iter().copied().collect();
            assert_eq!(hand.len(), 4, "{hand:?}");
            hand.iter().for_each(|card| dealt[*card] += 1);
        }
        assert!(dealt.iter().all(|count| (800..1200).contains(count)), "{dealt:?}");
        let mut whole = [0; 16];
        assert_eq!(deal(7, 16, &mut whole), (0..16).collect::<Vec<_>>());
    }

    #[test]
    fn a_level_without_queues_refuses_what_does_not_fit() {
        let mut set = QueueSet::new(Some(2), Queuing { queues: 0, hand: 0, length: 0 }, at(0));
        let Arrival::Run(first) = set.arrive(at(0), 1, Width::of(2), || 0) else { panic!("there is room") };
        assert_eq!(set.arrive(at(1), 1, Width::of(1), || 0), Arrival::Refused(Refusal::ConcurrencyLimit));
        set.leave(at(2), first);
        assert!(matches!(set.arrive(at(2), 1, Width::of(1), || 0), Arrival::Run(_)));
        let mut exempt = QueueSet::new(None, QUEUING, at(0));
        assert!((0..10_000).all(|hash| matches!(exempt.arrive(at(0), hash, Width::of(10), || 0), Arrival::Run(_))));
    }

    #[test]
    fn who_does_not_fit_waits_and_a_full_queue_refuses() {
        let mut set = QueueSet::new(Some(1), QUEUING, at(0));
        let Arrival::Run(first) = set.arrive(at(0), 5, Width::of(1), || 0) else { panic!("there is room") };
        let more: Vec<_> = (1..=7).map(|number| set.arrive(at(number), 5, Width::of(1), || number)).collect();
        assert_eq!(more[0], Arrival::Wait(0));
        assert_eq!(more[6], Arrival::Refused(Refusal::QueueFull), "a hand of two queues holds three each");
        assert_eq!(set.counts(), (1, 6));
        assert!(all(&mut set, at(8)).is_empty());
        assert_eq!(set.give_up(at(9), 0), Some(1));
        assert_eq!(set.give_up(at(9), 0), None);
        set.leave(at(10), first);
        assert_eq!(all(&mut set, at(10)).len(), 1);
        // More than all seats is served alone.
        let mut wide = QueueSet::new(Some(2), QUEUING, at(0));
        let Arrival::Run(alone) = wide.arrive(at(0), 1, Width::of(5), || 0) else { panic!("nobody else is there") };
        assert!(matches!(wide.arrive(at(0), 1, Width::of(1), || 1), Arrival::Wait(_)));
        wide.leave(at(1), alone);
        assert_eq!(all(&mut wide, at(1)).len(), 1);
    }

    #[test]
    fn a_write_keeps_its_seats_for_what_it_sets_off() {
        let mut set = QueueSet::new(Some(3), QUEUING, at(0));
        let wide = Width { first: 1, last: 3, after: at(5) };
        let Arrival::Run(first) = set.arrive(at(0), 5, wide, || 0) else { panic!("there is room") };
        assert_eq!((set.seats(), first.after()), (3, at(5)));
        assert!(matches!(set.arrive(at(1), 5, Width::of(1), || 1), Arrival::Wait(_)));
        set.end(at(2), first);
        assert!(all(&mut set, at(2)).is_empty());
        assert_eq!(set.counts(), (0, 1));
        // Its queue may go meanwhile, but not before its seats are given back.
        set.set_queuing(Queuing { queues: 1, hand: 1, length: 3 });
        set.free(at(7), first);
        assert_eq!(all(&mut set, at(7)).len(), 1);
        assert_eq!(set.seats(), 1);
    }

    #[test]
    fn virtual_time_is_set_back_before_it_is_inexact() {
        let mut set = QueueSet::new(Some(1), QUEUING, at(0));
        let Arrival::Run(first) = set.arrive(at(0), 5, Width::of(1), || 0) else { panic!("there is room") };
        set.arrive(at(0), 5, Width::of(1), || 1);
        set.virtual_now = FAR_SECONDS;
        set.queues.iter_mut().for_each(|queue| queue.next += FAR_SECONDS);
        set.leave(at(3), first);
        assert_eq!(set.times_set_back(), [1, 0]);
        assert!((set.virtual_now - (FAR_SECONDS - BACK_SECONDS)).abs() < 1.0);
        assert_eq!(all(&mut set, at(4)).len(), 1);
        let behind = set.queues.iter().filter(|queue| queue.next == 0.0).count();
        assert_eq!(behind, 6, "queues where nobody is begin anew");
        set.virtual_now = FAR_SECONDS;
        set.take_demand(at(5));
        assert_eq!(set.times_set_back(), [1, 1], "a queue was left behind");
    }

    #[test]
    fn demand_is_what_was_asked_for_over_time() {
        let mut set = QueueSet::new(Some(1), QUEUING, at(0));
        let Arrival::Run(first) = set.arrive(at(0), 1, Width::of(1), || 0) else { panic!("there is room") };
        set.arrive(at(1000), 1, Width::of(1), || 1);
        set.leave(at(3000), first);
        let Some((_, second)) = set.dispatch(at(3000)) else { panic!("it waited") };
        set.leave(at(4000), second);
        // One seat for a second, two for two, one for one, none for four.
        let demand = set.take_demand(at(8000));
        assert_eq!((demand.high, demand.average()), (2, 0.75));
        assert!((demand.deviation() - 0.829).abs() < 0.001, "{demand:?}");
        assert_eq!(set.take_demand(at(9000)).high, 0);
    }

    /// A flood of one flow and a request now and then of another: the other waits for what is under way, not for the flood.
    #[test]
    fn a_flood_does_not_keep_others_waiting() {
        let queuing = Queuing { queues: 64, hand: 6, length: 50 };
        let mut set = QueueSet::new(Some(4), queuing, at(0));
        let (mut held, mut waits) = (Vec::new(), Vec::new());
        for now in 0..2000 {
            // Each request lasts ten milliseconds.
            while let Some(place) = held.iter().position(|ticket: &Ticket| ticket.held(at(now)) >= at(10)) {
                set.leave(at(now), held.swap_remove(place));
            }
            for _ in 0..5 {
                if let Arrival::Run(ticket) = set.arrive(at(now), 11, Width::of(1), || u64::MAX) {
                    held.push(ticket);
                }
            }
            if now % 40 == 0 {
                match set.arrive(at(now), 0x1234_5678_9abc_def0, Width::of(1), || now) {
                    Arrival::Run(ticket) => held.push(ticket),
                    Arrival::Wait(_) => {}
                    Arrival::Refused(why) => panic!("{why:?}"),
                }
            }
            for (since, ticket) in all(&mut set, at(now)) {
                held.push(ticket);
                if since != u64::MAX {
                    waits.push(now - since);
                }
            }
        }
        assert!(waits.len() >= 40, "{}", waits.len());
        assert!(waits.iter().all(|wait| *wait <= 30), "{waits:?}");
    }

    /// However much one flow asks for, another that asks for one thing at a time never waits.
    #[test]
    fn a_flood_leaves_seats_to_those_who_have_none() {
        const ONE: u64 = 0x1234_5678_9abc_def0;
        for seed in 0..100 {
            let ids = Ids::seeded(seed);
            let below = |count: u64| ids.next_u64() % count;
            let limit = KEPT_DIVISOR + below(100) as u32;
            let mut set = QueueSet::new(Some(limit), Queuing { queues: 64, hand: 6, length: 50 }, at(0));
            let (mut held, mut own): (Vec<Ticket>, Option<Ticket>) = (Vec::new(), None);
            let mut most = 0;
            for now in 0..500 {
                // What has come together ends together, as writes do that share a sync.
                if below(5) == 0 {
                    held.drain(..).for_each(|ticket| set.leave(at(now), ticket));
                }
                if let Some(ticket) = own.take() {
                    set.leave(at(now), ticket);
                }
                for _ in 0..limit {
                    let width = Width::of(1 + below(6) as u32);
                    if let Arrival::Run(ticket) = set.arrive(at(now), 11, width, || 0) {
                        held.push(ticket);
                    }
                }
                held.extend(all(&mut set, at(now)).into_iter().map(|(_, ticket)| ticket));
                most = most.max(set.seats());
                own = match set.arrive(at(now), ONE, Width::of(1), || 1) {
                    Arrival::Run(ticket) => Some(ticket),
                    Arrival::Wait(_) => {
                        let mut served = all(&mut set, at(now)).into_iter();
                        let first = served.next().filter(|(who, _)| *who == 1);
                        held.extend(served.map(|(_, ticket)| ticket));
                        Some(first.unwrap_or_else(|| panic!("seed {seed}: it waits at {now}")).1)
                    }
                    Arrival::Refused(why) => panic!("seed {seed}: {why:?}"),
                };
            }
            assert!(most <= limit - limit / KEPT_DIVISOR, "seed {seed}: {most} of {limit}");
            assert!(most + 6 > limit - limit / KEPT_DIVISOR, "seed {seed}: no more than {most} of {limit}");
        }
    }

    #[test]
    fn newcomers_do_not_starve_who_needs_much() {
        let mut set = QueueSet::new(Some(KEPT_DIVISOR), Queuing { queues: 64, hand: 6, length: 50 }, at(0));
        let Arrival::Run(first) = set.arrive(at(0), 7, Width::of(1), || 0) else { panic!("there is room") };
        let mut held = vec![first];
        assert!(matches!(set.arrive(at(0), 7, Width::of(KEPT_DIVISOR), || u64::MAX), Arrival::Wait(_)));
        let (ids, mut passed) = (Ids::seeded(1), 0);
        for now in 0.. {
            assert!(now < 300, "{passed} have passed");
            // Always somebody new, and always somebody is served.
            if let Arrival::Run(ticket) = set.arrive(at(now), ids.next_u64(), Width::of(1), || now) {
                held.push(ticket);
            }
            let served = all(&mut set, at(now));
            if served.iter().any(|(who, _)| *who == u64::MAX) {
                break;
            }
            passed += served.len();
            held.extend(served.into_iter().map(|(_, ticket)| ticket));
            while let Some(place) = held.iter().position(|ticket| ticket.held(at(now)) >= at(2)) {
                set.leave(at(now), held.remove(place));
            }
        }
        assert!(passed > 0, "newcomers have seats while the wide one's flow has one");
    }

    /// Random steps: seats are never exceeded, nobody is lost, and everybody who waits is served in the end.
    #[test]
    fn seats_are_never_exceeded_and_nobody_starves() {
        for seed in 0..200 {
            let ids = Ids::seeded(seed);
            let limit = 1 + (ids.next_u64() % 20) as u32;
            let queuing = Queuing { queues: 1 + (ids.next_u64() % 16) as usize, hand: 1, length: 5 };
            let mut set = QueueSet::new(Some(limit), queuing, at(0));
            let (mut held, mut waiting, mut now) = (Vec::new(), BTreeSet::new(), 0);
            for step in 0..500 {
                now += ids.next_u64() % 5;
                match ids.next_u64() % 4 {
                    0 | 1 => match set.arrive(
                        at(now),
                        ids.next_u64() % 8,
                        Width::of(1 + (ids.next_u64() % 3) as u32),
                        || step,
                    ) {
                        Arrival::Run(ticket) => held.push(ticket),
                        Arrival::Wait(_) => drop(waiting.insert(step)),
                        Arrival::Refused(why) => assert_eq!(why, Refusal::QueueFull),
                    },
                    2 if !held.is_empty() => {
                        let place = (ids.next_u64() % held.len() as u64) as usize;
                        set.leave(at(now), held.swap_remove(place));
                    }
                    _ => {}
                }
                for (who, ticket) in all(&mut set, at(now)) {
                    assert!(waiting.remove(&who), "seed {seed}");
                    held.push(ticket);
                }
                let seats: u32 = held.iter().map(|ticket| ticket.width.seats()).sum();
                assert_eq!(seats, set.seats(), "seed {seed}");
                assert!(seats <= limit || held.len() == 1, "seed {seed}: {seats} of {limit}");
                assert_eq!(set.counts(), (held.len(), waiting.len()), "seed {seed}");
            }
            while let Some(ticket) = held.pop() {
                now += 1;
                set.leave(at(now), ticket);
                for (who, ticket) in all(&mut set, at(now)) {
                    assert!(waiting.remove(&who), "seed {seed}");
                    held.push(ticket);
                }
            }
            assert!(waiting.is_empty() && set.active == 0 && set.seats() == 0, "seed {seed}");
        }
    }

    /// Two flows that always ask, one for requests that last three times as long: both get half of the seats' time.
    #[test]
    fn flows_that_always_ask_share_alike() {
        let mut set = QueueSet::new(Some(2), Queuing { queues: 2, hand: 1, length: 10 }, at(0));
        let lasts = [at(30), at(10)];
        let (mut held, mut had): (Vec<(u64, Ticket)>, _) = (Vec::new(), [0.0; 2]);
        for now in 0..6000 {
            while let Some(place) = held.iter().position(|(flow, ticket)| ticket.held(at(now)) >= lasts[*flow as usize])
            {
                let (flow, ticket) = held.swap_remove(place);
                had[flow as usize] += ticket.held(at(now)).as_secs_f64();
                set.leave(at(now), ticket);
            }
            for flow in 0..2 {
                if let Arrival::Run(ticket) = set.arrive(at(now), flow, Width::of(1), || flow) {
                    held.push((flow, ticket));
                }
            }
            held.extend(all(&mut set, at(now)));
        }
        let ratio = had[0] / had[1];
        assert!((0.8..1.25).contains(&ratio), "{had:?}");
    }
}
