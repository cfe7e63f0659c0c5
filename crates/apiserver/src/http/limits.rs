//! What holds for every request whatever it is about: how long it may take, and the headers that every answer has.

use std::time::Duration;

use http::HeaderMap;
use http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use skiff_base::duration;
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
    // A negative one is of no use here, and counts as none.
    let wanted = duration::parse_signed(text).ok_or_else(invalid)?.try_into().unwrap_or(Duration::ZERO);
    Ok(if wanted.is_zero() { most } else { wanted.min(most) })
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
