//! The heads of answers: how their bodies end, and what the client is told.

use std::io;
use std::mem::MaybeUninit;

use http::{Method, StatusCode};
use httparse::{Header, Status};

use super::super::headers::OF_CONNECTION;
use super::super::proxy::Words;
use super::dates::Dates;
use super::framing::Framing;
use super::request::{Raw, is, put, words};

/// As the HTTP stack has it.
const MAX_HEADERS: usize = 100;
/// Longer heads are refused.
pub const MAX_HEAD: usize = 256 * 1024;

/// Room for headers.
pub type Room<'a> = [MaybeUninit<Header<'a>>; MAX_HEADERS];

/// No room taken.
pub fn room<'a>() -> Room<'a> {
    [const { MaybeUninit::uninit() }; MAX_HEADERS]
}

/// A head of an answer.
pub struct Head<'a> {
    /// How many bytes it has.
    pub length: usize,
    /// The status.
    pub status: StatusCode,
    /// How the end of the body is told.
    pub framing: Framing,
    /// Whether the endpoint keeps the connection.
    pub is_kept: bool,
    reason: &'a str,
    headers: Raw<'a>,
    /// The length that the client is told, also where there is no body.
    told_length: Option<u64>,
}

/// What else the client is told.
pub struct Besides<'a> {
    /// That this connection ends.
    pub is_last: bool,
    /// The time, where the endpoint did not say it.
    pub dates: &'a Dates,
}

impl<'a> Head<'a> {
    /// Reads the answer to a request with this method; nothing where it is not all there. Interim answers are left out.
    ///
    /// # Errors
    /// It is no answer, or one that could be read in several ways.
    pub fn find(bytes: &'a [u8], method: &Method, room: &'a mut Room<'a>) -> io::Result<Option<Self>> {
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        match config.parse_response_with_uninit_headers(&mut response, bytes, room) {
            Ok(Status::Complete(length)) => Self::of(length, response, method).map(Some),
            Ok(Status::Partial) if bytes.len() < MAX_HEAD => Ok(None),
            Ok(Status::Partial) => Err(io::Error::other("the head of the answer is too long")),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn of(length: usize, response: httparse::Response<'a, 'a>, method: &Method) -> io::Result<Self> {
        let status = StatusCode::from_u16(response.code.unwrap_or_default()).map_err(io::Error::other)?;
        let headers: &'a [Header<'a>] = response.headers;
        let is_new = response.version == Some(1);
        let (mut chunked, mut closes, mut stays) = (None, false, false);
        let mut lengths = Lengths::None;
        for header in headers {
            if is(header, "transfer-encoding") {
                // The last word counts, of the last header.
                let last = words(header).last().unwrap_or_default();
                chunked = Some(last.eq_ignore_ascii_case(b"chunked"));
            } else if is(header, "content-length") {
                lengths = header.value.split(|byte| *byte == b',').fold(lengths, Lengths::and);
            } else if is(header, "connection") {
                for word in words(header) {
                    closes |= word.eq_ignore_ascii_case(b"close");
                    stays |= word.eq_ignore_ascii_case(b"keep-alive");
                }
            }
        }
        let is_empty = *method == Method::HEAD || matches!(status.as_u16(), 100..=199 | 204 | 304);
        let framing = match (chunked, lengths) {
            _ if is_empty => Framing::Length(0),
            (Some(_), _) if !is_new => return Err(io::Error::other("chunks in an answer of HTTP/1.0")),
            (Some(true), _) => Framing::chunked(),
            (Some(false), _) => Framing::Rest,
            (None, Lengths::One(length)) => Framing::Length(length),
            (None, Lengths::Bad) => return Err(io::Error::other("the answer's length is none, or it has two")),
            (None, Lengths::None) => Framing::Rest,
        };
        Ok(Self {
            length,
            status,
            framing,
            is_kept: !closes && (is_new || stays) && framing != Framing::Rest,
            reason: response.reason.unwrap_or_default(),
            headers: Raw(headers),
            told_length: match lengths {
                Lengths::One(length) if chunked.is_none() && !matches!(status.as_u16(), 204 | 304) => Some(length),
                _ => None,
            },
        })
    }

    /// Writes what the client is told.
    pub fn write(&self, besides: &Besides<'_>, into: &mut Vec<u8>) {
        begin(self.status, self.reason, into);
        let named = |header: &Header<'_>| {
            let mut connection = self.headers.0.iter().filter(|header| is(header, "connection"));
            connection.any(|known| words(known).any(|word| word.eq_ignore_ascii_case(header.name.as_bytes())))
        };
        let names_others = self.headers.0.iter().any(|header| is(header, "connection"));
        let mut has_date = false;
        if let Some(length) = self.told_length {
            put(into, b"content-length", length.to_string().as_bytes());
        }
        for header in self.headers.0 {
            if OF_CONNECTION.iter().any(|name| is(header, name.as_str())) || is(header, "upgrade") {
                continue;
            }
            if is(header, "content-length") || names_others && named(header) {
                continue;
            }
            has_date |= is(header, "date");
            put(into, header.name.as_bytes(), header.value);
        }
        if !matches!(self.framing, Framing::Length(_)) {
            into.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        end(besides, has_date, into);
    }
}

/// What the answer says of its length, which may be said several times.
#[derive(Clone, Copy)]
enum Lengths {
    None,
    One(u64),
    /// No length, or several.
    Bad,
}

impl Lengths {
    /// And what is said once more.
    fn and(self, said: &[u8]) -> Self {
        let said = std::str::from_utf8(said.trim_ascii()).ok();
        // Numbers may have a sign elsewhere.
        let length =
            said.filter(|said| said.bytes().all(|byte| byte.is_ascii_digit())).and_then(|said| said.parse().ok());
        match (self, length) {
            (Self::None, Some(length)) => Self::One(length),
            (Self::One(known), Some(length)) if known == length => self,
            _ => Self::Bad,
        }
    }
}

/// Writes an answer of our own, with its text where the request does not ask for the head alone.
pub fn write_words(words: &Words, is_head: bool, besides: &Besides<'_>, into: &mut Vec<u8>) {
    begin(words.status(), words.status().canonical_reason().unwrap_or_default(), into);
    for (name, value) in words.headers() {
        put(into, name.as_str().as_bytes(), value.as_bytes());
    }
    put(into, b"content-length", words.body().len().to_string().as_bytes());
    end(besides, false, into);
    if !is_head {
        into.extend_from_slice(words.body());
    }
}

fn begin(status: StatusCode, reason: &str, into: &mut Vec<u8>) {
    for text in ["HTTP/1.1 ", status.as_str(), " ", reason, "\r\n"] {
        into.extend_from_slice(text.as_bytes());
    }
}

fn end(besides: &Besides<'_>, has_date: bool, into: &mut Vec<u8>) {
    if besides.is_last {
        into.extend_from_slice(b"connection: close\r\n");
    }
    if !has_date {
        besides.dates.with(|date| put(into, b"date", date.as_bytes()));
    }
    into.extend_from_slice(b"\r\n");
}
