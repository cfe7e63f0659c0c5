//! Which of several default classes counts, for all kinds that have a default: storage classes and ingress classes.

use std::cmp::Reverse;

use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

/// The order in which defaults count: the newest first, of equally old ones the first by name.
pub fn rank(created: Option<Timestamp>, name: &str) -> impl Ord + use<'_> {
    (Reverse(created), name)
}

/// The class that counts of those with the annotation that makes one a default.
pub fn default_class<'a>(classes: &'a [Object], annotation: &str) -> Option<&'a Object> {
    let defaults = classes.iter().filter(|class| class.annotation(annotation) == Some("true"));
    defaults.min_by_key(|class| rank(class.str_at(&["metadata", "creationTimestamp"]).parse().ok(), class.name()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_newest_default_counts() {
        let class = |name: &str, hour: u32, default: &str| {
            json!({"metadata": {"name": name, "creationTimestamp": format!("2026-01-31T{hour}:00:00Z"),
                "annotations": {"default": default}}})
        };
        let classes = [class("a", 10, "true"), class("c", 11, "true"), class("b", 11, "true"), class("d", 12, "false")];
        assert_eq!(default_class(&classes, "default").map(Meta::name), Some("b"));
        assert_eq!(default_class(&classes[3..], "default"), None);
    }
}
