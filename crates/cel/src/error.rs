//! What can be wrong with an expression: issues found when it is compiled, and errors when it is evaluated.

use std::fmt;

/// Something wrong at a place of an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// Where, in letters from the start.
    pub at: u32,
    /// What.
    pub message: String,
}

impl Issue {
    /// An issue.
    pub fn new(at: u32, message: String) -> Self {
        Self { at, message }
    }
}

/// How many issues are shown.
const ISSUE_LIMIT: usize = 100;

/// The issues as upstream shows them, each with the line and a mark below it.
pub fn show(text: &str, issues: &[Issue]) -> String {
    let mut sorted: Vec<&Issue> = issues.iter().collect();
    sorted.sort_by_key(|issue| issue.at);
    sorted.dedup();
    let shown: Vec<String> = sorted.into_iter().take(ISSUE_LIMIT).map(|issue| show_one(text, issue)).collect();
    shown.join("\n")
}

fn show_one(text: &str, issue: &Issue) -> String {
    let (mut line, mut start) = (1, 0usize);
    let mut lines = text.split('\n');
    let mut current = lines.next().unwrap_or("");
    loop {
        let length = current.chars().count();
        if issue.at as usize <= start + length {
            break;
        }
        let Some(next) = lines.next() else { break };
        start += length + 1;
        line += 1;
        current = next;
    }
    let column = (issue.at as usize).saturating_sub(start);
    let mut shown = format!("ERROR: <input>:{line}:{}: {}", column + 1, issue.message);
    shown.push_str("\n | ");
    shown.push_str(&current.replace('\t', " "));
    shown.push_str("\n | ");
    for letter in current.chars().take(column) {
        shown.push(if letter.len_utf8() > 1 { '\u{ff0e}' } else { '.' });
    }
    let wide = current.chars().nth(column).is_some_and(|letter| letter.len_utf8() > 1);
    shown.push(if wide { '\u{ff3e}' } else { '^' });
    shown
}

/// Why an evaluation gave no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EvalError {
    /// An error of the expression, which `||` and `&&` may absorb.
    Message(String),
    /// The limit of cost is used up: nothing more is evaluated.
    Cost,
}

impl EvalError {
    /// An error with that text.
    pub fn new(message: impl Into<String>) -> Self {
        Self::Message(message.into())
    }
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(message) => f.write_str(message),
            Self::Cost => f.write_str("operation cancelled: actual cost limit exceeded"),
        }
    }
}

impl std::error::Error for EvalError {}
