//! Lengths of time as Go writes them, `1h30m` or `1.5s`: configurations, queries and schedules have them so.
//! See <https://pkg.go.dev/time#ParseDuration>.

use std::time::Duration;

use jiff::SignedDuration;

/// The units with their seconds.
const UNITS: [(&str, f64); 8] =
    [("h", 3600.0), ("m", 60.0), ("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("µs", 1e-6), ("μs", 1e-6), ("ns", 1e-9)];

/// Reads a length of time, which may have a sign.
pub fn parse_signed(text: &str) -> Option<SignedDuration> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let is_number = |letter: char| letter.is_ascii_digit() || letter == '.';
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|letter| !is_number(letter))?);
        let (unit, tail) = tail.split_at(tail.find(is_number).unwrap_or(tail.len()));
        let (_, scale) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        seconds += number.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    SignedDuration::try_from_secs_f64(sign * seconds).ok()
}

/// Reads a length of time that is not negative.
pub fn parse(text: &str) -> Option<Duration> {
    Duration::try_from(parse_signed(text)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_read_as_go_reads_them() {
        let check = |text: &str, expected: Option<i64>| {
            assert_eq!(parse_signed(text), expected.map(SignedDuration::from_millis), "{text}");
            let positive = expected.and_then(|millis| u64::try_from(millis).ok());
            assert_eq!(parse(text), positive.map(Duration::from_millis), "{text}");
        };
        check("5s", Some(5000));
        check("+1m30s", Some(90_000));
        check("1.5h", Some(5_400_000));
        check("250ms", Some(250));
        check("2000us", Some(2));
        check("2000µs", Some(2));
        check("1m0.5s", Some(60_500));
        check("0", Some(0));
        check("-3s", Some(-3000));
        for bad in ["", "5", "s", "5x", "1..5s", "-", "1h 5m", "5s6"] {
            check(bad, None);
        }
    }
}
