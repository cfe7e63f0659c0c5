//! From an expression's letters to its words.

use std::sync::Arc;

use crate::error::Issue;

/// A word of an expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Word {
    /// A name.
    Name(Arc<str>),
    /// A name in backticks, which may stand after a dot only.
    Quoted(Arc<str>),
    /// A whole number, without its sign.
    Int(u64),
    /// A number with `u`.
    Uint(u64),
    /// A number with a point or an exponent.
    Double(f64),
    /// A text.
    String(Arc<str>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// An operator or a bracket.
    Sign(&'static str),
    /// The end.
    End,
}

/// A word and the offset of its first letter.
#[derive(Debug, Clone)]
pub struct Token {
    /// The word.
    pub word: Word,
    /// Where it starts, in letters.
    pub at: u32,
}

const SIGNS: [&str; 27] = [
    "==", "!=", "<=", ">=", "&&", "||", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":", "+", "*", "/", "%",
    "<", ">", "=", "&", "|",
];

struct Lexer<'s> {
    text: &'s [char],
    at: usize,
}

/// The words of a text, the last of which is the end.
pub fn words(text: &[char]) -> Result<Vec<Token>, Issue> {
    let mut lexer = Lexer { text, at: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blanks();
        let at = lexer.at as u32;
        let word = lexer.next()?;
        let is_end = word == Word::End;
        tokens.push(Token { word, at });
        if is_end {
            return Ok(tokens);
        }
    }
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> char {
        self.text.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn skip_blanks(&mut self) {
        while self.at < self.text.len() {
            match self.peek(0) {
                '\t' | ' ' | '\r' | '\n' | '\u{c}' => self.at += 1,
                '/' if self.peek(1) == '/' => {
                    while self.at < self.text.len() && self.peek(0) != '\n' {
                        self.at += 1;
                    }
                }
                _ => return,
            }
        }
    }

    fn unknown(&self) -> Issue {
        let letter: String = self.text[self.at.min(self.text.len())..].iter().take(1).collect();
        Issue::new(self.at as u32, format!("Syntax error: token recognition error at: '{letter}'"))
    }

    fn next(&mut self) -> Result<Word, Issue> {
        if self.at >= self.text.len() {
            return Ok(Word::End);
        }
        let letter = self.peek(0);
        if let Some(prefix) = self.string_prefix() {
            return self.string(prefix);
        }
        if letter.is_ascii_alphabetic() || letter == '_' {
            let start = self.at;
            while self.peek(0).is_ascii_alphanumeric() || self.peek(0) == '_' {
                self.at += 1;
            }
            let name: String = self.text[start..self.at].iter().collect();
            return Ok(Word::Name(name.into()));
        }
        if letter.is_ascii_digit() || (letter == '.' && self.peek(1).is_ascii_digit()) {
            return self.number();
        }
        if letter == '`' {
            return self.quoted();
        }
        for sign in SIGNS {
            if sign.chars().enumerate().all(|(i, c)| self.peek(i) == c) {
                if matches!(sign, "=" | "&" | "|") {
                    break;
                }
                self.at += sign.len();
                return Ok(Word::Sign(sign));
            }
        }
        Err(self.unknown())
    }

    fn quoted(&mut self) -> Result<Word, Issue> {
        let start = self.at + 1;
        let rest = self.text[start..].iter();
        let allowed = |c: &&char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/' | ' ');
        let length = rest.take_while(allowed).count();
        if length == 0 || self.text.get(start + length) != Some(&'`') {
            return Err(self.unknown());
        }
        self.at = start + length + 1;
        let name: String = self.text[start..start + length].iter().collect();
        Ok(Word::Quoted(name.into()))
    }

    /// How many letters stand before a string's quote.
    fn string_prefix(&self) -> Option<usize> {
        let mut length = 0;
        while length < 2 && matches!(self.peek(length), 'r' | 'R' | 'b' | 'B') {
            length += 1;
        }
        let same = length == 2 && self.peek(0).eq_ignore_ascii_case(&self.peek(1));
        (matches!(self.peek(length), '"' | '\'') && !same).then_some(length)
    }

    fn number(&mut self) -> Result<Word, Issue> {
        let start = self.at;
        let bad = |text: &str| Issue::new(start as u32, format!("invalid int literal: {text}"));
        if self.peek(0) == '0' && matches!(self.peek(1), 'x' | 'X') && self.peek(2).is_ascii_hexdigit() {
            self.at += 2;
            let digits_at = self.at;
            while self.peek(0).is_ascii_hexdigit() {
                self.at += 1;
            }
            let digits: String = self.text[digits_at..self.at].iter().collect();
            let value = u64::from_str_radix(&digits, 16).map_err(|_| bad(&digits))?;
            return Ok(self.maybe_unsigned(value));
        }
        let mut is_double = false;
        while self.peek(0).is_ascii_digit() {
            self.at += 1;
        }
        if self.peek(0) == '.' && self.peek(1).is_ascii_digit() {
            is_double = true;
            self.at += 1;
            while self.peek(0).is_ascii_digit() {
                self.at += 1;
            }
        }
        if matches!(self.peek(0), 'e' | 'E') {
            let sign = usize::from(matches!(self.peek(1), '+' | '-'));
            if self.peek(1 + sign).is_ascii_digit() {
                is_double = true;
                self.at += 1 + sign;
                while self.peek(0).is_ascii_digit() {
                    self.at += 1;
                }
            }
        }
        let digits: String = self.text[start..self.at].iter().collect();
        if is_double {
            let value: f64 = digits.parse().map_err(|_| Issue::new(start as u32, "invalid double literal".into()))?;
            if value.is_infinite() {
                return Err(Issue::new(start as u32, "invalid double literal".into()));
            }
            return Ok(Word::Double(value));
        }
        let value = digits.parse().map_err(|_| bad(&digits))?;
        Ok(self.maybe_unsigned(value))
    }

    fn maybe_unsigned(&mut self, value: u64) -> Word {
        if matches!(self.peek(0), 'u' | 'U') {
            self.at += 1;
            return Word::Uint(value);
        }
        Word::Int(value)
    }

    fn string(&mut self, prefix: usize) -> Result<Word, Issue> {
        let has = |wanted: char| (0..prefix).any(|i| self.peek(i).eq_ignore_ascii_case(&wanted));
        let (raw, bytes) = (has('r'), has('b'));
        let start = self.at;
        self.at += prefix;
        let quote = self.peek(0);
        let triple = self.peek(1) == quote && self.peek(2) == quote;
        self.at += if triple { 3 } else { 1 };
        let open = |start: usize, text: &[char]| {
            let rest: String = text[start..].iter().collect();
            Issue::new(start as u32, format!("Syntax error: token recognition error at: '{rest}'"))
        };
        let mut out: Vec<u8> = Vec::new();
        loop {
            if self.at >= self.text.len() {
                return Err(open(start, self.text));
            }
            let letter = self.peek(0);
            if letter == quote && (!triple || (self.peek(1) == quote && self.peek(2) == quote)) {
                self.at += if triple { 3 } else { 1 };
                break;
            }
            if !triple && matches!(letter, '\n' | '\r') {
                return Err(open(start, self.text));
            }
            if letter == '\\' && !raw {
                self.escape(bytes, &mut out)?;
                continue;
            }
            self.at += 1;
            out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
        }
        if bytes {
            return Ok(Word::Bytes(out.into()));
        }
        let text = String::from_utf8(out).map_err(|_| open(start, self.text))?;
        Ok(Word::String(text.into()))
    }

    fn escape(&mut self, bytes: bool, out: &mut Vec<u8>) -> Result<(), Issue> {
        let bad = Issue::new(self.at as u32, "unable to unescape string".into());
        let letter = self.peek(1);
        let (skip, digits, radix) = match letter {
            'x' | 'X' => (2, 2, 16),
            'u' if !bytes => (2, 4, 16),
            'U' if !bytes => (2, 8, 16),
            '0'..='3' => (1, 3, 8),
            _ => (0, 0, 0),
        };
        if digits == 0 {
            let plain = match letter {
                'a' => 7,
                'b' => 8,
                'f' => 12,
                'n' => b'\n',
                'r' => b'\r',
                't' => b'\t',
                'v' => 11,
                '\\' | '?' | '"' | '\'' | '`' => letter as u8,
                _ => return Err(bad),
            };
            out.push(plain);
            self.at += 2;
            return Ok(());
        }
        let mut value = 0u32;
        for i in 0..digits {
            let digit = self.peek(skip + i).to_digit(radix).ok_or_else(|| bad.clone())?;
            value = value * radix + digit;
        }
        self.at += skip + digits;
        if bytes {
            out.push(value as u8);
        } else {
            let letter = char::from_u32(value).ok_or(bad)?;
            out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Ok(())
    }
}
