//! Conversion between kinds that share one storage: what is served under one group or version and stored as another.

use skiff_kinds::ResourceDef;
use skiff_object::Object;

/// How one kind becomes another and back.
#[derive(Clone, Copy)]
pub struct Conversion {
    /// From the stored kind to the served one.
    pub from_storage: fn(&mut Object),
    /// From the served kind to the stored one.
    pub to_storage: fn(&mut Object),
}

/// The conversion of a kind, where it is stored as another that has a different shape.
pub fn conversion(def: &ResourceDef) -> Option<Conversion> {
    def.storage.as_ref()?;
    match (def.group.as_ref(), def.version.as_ref(), def.kind.as_ref()) {
        ("events.k8s.io", "v1", "Event") => {
            Some(Conversion { from_storage: |event| rename(event, false), to_storage: |event| rename(event, true) })
        }
        _ => None,
    }
}

/// Fields of `events.k8s.io/v1` and what the core group calls them.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn rename(event: &mut Object, to_core: bool) {
    let Some(map) = event.as_object_mut() else { return };
    for (new, core) in EVENT_FIELDS {
        let (from, to) = if to_core { (new, core) } else { (core, new) };
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}
