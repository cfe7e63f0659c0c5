//! What an informer keeps: objects in the order of their keys, and indexes that find some of them by what they say.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use crate::ObjectKey;

/// What an object says to an index; `None` where it is not in it.
pub type IndexOf<K> = for<'a> fn(&'a K) -> Option<Cow<'a, str>>;

type Objects<K> = BTreeMap<Arc<ObjectKey>, Arc<K>>;

/// Objects and indexes.
pub struct Cache<K> {
    objects: Objects<K>,
    indexes: Vec<Index<K>>,
}

struct Index<K> {
    name: &'static str,
    of: IndexOf<K>,
    found: HashMap<Box<str>, Found<K>>,
}

/// The objects that say the same, of which there is at least one. Mostly there is no other, and a map for one object is
/// larger than many an object.
enum Found<K> {
    One(Arc<ObjectKey>, Arc<K>),
    Many(Objects<K>),
}

impl<K> Found<K> {
    fn insert(&mut self, key: &Arc<ObjectKey>, object: &Arc<K>) {
        match self {
            Self::One(known, there) if known == key => *there = object.clone(),
            Self::One(known, there) => {
                let both = [(known.clone(), there.clone()), (key.clone(), object.clone())];
                *self = Self::Many(BTreeMap::from(both));
            }
            Self::Many(objects) => drop(objects.insert(key.clone(), object.clone())),
        }
    }

    /// Takes an object out; true where it was the last.
    fn remove(&mut self, key: &Arc<ObjectKey>) -> bool {
        match self {
            Self::One(known, _) => known == key,
            Self::Many(objects) => {
                objects.remove(key);
                objects.is_empty()
            }
        }
    }

    fn objects(&self) -> Vec<Arc<K>> {
        match self {
            Self::One(_, object) => vec![object.clone()],
            Self::Many(objects) => objects.values().cloned().collect(),
        }
    }
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), indexes: Vec::new() }
    }
}

impl<K> Cache<K> {
    /// One object.
    pub fn get(&self, key: &ObjectKey) -> Option<&Arc<K>> {
        self.objects.get(key)
    }

    /// All objects in order.
    pub fn all(&self) -> impl Iterator<Item = &Arc<K>> {
        self.objects.values()
    }

    /// All keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.objects.keys().map(|key| &**key)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Those of a namespace.
    pub fn of_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let first = ObjectKey::new(namespace, "");
        let from = self.objects.range::<ObjectKey, _>((Bound::Included(&first), Bound::Unbounded));
        from.take_while(|(key, _)| key.namespace == namespace).map(|(_, object)| object.clone()).collect()
    }

    /// How many objects there are in a namespace.
    pub fn count_of_namespace(&self, namespace: &str) -> usize {
        let first = ObjectKey::new(namespace, "");
        let from = self.objects.range::<ObjectKey, _>((Bound::Included(&first), Bound::Unbounded));
        from.take_while(|(key, _)| key.namespace == namespace).count()
    }

    /// Puts an object in; gives the one that was there.
    pub fn insert(&mut self, key: ObjectKey, object: Arc<K>) -> Option<Arc<K>> {
        let (key, old) = match self.objects.get_key_value(&key) {
            Some((known, old)) => (known.clone(), Some(old.clone())),
            None => (Arc::new(key), None),
        };
        for index in &mut self.indexes {
            index.replace(&key, old.as_deref(), Some(&object));
        }
        self.objects.insert(key, object);
        old
    }

    /// Takes an object out.
    pub fn remove(&mut self, key: &ObjectKey) -> Option<Arc<K>> {
        let (key, old) = self.objects.remove_entry(key)?;
        for index in &mut self.indexes {
            index.replace(&key, Some(&old), None);
        }
        Some(old)
    }

    /// The index of this name, made where there is none; gives its position.
    pub fn add_index(&mut self, name: &'static str, of: IndexOf<K>) -> usize {
        if let Some(at) = self.indexes.iter().position(|index| index.name == name) {
            return at;
        }
        let mut index = Index { name, of, found: HashMap::new() };
        for (key, object) in &self.objects {
            index.replace(key, None, Some(object));
        }
        self.indexes.push(index);
        self.indexes.len() - 1
    }

    /// The objects that say this to the index at a position.
    pub fn found(&self, at: usize, value: &str) -> Vec<Arc<K>> {
        let found = self.indexes.get(at).and_then(|index| index.found.get(value));
        found.map(Found::objects).unwrap_or_default()
    }
}

impl<K> Index<K> {
    fn replace(&mut self, key: &Arc<ObjectKey>, old: Option<&K>, new: Option<&Arc<K>>) {
        let before = old.and_then(self.of);
        let after = new.and_then(|new| (self.of)(new));
        if let Some(before) = before.filter(|before| Some(before) != after.as_ref())
            && let Some(found) = self.found.get_mut(&*before)
            && found.remove(key)
        {
            self.found.remove(&*before);
        }
        let (Some(after), Some(new)) = (after, new) else { return };
        match self.found.get_mut(&*after) {
            Some(found) => found.insert(key, new),
            None => drop(self.found.insert(after.into(), Found::One(key.clone(), new.clone()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::ptr_arg, reason = "an index is told of objects as they are kept")]
    fn first_letter(object: &String) -> Option<Cow<'_, str>> {
        object.get(..1).map(Cow::Borrowed)
    }

    #[test]
    fn an_index_follows_what_objects_say() {
        let mut cache = Cache::default();
        let key = |name: &str| ObjectKey::new("d", name);
        cache.insert(key("a"), Arc::new("red".to_owned()));
        let at = cache.add_index("letter", first_letter);
        assert_eq!(cache.add_index("letter", first_letter), at);
        cache.insert(key("b"), Arc::new("rose".to_owned()));
        cache.insert(key("c"), Arc::new(String::new()));
        let told = |cache: &Cache<String>, value: &str| {
            cache.found(at, value).iter().map(|object| (**object).clone()).collect::<Vec<_>>()
        };
        assert_eq!(told(&cache, "r"), ["red", "rose"]);
        cache.insert(key("a"), Arc::new("rot".to_owned()));
        cache.insert(key("b"), Arc::new("blue".to_owned()));
        assert_eq!((told(&cache, "r"), told(&cache, "b")), (vec!["rot".into()], vec!["blue".into()]));
        cache.insert(key("c"), Arc::new("raw".to_owned()));
        assert_eq!(told(&cache, "r"), ["rot", "raw"]);
        cache.insert(key("c"), Arc::new("rare".to_owned()));
        assert_eq!(told(&cache, "r"), ["rot", "rare"], "an object that says the same again takes its own place");
        cache.remove(&key("c"));
        assert_eq!(told(&cache, "r"), ["rot"]);
        cache.insert(key("c"), Arc::new(String::new()));
        cache.remove(&key("a"));
        assert!(told(&cache, "r").is_empty() && cache.indexes[at].found.len() == 1);
        assert_eq!((cache.len(), cache.of_namespace("d").len(), cache.of_namespace("e").len()), (2, 2, 0));
        assert_eq!((cache.count_of_namespace("d"), cache.count_of_namespace("e")), (2, 0));
    }
}
