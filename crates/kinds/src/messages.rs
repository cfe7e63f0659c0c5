//! The shapes of all protobuf messages, read from `data/messages.txt` on demand, for the reader in `skiff_object::protobuf`.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, RwLock};

use skiff_object::protobuf::{Field, Kind, Messages, Shape};

const TABLE: &str = include_str!("../data/messages.txt");

/// Where each message's lines stand in the table.
static INDEX: LazyLock<HashMap<&str, &str>> = LazyLock::new(|| {
    let mut index = HashMap::new();
    let mut rest = TABLE;
    while !rest.is_empty() {
        let (head, body) = rest.split_once('\n').unwrap_or((rest, ""));
        let end = body.split_inclusive('\n').take_while(|line| line.starts_with(' ')).map(str::len).sum();
        let (fields, after) = body.split_at(end);
        if !head.starts_with('#') {
            index.insert(head, fields);
        }
        rest = after;
    }
    index
});

/// The messages that were asked for so far.
static READ: LazyLock<RwLock<HashMap<&str, Arc<[Field]>>>> = LazyLock::new(RwLock::default);

/// The built-in messages.
#[derive(Debug, Clone, Copy)]
pub struct BuiltinMessages;

impl Messages for BuiltinMessages {
    fn fields(&self, message: &str) -> Option<Arc<[Field]>> {
        // A poisoned lock still holds whole entries: they are inserted in one step.
        let read = |lock: &RwLock<HashMap<&'static str, Arc<[Field]>>>| {
            lock.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(message).cloned()
        };
        if let Some(fields) = read(&READ) {
            return Some(fields);
        }
        let (name, lines) = INDEX.get_key_value(message)?;
        let fields: Arc<[Field]> = lines.lines().filter_map(parse).collect();
        READ.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(name, fields.clone());
        Some(fields)
    }
}

/// Reads a line such as ` 3 replicas? *i`.
fn parse(line: &str) -> Option<Field> {
    let mut words = line.split_whitespace();
    let (number, name, code) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
    let (shape, code) = match code.split_at_checked(2) {
        Some(("[]", rest)) => (Shape::List, rest),
        Some(("{}", rest)) => (Shape::Map, rest),
        _ => code.strip_prefix('*').map_or((Shape::Single, code), |rest| (Shape::Pointer, rest)),
    };
    let kind = match code {
        "s" => Kind::String,
        "b" => Kind::Bool,
        "i" | "l" => Kind::Integer,
        "d" => Kind::Double,
        "y" => Kind::Bytes,
        message => Kind::Message(message.strip_prefix('=')?.into()),
    };
    let bare = name.trim_end_matches('?');
    let inlined = bare == "~";
    Some(Field { number, name: if inlined { "" } else { bare }.into(), omit_empty: bare != name, shape, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_read_and_every_message_is_there() {
        let special = ["FieldsV1", "IntOrString", "Items", "Json", "MicroTime", "Quantity", "RawExtension", "Time"];
        for (message, lines) in INDEX.iter() {
            let fields = BuiltinMessages.fields(message).expect("it is in the index");
            assert_eq!(fields.len(), lines.lines().count(), "{message}");
            for field in fields.iter() {
                let Kind::Message(other) = &field.kind else { continue };
                let known =
                    INDEX.contains_key(&**other) || special.contains(&&**other) || other.starts_with("SchemaOr");
                assert!(known, "{message}.{} is an unknown {other}", field.name);
            }
        }
    }

    #[test]
    fn every_kind_that_can_be_written_has_a_message() {
        for def in crate::builtin().iter().filter(|def| def.stored && def.verbs.contains(&"create".into())) {
            let gvk = def.gvk();
            let message = skiff_object::protobuf::message_name(&gvk.api_version(), &gvk.kind);
            assert!(BuiltinMessages.fields(&message).is_some(), "{message}");
        }
    }
}
