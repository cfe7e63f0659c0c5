//! What types and fields are for, in words. `cargo xtask facts` writes the compressed table; a package is
//! unpacked when its words are wanted and dropped with the answer.

use std::collections::HashMap;
use std::io::Read;

use flate2::read::ZlibDecoder;

pub(super) static TABLE: &[u8] = include_bytes!("../../data/descriptions.bin");

/// The words of some packages.
#[derive(Default)]
pub struct Descriptions {
    packages: HashMap<String, HashMap<(String, String), String>>,
}

impl Descriptions {
    /// The words on a type (where `field` is empty) or on one of its fields.
    pub fn get(&mut self, package: &str, kind: &str, field: &str) -> Option<&str> {
        if !self.packages.contains_key(package) {
            self.packages.insert(package.to_owned(), unpack(package));
        }
        self.packages[package].get(&(kind.to_owned(), field.to_owned())).map(String::as_str)
    }
}

fn stream(package: &str) -> Option<&'static [u8]> {
    let end = TABLE.windows(2).position(|pair| pair == b"\n\n")?;
    let head = std::str::from_utf8(&TABLE[..end]).ok()?;
    let mut offset = end + 2;
    for line in head.lines() {
        let (name, size_bytes) = line.split_once(' ')?;
        let next = offset + size_bytes.parse::<usize>().ok()?;
        if name == package {
            return TABLE.get(offset..next);
        }
        offset = next;
    }
    None
}

fn unpack(package: &str) -> HashMap<(String, String), String> {
    let mut text = String::new();
    if let Some(stream) = stream(package) {
        ZlibDecoder::new(stream).read_to_string(&mut text).expect("a test unpacks every package");
    }
    let mut words = HashMap::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, '\t');
        if let (Some(kind), Some(field), Some(text)) = (parts.next(), parts.next(), parts.next()) {
            words.insert((kind.to_owned(), field.to_owned()), unescaped(text));
        }
    }
    words
}

fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match (char, char == '\\') {
            (_, true) => out.push(if chars.next() == Some('n') { '\n' } else { '\\' }),
            (other, false) => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn nearly_all_fields_are_described() {
        let mut descriptions = Descriptions::default();
        let (mut all, mut described) = (0, 0);
        for name in schema::names() {
            let definition = schema::definition(name).expect("it was listed");
            // What only discovery and metadata clients see is in no published document.
            let unpublished = ["apidiscovery", "PartialObjectMetadata", "v1.GroupVersionKind"];
            let is_unpublished = unpublished.iter().any(|part| name.contains(part));
            if is_unpublished || definition.short_name().ends_with("List") {
                continue;
            }
            for field in &definition.fields {
                all += 1;
                let words = descriptions.get(definition.package(), definition.short_name(), field.name);
                described += usize::from(words.is_some_and(|words| !words.is_empty()));
            }
        }
        assert!(described * 100 / all >= 97, "{described} of {all}");
    }
}
