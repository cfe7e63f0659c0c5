//! Where the body of an answer ends.

use std::io;

/// How much a chunked body may bring beside its data: extensions of its chunks, and trailers. Nobody uses more. White space
/// behind lengths does not count: some fill them up with it.
const MAX_ASIDE: usize = 16 * 1024;
/// The digits of the largest length of a chunk.
const MAX_DIGITS: u8 = 16;

/// How the end is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    /// By chunks.
    Chunked(Chunks),
    /// By the end of the connection.
    Rest,
}

/// How far a chunked body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunks {
    state: State,
    aside: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the length of a chunk, with so many digits behind us.
    Size(u64, u8),
    /// In what follows the length and says nothing; what has no semicolon before it is white space.
    Extension(u64, bool),
    /// Before the line feed behind the length.
    SizeEnd(u64),
    Data(u64),
    DataReturn,
    DataEnd,
    /// At the beginning of a trailer, or of the end.
    Trailer,
    InTrailer,
    TrailerEnd,
    LastEnd,
    Done,
}

/// What was found at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Data of the body.
    pub data: &'a [u8],
    /// How many bytes that were, with what stood before the data.
    pub taken: usize,
}

impl Framing {
    /// One whose chunks begin.
    pub fn chunked() -> Self {
        Self::Chunked(Chunks { state: State::Size(0, 0), aside: 0 })
    }

    /// Whether the body is at its end.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunks { state: State::Done, .. }))
    }

    /// The first piece of the body in these bytes; no data only where they have none.
    ///
    /// # Errors
    /// They are no chunks.
    pub fn next<'a>(&mut self, bytes: &'a [u8]) -> io::Result<Piece<'a>> {
        match self {
            Self::Length(left) => {
                let data = &bytes[..at_most(*left, bytes)];
                *left -= data.len() as u64;
                Ok(Piece { data, taken: data.len() })
            }
            Self::Chunked(chunks) => chunks.next(bytes),
            Self::Rest => Ok(Piece { data: bytes, taken: bytes.len() }),
        }
    }
}

impl Chunks {
    fn next<'a>(&mut self, bytes: &'a [u8]) -> io::Result<Piece<'a>> {
        for (at, byte) in bytes.iter().enumerate() {
            if self.state == State::Done {
                return Ok(Piece { data: &[], taken: at });
            }
            if let State::Data(left) = self.state {
                let data = &bytes[at..][..at_most(left, &bytes[at..])];
                let left = left - data.len() as u64;
                self.state = if left == 0 { State::DataReturn } else { State::Data(left) };
                return Ok(Piece { data, taken: at + data.len() });
            }
            self.state = self.after(*byte).ok_or_else(|| io::Error::other("the body is no chunks"))?;
        }
        Ok(Piece { data: &[], taken: bytes.len() })
    }

    fn after(&mut self, byte: u8) -> Option<State> {
        if matches!(self.state, State::Extension(_, true) | State::Trailer | State::InTrailer) {
            self.aside += 1;
            if self.aside > MAX_ASIDE {
                return None;
            }
        }
        Some(match (self.state, byte) {
            (State::Size(size, digits), byte) if byte.is_ascii_hexdigit() && digits < MAX_DIGITS => {
                let digit = char::from(byte).to_digit(16)?;
                State::Size(size << 4 | u64::from(digit), digits + 1)
            }
            (State::Size(_, 0), _) => return None,
            (State::Size(size, _) | State::Extension(size, _), b'\r') => State::SizeEnd(size),
            (State::Size(size, _) | State::Extension(size, _), b';') => State::Extension(size, true),
            (State::Size(size, _) | State::Extension(size, false), b' ' | b'\t') => State::Extension(size, false),
            (State::Extension(size, true), byte) if byte == b'\t' || !byte.is_ascii_control() => {
                State::Extension(size, true)
            }
            (State::SizeEnd(0), b'\n') => State::Trailer,
            (State::SizeEnd(size), b'\n') => State::Data(size),
            (State::DataReturn, b'\r') => State::DataEnd,
            (State::DataEnd, b'\n') => State::Size(0, 0),
            (State::Trailer, b'\r') => State::LastEnd,
            (State::InTrailer, b'\r') => State::TrailerEnd,
            (State::Trailer | State::InTrailer, byte) if byte != b'\n' => State::InTrailer,
            (State::TrailerEnd, b'\n') => State::Trailer,
            (State::LastEnd, b'\n') => State::Done,
            _ => return None,
        })
    }
}

fn at_most(left: u64, bytes: &[u8]) -> usize {
    usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// The data and what follows, which has to be the same wherever the bytes are cut.
    fn read(text: &str) -> String {
        let whole = read_in_parts(text, text.len());
        for cut in 1..text.len() {
            assert_eq!(read_in_parts(text, cut), whole, "{text:?} cut at {cut}");
        }
        whole
    }

    fn read_in_parts(text: &str, cut: usize) -> String {
        let mut framing = Framing::chunked();
        let (mut data, mut kept) = (Vec::new(), Vec::new());
        for part in [&text[..cut], &text[cut..]] {
            kept.extend_from_slice(part.as_bytes());
            while !kept.is_empty() && !framing.is_done() {
                match framing.next(&kept) {
                    Ok(piece) => {
                        data.extend_from_slice(piece.data);
                        let taken = piece.taken;
                        kept.drain(..taken);
                    }
                    Err(_) => return "no chunks".to_owned(),
                }
            }
        }
        let end = if framing.is_done() { "done" } else { "open" };
        format!("{} {end} {}", String::from_utf8_lossy(&data), String::from_utf8_lossy(&kept))
    }

    fn check(texts: &[&str], expected: Expect) {
        let lines: Vec<String> = texts.iter().map(|text| format!("{text:?}: {}\n", read(text).trim_end())).collect();
        expected.assert_eq(&lines.concat());
    }

    #[test]
    fn chunks_are_read_strictly() {
        check(
            &[
                "4\r\nwiki\r\n5\r\npedia\r\n0\r\n\r\nmore",
                "a;name=\"x y\"\r\n0123456789\r\n000\r\nTrailer: 1\r\nOther: 2\r\n\r\n",
                "4 \r\nwiki\r\n0\r\n",
                "4\nwiki\r\n0\r\n\r\n",
                "4\r\nwikipedia\r\n0\r\n\r\n",
                "4\r\nwiki0\r\n\r\n",
                "\r\n",
                "-4\r\nwiki\r\n",
                "0x4\r\nwiki\r\n",
                "+4\r\nwiki\r\n",
                " 4\r\nwiki\r\n",
                "4 4\r\nwiki\r\n",
                "4;a\n\r\nwiki\r\n",
                "4\rwiki\r\n",
                "10000000000000000\r\nwiki\r\n",
                "ffffffffffffffff\r\nwiki",
                "0\r\nA: b\n\r\n\r\n",
                "0\r\nA: b\r\r\n\r\n",
            ],
            expect![[r#"
                "4\r\nwiki\r\n5\r\npedia\r\n0\r\n\r\nmore": wikipedia done more
                "a;name=\"x y\"\r\n0123456789\r\n000\r\nTrailer: 1\r\nOther: 2\r\n\r\n": 0123456789 done
                "4 \r\nwiki\r\n0\r\n": wiki open
                "4\nwiki\r\n0\r\n\r\n": no chunks
                "4\r\nwikipedia\r\n0\r\n\r\n": no chunks
                "4\r\nwiki0\r\n\r\n": no chunks
                "\r\n": no chunks
                "-4\r\nwiki\r\n": no chunks
                "0x4\r\nwiki\r\n": no chunks
                "+4\r\nwiki\r\n": no chunks
                " 4\r\nwiki\r\n": no chunks
                "4 4\r\nwiki\r\n": no chunks
                "4;a\n\r\nwiki\r\n": no chunks
                "4\rwiki\r\n": no chunks
                "10000000000000000\r\nwiki\r\n": no chunks
                "ffffffffffffffff\r\nwiki": wiki open
                "0\r\nA: b\n\r\n\r\n": no chunks
                "0\r\nA: b\r\r\n\r\n": no chunks
            "#]],
        );
    }

    #[test]
    fn what_is_beside_the_data_has_a_limit() {
        let mut framing = Framing::chunked();
        let long = format!("1;{}\r\n", "x".repeat(MAX_ASIDE));
        assert!(framing.next(long.as_bytes()).is_err());
        let mut framing = Framing::chunked();
        let trailers = format!("0\r\n{}\r\n", "a: b\r\n".repeat(MAX_ASIDE / 4));
        assert!(framing.next(trailers.as_bytes()).is_err());
    }

    #[test]
    fn white_space_behind_lengths_has_none() {
        let mut framing = Framing::chunked();
        let chunk = format!("1{}\r\nx\r\n", " ".repeat(7));
        for _ in 0..MAX_ASIDE {
            let mut rest = chunk.as_bytes();
            while !rest.is_empty() {
                rest = &rest[framing.next(rest).expect("a chunk").taken..];
            }
        }
        assert_eq!(framing.next(b"0\r\n\r\n").expect("the end").data, b"");
        assert!(framing.is_done());
    }

    #[test]
    fn a_length_ends_where_it_says() {
        let mut framing = Framing::Length(4);
        assert_eq!(framing.next(b"wikipedia").expect("data"), Piece { data: b"wiki", taken: 4 });
        assert!(framing.is_done());
        assert_eq!(framing.next(b"more").expect("data"), Piece { data: b"", taken: 0 });
    }
}
