//! Lengths of time as Go writes them, `1h30m` or `1.5s`: configurations, queries and schedules have them so.
//! See <https://pkg.go.dev/time#ParseDuration>.

use std::time::Duration;

use jiff::SignedDuration;

/// The units with their nanoseconds.
const UNITS: [(&str, i128); 8] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ns", 1),
];
/// More digits than any number has that Go can hold.
const MAX_DIGITS: usize = 20;

/// Reads a length of time, which may have a sign. It is exact, and has as many nanoseconds as Go can count (292 years).
pub fn parse_signed(text: &str) -> Option<SignedDuration> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let is_number = |letter: char| letter.is_ascii_digit() || letter == '.';
    let mut nanos = 0_i128;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|letter| !is_number(letter))?);
        let (unit, tail) = tail.split_at(tail.find(is_number).unwrap_or(tail.len()));
        let (_, scale) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        nanos = nanos.checked_add(scaled(number, scale)?)?;
        rest = tail;
    }
    i64::try_from(sign * nanos).ok().map(SignedDuration::from_nanos)
}

/// A number with its fraction in the smallest unit.
fn scaled(number: &str, scale: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0 || fraction.contains('.') || whole.len() > MAX_DIGITS {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<i128>().ok()? };
    let mut place = scale;
    let fraction = fraction.bytes().map(|digit| {
        place /= 10;
        i128::from(digit - b'0') * place
    });
    whole.checked_mul(scale)?.checked_add(fraction.sum())
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
        check(".5s", Some(500));
        check("1.s", Some(1000));
        for bad in
            ["", "5", "s", "5x", "1..5s", "-", ".s", "300y", "9999999h", "99999999999999999999999s", "1h 5m", "5s6"]
        {
            check(bad, None);
        }
    }
}
