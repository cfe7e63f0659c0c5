//! What mutating policies make: JSON patches, and objects to apply.

use crate::error::EvalError;
use crate::eval::{Machine, no_overload};
use crate::library::Library;
use crate::value::{List, Map, Result, Value};

pub(crate) static LIBRARY: Library = Library {
    signatures: "
        jsonpatch.escapeKey jsonpatch_escapeKey_string (string) string
    ",
    runs: &[("jsonpatch.escapeKey", escape_key)],
};

/// The type of a patch's operations.
pub const PATCH_TYPE: &str = "JSONPatch";
/// The root of the types of objects to apply.
pub const OBJECT_TYPE: &str = "Object";

fn escape_key<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    match args {
        [Value::String(text)] => Ok(Value::text(text.replace('~', "~0").replace('/', "~1"))),
        _ => Err(no_overload()),
    }
}

/// Whether an object's type says the place where it stands: what stands in field `spec` of `Object` is an `Object.spec`.
pub(crate) fn check_field(owner: &str, field: &str, value: &Value) -> Result<()> {
    if owner != OBJECT_TYPE && !owner.starts_with("Object.") {
        return Ok(());
    }
    check_place(&format!("{owner}.{field}"), value)
}

fn check_place(place: &str, value: &Value) -> Result<()> {
    match value {
        Value::Map(Map::Struct(object)) if object.name.as_ref() != place => {
            let name = &object.name;
            let words = format!(
                "unexpected type name {name:?}, expected {place:?}, which matches field name path from root Object type"
            );
            Err(EvalError::new(words))
        }
        Value::List(List::Own(items)) => items.iter().try_for_each(|item| check_place(place, item)),
        _ => Ok(()),
    }
}
