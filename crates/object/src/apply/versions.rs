//! Objects and their changes in the versions that the owners of fields wrote through.

use std::collections::BTreeMap;

use serde_json::Value;

use super::set::Set;
use super::{Schema, Write, owners, walk};
use crate::Object;

/// How an object looks in a version.
pub enum InVersion<'a> {
    /// As in the version that it is in: the same fields under the same names.
    Same,
    /// Differently: the object there, and its type.
    Other(Box<Object>, Schema<'a>),
    /// There is no such version any more, or it is not known yet.
    Unknown,
}

/// The versions of a kind.
pub trait Versions: Sync {
    /// An object of version `from` in version `to`.
    fn in_version(&self, object: &Object, from: &str, to: &str) -> InVersion<'_>;

    /// The type in a version, where that is not the one of the write's own.
    fn schema(&self, api_version: &str) -> Option<Schema<'_>>;
}

/// An object of version `from` in version `to`, with its type; `None` where there is no such version.
pub(super) fn view<'w>(write: &Write<'w>, object: &Value, from: &str, to: &str) -> Option<(Value, Schema<'w>)> {
    let versions = write.versions.filter(|_| from != to || to != write.api_version);
    let own = || versions.and_then(|versions| versions.schema(to)).unwrap_or(write.schema);
    match versions.filter(|_| from != to).map(|versions| versions.in_version(object, from, to)) {
        None | Some(InVersion::Same) => Some((object.clone(), own())),
        Some(InVersion::Other(object, _)) if to == write.api_version => Some((*object, write.schema)),
        Some(InVersion::Other(object, schema)) => Some((*object, schema)),
        Some(InVersion::Unknown) => None,
    }
}

/// What a write changes of fields that somebody owns.
#[derive(Default)]
pub(super) struct Seen {
    /// Added or given another value.
    pub(super) taken: Set,
    /// Taken away.
    pub(super) removed: Set,
}

impl Seen {
    fn between(schema: Schema<'_>, live: &Object, new: &Object, write: &Write<'_>) -> Result<Self, String> {
        let changes = walk::compare(schema, live, new)?.without(write.ignored);
        let (mut taken, mut removed) = (changes.modified, changes.removed);
        taken.extend(changes.added);
        removed.subtract(owners(), true);
        Ok(Self { taken, removed })
    }
}

/// What a write changes, as each version shows it.
pub(super) struct Changes<'w> {
    write: &'w Write<'w>,
    live: &'w Object,
    new: &'w Object,
    own: Seen,
    /// Of the versions that were asked for; `None` where the fields are those of the write's own version.
    others: BTreeMap<String, Option<Seen>>,
}

impl<'w> Changes<'w> {
    /// The changes between two objects of the write's own version.
    ///
    /// # Errors
    /// A list's item cannot be told apart.
    pub(super) fn new(live: &'w Object, new: &'w Object, write: &'w Write<'w>) -> Result<Self, String> {
        let own = Seen::between(write.schema, live, new, write)?;
        Ok(Self { write, live, new, own, others: BTreeMap::new() })
    }

    /// The changes as a version shows them; `None` where there is no such version any more.
    ///
    /// # Errors
    /// A list's item cannot be told apart there.
    pub(super) fn seen_in(&mut self, api_version: &str) -> Result<Option<&Seen>, String> {
        let Some(versions) = self.write.versions.filter(|_| api_version != self.write.api_version) else {
            return Ok(Some(&self.own));
        };
        if !self.others.contains_key(api_version) {
            let there = |object: &Object| versions.in_version(object, self.write.api_version, api_version);
            let seen = match (there(self.live), there(self.new)) {
                (InVersion::Other(live, schema), InVersion::Other(new, _)) => {
                    Some(Seen::between(schema, &live, &new, self.write)?)
                }
                (InVersion::Unknown, _) | (_, InVersion::Unknown) => return Ok(None),
                _ => None,
            };
            self.others.insert(api_version.to_owned(), seen);
        }
        Ok(Some(self.others.get(api_version).and_then(Option::as_ref).unwrap_or(&self.own)))
    }

    /// What the write's own version shows to be added or changed.
    pub(super) fn into_taken(self) -> Set {
        self.own.taken
    }
}
