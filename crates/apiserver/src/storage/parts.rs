//! Parts of stored objects: read out of the stored text, and put into it, without making anything of the rest.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use skiff_object::{Map, Object};

use crate::codec;

/// By how much a text mostly grows at most when parts of it are replaced.
const NEW_BYTES: usize = 512;

/// Dotted paths of what is wanted of a value; an empty one wants all of it.
pub struct Wanted<'p>(Vec<&'p str>);

impl<'p> Wanted<'p> {
    /// What stands at these paths.
    pub fn new(paths: impl IntoIterator<Item = &'p str>) -> Self {
        Self(paths.into_iter().collect())
    }

    /// A tree of just what is wanted of the value that a text begins with.
    pub fn of(self, text: &[u8]) -> Object {
        if let Some(found) = (Scanner { text, at: 0 }).pick(&self) {
            return found;
        }
        self.deserialize(&mut serde_json::Deserializer::from_slice(text)).unwrap_or_default()
    }

    /// The same where the text is written as this server writes it; where it is not, nothing.
    pub fn scanned(&self, text: &[u8]) -> Option<Object> {
        (Scanner { text, at: 0 }).pick(self)
    }

    /// A stored text with what is wanted of it as `new` has it, and with the rest of it as it stands. There is none where
    /// the text is not as this server writes it, or where `new` says something else than what is wanted.
    pub fn replaced(&self, text: &[u8], new: &Object) -> Option<Bytes> {
        let mut scanner = Scanner { text, at: 0 };
        let mut out = Vec::with_capacity(text.len() + NEW_BYTES);
        scanner.replace(self, new.as_object()?, Some("metadata"), &mut out)?;
        (scanner.at == text.len()).then(|| Bytes::copy_from_slice(&out))
    }

    /// What is wanted of a field.
    pub fn within(&self, field: &str) -> Self {
        let below = |path: &&'p str| {
            let rest = path.strip_prefix(field)?;
            if rest.is_empty() { Some(rest) } else { rest.strip_prefix('.') }
        };
        Self(self.0.iter().filter_map(below).collect())
    }

    fn is_nothing(&self) -> bool {
        self.0.is_empty()
    }

    fn is_all(&self) -> bool {
        self.0.iter().any(|path| path.is_empty())
    }
}

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.is_all() {
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
        if wanted.is_all() {
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
            if within.is_nothing() {
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

    /// Copies the object that begins here, with what is wanted of it as `new` has it. Names stand in their order, so that
    /// equal objects are equal texts; `first` is the one that comes before all others.
    fn replace(&mut self, wanted: &Wanted<'_>, new: &Map, first: Option<&str>, out: &mut Vec<u8>) -> Option<()> {
        if new.keys().any(|name| wanted.within(name).is_nothing()) {
            return None;
        }
        let mut fields: Vec<_> = new.iter().collect();
        fields.sort_by_key(|&(name, _)| place(name, first));
        let mut fields = fields.into_iter().peekable();
        let mut last = None;
        self.take(b'{')?;
        let mut list = Fields { out, is_empty: true };
        list.out.push(b'{');
        if self.take(b'}').is_none() {
            loop {
                let begin = self.at;
                let name = self.name()?;
                let here = Some(place(name, first));
                if here <= last {
                    return None;
                }
                last = here;
                self.take(b':')?;
                while let Some((name, value)) = fields.next_if(|(other, _)| Some(place(other, first)) < last) {
                    list.add(name, value);
                }
                let within = wanted.within(name);
                let value = fields.next_if(|(other, _)| *other == name).map(|(_, value)| value);
                if within.is_nothing() {
                    self.skip_value()?;
                    list.next().extend_from_slice(&self.text[begin..self.at]);
                } else if within.is_all() || self.text[self.at..].starts_with(b"null") {
                    self.skip_value()?;
                    value.into_iter().for_each(|value| list.add(name, value));
                } else {
                    list.next().extend_from_slice(&self.text[begin..self.at]);
                    self.replace(&within, value.and_then(Value::as_object)?, None, list.out)?;
                }
                if self.take(b',').is_none() {
                    self.take(b'}')?;
                    break;
                }
            }
        }
        fields.for_each(|(name, value)| list.add(name, value));
        list.out.push(b'}');
        Some(())
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

/// Where a name stands among others.
fn place<'n>(name: &'n str, first: Option<&str>) -> (bool, &'n str) {
    (first != Some(name), name)
}

/// Fields of an object that is being written.
struct Fields<'o> {
    out: &'o mut Vec<u8>,
    is_empty: bool,
}

impl Fields<'_> {
    /// Where the next one goes.
    fn next(&mut self) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.is_empty) {
            self.out.push(b',');
        }
        self.out
    }

    fn add(&mut self, name: &str, value: &Value) {
        codec::write_field(self.next(), name, value);
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
            if within.is_nothing() {
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
    use skiff_object::meta::Meta;

    use super::*;

    #[test]
    fn what_is_written_without_spaces_is_scanned() {
        let text = br#"{"a":{"b":[1,{"c":"\"}]"}],"d":-1.5e3},"e":{"f":{},"g":null},"h":[],"i":true}"#;
        let pick = |paths: &[&'static str]| Scanner { text, at: 0 }.pick(&Wanted::new(paths.iter().copied()));
        assert_eq!(pick(&[]), Some(json!({})));
        assert_eq!(pick(&["a.d", "e", "i"]), Some(json!({"a": {"d": -1500.0}, "e": {"f": {}, "g": null}, "i": true})));
        assert_eq!(pick(&["a.b.c", "h.x", "z"]), Some(json!({"a": {"b": null}, "h": null})));
        for end in 0..text.len() {
            assert_eq!(Scanner { text: &text[..end], at: 0 }.pick(&Wanted::new(["i"])), None, "{end}");
        }
    }

    const PATHS: [&str; 4] = ["metadata.labels", "spec.nodeName", "spec.deep.b", "status.conditions"];

    /// Changes parts of an object by its text and by the whole tree.
    fn both(object: &Object, change: fn(&mut Object)) -> (Option<Bytes>, Bytes) {
        let (stored, wanted) = (codec::encode_stored(object), Wanted::new(PATHS));
        let mut part = wanted.scanned(&stored).expect("this server wrote it");
        let mut whole = object.clone();
        change(&mut part);
        change(&mut whole);
        (wanted.replaced(&stored, &part), codec::encode_stored(&whole))
    }

    #[test]
    fn a_part_that_is_replaced_in_the_text_is_as_if_the_whole_had_been_written() {
        let objects = [
            json!({"metadata": {"name": "a"}, "spec": {"containers": [{"nodeName": "no"}], "volumes": []}}),
            json!({"data": {"a": 1}, "metadata": {"labels": {"z": "1"}, "name": "\"", "uid": "u"},
                "spec": {"nodeName": "", "deep": {"a": 1, "b": [2], "c": null}}, "status": {"conditions": [1], "phase": "x"}}),
            json!({"metadata": {}, "spec": {}, "status": null}),
            json!({"metadata": {"annotations": {"labels": "no"}}, "spec": {"deep": {}}, "status": {"a": {}, "z": [[]]}}),
        ];
        let changes: [fn(&mut Object); 5] = [
            |_| {},
            |object| object.set_at(&["spec", "nodeName"], "n\n"),
            |object| object.set_at(&["status", "conditions"], json!([{"type": "Ready"}])),
            |object| {
                object.map_mut(&["metadata", "labels"]).insert("b\"".into(), "2".into());
                object.set_at(&["spec", "deep", "b"], 7);
            },
            |object| {
                object.remove_at(&["metadata", "labels"]);
                object.remove_at(&["spec", "deep", "b"]);
            },
        ];
        for object in &objects {
            for change in changes {
                let (text, whole) = both(object, change);
                assert_eq!(text, Some(whole), "{object}");
            }
        }
    }

    #[test]
    fn what_cannot_be_replaced_in_the_text_is_told() {
        let wanted = Wanted::new(PATHS);
        let new = json!({"spec": {"nodeName": "n"}});
        let texts = [
            r#"{"spec": {}}"#,
            r#"{"spec":{"b":1,"a":2}}"#,
            r#"{"spec":{"a":1,"a":2}}"#,
            r#"{"spec":[]}"#,
            r#"{"spec":{}"#,
        ];
        for text in texts {
            assert_eq!(wanted.replaced(text.as_bytes(), &new), None, "{text}");
        }
        assert_eq!(wanted.replaced(br#"{"spec":{}}"#, &json!({"spec": {"other": 1}})), None);
        assert_eq!(
            wanted.replaced(br#"{"spec":{}}"#, &new).as_deref(),
            Some(br#"{"spec":{"nodeName":"n"}}"#.as_slice())
        );
    }
}
