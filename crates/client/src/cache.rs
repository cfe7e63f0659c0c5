//! What an informer keeps: objects in the order of their keys, and indexes that find some of them by what they say.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use crate::ObjectKey;

/// What an object says to an index; `None` where it is not in it.
pub type IndexOf<K> = for<'a> fn(&'a K) -> Option<Cow<'a, str>>;

/// Objects and indexes.
pub struct Cache<K> {
    objects: BTreeMap<Arc<ObjectKey>, Kept<K>>,
    packing: Option<Packing<K>>,
    indexes: Vec<Index<K>>,
}

/// How an object is made as small as it can be, and itself again.
pub struct Packing<K> {
    /// Makes it small; nothing where that cannot be done.
    pub pack: fn(&K) -> Option<Box<[u8]>>,
    /// Makes it itself again.
    pub unpack: fn(&[u8]) -> Option<K>,
}

/// An object as it is kept.
enum Kept<K> {
    Whole(Arc<K>),
    Packed(Box<[u8]>),
}

struct Index<K> {
    name: &'static str,
    of: IndexOf<K>,
    found: HashMap<Box<str>, Found>,
}

/// The objects that say the same, of which there is at least one. Mostly there is no other, and a set for one object is
/// larger than many an object.
enum Found {
    One(Arc<ObjectKey>),
    Many(BTreeSet<Arc<ObjectKey>>),
}

impl Found {
    fn insert(&mut self, key: &Arc<ObjectKey>) {
        match self {
            Self::One(known) if known == key => {}
            Self::One(known) => *self = Self::Many(BTreeSet::from([known.clone(), key.clone()])),
            Self::Many(keys) => drop(keys.insert(key.clone())),
        }
    }

    /// Takes an object out; true where it was the last.
    fn remove(&mut self, key: &Arc<ObjectKey>) -> bool {
        match self {
            Self::One(known) => known == key,
            Self::Many(keys) => {
                keys.remove(key);
                keys.is_empty()
            }
        }
    }

    fn keys(&self) -> Vec<&Arc<ObjectKey>> {
        match self {
            Self::One(key) => vec![key],
            Self::Many(keys) => keys.iter().collect(),
        }
    }
}

impl<K> Cache<K> {
    /// An empty one, of objects that are kept small where a packing is given.
    pub fn new(packing: Option<Packing<K>>) -> Self {
        Self { objects: BTreeMap::new(), packing, indexes: Vec::new() }
    }

    fn keep(&self, object: Arc<K>) -> Kept<K> {
        let packed = self.packing.as_ref().and_then(|packing| (packing.pack)(&object));
        packed.map_or(Kept::Whole(object), Kept::Packed)
    }

    fn whole(&self, kept: &Kept<K>) -> Arc<K> {
        match kept {
            Kept::Whole(object) => object.clone(),
            Kept::Packed(packed) => {
                let object = self.packing.as_ref().and_then(|packing| (packing.unpack)(packed));
                Arc::new(object.expect("it was made from such an object"))
            }
        }
    }

    /// One object.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.objects.get(key).map(|kept| self.whole(kept))
    }

    /// All objects in order.
    pub fn all(&self) -> impl Iterator<Item = Arc<K>> {
        self.objects.values().map(|kept| self.whole(kept))
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
        from.take_while(|(key, _)| key.namespace == namespace).map(|(_, kept)| self.whole(kept)).collect()
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
            Some((known, old)) => (known.clone(), Some(self.whole(old))),
            None => (Arc::new(key), None),
        };
        for index in &mut self.indexes {
            index.replace(&key, old.as_deref(), Some(&*object));
        }
        let kept = self.keep(object);
        self.objects.insert(key, kept);
        old
    }

    /// Takes an object out.
    pub fn remove(&mut self, key: &ObjectKey) -> Option<Arc<K>> {
        let (key, old) = self.objects.remove_entry(key)?;
        let old = self.whole(&old);
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
        for (key, kept) in &self.objects {
            index.replace(key, None, Some(&self.whole(kept)));
        }
        self.indexes.push(index);
        self.indexes.len() - 1
    }

    /// The objects that say this to the index at a position.
    pub fn found(&self, at: usize, value: &str) -> Vec<Arc<K>> {
        let found = self.indexes.get(at).and_then(|index| index.found.get(value));
        found.map(Found::keys).unwrap_or_default().into_iter().filter_map(|key| self.get(key)).collect()
    }
}

impl<K> Index<K> {
    fn replace(&mut self, key: &Arc<ObjectKey>, old: Option<&K>, new: Option<&K>) {
        let before = old.and_then(self.of);
        let after = new.and_then(self.of);
        if let Some(before) = before.filter(|before| Some(before) != after.as_ref())
            && let Some(found) = self.found.get_mut(&*before)
            && found.remove(key)
        {
            self.found.remove(&*before);
        }
        let Some(after) = after else { return };
        match self.found.get_mut(&*after) {
            Some(found) => found.insert(key),
            None => drop(self.found.insert(after.into(), Found::One(key.clone()))),
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
        follow(Cache::new(None));
    }

    #[test]
    fn an_index_follows_what_packed_objects_say() {
        let pack = |object: &String| Some(object.as_bytes().into());
        follow(Cache::new(Some(Packing { pack, unpack: |packed| String::from_utf8(packed.to_vec()).ok() })));
    }

    fn follow(mut cache: Cache<String>) {
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
        let all: Vec<_> = cache.all().map(|object| (*object).clone()).collect();
        assert_eq!(
            (all, cache.get(&key("b"))),
            (vec!["blue".to_owned(), String::new()], Some(Arc::new("blue".into())))
        );
    }
}
