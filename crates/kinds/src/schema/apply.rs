//! How the types of the API merge in server-side apply.

use serde_json::Value;
use skiff_object::apply::{ListSchema, MapSchema, Schema};

use super::{Definition, Field, ListType, MapType, Shape, Type};

/// How a value of a definition merges.
pub fn of_definition(definition: &Definition) -> Schema<'_> {
    match definition.shape {
        Shape::Struct if definition.atomic => Schema::Atomic,
        Shape::Struct => Schema::Map(definition),
        Shape::Any | Shape::Raw => Schema::Deduced,
        Shape::Quantity | Shape::IntOrString | Shape::Time | Shape::MicroTime => Schema::Scalar,
    }
}

fn of_type(ty: &Type) -> Schema<'_> {
    match ty {
        Type::Ref(_) => ty.definition().map_or(Schema::Deduced, of_definition),
        Type::Map(_) => Schema::Map(ty),
        Type::List(_) => Schema::Atomic,
        _ => Schema::Scalar,
    }
}

fn of_field(field: &Field) -> Schema<'_> {
    match (&field.ty, field.map) {
        (Type::List(_), _) => match &field.list {
            Some(ListType::Set | ListType::Map(_)) => Schema::List(field),
            Some(ListType::Atomic) => Schema::Atomic,
            // Without a list type, what strategic merge patch does counts.
            None if field.merge => Schema::List(field),
            None => Schema::Atomic,
        },
        (_, Some(MapType::Atomic)) => Schema::Atomic,
        (ty, Some(MapType::Granular)) => match ty.definition() {
            Some(definition) => Schema::Map(definition),
            None => of_type(ty),
        },
        (ty, None) => of_type(ty),
    }
}

impl MapSchema for Definition {
    fn is_declared(&self, name: &str) -> bool {
        Definition::field(self, name).is_some()
    }

    fn is_closed(&self) -> bool {
        true
    }

    fn field(&self, name: &str) -> Schema<'_> {
        Definition::field(self, name).map_or(Schema::Deduced, of_field)
    }
}

/// A map from any key to values of one type.
impl MapSchema for Type {
    fn is_declared(&self, _: &str) -> bool {
        false
    }

    fn is_closed(&self) -> bool {
        false
    }

    fn field(&self, _: &str) -> Schema<'_> {
        match self {
            Self::Map(value) => of_type(value),
            _ => Schema::Deduced,
        }
    }
}

impl ListSchema for Field {
    fn keys(&self) -> Vec<&str> {
        match &self.list {
            Some(ListType::Map(keys)) => keys.to_vec(),
            Some(_) => Vec::new(),
            None => self.merge_key.into_iter().collect(),
        }
    }

    fn key_default(&self, key: &str) -> Option<Value> {
        let Type::List(item) = &self.ty else { return None };
        item.definition()?.field(key)?.default.clone()
    }

    fn item(&self) -> Schema<'_> {
        match &self.ty {
            Type::List(item) => of_type(item),
            _ => Schema::Deduced,
        }
    }
}
