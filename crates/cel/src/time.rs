//! Times and spans of time as texts.

use crate::error::EvalError;

const NANOS: i128 = 1_000_000_000;

/// The units of a duration's text, with their nanoseconds.
const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", NANOS),
    ("m", 60 * NANOS),
    ("h", 3600 * NANOS),
];

/// Reads `1h30m`, `-1.5s` or `0`, in nanoseconds.
pub fn parse_duration(text: &str) -> Result<i64, EvalError> {
    let bad = || EvalError::new(format!("time: invalid duration {text:?}"));
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total = 0i128;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let unit_end = after.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
        total = total.checked_add(scaled(number, *scale).ok_or_else(bad)?).ok_or_else(bad)?;
        rest = next;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| bad())
}

fn scaled(number: &str, scale: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 20 {
        return None;
    }
    let mut value = if whole.is_empty() { 0 } else { whole.parse::<i128>().ok()?.checked_mul(scale)? };
    let mut place = scale;
    for digit in fraction.bytes() {
        place /= 10;
        value += i128::from(digit - b'0') * place;
    }
    Some(value)
}

/// A duration as expressions write it: seconds, `5400s`, `1.5s`.
pub fn duration_text(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let (seconds, rest) = (nanos.unsigned_abs() / 1_000_000_000, nanos.unsigned_abs() % 1_000_000_000);
    if rest == 0 {
        return format!("{sign}{seconds}s");
    }
    format!("{sign}{seconds}.{}s", format!("{rest:09}").trim_end_matches('0'))
}

/// Reads an RFC 3339 time of the years 1 to 9999.
pub fn parse_timestamp(text: &str) -> Result<jiff::Timestamp, EvalError> {
    let bad = || EvalError::new(format!("invalid timestamp {text:?}"));
    // The parser takes more notations than RFC 3339: those begin `2006-01-02T`.
    let bytes = text.as_bytes();
    let shape = bytes.len() >= 20
        && bytes[..10].iter().enumerate().all(|(i, b)| if i == 4 || i == 7 { *b == b'-' } else { b.is_ascii_digit() })
        && matches!(bytes[10], b'T' | b't')
        && !text.contains('[');
    if !shape {
        return Err(bad());
    }
    let time: jiff::Timestamp = text.parse().map_err(|_| bad())?;
    checked(time).map_err(|_| bad())
}

const FIRST_SECOND: i64 = -62_135_596_800;
const LAST_SECOND: i64 = 253_402_300_799;

/// A time, where it lies in the years 1 to 9999.
pub fn checked(time: jiff::Timestamp) -> Result<jiff::Timestamp, EvalError> {
    if (FIRST_SECOND..=LAST_SECOND).contains(&time.as_second()) {
        Ok(time)
    } else {
        Err(EvalError::new("timestamp overflow"))
    }
}

/// A time some nanoseconds later.
pub fn shifted(time: jiff::Timestamp, nanos: i128) -> Result<jiff::Timestamp, EvalError> {
    let sum = time.as_nanosecond().checked_add(nanos);
    let sum = sum.and_then(|nanos| jiff::Timestamp::from_nanosecond(nanos).ok());
    checked(sum.ok_or_else(|| EvalError::new("timestamp overflow"))?)
}
