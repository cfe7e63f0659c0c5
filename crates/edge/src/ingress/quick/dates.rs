//! The time of day as answers tell it.

use parking_lot::Mutex;
use skiff_base::clock::{SharedClock, Timestamp};

/// The time of day, written once in a second.
pub struct Dates {
    clock: SharedClock,
    last: Mutex<(i64, String)>,
}

impl Dates {
    /// By this clock.
    pub fn new(clock: SharedClock) -> Self {
        Self { clock, last: Mutex::new((i64::MIN, String::new())) }
    }

    /// What it is now.
    pub fn with<T>(&self, then: impl FnOnce(&str) -> T) -> T {
        let now = self.clock.now();
        let mut last = self.last.lock();
        if last.0 != now.as_second() {
            *last = (now.as_second(), written(now));
        }
        then(&last.1)
    }
}

/// As RFC 9110 has it.
fn written(at: Timestamp) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

#[test]
fn dates_are_written_as_the_standard_has_it() {
    let at = "1994-11-06T08:49:37.5Z".parse().expect("a time");
    assert_eq!(written(at), "Sun, 06 Nov 1994 08:49:37 GMT");
}
