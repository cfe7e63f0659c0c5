//! A token bucket: so much at once, and then so much in each second.

use std::time::Duration;

/// What is left of an allowance. How large it is and how fast it fills again is said by whoever asks, because it may
/// change meanwhile.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    left: f64,
    at: Duration,
}

impl Bucket {
    /// A full one at monotonic time `now`.
    pub fn full(size: f64, now: Duration) -> Self {
        Self { left: size, at: now }
    }

    /// Takes one out. `rate` is what comes back in each second, `size` what there can be.
    ///
    /// # Errors
    /// There is none: how long it takes until there is one, at this rate.
    pub fn take(&mut self, rate: f64, size: f64, now: Duration) -> Result<(), Duration> {
        (self.left, self.at) = (self.filled(rate, size, now), now);
        if self.left < 1.0 {
            return Err(Duration::try_from_secs_f64((1.0 - self.left) / rate).unwrap_or(Duration::MAX));
        }
        self.left -= 1.0;
        Ok(())
    }

    /// Whether it is as if nothing had been taken.
    pub fn is_full(&self, rate: f64, size: f64, now: Duration) -> bool {
        self.filled(rate, size, now) >= size
    }

    /// When something was last asked of it.
    pub fn last(&self) -> Duration {
        self.at
    }

    fn filled(&self, rate: f64, size: f64, now: Duration) -> f64 {
        (self.left + rate * now.saturating_sub(self.at).as_secs_f64()).min(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_much_at_once_and_then_at_its_rate() {
        let at = Duration::from_secs;
        let mut bucket = Bucket::full(2.0, at(10));
        assert_eq!(bucket.take(0.5, 2.0, at(10)), Ok(()));
        assert_eq!(bucket.take(0.5, 2.0, at(10)), Ok(()));
        assert_eq!(bucket.take(0.5, 2.0, at(10)), Err(at(2)));
        assert_eq!(bucket.take(0.5, 2.0, at(11)), Err(at(1)));
        assert_eq!(bucket.take(0.5, 2.0, at(12)), Ok(()));
        assert!(!bucket.is_full(0.5, 2.0, at(15)));
        assert!(bucket.is_full(0.5, 2.0, at(16)));
        assert_eq!(bucket.take(0.0, 0.5, at(100)), Err(Duration::MAX), "nothing comes back");
    }
}
