//! The one seam through which the program learns what time it is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A point of wall-clock time in UTC, with microseconds kept.
pub type Timestamp = jiff::Timestamp;

/// Where the program reads the time. Deciding code takes a [`Timestamp`] as an argument instead.
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time, for everything that is written into an object.
    fn now(&self) -> Timestamp;
    /// Time since an arbitrary fixed point, never going back, for delays and periods.
    fn monotonic(&self) -> Duration;
}

/// A clock that is handed around.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's own clock.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// The same, ready to be shared.
    pub fn shared() -> SharedClock {
        Arc::new(Self::new())
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that stands still until it is moved; for tests and the simulator.
#[derive(Debug)]
pub struct ManualClock {
    wall: Mutex<(Timestamp, Duration)>,
}

impl ManualClock {
    /// A clock that shows `now` until [`ManualClock::advance`] is called.
    pub fn at(now: Timestamp) -> Self {
        Self { wall: Mutex::new((now, Duration::ZERO)) }
    }

    /// Moves both the wall clock and the monotonic clock forward.
    pub fn advance(&self, by: Duration) {
        let mut wall = self.wall.lock();
        wall.0 += by;
        wall.1 += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.wall.lock().0
    }

    fn monotonic(&self) -> Duration {
        self.wall.lock().1
    }
}

/// RFC 3339 with whole seconds (`2026-01-31T12:00:00Z`), as `metav1.Time` is written.
pub fn rfc3339(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// RFC 3339 with six digits of fraction, as `metav1.MicroTime` is written.
pub fn rfc3339_micro(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_upstream_writes_them() {
        let at: Timestamp = "2026-03-04T05:06:07.089Z".parse().expect("a valid time");
        assert_eq!(rfc3339(at), "2026-03-04T05:06:07Z");
        assert_eq!(rfc3339_micro(at), "2026-03-04T05:06:07.089000Z");
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::at(Timestamp::UNIX_EPOCH);
        clock.advance(Duration::from_secs(5));
        assert_eq!(clock.now().as_second(), 5);
        assert_eq!(clock.monotonic(), Duration::from_secs(5));
    }
}
