//! What holds for every request whatever it is about: how long it may take, and the headers that every answer has.

use std::time::Duration;

use http::HeaderMap;
use http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use skiff_base::ids::Ids;
use skiff_object::Status;

use crate::failure::Result;
use crate::http::answer::Answer;
use crate::http::query::Query;

/// How long a request that is no watch and no tunnel may take, as upstream's.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a write may take, as upstream's: less than the above, so that its own answer comes first.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(34);
/// The longest identity of a request that is taken from its header.
const MAX_AUDIT_ID_BYTES: usize = 64;

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// How long a request may take: as the query says, and at most as long as any other.
pub fn deadline(query: &Query, is_write: bool) -> Result<Duration> {
    let most = if is_write { WRITE_TIMEOUT } else { REQUEST_TIMEOUT };
    let text = query.text("timeout");
    if text.is_empty() {
        return Ok(most);
    }
    let invalid = || {
        let text = format!("invalid timeout specified in the request URL - time: invalid duration {text:?}");
        Status::bad_request(text)
    };
    let wanted = go_duration(text).ok_or_else(invalid)?;
    Ok(if wanted.is_zero() { most } else { wanted.min(most) })
}

/// Reads a duration as Go writes it, `1m30s`; negative ones are of no use here, and count as none.
pub fn go_duration(text: &str) -> Option<Duration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let end = tail.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    if negative { Some(Duration::ZERO) } else { Duration::try_from_secs_f64(seconds).ok() }
}

/// What a request is called in the records: as its client calls it, or by a new name.
pub fn audit_id(headers: &HeaderMap, ids: &Ids) -> String {
    let given = headers.get(AUDIT_ID).and_then(|value| value.to_str().ok()).unwrap_or("");
    if given.is_empty() { ids.uid() } else { given.chars().take(MAX_AUDIT_ID_BYTES).collect() }
}

/// Adds what every answer has.
pub fn finish(answer: &mut Answer, audit_id: &str) {
    let headers = answer.headers_mut();
    if let Ok(value) = HeaderValue::from_str(audit_id) {
        headers.insert(AUDIT_ID, value);
    }
    // What the API says is of the moment, and for who asked.
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(go_duration(text), expected.map(Duration::from_millis), "{text}");
        };
        check("5s", Some(5000));
        check("1m30s", Some(90_000));
        check("1.5h", Some(5_400_000));
        check("250ms", Some(250));
        check("0", Some(0));
        check("-3s", Some(0));
        for bad in ["", "5", "s", "5x", "1..5s", "-"] {
            check(bad, None);
        }
    }

    #[test]
    fn a_request_may_ask_for_less_time() {
        let of =
            |query: &str, is_write: bool| deadline(&Query::parse(query), is_write).map_err(|failure| failure.0.message);
        assert_eq!(of("", false), Ok(REQUEST_TIMEOUT));
        assert_eq!(of("timeout=5s", true), Ok(Duration::from_secs(5)));
        assert_eq!(of("timeout=5m", true), Ok(WRITE_TIMEOUT));
        assert_eq!(of("timeout=0s", false), Ok(REQUEST_TIMEOUT));
        assert_eq!(
            of("timeout=x", false),
            Err("invalid timeout specified in the request URL - time: invalid duration \"x\"".to_owned())
        );
    }
}
