//! Label selectors (as query strings and as objects) and field selectors.
//! See <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors>.

mod text;

use std::fmt;

use serde_json::Value;

use crate::Object;
use crate::meta::Meta;

/// One requirement on a label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Requirement {
    /// `key in (a, b)`, also `key = a`.
    In(String, Vec<String>),
    /// `key notin (a, b)`, also `key != a`; an absent key satisfies it.
    NotIn(String, Vec<String>),
    /// `key`.
    Exists(String),
    /// `!key`.
    DoesNotExist(String),
    /// `key > n`.
    GreaterThan(String, i64),
    /// `key < n`.
    LessThan(String, i64),
}

/// A conjunction of requirements; the empty one selects everything.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

/// Why a selector cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectorError(pub String);

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SelectorError {}

impl LabelSelector {
    /// Selects every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects no object, as an absent `metav1.LabelSelector` does.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// A selector of the given requirements.
    pub fn of(requirements: Vec<Requirement>) -> Self {
        Self { requirements, nothing: false }
    }

    /// Reads the query-string form, `app=web,tier in (a, b),!old`.
    ///
    /// # Errors
    /// The text is no selector; the words are upstream's.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Ok(Self::of(text::requirements(text).map_err(SelectorError)?))
    }

    /// Reads a `metav1.LabelSelector`; an absent one (null) selects nothing, an empty one everything.
    ///
    /// # Errors
    /// An operator is unknown, or lacks its values.
    pub fn from_object(selector: &Value) -> Result<Self, SelectorError> {
        if selector.is_null() {
            return Ok(Self::nothing());
        }
        let mut result = Self::from_map(selector.get("matchLabels").unwrap_or(&Value::Null));
        for expression in selector.list_at(&["matchExpressions"]) {
            let key = expression.str_at(&["key"]).to_owned();
            let values: Vec<_> =
                expression.list_at(&["values"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
            result.requirements.push(match expression.str_at(&["operator"]) {
                "In" => Requirement::In(key, values),
                "NotIn" => Requirement::NotIn(key, values),
                "Exists" => Requirement::Exists(key),
                "DoesNotExist" => Requirement::DoesNotExist(key),
                other => return Err(SelectorError(format!("{other:?} is not a valid label selector operator"))),
            });
        }
        Ok(result)
    }

    /// Reads a plain map of labels that must all be there, as Service and ReplicationController have.
    pub fn from_map(labels: &Value) -> Self {
        let pairs = labels.as_object().into_iter().flatten();
        Self::of(
            pairs
                .filter_map(|(key, value)| Some(Requirement::In(key.clone(), vec![value.as_str()?.to_owned()])))
                .collect(),
        )
    }

    /// Whether everything is selected.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Whether an object with these labels is selected; `label` looks one up.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(&label))
    }

    /// Whether the object's own labels are selected.
    pub fn matches_object(&self, object: &Object) -> bool {
        self.matches(|key| object.label(key))
    }

    /// The requirements.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl Requirement {
    fn matches<'a>(&self, label: &impl Fn(&str) -> Option<&'a str>) -> bool {
        let number = |key: &str| label(key).and_then(|value| value.parse::<i64>().ok());
        match self {
            Self::In(key, values) => label(key).is_some_and(|value| values.iter().any(|v| v == value)),
            Self::NotIn(key, values) => label(key).is_none_or(|value| values.iter().all(|v| v != value)),
            Self::Exists(key) => label(key).is_some(),
            Self::DoesNotExist(key) => label(key).is_none(),
            Self::GreaterThan(key, limit) => number(key).is_some_and(|value| value > *limit),
            Self::LessThan(key, limit) => number(key).is_some_and(|value| value < *limit),
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match requirement {
                Requirement::In(key, values) if values.len() == 1 => write!(f, "{key}={}", values[0])?,
                Requirement::In(key, values) => write!(f, "{key} in ({})", values.join(","))?,
                Requirement::NotIn(key, values) if values.len() == 1 => write!(f, "{key}!={}", values[0])?,
                Requirement::NotIn(key, values) => write!(f, "{key} notin ({})", values.join(","))?,
                Requirement::Exists(key) => f.write_str(key)?,
                Requirement::DoesNotExist(key) => write!(f, "!{key}")?,
                Requirement::GreaterThan(key, limit) => write!(f, "{key}>{limit}")?,
                Requirement::LessThan(key, limit) => write!(f, "{key}<{limit}")?,
            }
        }
        Ok(())
    }
}

/// A conjunction of `field=value` and `field!=value` terms.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    /// Field, value, and whether it must be equal.
    pub terms: Vec<(String, String, bool)>,
}

impl FieldSelector {
    /// Reads `metadata.name=x,status.phase!=Running`; a backslash escapes `,`, `=` and itself.
    ///
    /// # Errors
    /// A term has no operator.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for term in split_unescaped(text) {
            if term.is_empty() {
                continue;
            }
            let (field, value, equal) = if let Some((field, value)) = term.split_once("!=") {
                (field, value, false)
            } else if let Some((field, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
                (field, value, true)
            } else {
                return Err(SelectorError(format!("invalid selector: '{text}'; can't understand '{term}'")));
            };
            terms.push((field.to_owned(), unescape(value), equal));
        }
        Ok(Self { terms })
    }

    /// Whether everything is selected.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether an object is selected; `field` looks a field's value up.
    pub fn matches(&self, field: impl Fn(&str) -> String) -> bool {
        self.terms.iter().all(|(name, value, equal)| (field(name) == *value) == *equal)
    }
}

fn split_unescaped(text: &str) -> Vec<String> {
    let (mut parts, mut current, mut escaped) = (Vec::new(), String::new(), false);
    for letter in text.chars() {
        match letter {
            ',' if !escaped => parts.push(std::mem::take(&mut current)),
            _ => current.push(letter),
        }
        escaped = letter == '\\' && !escaped;
    }
    parts.push(current);
    parts
}

fn unescape(value: &str) -> String {
    let mut letters = value.chars();
    let mut result = String::new();
    while let Some(letter) = letters.next() {
        result.push(if letter == '\\' { letters.next().unwrap_or('\\') } else { letter });
    }
    result
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(selector: &str, labels: &Value, expected: bool) {
        let object = json!({"metadata": {"labels": labels}});
        let parsed = LabelSelector::parse(selector).expect(selector);
        assert_eq!(parsed.matches_object(&object), expected, "{selector} on {labels}");
    }

    #[test]
    fn label_selectors_select() {
        let labels = json!({"app": "web", "tier": "b", "n": "5"});
        for selector in [
            "",
            "app=web",
            "app==web",
            "app!=db",
            "tier in (a, b)",
            "tier notin (c)",
            "x notin (a)",
            "app",
            "!x",
            "n>4",
            "app=web,tier=b",
        ] {
            check(selector, &labels, true);
        }
        for selector in ["app=db", "app!=web", "tier in (a)", "!app", "x", "n<5", "app=web,tier=c"] {
            check(selector, &labels, false);
        }
    }

    #[test]
    fn an_absent_selector_selects_nothing_and_an_empty_one_everything() {
        assert!(!LabelSelector::from_object(&Value::Null).expect("valid").matches(|_| None));
        assert!(LabelSelector::from_object(&json!({})).expect("valid").matches(|_| None));
    }

    #[test]
    fn field_selectors_select() {
        let selector = FieldSelector::parse(r"metadata.name=a\,b,status.phase!=Running").expect("valid");
        assert!(selector.matches(|field| if field == "metadata.name" { "a,b".into() } else { "Pending".into() }));
        assert!(FieldSelector::parse("nonsense").is_err());
    }
}
