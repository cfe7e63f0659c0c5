//! What the watch cache reads out of a stored object: labels, the fields that selectors may name, and whether it is on its
//! way out. All else is skipped without making anything of it: this is done for every write.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use skiff_kinds::ResourceDef;
use skiff_object::meta::Meta;
use skiff_object::{Map, Object};

use crate::codec;

/// What every object is asked for.
const LABELS: &str = "metadata.labels";
const DELETION: &str = "metadata.deletionTimestamp";

/// Labels and their values.
pub type Labels = Box<[(Box<str>, Box<str>)]>;

/// What is read of a stored object.
#[derive(Debug, Default, PartialEq)]
pub struct Facts {
    /// Its labels.
    pub labels: Labels,
    /// The values of the kind's selectable fields.
    pub fields: Box<[Box<str>]>,
    /// Whether it is on its way out.
    pub is_deleting: bool,
}

impl Facts {
    /// Reads stored bytes; of what is no object nothing is known.
    pub fn of(def: &ResourceDef, stored: &[u8]) -> Self {
        let object = if def.selectable.is_empty() {
            // Only the metadata is read, which stands first; what follows may be large.
            let wanted = Wanted(vec![LABELS, DELETION]).within("metadata");
            let metadata = codec::stored_metadata(stored).map(|metadata| wanted.of(metadata));
            Value::Object(metadata.map(|metadata| ("metadata".to_owned(), metadata)).into_iter().collect())
        } else {
            let fields = def.selectable.iter().flat_map(|field| match &field.read {
                Some((paths, _)) => paths.to_vec(),
                None => vec![field.path.as_ref()],
            });
            Wanted([LABELS, DELETION].into_iter().chain(fields).collect()).of(stored)
        };
        let fields = def.selectable.iter().map(|field| match field.read {
            Some((_, read)) => read(&object).into(),
            None => text_at(&object, &field.path).into(),
        });
        let labels = object.labels().into_iter().map(|(key, value)| (key.into(), value.into()));
        Self { labels: labels.collect(), fields: fields.collect(), is_deleting: object.is_deleting() }
    }
}

/// The scalar at a dotted path, as selectors compare it.
fn text_at(object: &Object, path: &str) -> String {
    let node = path.trim_start_matches('.').split('.').try_fold(object, |node, field| node.get(field));
    match node {
        Some(Value::String(text)) => text.clone(),
        Some(node @ (Value::Bool(_) | Value::Number(_))) => node.to_string(),
        _ => String::new(),
    }
}

/// Dotted paths of what is wanted of a value; an empty one wants all of it.
struct Wanted<'p>(Vec<&'p str>);

impl<'p> Wanted<'p> {
    /// A tree of just what is wanted of the value that a text begins with.
    fn of(self, text: &[u8]) -> Object {
        if let Some(found) = (Scanner { text, at: 0 }).pick(&self) {
            return found;
        }
        self.deserialize(&mut serde_json::Deserializer::from_slice(text)).unwrap_or_default()
    }

    /// What is wanted of a field.
    fn within(&self, field: &str) -> Self {
        let below = |path: &&'p str| {
            let rest = path.strip_prefix(field)?;
            if rest.is_empty() { Some(rest) } else { rest.strip_prefix('.') }
        };
        Self(self.0.iter().filter_map(below).collect())
    }
}

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.0.iter().any(|path| path.is_empty()) {
            return Value::deserialize(deserializer);
        }
        deserializer.deserialize_any(self)
    }
}

/// Goes over JSON as this server writes it, without spaces, many times faster than a parser skips it. Where it is written
/// otherwise, or broken, nothing is found.
struct Scanner<'t> {
    text: &'t [u8],
    at: usize,
}

impl<'t> Scanner<'t> {
    /// What is wanted of the value that begins here.
    fn pick(&mut self, wanted: &Wanted<'_>) -> Option<Value> {
        let begin = self.at;
        if wanted.0.iter().any(|path| path.is_empty()) {
            self.skip_value()?;
            return serde_json::from_slice(&self.text[begin..self.at]).ok();
        }
        if self.text.get(begin) != Some(&b'{') {
            self.skip_value()?;
            return Some(Value::Null);
        }
        let mut map = Map::new();
        self.at += 1;
        if self.take(b'}').is_some() {
            return Some(Value::Object(map));
        }
        loop {
            let name = self.name()?;
            self.take(b':')?;
            let within = wanted.within(name);
            if within.0.is_empty() {
                self.skip_value()?;
            } else {
                map.insert(name.to_owned(), self.pick(&within)?);
            }
            if self.take(b',').is_none() {
                self.take(b'}')?;
                return Some(Value::Object(map));
            }
        }
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.text.get(self.at) == Some(&byte)).then(|| self.at += 1)
    }

    /// A name without escapes.
    fn name(&mut self) -> Option<&'t str> {
        let begin = self.at + 1;
        self.skip_text()?;
        let name = &self.text[begin..self.at - 1];
        if name.contains(&b'\\') { None } else { std::str::from_utf8(name).ok() }
    }

    fn skip_text(&mut self) -> Option<()> {
        self.take(b'"')?;
        loop {
            self.at += codec::plain_length(self.text.get(self.at..)?);
            match self.text.get(self.at)? {
                b'"' => return self.take(b'"'),
                // Whatever is escaped does not end the text.
                b'\\' => self.at += 2,
                _ => return None,
            }
        }
    }

    fn skip_value(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.text.get(self.at)? {
                b'"' => self.skip_text()?,
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                b',' | b':' if depth > 0 => {
                    self.at += 1;
                    continue;
                }
                b'0'..=b'9' | b'a'..=b'z' | b'E' | b'-' | b'+' | b'.' => {
                    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
                    self.at += self.text[self.at..].iter().take_while(|byte| is_plain(byte)).count();
                }
                _ => return None,
            }
            if depth == 0 {
                return Some(());
            }
        }
    }
}

/// A field's name, which is copied only where it has escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Maps are looked into; of all else nothing is wanted.
impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(Name(name)) = access.next_key()? {
            let within = self.within(&name);
            if within.0.is_empty() {
                access.next_value::<IgnoredAny>()?;
            } else {
                let value = access.next_value_seed(within)?;
                map.insert(name.into_owned(), value);
            }
        }
        Ok(Value::Object(map))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        while access.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_str<E>(self, _: &str) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skiff_object::GroupVersionResource;

    use super::*;

    /// The facts by way of the whole tree.
    fn expected(def: &ResourceDef, object: &Object) -> Facts {
        let field = |field: &skiff_kinds::def::SelectableField| match field.read {
            Some((_, read)) => read(object).into(),
            None => text_at(object, &field.path).into(),
        };
        let labels = object.labels().into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Facts { labels, fields: def.selectable.iter().map(field).collect(), is_deleting: object.is_deleting() }
    }

    #[test]
    fn what_is_written_without_spaces_is_scanned() {
        let text = br#"{"a":{"b":[1,{"c":"\"}]"}],"d":-1.5e3},"e":{"f":{},"g":null},"h":[],"i":true}"#;
        let pick = |paths: &[&'static str]| Scanner { text, at: 0 }.pick(&Wanted(paths.to_vec()));
        assert_eq!(pick(&[]), Some(json!({})));
        assert_eq!(pick(&["a.d", "e", "i"]), Some(json!({"a": {"d": -1500.0}, "e": {"f": {}, "g": null}, "i": true})));
        assert_eq!(pick(&["a.b.c", "h.x", "z"]), Some(json!({"a": {"b": null}, "h": null})));
        for end in 0..text.len() {
            assert_eq!(Scanner { text: &text[..end], at: 0 }.pick(&Wanted(vec!["i"])), None, "{end}");
        }
    }

    #[test]
    fn facts_are_those_of_the_whole_object() {
        let metadata =
            json!({"name": "x\"", "labels": {"a": "1", "b\n": "2", "bad": 3}, "annotations": {"labels": "no"}});
        let leaving = json!({"deletionTimestamp": "2026-01-31T12:00:00Z"});
        let objects = [
            json!({"metadata": metadata, "spec": {"nodeName": "n", "hostNetwork": true, "containers": [{"nodeName": "no"}],
                "unschedulable": true, "schedulerName": "s"}, "reason": "Why", "type": "Normal",
                "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd::1"}],
                    "succeeded": 3, "conditions": [{"phase": "no"}]}}),
            json!({"metadata": leaving, "spec": "text", "status": [1, {"phase": "no"}], "reportingComponent": "c",
                "involvedObject": {"kind": "Pod", "uid": null, "name": 7}}),
            json!({"metadata": {}, "source": {"component": "kubelet"}, "spec": {"nodeName": {"deep": 1}}, "status": null}),
        ];
        let kinds = [
            ("", "v1", "pods"),
            ("", "v1", "nodes"),
            ("", "v1", "events"),
            ("batch", "v1", "jobs"),
            ("", "v1", "services"),
        ];
        for (group, version, plural) in kinds {
            let def = skiff_kinds::by_resource(&GroupVersionResource::new(group, version, plural)).expect(plural);
            for object in &objects {
                let stored = codec::encode_stored(object);
                assert_eq!(Facts::of(def, &stored), expected(def, object), "{plural} {object}");
                // As another program may have written it.
                let spaced = serde_json::to_string_pretty(object).expect("a tree can be written");
                if !def.selectable.is_empty() {
                    assert_eq!(Facts::of(def, spaced.as_bytes()), expected(def, object), "{plural} {object}");
                }
            }
            assert_eq!(Facts::of(def, b"k8s:enc:"), expected(def, &Value::Null), "{plural}");
        }
    }
}
