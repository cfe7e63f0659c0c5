//! The cells of server-side Tables, written as kubectl's readers know them: ages, `<none>`, selectors, containers.

use std::borrow::Cow;

use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;
use skiff_object::selector::{LabelSelector, Requirement};

use crate::def::Column;

/// Shown where there is nothing.
pub const NONE: &str = "<none>";
/// Shown where something optional was not set.
pub const UNSET: &str = "<unset>";
/// Shown where something is not known, such as the age of what has no creation time.
pub const UNKNOWN: &str = "<unknown>";
/// Shown where a limit or the like does not apply.
pub const NOT_APPLICABLE: &str = "N/A";

/// The first column of nearly every table.
pub const NAME: Column = Column {
    name: Cow::Borrowed("Name"),
    kind: Cow::Borrowed("string"),
    format: Cow::Borrowed("name"),
    description: Cow::Borrowed("The name, unique within the namespace."),
    priority: 0,
    path: Cow::Borrowed(""),
};
/// The time since the creation.
pub const AGE: Column = column("Age", "string", "The time since the object was created.");
/// Wide columns of what runs containers.
pub const CONTAINERS: Column = wide("Containers", "string", "The names of the containers.");
/// Wide columns of what runs containers.
pub const IMAGES: Column = wide("Images", "string", "The images of the containers.");
/// Wide columns of what selects Pods.
pub const SELECTOR: Column = wide("Selector", "string", "The labels of the Pods that belong to it.");

/// A column that is always shown.
pub const fn column(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    Column {
        name: Cow::Borrowed(name),
        kind: Cow::Borrowed(kind),
        format: Cow::Borrowed(""),
        description: Cow::Borrowed(description),
        priority: 0,
        path: Cow::Borrowed(""),
    }
}

/// A column that `-o wide` shows.
pub const fn wide(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    let mut column = column(name, kind, description);
    column.priority = 1;
    column
}

/// A row of cells of any type.
macro_rules! cells {
    ($($cell:expr),* $(,)?) => { vec![$(::serde_json::json!($cell)),*] };
}
pub(crate) use cells;

/// The row of a kind that shows its name and age.
pub fn name_and_age(_: &crate::def::ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    cells![object.name(), age(object, now)]
}

/// The time since the creation, `5m`.
pub fn age(object: &Object, now: Timestamp) -> String {
    since(object, &["metadata", "creationTimestamp"], now)
}

/// The time since the moment at a path, `<unknown>` where there is none.
pub fn since(object: &Object, path: &[&str], now: Timestamp) -> String {
    match time_at(object, path) {
        Some(time) => human_duration(now.as_second() - time.as_second()),
        None => UNKNOWN.to_owned(),
    }
}

/// The moment at a path.
pub fn time_at(object: &Object, path: &[&str]) -> Option<Timestamp> {
    object.str_at(path).parse().ok()
}

const MINUTE_SECONDS: i64 = 60;
const HOUR_SECONDS: i64 = 60 * MINUTE_SECONDS;
const DAY_SECONDS: i64 = 24 * HOUR_SECONDS;
const YEAR_SECONDS: i64 = 365 * DAY_SECONDS;

/// A duration with two or three significant digits, as ages are shown: `119s`, `2m5s`, `3h`, `2d3h`, `5y`.
pub fn human_duration(seconds: i64) -> String {
    let two = |unit: i64, name: &str, lesser: i64, lesser_name: &str, of: i64| {
        let rest = seconds / lesser % of;
        if rest == 0 {
            format!("{}{name}", seconds / unit)
        } else {
            format!("{}{name}{rest}{lesser_name}", seconds / unit)
        }
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        s if s < 10 * MINUTE_SECONDS => two(MINUTE_SECONDS, "m", 1, "s", 60),
        s if s < 3 * HOUR_SECONDS => format!("{}m", s / MINUTE_SECONDS),
        s if s < 8 * HOUR_SECONDS => two(HOUR_SECONDS, "h", MINUTE_SECONDS, "m", 60),
        s if s < 2 * DAY_SECONDS => format!("{}h", s / HOUR_SECONDS),
        s if s < 8 * DAY_SECONDS => two(DAY_SECONDS, "d", HOUR_SECONDS, "h", 24),
        s if s < 2 * YEAR_SECONDS => format!("{}d", s / DAY_SECONDS),
        s if s < 8 * YEAR_SECONDS => two(YEAR_SECONDS, "y", DAY_SECONDS, "d", 365),
        s => format!("{}y", s / YEAR_SECONDS),
    }
}

/// The text at a path, or `otherwise` where it is empty.
pub fn text_or<'a>(object: &'a Object, path: &[&str], otherwise: &'a str) -> &'a str {
    match object.str_at(path) {
        "" => otherwise,
        text => text,
    }
}

/// The whole number at a path, or 0.
pub fn number(object: &Object, path: &[&str]) -> i64 {
    object.int_at(path).unwrap_or(0)
}

/// A text or number (an `IntOrString`, a quantity) as it is written, or `otherwise`.
pub fn scalar_or(object: &Object, path: &[&str], otherwise: &str) -> String {
    match object.at(path) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => otherwise.to_owned(),
    }
}

/// `True`, `False` or `<unset>`.
pub fn flag_or_unset(object: &Object, path: &[&str]) -> &'static str {
    match object.at(path).and_then(Value::as_bool) {
        Some(true) => "True",
        Some(false) => "False",
        None => UNSET,
    }
}

/// The texts of a list, with commas between.
pub fn joined(list: &[Value]) -> String {
    list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

/// The same, or `<none>`.
pub fn joined_or_none(list: &[Value]) -> String {
    if list.is_empty() { NONE.to_owned() } else { joined(list) }
}

/// The names of a pod specification's containers, and their images.
pub fn containers_and_images(pod_spec: &Value) -> (String, String) {
    let each = |field: &str| {
        let containers = pod_spec.list_at(&["containers"]).iter();
        containers.map(|container| container.str_at(&[field])).collect::<Vec<_>>().join(",")
    };
    (each("name"), each("image"))
}

/// The containers and images of a kind with a pod template.
pub fn template_containers(object: &Object) -> (String, String) {
    object.at(&["spec", "template", "spec"]).map(containers_and_images).unwrap_or_default()
}

/// The addresses or names that a load balancer gave, each once and in order.
pub fn load_balancer_addresses(object: &Object) -> Vec<&str> {
    let ingresses = object.list_at(&["status", "loadBalancer", "ingress"]).iter();
    let address = |ingress| match Meta::str_at(ingress, &["ip"]) {
        "" => Meta::str_at(ingress, &["hostname"]),
        ip => ip,
    };
    let addresses: std::collections::BTreeSet<&str> = ingresses.map(address).filter(|text| !text.is_empty()).collect();
    addresses.into_iter().collect()
}

/// A map of labels, `a=b,c=d`, or `<none>`.
pub fn labels_text(labels: Option<&Value>) -> String {
    let pairs = labels.and_then(Value::as_object).into_iter().flatten();
    let mut pairs: Vec<_> = pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    pairs.sort();
    if pairs.is_empty() { NONE.to_owned() } else { pairs.join(",") }
}

/// A `metav1.LabelSelector` in its query form with the keys in order, or `<none>`.
pub fn selector_text(selector: Option<&Value>) -> String {
    let Ok(selector) = LabelSelector::from_object(selector.unwrap_or(&Value::Null)) else {
        return "<error>".to_owned();
    };
    let key = |requirement: &Requirement| match requirement {
        Requirement::In(key, _)
        | Requirement::NotIn(key, _)
        | Requirement::Exists(key)
        | Requirement::DoesNotExist(key)
        | Requirement::GreaterThan(key, _)
        | Requirement::LessThan(key, _) => key.clone(),
    };
    let mut requirements = selector.requirements().to_vec();
    requirements.sort_by_key(key);
    if requirements.is_empty() { NONE.to_owned() } else { LabelSelector::of(requirements).to_string() }
}

/// The list with at most `limit` entries, and a word about the others.
pub fn listed_with_more(all: &[String], limit: usize, separator: &str) -> String {
    let shown = all[..all.len().min(limit)].join(separator);
    if all.len() > limit { format!("{shown} + {} more...", all.len() - limit) } else { shown }
}

/// The status (`True`, `False`, `Unknown`) of a condition.
pub fn condition<'a>(object: &'a Object, kind: &str) -> Option<&'a Value> {
    let conditions = object.list_at(&["status", "conditions"]);
    conditions.iter().find(|condition| condition.str_at(&["type"]) == kind)
}

/// Whether a condition is there and true.
pub fn is_condition_true(object: &Object, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| condition.str_at(&["status"]) == "True")
}

/// The number at a path as a cell, or a text where there is none.
pub fn number_or(object: &Object, path: &[&str], otherwise: &str) -> Value {
    object.int_at(path).map_or_else(|| json!(otherwise), |number| json!(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_shown_with_few_digits() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (14_460, "4h1m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (190_000, "2d4h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (66_000_000, "2y33d"),
            (252_288_000, "8y"),
        ] {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn selectors_are_shown_in_the_order_of_their_keys() {
        let selector = json!({"matchLabels": {"b": "1"}, "matchExpressions": [{"key": "a", "operator": "Exists"}]});
        assert_eq!(selector_text(Some(&selector)), "a,b=1");
        assert_eq!(selector_text(Some(&json!({}))), NONE);
        assert_eq!(selector_text(None), NONE);
    }

    #[test]
    fn long_lists_are_cut() {
        let list: Vec<_> = ["a", "b", "c", "d"].map(str::to_owned).into();
        assert_eq!(listed_with_more(&list, 3, ","), "a,b,c + 1 more...");
        assert_eq!(listed_with_more(&list[..2], 3, ","), "a,b");
    }
}
