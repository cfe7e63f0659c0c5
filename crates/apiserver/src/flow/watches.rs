//! How many watches are told of a write: those of its kind, of its namespace and of the object by its name. Selectors are
//! not minded, as upstream's: they are looked at for each event.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::http::request::RequestInfo;

/// Group and resource, then the namespace and the name as far as a watch is limited to them: who is less limited has the
/// beginning of the place of who is more.
type Place = String;

/// Stands between the parts, which cannot hold it.
const BORDER: char = '/';

/// The watches that are under way, by what they watch.
#[derive(Debug, Default)]
pub struct Watches(Mutex<HashMap<Place, usize>>);

/// A watch that is under way for as long as this lives.
#[derive(Debug)]
pub struct Watching {
    watches: Arc<Watches>,
    place: Place,
}

/// The places in which a watch may be that is told of what is there, the widest first: each call gives `visit` one.
fn places(info: &RequestInfo, name: &str, mut visit: impl FnMut(&Place)) {
    let parts = [&info.group, &info.resource, &info.namespace, name];
    let mut place = Place::with_capacity(parts.iter().map(|part| part.len() + BORDER.len_utf8()).sum());
    place.push_str(&info.group);
    place.push(BORDER);
    place.push_str(&info.resource);
    visit(&place);
    for part in [info.namespace.as_str(), name] {
        place.push(BORDER);
        place.push_str(part);
        if !part.is_empty() {
            visit(&place);
        }
    }
}

impl Watches {
    /// Counts a watch.
    pub fn begin(self: &Arc<Self>, info: &RequestInfo) -> Watching {
        let name = if info.name.is_empty() { &info.selected_name } else { &info.name };
        let mut place = Place::new();
        places(info, name, |narrower| place.clone_from(narrower));
        *self.0.lock().entry(place.clone()).or_default() += 1;
        Watching { watches: self.clone(), place }
    }

    /// How many are told of a write.
    pub fn told_of(&self, info: &RequestInfo) -> usize {
        let (known, mut count) = (self.0.lock(), 0);
        places(info, &info.name, |place| count += known.get(place).unwrap_or(&0));
        count
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut known = self.watches.0.lock();
        if let Some(count) = known.get_mut(&self.place) {
            *count -= 1;
            if *count == 0 {
                known.remove(&self.place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(namespace: &str, name: &str) -> RequestInfo {
        RequestInfo {
            group: "apps".into(),
            resource: "deployments".into(),
            namespace: namespace.into(),
            name: name.into(),
            ..RequestInfo::default()
        }
    }

    #[test]
    fn watches_are_told_of_what_they_watch() {
        let watches = Arc::new(Watches::default());
        let begun = [("", ""), ("", ""), ("a", ""), ("a", "x")].map(|(namespace, name)| {
            let own = RequestInfo { name: String::new(), selected_name: name.into(), ..info(namespace, "") };
            watches.begin(&own)
        });
        for (namespace, name, expected) in [("a", "x", 4), ("a", "y", 3), ("a", "", 3), ("b", "x", 2), ("", "", 2)] {
            assert_eq!(watches.told_of(&info(namespace, name)), expected, "{namespace}/{name}");
        }
        assert_eq!(watches.told_of(&RequestInfo { resource: "pods".into(), ..info("a", "x") }), 0);
        drop(begun);
        assert!(watches.0.lock().is_empty());
    }
}
