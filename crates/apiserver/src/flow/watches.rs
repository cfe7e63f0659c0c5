//! How many watches are told of a write: those of its kind, of its namespace and of the object by its name. Selectors are
//! not minded, as upstream's: they are looked at for each event.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::http::request::RequestInfo;

/// Group, resource, namespace and name, as far as a watch is limited to them.
type Place = [String; 4];

/// The watches that are under way, by what they watch.
#[derive(Debug, Default)]
pub struct Watches(Mutex<HashMap<Place, usize>>);

/// A watch that is under way for as long as this lives.
#[derive(Debug)]
pub struct Watching {
    watches: Arc<Watches>,
    place: Place,
}

fn place(info: &RequestInfo, namespace: &str, name: &str) -> Place {
    [&info.group, &info.resource, namespace, name].map(|part: &str| part.to_owned())
}

impl Watches {
    /// Counts a watch.
    pub fn begin(self: &Arc<Self>, info: &RequestInfo) -> Watching {
        let name = if info.name.is_empty() { &info.selected_name } else { &info.name };
        let place = place(info, &info.namespace, name);
        *self.0.lock().entry(place.clone()).or_default() += 1;
        Watching { watches: self.clone(), place }
    }

    /// How many are told of a write.
    pub fn told_of(&self, info: &RequestInfo) -> usize {
        let (namespace, name) = (info.namespace.as_str(), info.name.as_str());
        let mut places = vec![place(info, "", "")];
        if !namespace.is_empty() {
            places.push(place(info, namespace, ""));
        }
        if !name.is_empty() {
            places.push(place(info, namespace, name));
        }
        let known = self.0.lock();
        places.iter().filter_map(|place| known.get(place)).sum()
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
