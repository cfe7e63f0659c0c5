//! Things by host name: what is there for exactly this name goes before what is there for a wildcard above it, the
//! longest first, and that before what is there for all names.

use std::borrow::Cow;
use std::collections::HashMap;

/// Longer names are none (RFC 1035); they have no wildcards above them either.
const MAX_NAME: usize = 253;

/// Things by host name.
#[derive(Debug)]
pub struct Hosts<T> {
    exact: HashMap<String, T>,
    /// By what follows the `*.`.
    wildcards: HashMap<String, T>,
    anywhere: Option<T>,
}

impl<T> Default for Hosts<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcards: HashMap::new(), anywhere: None }
    }
}

impl<T> Hosts<T> {
    /// What is there for a host, made if nothing is; no host means all of them.
    pub fn entry(&mut self, host: &str, make: impl FnOnce() -> T) -> &mut T {
        let host = bare_host(host);
        match (host.is_empty(), host.strip_prefix("*.")) {
            (true, _) => self.anywhere.get_or_insert_with(make),
            (_, Some(parent)) => self.wildcards.entry(parent.to_owned()).or_insert_with(make),
            _ => self.exact.entry(host.into_owned()).or_insert_with(make),
        }
    }

    /// What there is for a name as `bare_host` has it, the most specific first, each with how many labels of the name
    /// its wildcard stands for: none where it has none.
    pub fn of<'a, 'b>(&'a self, host: &'b str) -> impl Iterator<Item = (usize, &'a T)> + use<'a, 'b, T> {
        let exact = self.exact.get(host).map(|found| (0, found));
        let above = parent(host).filter(|_| host.len() <= MAX_NAME && !self.wildcards.is_empty());
        let parents = std::iter::successors(above, |name| parent(name)).enumerate();
        let wildcards = parents.filter_map(|(at, name)| Some((at + 1, self.wildcards.get(name)?)));
        exact.into_iter().chain(wildcards).chain(self.anywhere.as_ref().map(|found| (0, found)))
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.exact.len() + self.wildcards.len() + usize::from(self.anywhere.is_some())
    }
}

/// The name without its first label.
pub fn parent(host: &str) -> Option<&str> {
    host.split_once('.').map(|(_, parent)| parent).filter(|parent| !parent.is_empty())
}

/// In small letters, without the port and the dot at the end.
pub fn bare_host(host: &str) -> Cow<'_, str> {
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        // The last colon of an IPv6 address in brackets is inside of them.
        Some((name, port)) if is_port(port) && !port.contains(']') => name,
        _ => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_small = !name.bytes().any(|byte| byte.is_ascii_uppercase());
    if is_small { Cow::Borrowed(name) } else { Cow::Owned(name.to_ascii_lowercase()) }
}

/// The more specific of two host names where they have names in common; no host means all of them. A wildcard stands
/// for any number of labels, as the Gateway API has it.
pub fn intersection<'a>(one: &'a str, other: &'a str) -> Option<&'a str> {
    let covers = |wide: &str, narrow: &str| {
        wide.is_empty()
            || wide.eq_ignore_ascii_case(narrow)
            || wide.strip_prefix('*').is_some_and(|suffix| {
                narrow.len() > suffix.len() && narrow.to_ascii_lowercase().ends_with(&suffix.to_ascii_lowercase())
            })
    };
    if covers(one, other) && !other.is_empty() {
        return Some(other);
    }
    covers(other, one).then_some(one)
}
