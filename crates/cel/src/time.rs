//! Times and spans of time as texts.

use skiff_base::duration;

use crate::error::EvalError;

/// Reads `1h30m`, `-1.5s` or `0`, in nanoseconds.
pub fn parse_duration(text: &str) -> Result<i64, EvalError> {
    let nanos = duration::parse_signed(text).and_then(|length| i64::try_from(length.as_nanos()).ok());
    nanos.ok_or_else(|| EvalError::new(format!("time: invalid duration {text:?}")))
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
