//! Container logs in the form of the CRI: one entry per line, with its time, stream and a tag that
//! says whether the line is whole (`F`) or goes on in the next entry (`P`).

use std::io::{self, Write};

/// The longest line that is kept whole; upstream's runtimes split there too.
const MAX_LINE_BYTES: usize = 16 * 1024;
/// A time, a stream's name and the spaces between.
const HEAD_BYTES: usize = 40;

/// One output stream on its way into the log.
#[derive(Debug)]
pub struct LineSplitter {
    stream: &'static str,
    pending: Vec<u8>,
}

impl LineSplitter {
    /// A splitter for `stdout` or `stderr`.
    pub fn new(stream: &'static str) -> Self {
        Self { stream, pending: Vec::new() }
    }

    /// Takes what was read at `now` and appends the entries that are complete to `out`.
    pub fn push(&mut self, mut data: &[u8], now: i64, out: &mut Vec<u8>) {
        let head = Head::new(now, self.stream);
        while let Some(end) = memchr::memchr(b'\n', data) {
            let (line, rest) = (&data[..end], &data[end + 1..]);
            if self.pending.is_empty() && line.len() <= MAX_LINE_BYTES {
                head.entry(out, b'F', line);
            } else {
                self.take(line, &head, out);
                head.entry(out, b'F', &self.pending);
                self.pending.clear();
            }
            data = rest;
        }
        self.take(data, &head, out);
        if self.pending.is_empty() && self.pending.capacity() > 0 {
            // An idle pod should hold nothing.
            self.pending = Vec::new();
        }
    }

    /// The stream has ended: what is left is written as a partial line, as upstream does.
    pub fn finish(&mut self, now: i64, out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            Head::new(now, self.stream).entry(out, b'P', &self.pending);
            self.pending = Vec::new();
        }
    }

    fn take(&mut self, mut data: &[u8], head: &Head, out: &mut Vec<u8>) {
        while self.pending.len() + data.len() > MAX_LINE_BYTES {
            let (fits, rest) = data.split_at(MAX_LINE_BYTES - self.pending.len());
            self.pending.extend_from_slice(fits);
            head.entry(out, b'P', &self.pending);
            self.pending.clear();
            data = rest;
        }
        self.pending.extend_from_slice(data);
    }
}

/// What entries of one moment and one stream begin with. It is made once for all lines that were read together: a container
/// that talks much has hundreds of them in each piece.
struct Head(Vec<u8>);

impl Head {
    fn new(now: i64, stream: &str) -> Self {
        let mut text = Vec::with_capacity(HEAD_BYTES);
        timestamp(&mut text, now);
        text.push(b' ');
        text.extend_from_slice(stream.as_bytes());
        text.push(b' ');
        Self(text)
    }

    fn entry(&self, out: &mut Vec<u8>, tag: u8, line: &[u8]) {
        out.reserve(self.0.len() + line.len() + 3);
        out.extend_from_slice(&self.0);
        out.extend_from_slice(&[tag, b' ']);
        out.extend_from_slice(line);
        out.push(b'\n');
    }
}

/// RFC 3339 in UTC with nine digits. Written out here since the shim shall stay small.
fn timestamp(out: &mut Vec<u8>, now: i64) {
    let (seconds, nanoseconds) = (now.div_euclid(1_000_000_000), now.rem_euclid(1_000_000_000));
    let (days, second_of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    let written: io::Result<()> =
        write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanoseconds:09}Z");
    written.expect("a vector takes every write");
}

/// Year, month and day of a number of days since 1970 (the usual algorithm with years that begin in March).
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pieces: &[&str], ended: bool) -> String {
        let mut splitter = LineSplitter::new("stdout");
        let mut out = Vec::new();
        for piece in pieces {
            splitter.push(piece.as_bytes(), 1_767_225_600_000_000_001, &mut out);
        }
        if ended {
            splitter.finish(1_767_225_601_000_000_000, &mut out);
        }
        String::from_utf8(out).expect("text in, text out")
    }

    #[test]
    fn whole_lines_become_entries() {
        assert_eq!(
            check(&["one\ntw", "o\n\n", "rest"], false),
            "2026-01-01T00:00:00.000000001Z stdout F one\n\
             2026-01-01T00:00:00.000000001Z stdout F two\n\
             2026-01-01T00:00:00.000000001Z stdout F \n"
        );
    }

    #[test]
    fn a_line_cut_off_by_the_end_is_partial() {
        assert_eq!(check(&["rest"], true), "2026-01-01T00:00:01.000000000Z stdout P rest\n");
    }

    #[test]
    fn long_lines_are_split() {
        let long = "x".repeat(MAX_LINE_BYTES * 2 + 3) + "\n";
        let text = check(&[&long], false);
        let shape: Vec<(&str, usize)> = text.lines().map(|line| (&line[38..39], line.len() - 40)).collect();
        assert_eq!(shape, [("P", MAX_LINE_BYTES), ("P", MAX_LINE_BYTES), ("F", 3)]);
    }

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_512), (2026, 2, 28));
        assert_eq!(civil(-1), (1969, 12, 31));
    }
}
