//! Field paths and the errors that validation collects, with upstream's wording.

use std::fmt;

use serde_json::Value;

/// Paths up to this length are kept without memory of their own; few are longer.
const SHORT_BYTES: usize = 62;

/// Where in an object something stands: `spec.containers[0].name`, `metadata.labels[app]`. Paths are made for every field
/// that is looked at, and shown for few, so that making one has to be cheap.
#[derive(Clone)]
pub struct FieldPath(Text);

#[derive(Clone)]
enum Text {
    Short(u8, [u8; SHORT_BYTES]),
    Long(String),
}

impl FieldPath {
    /// A path of one or more field names, `spec` or `spec.template`.
    pub fn new(path: impl AsRef<str>) -> Self {
        Self::default().and(&[path.as_ref()])
    }

    /// The field `name` below this path.
    pub fn child(&self, name: &str) -> Self {
        if self.bytes().is_empty() { Self::new(name) } else { self.and(&[".", name]) }
    }

    /// The list item at `index`.
    pub fn index(&self, index: usize) -> Self {
        self.key(&index.to_string())
    }

    /// The map entry under `key`.
    pub fn key(&self, key: &str) -> Self {
        self.and(&["[", key, "]"])
    }

    fn text(&self) -> &str {
        match &self.0 {
            Text::Short(length, bytes) => std::str::from_utf8(&bytes[..usize::from(*length)]).unwrap_or_default(),
            Text::Long(text) => text,
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.0 {
            Text::Short(length, bytes) => &bytes[..usize::from(*length)],
            Text::Long(text) => text.as_bytes(),
        }
    }

    /// The path with more text behind it.
    fn and(&self, parts: &[&str]) -> Self {
        let added: usize = parts.iter().map(|part| part.len()).sum();
        match self.0 {
            Text::Short(length, mut bytes) if usize::from(length) + added <= SHORT_BYTES => {
                let mut end = usize::from(length);
                for part in parts {
                    bytes[end..end + part.len()].copy_from_slice(part.as_bytes());
                    end += part.len();
                }
                Self(Text::Short(end as u8, bytes))
            }
            _ => Self(Text::Long([&[self.text()], parts].concat().concat())),
        }
    }
}

impl Default for FieldPath {
    fn default() -> Self {
        Self(Text::Short(0, [0; SHORT_BYTES]))
    }
}

impl PartialEq for FieldPath {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for FieldPath {}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl fmt::Debug for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FieldPath").field(&self.text()).finish()
    }
}

/// What is wrong with a field. The names become the `reason` of a Status cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A required value is absent.
    Required,
    /// The value is malformed or out of range.
    Invalid,
    /// The value is none of an enumeration.
    NotSupported,
    /// The field may not be set (here, now, or with this value).
    Forbidden,
    /// The value must be unique and is not.
    Duplicate,
    /// The text is too long.
    TooLong,
    /// The list is too long.
    TooMany,
    /// What the value refers to does not exist.
    NotFound,
    /// The value has the wrong type.
    TypeInvalid,
    /// The check itself failed.
    Internal,
}

impl ErrorKind {
    /// The machine-readable reason of a Status cause.
    pub fn cause(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::Duplicate => "FieldValueDuplicate",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::Duplicate => "Duplicate value",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::NotFound => "Not found",
            Self::Internal => "Internal error",
        }
    }
}

/// One thing that validation found wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// The kind of error.
    pub kind: ErrorKind,
    /// The field.
    pub path: FieldPath,
    /// The value that is wrong, where the message shows it.
    pub value: Option<Value>,
    /// What is wrong with it, in words.
    pub detail: String,
}

/// All that validation found wrong, in the order of discovery.
pub type ErrorList = Vec<FieldError>;

impl FieldError {
    fn new(kind: ErrorKind, path: &FieldPath, value: Option<Value>, detail: impl Into<String>) -> Self {
        Self { kind, path: path.clone(), value, detail: detail.into() }
    }

    /// `path: Required value: detail`.
    pub fn required(path: &FieldPath, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Required, path, None, detail)
    }

    /// `path: Invalid value: value: detail`.
    pub fn invalid(path: &FieldPath, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, path, Some(value.into()), detail)
    }

    /// `path: Invalid value: value: detail`, where the value has the wrong type.
    pub fn type_invalid(path: &FieldPath, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::TypeInvalid, path, Some(value.into()), detail)
    }

    /// `path: Unsupported value: "x": supported values: "a", "b"`.
    pub fn not_supported(path: &FieldPath, value: impl Into<Value>, supported: &[&str]) -> Self {
        let quoted: Vec<_> = supported.iter().map(|value| format!("{value:?}")).collect();
        let detail = if quoted.is_empty() { String::new() } else { format!("supported values: {}", quoted.join(", ")) };
        Self::new(ErrorKind::NotSupported, path, Some(value.into()), detail)
    }

    /// `path: Forbidden: detail`.
    pub fn forbidden(path: &FieldPath, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Forbidden, path, None, detail)
    }

    /// `path: Duplicate value: value`.
    pub fn duplicate(path: &FieldPath, value: impl Into<Value>) -> Self {
        Self::new(ErrorKind::Duplicate, path, Some(value.into()), "")
    }

    /// `path: Not found: value`.
    pub fn not_found(path: &FieldPath, value: impl Into<Value>) -> Self {
        Self::new(ErrorKind::NotFound, path, Some(value.into()), "")
    }

    /// `path: Too long: may not be more than N bytes`.
    pub fn too_long(path: &FieldPath, limit_bytes: usize) -> Self {
        Self::new(ErrorKind::TooLong, path, None, format!("may not be more than {limit_bytes} bytes"))
    }

    /// `path: Too many: N: must have at most M items`.
    pub fn too_many(path: &FieldPath, actual: usize, limit: usize) -> Self {
        let detail = format!("must have at most {limit} {}", if limit == 1 { "item" } else { "items" });
        Self::new(ErrorKind::TooMany, path, Some(actual.into()), detail)
    }

    /// `path: Internal error: detail`.
    pub fn internal(path: &FieldPath, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, path, None, detail)
    }

    /// The message without the path, as a Status cause carries it.
    pub fn body(&self) -> String {
        let mut text = self.kind.words().to_owned();
        if let Some(value) = &self.value {
            text.push_str(": ");
            text.push_str(&value.to_string());
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_upstream_words_them() {
        let path = FieldPath::new("spec").child("containers").index(0).child("imagePullPolicy");
        let error = FieldError::not_supported(&path, "Sometimes", &["Always", "IfNotPresent", "Never"]);
        assert_eq!(
            error.to_string(),
            r#"spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never""#
        );
        let error = FieldError::invalid(&FieldPath::new("spec.replicas"), -1, "must be greater than or equal to 0");
        assert_eq!(error.to_string(), "spec.replicas: Invalid value: -1: must be greater than or equal to 0");
        assert_eq!(FieldError::required(&path, "").body(), "Required value");
    }

    #[test]
    fn paths_may_be_long() {
        let (mut path, mut text) = (FieldPath::new("spec"), "spec".to_owned());
        for index in 0..20 {
            path = path.child("größe").index(index).key("a.b/c");
            text.push_str(&format!(".größe[{index}][a.b/c]"));
            assert_eq!(path.to_string(), text);
            assert_eq!(path, FieldPath::new(&text));
            assert_ne!(path, FieldPath::new(&text[..text.len() - 1]));
        }
        assert_eq!(FieldPath::default().child("spec").child("x").to_string(), "spec.x");
    }
}
