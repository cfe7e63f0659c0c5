//! Reading label selectors as they stand in query strings, by upstream's grammar and with its words about what is wrong.
//! See <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors>.

use std::collections::BTreeSet;

use serde_json::json;

use super::Requirement;
use crate::{FieldError, FieldPath, names};

/// The operators between a key and its values, as errors list them.
const OPERATORS: &str = "in, notin, =, ==, !=, gt, lt";
/// How upstream writes the path of a key that stands in no object.
const NO_PATH: &str = "<nil>";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    End,
    Open,
    Close,
    Comma,
    Not,
    Equal,
    NotEqual,
    Greater,
    Less,
    In,
    NotIn,
    Identifier,
    Unknown,
}

fn token_of(text: &str) -> Option<Token> {
    Some(match text {
        "(" => Token::Open,
        ")" => Token::Close,
        "," => Token::Comma,
        "!" => Token::Not,
        "=" | "==" => Token::Equal,
        "!=" => Token::NotEqual,
        ">" => Token::Greater,
        "<" => Token::Less,
        "in" => Token::In,
        "notin" => Token::NotIn,
        _ => return None,
    })
}

fn is_special(letter: char) -> bool {
    matches!(letter, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn is_blank(letter: char) -> bool {
    matches!(letter, ' ' | '\t' | '\r' | '\n')
}

/// Cuts a text into words and signs; a sign is the longest that is one.
fn tokens(text: &str) -> Vec<(Token, &str)> {
    let (mut tokens, mut rest) = (Vec::new(), text.trim_start_matches(is_blank));
    while let Some(first) = rest.chars().next() {
        let end = if is_special(first) { sign_end(rest) } else { word_end(rest) };
        let (word, tail) = rest.split_at(end);
        let other = if is_special(first) { Token::Unknown } else { Token::Identifier };
        tokens.push((token_of(word).unwrap_or(other), word));
        rest = tail.trim_start_matches(is_blank);
    }
    tokens
}

fn word_end(text: &str) -> usize {
    text.find(|letter| is_special(letter) || is_blank(letter)).unwrap_or(text.len())
}

fn sign_end(text: &str) -> usize {
    // No sign is longer, and a look further ahead at each of many would take its time.
    let special = text.chars().take(2).take_while(|letter| is_special(*letter)).count();
    let longest = (1..=special).rev().find(|end| token_of(&text[..*end]).is_some());
    longest.unwrap_or(special)
}

/// Reads all requirements of a selector.
pub(super) fn requirements(text: &str) -> Result<Vec<Requirement>, String> {
    let mut parser = Parser { tokens: tokens(text), at: 0 };
    let mut requirements = Vec::new();
    loop {
        match parser.peek() {
            (Token::Identifier | Token::Not, _) => {}
            (Token::End, _) => return Ok(requirements),
            (_, found) => return Err(format!("found '{found}', expected: !, identifier, or 'end of string'")),
        }
        let requirement = parser.requirement().map_err(|error| format!("unable to parse requirement: {error}"))?;
        requirements.push(requirement);
        match parser.next() {
            (Token::End, _) => return Ok(requirements),
            (Token::Comma, _) => {
                let (token, found) = parser.peek();
                if !matches!(token, Token::Identifier | Token::Not) {
                    return Err(format!("found '{found}', expected: identifier after ','"));
                }
            }
            (_, found) => return Err(format!("found '{found}', expected: ',' or 'end of string'")),
        }
    }
}

struct Parser<'a> {
    tokens: Vec<(Token, &'a str)>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn raw(&self) -> (Token, &'a str) {
        self.tokens.get(self.at).copied().unwrap_or((Token::End, ""))
    }

    /// The next token where a key or a value stands: `in` and `notin` are words there.
    fn peek(&self) -> (Token, &'a str) {
        match self.raw() {
            (Token::In | Token::NotIn, word) => (Token::Identifier, word),
            other => other,
        }
    }

    fn next(&mut self) -> (Token, &'a str) {
        let next = self.peek();
        self.at += 1;
        next
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut token, mut word) = self.next();
        let negated = token == Token::Not;
        if negated {
            (token, word) = self.next();
        }
        if token != Token::Identifier {
            return Err(format!("found '{word}', expected: identifier"));
        }
        check_key(word)?;
        let key = word.to_owned();
        if negated {
            return Ok(Requirement::DoesNotExist(key));
        }
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok(Requirement::Exists(key));
        }
        let (operator, found) = self.raw();
        self.at += 1;
        match operator {
            Token::In | Token::NotIn => {
                let values = self.values()?;
                if values.is_empty() {
                    let words = "for 'in', 'notin' operators, values set can't be empty";
                    return Err(FieldError::invalid(&FieldPath::new("values"), json!([]), words).to_string());
                }
                check_values(&key, &values)?;
                let make = if operator == Token::In { Requirement::In } else { Requirement::NotIn };
                Ok(make(key, values))
            }
            Token::Equal | Token::NotEqual => {
                let value = self.value()?;
                check_values(&key, std::slice::from_ref(&value))?;
                let make = if operator == Token::Equal { Requirement::In } else { Requirement::NotIn };
                Ok(make(key, vec![value]))
            }
            Token::Greater | Token::Less => {
                let value = self.value()?;
                let limit = number(&value)?;
                let make = if operator == Token::Greater { Requirement::GreaterThan } else { Requirement::LessThan };
                Ok(make(key, limit))
            }
            _ => Err(format!("found '{found}', expected: {OPERATORS}")),
        }
    }

    /// The one value behind `=` and the like; none is the empty one.
    fn value(&mut self) -> Result<String, String> {
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.next() {
            (Token::Identifier, word) => Ok(word.to_owned()),
            (_, found) => Err(format!("found '{found}', expected: identifier")),
        }
    }

    /// The values in parentheses, in order and each once.
    fn values(&mut self) -> Result<Vec<String>, String> {
        let (token, found) = self.next();
        if token != Token::Open {
            return Err(format!("found '{found}' expected: '('"));
        }
        let mut values = BTreeSet::new();
        match self.peek() {
            (Token::Close, _) => {
                self.at += 1;
                return Ok(Vec::new());
            }
            (Token::Identifier | Token::Comma, _) => {}
            (_, found) => return Err(format!("found '{found}', expected: ',', ')' or identifier")),
        }
        loop {
            match self.next() {
                (Token::Identifier, word) => {
                    values.insert(word.to_owned());
                    match self.peek() {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => break,
                        (_, found) => return Err(format!("found '{found}', expected: ',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    // A place between commas that is left empty is the empty value.
                    let next = self.peek().0;
                    if values.is_empty() || matches!(next, Token::Close | Token::Comma) {
                        values.insert(String::new());
                    }
                    if next == Token::Close {
                        break;
                    }
                }
                (_, found) => return Err(format!("found '{found}', expected: ',', or identifier")),
            }
        }
        self.at += 1;
        Ok(values.into_iter().collect())
    }
}

fn check_key(key: &str) -> Result<(), String> {
    let faults = names::check_label_key(key);
    if faults.is_empty() {
        return Ok(());
    }
    Err(FieldError::invalid(&FieldPath::new(NO_PATH), key, faults.join("; ")).to_string())
}

fn check_values(key: &str, values: &[String]) -> Result<(), String> {
    let fault = |(index, value): (usize, &String)| {
        let faults = names::check_label_value(value);
        let path = FieldPath::new("values").index(index).key(key);
        (!faults.is_empty()).then(|| FieldError::invalid(&path, value.as_str(), faults.join("; ")).to_string())
    };
    let faults: Vec<String> = values.iter().enumerate().filter_map(fault).collect();
    match faults.as_slice() {
        [] => Ok(()),
        [only] => Err(only.clone()),
        several => Err(format!("[{}]", several.join(", "))),
    }
}

fn number(value: &str) -> Result<i64, String> {
    value.parse().map_err(|_| {
        let words = "for 'Gt', 'Lt' operators, the value must be an integer";
        FieldError::invalid(&FieldPath::new("values").index(0), value, words).to_string()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let shown = match requirements(text) {
            Ok(requirements) => super::super::LabelSelector::of(requirements).to_string(),
            Err(error) => error,
        };
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn selectors_are_read() {
        check("", "");
        check("  ", "");
        check("a = b , c!=d,e==f", "a=b,c!=d,e=f");
        check("x in (b, a,b),y notin (c),!z,w", "x in (a,b),y!=c,!z,w");
        check("a in (,)", "a=");
        check("a=", "a=");
        check("a=,b", "a=,b");
        check("in in (in, notin)", "in in (in,notin)");
        check("n>4,m<-5", "n>4,m<-5");
        check("example.com/a=b", "example.com/a=b");
    }

    #[test]
    fn what_is_wrong_is_told_in_upstreams_words() {
        check("=x", "found '=', expected: !, identifier, or 'end of string'");
        check("a,,b", "found ',', expected: identifier after ','");
        check("a,", "found '', expected: identifier after ','");
        check("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt");
        check("a in b", "unable to parse requirement: found 'b' expected: '('");
        check("a in (b", "unable to parse requirement: found '', expected: ',' or ')'");
        check(
            "a in ()",
            "unable to parse requirement: values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty",
        );
        check("a=b c", "found 'c', expected: ',' or 'end of string'");
        check("!", "unable to parse requirement: found '', expected: identifier");
        check(
            "n>x",
            "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
        );
        check(
            "a=b@",
            "unable to parse requirement: values[0][a]: Invalid value: \"b@\": a valid label must be an empty string or \
             consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character \
             (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
             '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
        );
        check(
            "@",
            "unable to parse requirement: <nil>: Invalid value: \"@\": name part must consist of alphanumeric characters, \
             '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or \
             '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        );
    }
}
