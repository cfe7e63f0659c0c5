//! What is done to requests and answers on their way: headers that are set, added and removed, other hosts and paths,
//! words that the client should ask elsewhere, and copies for others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{StatusCode, Uri};

use super::headers::Caller;
use super::hosts::bare_host;
use super::upstream::Upstream;

/// Everything that is done.
#[derive(Debug, Default)]
pub struct Filters {
    /// To the headers of requests.
    pub request: HeaderEdit,
    /// To the headers of answers.
    pub response: HeaderEdit,
    /// The client is told to ask elsewhere.
    pub redirect: Option<Redirection>,
    /// The backend is asked for something else.
    pub rewrite: Option<Rewrite>,
    /// Who gets copies.
    pub mirrors: Vec<Mirror>,
}

/// What is done to headers.
#[derive(Debug, Default)]
pub struct HeaderEdit {
    /// Replaced, or added where they are not there.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Added to what is there.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Taken away.
    pub remove: Vec<HeaderName>,
}

/// Another path.
#[derive(Debug)]
pub enum PathEdit {
    /// In place of the whole path.
    Full(String),
    /// In place of the prefix that the route matches.
    Prefix(String),
}

/// Where a client should ask.
#[derive(Debug)]
pub struct Redirection {
    /// Another scheme.
    pub scheme: Option<String>,
    /// Another host.
    pub hostname: Option<String>,
    /// Another path.
    pub path: Option<PathEdit>,
    /// Another port.
    pub port: Option<u16>,
    /// By which status.
    pub status: StatusCode,
}

/// What a backend is asked for.
#[derive(Debug)]
pub struct Rewrite {
    /// Another host.
    pub hostname: Option<String>,
    /// Another path.
    pub path: Option<PathEdit>,
}

/// Who gets copies of a share of the requests.
#[derive(Debug)]
pub struct Mirror {
    /// Who.
    pub upstream: Arc<Upstream>,
    /// Of how many requests.
    pub numerator: u64,
    /// Out of how many.
    pub denominator: u64,
    asked: AtomicU64,
}

impl Filters {
    /// Whether nothing is done.
    pub fn is_empty(&self) -> bool {
        let Self { request, response, redirect, rewrite, mirrors } = self;
        request.is_empty() && response.is_empty() && redirect.is_none() && rewrite.is_none() && mirrors.is_empty()
    }
}

impl HeaderEdit {
    fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// Does it.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
    }
}

impl PathEdit {
    /// The other path; `prefix` is what the route matches, without a slash at its end.
    pub fn apply(&self, path: &str, prefix: &str) -> String {
        let new = match self {
            Self::Full(new) => new.clone(),
            Self::Prefix(new) => match path.strip_prefix(prefix).unwrap_or(path) {
                "" => new.clone(),
                rest => format!("{}{rest}", new.trim_end_matches('/')),
            },
        };
        if new.starts_with('/') { new } else { format!("/{new}") }
    }
}

impl Redirection {
    /// The place where the client should ask. Ports that the scheme has anyway are not said.
    pub fn location(&self, uri: &Uri, host: &str, caller: &Caller, prefix: &str) -> String {
        let own = if caller.is_tls { "https" } else { "http" };
        let scheme = self.scheme.as_deref().unwrap_or(own);
        let usual = if scheme == "https" { 443 } else { 80 };
        let kept = if self.scheme.is_some() { usual } else { caller.port };
        let port = match self.port.unwrap_or(kept) {
            port if port == usual => String::new(),
            port => format!(":{port}"),
        };
        let host = self.hostname.clone().unwrap_or_else(|| bare_host(host).into_owned());
        let path = self.path.as_ref().map_or_else(|| uri.path().to_owned(), |edit| edit.apply(uri.path(), prefix));
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{scheme}://{host}{port}{path}{query}")
    }
}

impl Rewrite {
    /// The other path with the query that was asked for; nothing if that would be none.
    pub fn target(&self, uri: &Uri, prefix: &str) -> Option<PathAndQuery> {
        let path = self.path.as_ref()?.apply(uri.path(), prefix);
        let whole = uri.query().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
        PathAndQuery::try_from(whole).ok()
    }
}

impl Mirror {
    /// A copy of so many out of so many.
    pub fn new(upstream: Arc<Upstream>, numerator: u64, denominator: u64) -> Self {
        Self { upstream, numerator, denominator: denominator.max(1), asked: AtomicU64::new(0) }
    }

    /// Whether this request is one of those that are copied: as evenly as whole requests allow.
    pub fn is_due(&self) -> bool {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed) % self.denominator;
        let copies = |asked: u64| asked * self.numerator / self.denominator;
        copies(asked + 1) > copies(asked)
    }
}
