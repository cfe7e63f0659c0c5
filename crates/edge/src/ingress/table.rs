//! Where requests go: by host, and there by path, method, headers and query. Both the Ingress API and the Gateway API
//! have these rules by the same precedence: an exact host goes before a wildcard and that before none, an exact path
//! before a prefix, a longer prefix before a shorter one, and then whoever asks for more.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt::Debug;

use http::{HeaderMap, HeaderName, Method};
use regex::Regex;

use super::hosts::{Hosts, bare_host};

/// What a request asks for.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The host; it may have a port.
    pub host: &'a str,
    /// The path, without the query.
    pub path: &'a str,
    /// What follows the question mark.
    pub query: &'a str,
    /// The method.
    pub method: &'a Method,
    /// The headers.
    pub headers: &'a dyn Headers,
}

/// Headers, in whatever form they are there.
pub trait Headers: Debug + Sync {
    /// The first value of one of them, if it is text.
    fn text(&self, name: &HeaderName) -> Option<&str>;
}

impl Headers for HeaderMap {
    fn text(&self, name: &HeaderName) -> Option<&str> {
        self.get(name)?.to_str().ok()
    }
}

/// How a path is compared.
#[derive(Debug, Clone)]
pub enum PathMatch {
    /// As it is, to the letter.
    Exact(String),
    /// Element by element from the left.
    Prefix(String),
    /// The whole of it by an expression. The APIs leave open which goes first: this goes behind exact ones and before
    /// prefixes, because who writes one means something that no prefix says.
    Pattern(Regex),
    /// Its last element, of two: the method of any gRPC service.
    Last(String),
}

/// How a value is compared.
#[derive(Debug, Clone)]
pub enum Text {
    /// As it is, to the letter.
    Exact(String),
    /// The whole of it by an expression.
    Pattern(Regex),
}

/// What a request must be like.
#[derive(Debug, Clone)]
pub struct Condition {
    /// Its path.
    pub path: PathMatch,
    /// Its method, if only that will do.
    pub method: Option<Method>,
    /// Headers that it must have.
    pub headers: Vec<(HeaderName, Text)>,
    /// Parameters of its query that it must have.
    pub query: Vec<(String, Text)>,
}

/// Where requests go.
#[derive(Debug)]
pub struct Table<R> {
    hosts: Hosts<Paths<R>>,
}

#[derive(Debug)]
struct Paths<R> {
    exact: HashMap<String, Vec<Rule<R>>>,
    /// The first that fits is meant.
    others: Vec<Rule<R>>,
    fallback: Option<R>,
}

#[derive(Debug)]
struct Rule<R> {
    condition: Condition,
    /// Whether a wildcard stands for one label only.
    one_label: bool,
    route: R,
}

impl<R> Default for Table<R> {
    fn default() -> Self {
        Self { hosts: Hosts::default() }
    }
}

impl<R> Default for Paths<R> {
    fn default() -> Self {
        Self { exact: HashMap::new(), others: Vec::new(), fallback: None }
    }
}

impl Condition {
    /// Nothing but a path.
    pub fn path(path: PathMatch) -> Self {
        Self { path, method: None, headers: Vec::new(), query: Vec::new() }
    }

    fn fits(&self, ask: &Ask<'_>) -> bool {
        self.path.fits(ask.path)
            && self.method.as_ref().is_none_or(|method| method == ask.method)
            && self.headers.iter().all(|(name, text)| ask.headers.text(name).is_some_and(|value| text.fits(value)))
            && self.query.iter().all(|(name, text)| parameter(ask.query, name).is_some_and(|value| text.fits(&value)))
    }

    /// What goes first is greater.
    fn rank(&self) -> (u8, usize, bool, usize, usize) {
        let (class, length) = match &self.path {
            PathMatch::Exact(path) => (3, path.len()),
            PathMatch::Pattern(pattern) => (2, pattern.as_str().len()),
            PathMatch::Prefix(prefix) => (1, prefix.len()),
            PathMatch::Last(name) => (0, name.len()),
        };
        // All exact paths that fit are the same one.
        let length = if class == 3 { 0 } else { length };
        (class, length, self.method.is_some(), self.headers.len(), self.query.len())
    }
}

impl PathMatch {
    /// A prefix; the slash at its end says nothing.
    pub fn prefix(path: &str) -> Self {
        Self::Prefix(path.trim_end_matches('/').to_owned())
    }

    fn fits(&self, path: &str) -> bool {
        match self {
            Self::Exact(own) => own == path,
            Self::Prefix(prefix) => {
                path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Pattern(pattern) => pattern.is_match(path),
            Self::Last(name) => path
                .rsplit_once('/')
                .is_some_and(|(service, last)| last == name && service.len() > 1 && !service[1..].contains('/')),
        }
    }
}

impl Text {
    fn fits(&self, value: &str) -> bool {
        match self {
            Self::Exact(own) => own == value,
            Self::Pattern(pattern) => pattern.is_match(value),
        }
    }
}

/// The first value of a parameter of a query.
fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.map(|(key, value)| (unescaped(key), value)).find(|(key, _)| key == name).map(|(_, value)| unescaped(value))
}

/// A part of a query as it was before it was written into one; what is no escape stays as it is.
fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let bytes = text.as_bytes();
    let (mut plain, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                plain.push((high * 16 + low) as u8);
                at += 2;
            }
            (b'+', ..) => plain.push(b' '),
            _ => plain.push(*byte),
        }
        at += 1;
    }
    Cow::Owned(String::from_utf8_lossy(&plain).into_owned())
}

impl<R> Table<R> {
    /// Adds an Ingress's route; no host means all of them, and a wildcard stands for one label. The first one at a
    /// place keeps it.
    pub fn add(&mut self, host: &str, path: PathMatch, route: R) {
        self.put(host, Rule { condition: Condition::path(path), one_label: true, route });
    }

    /// Adds a route of the Gateway API, whose wildcards stand for any number of labels. Of those that ask for as much
    /// the first one goes first.
    pub fn add_matching(&mut self, host: &str, condition: Condition, route: R) {
        self.put(host, Rule { condition, one_label: false, route });
    }

    /// Adds where an Ingress's requests for the host go that no path fits; no host means all that nothing else fits.
    pub fn add_fallback(&mut self, host: &str, route: R) {
        self.hosts.entry(host, Paths::default).fallback.get_or_insert(route);
    }

    /// Where a request goes.
    pub fn find(&self, ask: &Ask<'_>) -> Option<&R> {
        let host = bare_host(ask.host);
        self.hosts.of(&host).find_map(|(labels, paths)| paths.find(ask, labels))
    }

    /// Where a request goes that nothing else fits.
    pub fn find_fallback(&self, host: &str) -> Option<&R> {
        let host = bare_host(host);
        self.hosts.of(&host).filter(|(labels, _)| *labels <= 1).find_map(|(_, paths)| paths.fallback.as_ref())
    }

    fn put(&mut self, host: &str, rule: Rule<R>) {
        let paths = self.hosts.entry(host, Paths::default);
        let rules = match &rule.condition.path {
            PathMatch::Exact(path) => paths.exact.entry(path.clone()).or_default(),
            _ => &mut paths.others,
        };
        let rank = Reverse(rule.condition.rank());
        let at = rules.partition_point(|known| Reverse(known.condition.rank()) <= rank);
        rules.insert(at, rule);
    }
}

impl<R> Paths<R> {
    fn find(&self, ask: &Ask<'_>, labels: usize) -> Option<&R> {
        let exact = self.exact.get(ask.path).into_iter().flatten();
        let fits = |rule: &&Rule<R>| (labels <= 1 || !rule.one_label) && rule.condition.fits(ask);
        exact.chain(&self.others).find(fits).map(|rule| &rule.route)
    }
}
