//! Patterns in the dialect of RE2, which upstream's expressions and schemas use, compiled by the `regex` crate.
//! The dialects differ in little: the letters for classes are ASCII here, and a few escapes are written otherwise.

use std::fmt::Write;

use regex::{Regex, RegexBuilder};

/// How large a compiled pattern may be: patterns come from users.
const SIZE_LIMIT: usize = 1 << 20;
/// How deep a pattern may nest.
const NEST_LIMIT: u32 = 100;
/// How long a pattern may be.
const LENGTH_LIMIT: usize = 64 * 1024;

/// Compiles a pattern.
///
/// # Errors
/// It is none, or too large; the message is for people.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    let bad = |why: &str| format!("error parsing regexp: {why}: `{pattern}`");
    if pattern.len() > LENGTH_LIMIT {
        return Err(bad("expression too large"));
    }
    let translated = translate(pattern);
    let compiled = RegexBuilder::new(&translated).size_limit(SIZE_LIMIT).nest_limit(NEST_LIMIT).build();
    compiled.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => bad("expression too large"),
        _ => bad("invalid syntax"),
    })
}

/// The same pattern in the other dialect.
fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut letters = pattern.chars().peekable();
    let mut in_class = false;
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some('Q') => quoted(&mut letters, &mut out),
                Some(escaped) => escape(escaped, in_class, &mut letters, &mut out),
                None => out.push('\\'),
            },
            '[' if !in_class => {
                in_class = true;
                out.push('[');
                if letters.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                if letters.next_if_eq(&']').is_some() {
                    out.push_str("\\]");
                }
            }
            '[' if letters.peek() == Some(&':') => {
                out.push('[');
                // A named class ends with its own bracket.
                for letter in letters.by_ref() {
                    out.push(letter);
                    if letter == ']' {
                        break;
                    }
                }
            }
            ']' => {
                in_class = false;
                out.push(']');
            }
            // Inside a class these mean something to one dialect only.
            '[' | '&' | '~' if in_class => {
                out.push('\\');
                out.push(letter);
            }
            other => out.push(other),
        }
    }
    out
}

fn quoted(letters: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) {
    while let Some(letter) = letters.next() {
        if letter == '\\' && letters.next_if_eq(&'E').is_some() {
            return;
        }
        out.push_str(&regex::escape(letter.encode_utf8(&mut [0; 4])));
    }
}

fn escape(escaped: char, in_class: bool, letters: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) {
    let class = match escaped {
        'd' => "0-9",
        'w' => "0-9A-Za-z_",
        's' => "\\t\\n\\x0C\\r ",
        _ => "",
    };
    if !class.is_empty() {
        return if in_class { out.push_str(class) } else { out.push_str(&format!("[{class}]")) };
    }
    match escaped {
        'D' => out.push_str("[^0-9]"),
        'W' => out.push_str("[^0-9A-Za-z_]"),
        'S' => out.push_str("[^\\t\\n\\x0C\\r ]"),
        'b' if !in_class => out.push_str("(?-u:\\b)"),
        'B' if !in_class => out.push_str("(?-u:\\B)"),
        // Octal escapes are written as hexadecimal ones there.
        '0'..='7' => {
            let mut value = escaped.to_digit(8).unwrap_or(0);
            for _ in 0..2 {
                let Some(digit) = letters.peek().and_then(|letter| letter.to_digit(8)) else { break };
                letters.next();
                value = value * 8 + digit;
            }
            let written = write!(out, "\\x{{{value:X}}}");
            debug_assert!(written.is_ok(), "writing to a text does not fail");
        }
        other => {
            out.push('\\');
            out.push(other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dialects_agree() {
        for (pattern, text, matches) in [
            (r"^\d+$", "12", true),
            (r"^\d+$", "\u{662}", false),
            (r"^[\w.-]+$", "a.b-c", true),
            (r"^[[:alpha:]]+$", "abc", true),
            (r"[[]", "[", true),
            (r"^[]a]+$", "]a", true),
            (r"\Qa.b\E", "a.b", true),
            (r"\Qa.b\E", "axb", false),
            (r"(?i)ABC", "abc", true),
            (r"\bfoo\b", "a foo b", true),
            (r"^[a&&b]$", "&", true),
            (r"^\pL$", "\u{e9}", true),
            (r"^\101$", "A", true),
        ] {
            assert_eq!(compile(pattern).map(|regex| regex.is_match(text)), Ok(matches), "{pattern} on {text}");
        }
        for pattern in ["(", "(?<=a)b", "[z-a]", "(a{1000}){1000}", r"\8"] {
            assert!(compile(pattern).is_err(), "{pattern}");
        }
    }
}
