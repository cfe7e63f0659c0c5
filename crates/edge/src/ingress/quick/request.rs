//! The heads of requests: which are plain, and what an endpoint is told.

use std::mem::MaybeUninit;

use http::{HeaderName, HeaderValue, Method};
use httparse::{Header, Status};

use super::super::headers::{Caller, OF_CONNECTION, SAID_BY_US, X_FORWARDED_HOST};
use super::super::table::Headers;

/// Who has more of them is rare.
pub const MAX_HEADERS: usize = 64;
/// Longer heads are rare.
pub const MAX_HEAD: usize = 16 * 1024;
/// The digits of the longest body that is still counted right.
const MAX_DIGITS: usize = 18;

/// Requests with one of these are not plain.
const OTHERS: [&str; 4] = ["transfer-encoding", "upgrade", "expect", "te"];

/// Room for headers.
pub type Room<'a> = [MaybeUninit<Header<'a>>; MAX_HEADERS];

/// No room taken.
pub fn room<'a>() -> Room<'a> {
    [const { MaybeUninit::uninit() }; MAX_HEADERS]
}

/// What stands at the beginning of some bytes.
pub enum Found<'a> {
    /// Too little.
    Part,
    /// Something for the whole HTTP stack.
    Other,
    /// A plain request.
    Plain(Head<'a>),
}

/// A head that says what is asked for in the one way that everybody reads alike.
pub struct Head<'a> {
    /// How many bytes it has.
    pub length: usize,
    /// The method.
    pub method: Method,
    /// Path and query.
    pub target: &'a str,
    /// The host; it may have a port.
    pub host: &'a str,
    /// How long the body is, if that is said.
    pub body: Option<u64>,
    /// Whether the connection is to end with the answer.
    pub is_last: bool,
    /// All of it, also what is said above.
    pub headers: Raw<'a>,
}

/// Headers as they came.
#[derive(Debug, Clone, Copy)]
pub struct Raw<'a>(pub &'a [Header<'a>]);

impl Headers for Raw<'_> {
    fn text(&self, name: &HeaderName) -> Option<&str> {
        let found = self.0.iter().find(|header| is(header, name.as_str()))?;
        let text = std::str::from_utf8(found.value).ok()?;
        text.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~')).then_some(text)
    }
}

impl<'a> Head<'a> {
    /// Reads what stands at the beginning.
    pub fn find(bytes: &'a [u8], room: &'a mut Room<'a>) -> Found<'a> {
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(bytes, room) {
            Ok(Status::Partial) if bytes.len() < MAX_HEAD => Found::Part,
            Ok(Status::Complete(length)) => Self::of(length, request).map_or(Found::Other, Found::Plain),
            Ok(Status::Partial) | Err(_) => Found::Other,
        }
    }

    fn of(length: usize, request: httparse::Request<'a, 'a>) -> Option<Self> {
        let headers: &'a [Header<'a>] = request.headers;
        let method = match request.method? {
            "GET" => Method::GET,
            "HEAD" => Method::HEAD,
            "POST" => Method::POST,
            "PUT" => Method::PUT,
            "DELETE" => Method::DELETE,
            "OPTIONS" => Method::OPTIONS,
            "PATCH" => Method::PATCH,
            _ => return None,
        };
        let target = request.path.filter(|target| target.starts_with('/') && target.bytes().all(is_of_target))?;
        if request.version != Some(1) {
            return None;
        }
        let (mut host, mut body, mut is_last, mut has_cookies) = (None, None, false, false);
        for header in headers {
            if is(header, "host") {
                let text = std::str::from_utf8(header.value).ok()?;
                let is_plain = !text.is_empty() && text.bytes().all(is_of_host);
                if !is_plain || host.replace(text).is_some() {
                    return None;
                }
            } else if is(header, "content-length") {
                if body.replace(length_of(header.value)?).is_some() {
                    return None;
                }
            } else if is(header, "connection") {
                for word in words(header) {
                    match word {
                        word if word.eq_ignore_ascii_case(b"close") => is_last = true,
                        word if word.eq_ignore_ascii_case(b"keep-alive") => {}
                        _ => return None,
                    }
                }
            } else if is(header, "cookie") {
                // Several are joined.
                if std::mem::replace(&mut has_cookies, true) {
                    return None;
                }
            } else if OTHERS.iter().any(|name| is(header, name)) || says_grpc(header) {
                return None;
            }
        }
        Some(Self { length, method, target, host: host?, body, is_last, headers: Raw(headers) })
    }

    /// Writes what the endpoint is told.
    pub fn write(&self, caller: &Caller, into: &mut Vec<u8>) {
        let text = [self.method.as_str(), " ", self.target, " HTTP/1.1\r\n"];
        text.iter().for_each(|text| into.extend_from_slice(text.as_bytes()));
        let is_kept = |header: &&Header<'_>| {
            let mut gone = OF_CONNECTION.iter().chain(&SAID_BY_US);
            !gone.any(|name| is(header, name.as_str()))
        };
        for header in self.headers.0.iter().filter(is_kept) {
            put(into, header.name.as_bytes(), header.value);
        }
        for (name, value) in &caller.told {
            put(into, name.as_str().as_bytes(), HeaderValue::as_bytes(value));
        }
        put(into, X_FORWARDED_HOST.as_str().as_bytes(), self.host.as_bytes());
        into.extend_from_slice(b"\r\n");
    }
}

/// Writes a header.
pub fn put(into: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    into.reserve(name.len() + value.len() + 4);
    into.extend_from_slice(name);
    into.extend_from_slice(b": ");
    into.extend_from_slice(value);
    into.extend_from_slice(b"\r\n");
}

/// Whether a header has this name.
pub fn is(header: &Header<'_>, name: &str) -> bool {
    header.name.len() == name.len() && header.name.eq_ignore_ascii_case(name)
}

/// The words of a header that is a list.
pub fn words<'a>(header: &Header<'a>) -> impl Iterator<Item = &'a [u8]> {
    header.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|word| !word.is_empty())
}

/// A length of a body.
pub fn length_of(value: &[u8]) -> Option<u64> {
    let is_plain = (1..=MAX_DIGITS).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    is_plain.then(|| value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// Its failures have words of their own.
fn says_grpc(header: &Header<'_>) -> bool {
    is(header, "content-type") && header.value.starts_with(b"application/grpc")
}

/// What may stand in a path and its query; what else some clients send is looked at by the whole stack.
fn is_of_target(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-._~%?&=+,;:@!$'()*".contains(&byte)
}

fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte)
}
