//! The tools of validation: a place in an object that knows its path, and the list of what is wrong.

use serde_json::Value;
use skiff_base::Quantity;
use skiff_object::field::{ErrorKind, ErrorList, FieldError, FieldPath};
use skiff_object::meta::Meta;
use skiff_object::{Object, names, validate};

use crate::rules::address;
use crate::rules::tree::is_blank;

/// What upstream says of a number below zero.
pub const NEGATIVE: &str = "must be greater than or equal to 0";
/// What upstream says of a change to what cannot change.
pub const IMMUTABLE: &str = "field is immutable";

/// A place in an object: what stands there, if anything, and its path.
#[derive(Clone)]
pub struct At<'a> {
    node: Option<&'a Value>,
    path: FieldPath,
}

impl<'a> At<'a> {
    /// A top-level field of an object, such as `spec`.
    pub fn top(object: &'a Object, field: &str) -> Self {
        Self { node: present(object.get(field)), path: FieldPath::new(field) }
    }

    /// The object itself, whose fields have paths of one name.
    pub fn root(object: &'a Object) -> Self {
        Self { node: Some(object), path: FieldPath::default() }
    }

    /// The field of that name.
    pub fn get(&self, field: &str) -> Self {
        Self { node: present(self.node.and_then(|node| node.get(field))), path: self.path.child(field) }
    }

    /// The field at the end of a path of names.
    pub fn walk(&self, fields: &[&str]) -> Self {
        fields.iter().fold(self.clone(), |at, field| at.get(field))
    }

    /// The same place under another name.
    pub fn renamed(&self, path: FieldPath) -> Self {
        Self { node: self.node, path }
    }

    /// The items of a list, each with its index in its path.
    pub fn items(&self) -> Vec<At<'a>> {
        let list = self.node.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        list.iter()
            .enumerate()
            .map(|(index, item)| At { node: present(Some(item)), path: self.path.index(index) })
            .collect()
    }

    /// The entries of a map, each with its key in its path.
    pub fn entries(&self) -> Vec<(&'a str, At<'a>)> {
        let map = self.node.and_then(Value::as_object).into_iter().flatten();
        map.map(|(key, value)| (key.as_str(), At { node: present(Some(value)), path: self.path.key(key) })).collect()
    }

    /// What stands here, or null.
    pub fn value(&self) -> &'a Value {
        self.node.unwrap_or(&Value::Null)
    }

    /// The text here, or the empty one.
    pub fn text(&self) -> &'a str {
        self.node.and_then(Value::as_str).unwrap_or("")
    }

    /// The whole number here.
    pub fn int(&self) -> Option<i64> {
        self.node.and_then(Value::as_i64)
    }

    /// The boolean here, or false.
    pub fn flag(&self) -> bool {
        self.node.and_then(Value::as_bool).unwrap_or(false)
    }

    /// The quantity here.
    pub fn quantity(&self) -> Option<Quantity> {
        self.text().parse().ok()
    }

    /// Whether anything stands here.
    pub fn is_set(&self) -> bool {
        self.node.is_some()
    }

    /// Whether nothing stands here, or an empty text, list or map.
    pub fn is_blank(&self) -> bool {
        is_blank(self.node)
    }

    /// The node for functions that take one.
    pub fn node(&self) -> Option<&'a Value> {
        self.node
    }

    /// The number of items or entries here.
    pub fn count(&self) -> usize {
        match self.node {
            Some(Value::Array(list)) => list.len(),
            Some(Value::Object(map)) => map.len(),
            _ => 0,
        }
    }

    /// The texts of the list here.
    pub fn texts(&self) -> Vec<&'a str> {
        self.node.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// The same place, its path given with a key in brackets.
    pub fn keyed(&self, key: &str) -> Self {
        Self { node: self.node, path: self.path.key(key) }
    }

    /// The path.
    pub fn path(&self) -> &FieldPath {
        &self.path
    }
}

fn present(node: Option<&Value>) -> Option<&Value> {
    node.filter(|node| !node.is_null())
}

/// What is wrong, in the order of discovery.
#[derive(Default)]
pub struct Faults(pub ErrorList);

impl Faults {
    /// No faults yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The list.
    pub fn into_list(self) -> ErrorList {
        self.0
    }

    /// Adds a list of errors.
    pub fn extend(&mut self, errors: impl IntoIterator<Item = FieldError>) {
        self.0.extend(errors);
    }

    /// A value is missing.
    pub fn required(&mut self, at: &At, detail: &str) {
        self.0.push(FieldError::required(&at.path, detail));
    }

    /// The value here is wrong.
    pub fn invalid(&mut self, at: &At, detail: impl Into<String>) {
        self.0.push(FieldError::invalid(&at.path, at.value().clone(), detail));
    }

    /// What stands here is wrong as a whole; the message does not show it.
    pub fn invalid_whole(&mut self, at: &At, detail: &str) {
        let (kind, path) = (ErrorKind::Invalid, at.path.clone());
        self.0.push(FieldError { kind, path, value: None, detail: detail.to_owned() });
    }

    /// A value is wrong that is shown otherwise than it stands here.
    pub fn invalid_as(&mut self, at: &At, value: impl Into<Value>, detail: impl Into<String>) {
        self.0.push(FieldError::invalid(&at.path, value, detail));
    }

    /// Each text is a fault of the value here.
    pub fn all_invalid(&mut self, at: &At, details: Vec<String>) {
        for detail in details {
            self.invalid(at, detail);
        }
    }

    /// The value here is none of those.
    pub fn not_supported(&mut self, at: &At, supported: &[&str]) {
        self.0.push(FieldError::not_supported(&at.path, at.text(), supported));
    }

    /// The field may not be set.
    pub fn forbidden(&mut self, at: &At, detail: impl Into<String>) {
        self.0.push(FieldError::forbidden(&at.path, detail));
    }

    /// The value here was there before.
    pub fn duplicate(&mut self, at: &At) {
        self.0.push(FieldError::duplicate(&at.path, at.value().clone()));
    }

    /// What the value here names does not exist.
    pub fn not_found(&mut self, at: &At) {
        self.0.push(FieldError::not_found(&at.path, at.value().clone()));
    }

    /// Something must stand here; tells whether it does.
    pub fn needs(&mut self, at: &At) -> bool {
        if at.is_blank() {
            self.required(at, "");
        }
        !at.is_blank()
    }

    /// A text must stand here, and be well-formed.
    pub fn needs_name(&mut self, at: &At, check: fn(&str) -> Vec<String>) {
        if self.needs(at) {
            self.all_invalid(at, check(at.text()));
        }
    }

    /// A text that stands here must be well-formed.
    pub fn name(&mut self, at: &At, check: fn(&str) -> Vec<String>) {
        if !at.is_blank() {
            self.all_invalid(at, check(at.text()));
        }
    }

    /// One of these texts must stand here.
    pub fn needs_choice(&mut self, at: &At, supported: &[&str]) {
        if self.needs(at) {
            self.choice(at, supported);
        }
    }

    /// A text that stands here must be one of these.
    pub fn choice(&mut self, at: &At, supported: &[&str]) {
        if at.is_set() && !supported.contains(&at.text()) {
            self.not_supported(at, supported);
        }
    }

    /// A number that stands here must not be negative.
    pub fn non_negative(&mut self, at: &At) {
        if at.int().is_some_and(|number| number < 0) {
            self.invalid(at, NEGATIVE);
        }
    }

    /// A number that stands here must lie between two others.
    pub fn between(&mut self, at: &At, low: i64, high: i64) {
        if at.int().is_some_and(|number| !(low..=high).contains(&number)) {
            self.invalid(at, names::between(low, high));
        }
    }

    /// The number of a port must stand here.
    pub fn port(&mut self, at: &At) {
        self.all_invalid(at, names::check_port_number(at.int().unwrap_or(0)));
    }

    /// The number or the name of a port must stand here.
    pub fn port_or_name(&mut self, at: &At) {
        match at.value() {
            Value::String(name) => self.all_invalid(at, names::check_port_name(name)),
            _ => self.port(at),
        }
    }

    /// A number or percentage that stands here must not be negative; tells its number (or percents).
    pub fn amount(&mut self, at: &At) -> Option<i64> {
        match at.value() {
            Value::String(text) => {
                let faults = names::check_percent(text);
                let is_good = faults.is_empty();
                self.all_invalid(at, faults);
                is_good.then(|| text.trim_end_matches('%').parse().unwrap_or(i64::MAX))
            }
            _ => {
                self.non_negative(at);
                at.int()
            }
        }
    }

    /// A share that stands here must not be more than the whole.
    pub fn at_most_everything(&mut self, at: &At) {
        let percents = at.text().strip_suffix('%').and_then(|number| number.parse::<i64>().ok());
        if percents.is_some_and(|percents| percents > 100) {
            self.invalid(at, "must not be greater than 100%");
        }
    }

    /// A map of labels must be well-formed.
    pub fn labels(&mut self, at: &At) {
        self.extend(validate::labels(at.node, &at.path));
    }

    /// A label selector must be well-formed.
    pub fn selector(&mut self, at: &At) {
        self.extend(validate::label_selector(at.node, &at.path));
    }

    /// A quantity that stands here must not be negative.
    pub fn non_negative_quantity(&mut self, at: &At) {
        if at.quantity().is_some_and(|quantity| quantity.is_negative()) {
            self.invalid(at, NEGATIVE);
        }
    }

    /// An address must stand here.
    pub fn ip(&mut self, at: &At) {
        self.all_invalid(at, address::ip_faults(at.text()));
    }

    /// The address of something particular must stand here.
    pub fn particular_ip(&mut self, at: &At) {
        match at.text().parse() {
            Ok(ip) if address::ip_faults(at.text()).is_empty() => self.all_invalid(at, address::special_faults(ip)),
            _ => self.ip(at),
        }
    }

    /// A range of addresses must stand here.
    pub fn cidr(&mut self, at: &At) {
        self.all_invalid(at, address::cidr_faults(at.text()));
    }

    /// A text or list here is longer than `limit_bytes`.
    pub fn too_long(&mut self, at: &At, limit_bytes: usize) {
        self.0.push(FieldError::too_long(&at.path, limit_bytes));
    }

    /// A text that stands here must be no longer than that.
    pub fn at_most_bytes(&mut self, at: &At, limit_bytes: usize) {
        if at.text().len() > limit_bytes {
            self.too_long(at, limit_bytes);
        }
    }

    /// A list or map that stands here must have no more entries than that; tells whether it has.
    pub fn at_most_items(&mut self, at: &At, limit: usize) -> bool {
        let count = at.count();
        if count > limit {
            self.0.push(FieldError::too_many(&at.path, count, limit));
        }
        count <= limit
    }

    /// The text here (or below) was there before, and is shown alone.
    pub fn duplicate_as(&mut self, at: &At, value: impl Into<Value>) {
        self.0.push(FieldError::duplicate(&at.path, value));
    }

    /// A value is none of those, and is shown otherwise than it stands here.
    pub fn not_supported_as(&mut self, at: &At, value: impl Into<Value>, supported: &[&str]) {
        self.0.push(FieldError::not_supported(&at.path, value, supported));
    }

    /// A field that may not be set here is set.
    pub fn forbid(&mut self, at: &At, detail: &str) {
        if at.is_set() {
            self.forbidden(at, detail);
        }
    }

    /// A number must stand here that is greater than zero.
    pub fn positive(&mut self, at: &At, detail: &str) {
        if at.int().unwrap_or(0) <= 0 {
            self.invalid_as(at, at.int().unwrap_or(0), detail);
        }
    }

    /// A part of the object must be as it was.
    pub fn immutable(&mut self, new: &At, old: &At) {
        self.extend(validate::immutable(new.node, old.node, &new.path));
    }
}

/// The number at a path and whether it changed from old to new.
pub fn changed(new: &Object, old: &Object, path: &[&str]) -> bool {
    let node = |object: &'_ Object| object.at(path).cloned().unwrap_or(Value::Null);
    node(new) != node(old)
}
