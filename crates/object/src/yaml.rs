//! YAML as Kubernetes reads and writes it: YAML 1.1's octal numbers and words for booleans, string keys, no surprises.

use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{Options, options};

use crate::node::Node;
use crate::{Object, Status};

fn settings() -> Options {
    options! { legacy_octal_numbers: true, duplicate_keys: DuplicateKeyPolicy::LastWins }
}

/// Reads one document.
///
/// # Errors
/// It is no YAML; the message says where.
pub fn parse(body: &[u8]) -> Result<Node, String> {
    // Most clients that say YAML write JSON, which is read faster, and on less of the stack.
    if body.trim_ascii_start().starts_with(b"{")
        && let Ok(node) = serde_json::from_slice(body)
    {
        return Ok(node);
    }
    serde_saphyr::from_slice_with_options(body, settings()).map_err(first_line)
}

/// The first key that is written twice in one map: its line, and itself.
pub fn duplicate(body: &[u8]) -> Option<(u64, String)> {
    let strict = options! { legacy_octal_numbers: true, duplicate_keys: DuplicateKeyPolicy::Error };
    let error = serde_saphyr::from_slice_with_options::<Node>(body, strict).err()?;
    match error.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { key, location } => {
            Some((location.line(), key.clone().unwrap_or_default()))
        }
        _ => None,
    }
}

fn first_line(error: serde_saphyr::Error) -> String {
    let text = error.to_string();
    format!("yaml: {}", text.lines().next().unwrap_or("malformed document").trim_start_matches("error: "))
}

/// Writes an object.
///
/// # Errors
/// Never for a tree; the writer's signature allows for it.
pub fn write(object: &Object) -> Result<String, Status> {
    serde_saphyr::to_string(object).map_err(Status::internal)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(text: &str, tree: Object) {
        assert_eq!(parse(text.as_bytes()).map(Node::into_value), Ok(tree), "{text}");
    }

    #[test]
    fn scalars_are_read_as_go_reads_them() {
        check("mode: 0644\n", json!({"mode": 420}));
        check("a: yes\nb: 'yes'\nc: off\n", json!({"a": true, "b": "yes", "c": false}));
        check(
            "a: 1\nb: 1.5\nc: \"1\"\nd: 1Gi\ne: 100m\n",
            json!({"a": 1, "b": 1.5, "c": "1", "d": "1Gi", "e": "100m"}),
        );
        check("a: ~\nb:\nc: null\n", json!({"a": null, "b": null, "c": null}));
        check("a: |\n  x\n  y\nb: >-\n  x\n  y\n", json!({"a": "x\ny\n", "b": "x y"}));
        check("80: http\n", json!({"80": "http"}));
    }

    #[test]
    fn duplicates_are_kept_until_the_tree_is_made() {
        let Ok(Node::Map(entries)) = parse(b"a: 1\na: 2\n") else { panic!("a map was written") };
        assert_eq!(entries.len(), 2);
        assert_eq!(duplicate(b"\na: {x: 1}\nb: 1\na: 2\n"), Some((4, "a".to_owned())));
        assert_eq!(duplicate(b"a: {x: 1}\nb: {x: 1}\n"), None);
        assert_eq!(duplicate(br#"{"a": {"x": 1, "x": 2}}"#), Some((1, "x".to_owned())));
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let tree = json!({"a": "yes", "b": "0644", "c": "1", "d": ["x: y", "- z", "null", ""], "e": {}, "f": "l1\nl2\n", "g": 1.5});
        let text = write(&tree).unwrap();
        check(&text, tree);
    }
}
