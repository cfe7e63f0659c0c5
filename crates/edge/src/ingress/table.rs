//! Hosts and paths, by the precedence that the Ingress API documents: an exact host goes before a wildcard and that
//! before none, an exact path before a prefix, a longer prefix before a shorter one.

use std::collections::HashMap;

/// How a path is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    /// As it is, to the letter.
    Exact,
    /// Element by element from the left.
    Prefix,
}

/// Where requests go.
#[derive(Debug)]
pub struct Table<R> {
    exact: HashMap<String, Paths<R>>,
    /// By what follows the `*.`.
    wildcards: HashMap<String, Paths<R>>,
    anywhere: Paths<R>,
}

#[derive(Debug)]
struct Paths<R> {
    exact: HashMap<String, R>,
    /// Without the slash at their end; the longest first.
    prefixes: Vec<(String, R)>,
    fallback: Option<R>,
}

impl<R> Default for Table<R> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcards: HashMap::new(), anywhere: Paths::default() }
    }
}

impl<R> Default for Paths<R> {
    fn default() -> Self {
        Self { exact: HashMap::new(), prefixes: Vec::new(), fallback: None }
    }
}

impl<R> Table<R> {
    /// Adds a route; no host means all of them. The first one at a place keeps it.
    pub fn add(&mut self, host: &str, kind: PathKind, path: &str, route: R) {
        let paths = self.paths_mut(host);
        match kind {
            PathKind::Exact => {
                paths.exact.entry(path.to_owned()).or_insert(route);
            }
            PathKind::Prefix => {
                let path = path.trim_end_matches('/');
                if paths.prefixes.iter().all(|(known, _)| known != path) {
                    let at = paths.prefixes.partition_point(|(known, _)| known.len() >= path.len());
                    paths.prefixes.insert(at, (path.to_owned(), route));
                }
            }
        }
    }

    /// Adds where requests for the host go that no path fits; no host means all that nothing else fits.
    pub fn add_fallback(&mut self, host: &str, route: R) {
        self.paths_mut(host).fallback.get_or_insert(route);
    }

    /// Where a request goes. The host may have a port; the path is without the query.
    pub fn find(&self, host: &str, path: &str) -> Option<&R> {
        let host = bare_host(host);
        let exact = self.exact.get(&host);
        let wildcard = parent(&host).and_then(|parent| self.wildcards.get(parent));
        let places = || [exact, wildcard, Some(&self.anywhere)].into_iter().flatten();
        places().find_map(|paths| paths.find(path)).or_else(|| places().find_map(|paths| paths.fallback.as_ref()))
    }

    fn paths_mut(&mut self, host: &str) -> &mut Paths<R> {
        let host = bare_host(host);
        match (host.is_empty(), host.strip_prefix("*.")) {
            (true, _) => &mut self.anywhere,
            (_, Some(parent)) => self.wildcards.entry(parent.to_owned()).or_default(),
            _ => self.exact.entry(host).or_default(),
        }
    }
}

impl<R> Paths<R> {
    fn find(&self, path: &str) -> Option<&R> {
        let is_within =
            |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let by_prefix = || self.prefixes.iter().find(|(prefix, _)| is_within(prefix)).map(|(_, route)| route);
        self.exact.get(path).or_else(by_prefix)
    }
}

/// The name without its first label: a wildcard stands for one label, and for one only.
pub fn parent(host: &str) -> Option<&str> {
    host.split_once('.').map(|(_, parent)| parent).filter(|parent| !parent.is_empty())
}

/// In small letters, without the port and the dot at the end.
pub fn bare_host(host: &str) -> String {
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        // The last colon of an IPv6 address in brackets is inside of them.
        Some((name, port)) if is_port(port) && !port.contains(']') => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}
