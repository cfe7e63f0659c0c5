//! PEM (RFC 7468): blocks of base64 between two lines, with anything around them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";
/// How many letters a line of base64 has.
const LINE_LENGTH: usize = 64;

/// One block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// What it is, `CERTIFICATE`.
    pub label: String,
    /// Whether lines such as `Proc-Type: 4,ENCRYPTED` stand before the base64.
    pub has_headers: bool,
    /// The content.
    pub bytes: Vec<u8>,
}

/// The blocks of a text, in their order. What is no whole block is passed over.
pub fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().map(str::trim_end);
    // The block that has begun: its label, whether it has headers, and its base64 so far.
    let mut open: Option<(&str, bool, String)> = None;
    for line in &mut lines {
        if let Some(label) = line.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(DASHES)) {
            open = Some((label, false, String::new()));
        } else if let Some(label) = line.strip_prefix(END).and_then(|rest| rest.strip_suffix(DASHES)) {
            let ended = open.take().filter(|(begun, ..)| *begun == label);
            blocks.extend(ended.and_then(|(label, has_headers, base64)| block(label, has_headers, &base64)));
        } else if let Some((_, has_headers, base64)) = &mut open {
            if base64.is_empty() && line.contains(':') {
                *has_headers = true;
            } else {
                base64.extend(line.chars().filter(|letter| !letter.is_whitespace()));
            }
        }
    }
    blocks
}

fn block(label: &str, has_headers: bool, base64: &str) -> Option<Block> {
    let bytes = STANDARD.decode(base64).ok()?;
    Some(Block { label: label.to_owned(), has_headers, bytes })
}

/// A block without headers, as text.
pub fn encode(label: &str, bytes: &[u8]) -> String {
    let base64 = STANDARD.encode(bytes);
    let mut text = format!("{BEGIN}{label}{DASHES}\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, others) = rest.split_at(rest.len().min(LINE_LENGTH));
        text.push_str(line);
        text.push('\n');
        rest = others;
    }
    text.push_str(&format!("{END}{label}{DASHES}\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let (long, short) = (vec![7; 100], b"x".to_vec());
        let text = format!("one\n{}two\n\n{}", encode("CERTIFICATE", &long), encode("KEY", &short));
        assert!(text.lines().all(|line| line.len() <= LINE_LENGTH));
        let block = |label: &str, bytes: &[u8]| Block { label: label.into(), has_headers: false, bytes: bytes.into() };
        assert_eq!(blocks(&text), [block("CERTIFICATE", &long), block("KEY", &short)]);
        assert_eq!(encode("NONE", b""), "-----BEGIN NONE-----\n-----END NONE-----\n");
    }

    #[test]
    fn what_is_no_block_is_passed_over() {
        let check = |text: &str| blocks(text).iter().map(|block| block.bytes.len()).collect::<Vec<_>>();
        assert_eq!(check(""), [0; 0]);
        assert_eq!(check("-----BEGIN A-----\neA==\n"), [0; 0]);
        assert_eq!(check("-----BEGIN A-----\neA==\n-----END B-----\n"), [0; 0]);
        assert_eq!(check("-----BEGIN A-----\n?\n-----END A-----\n-----BEGIN A-----\neA==\n-----END A-----"), [1]);
        assert_eq!(check("-----BEGIN A-----\n-----BEGIN A-----\r\neA==\r\n-----END A-----\r\n"), [1]);
        let encrypted = "-----BEGIN A-----\nProc-Type: 4,ENCRYPTED\n\neA==\n-----END A-----\n";
        assert!(blocks(encrypted)[0].has_headers);
    }
}
