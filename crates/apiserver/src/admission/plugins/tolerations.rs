//! PodTolerationRestriction: the Pods of a namespace get its tolerations, and have no others than it may have.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#podtolerationrestriction>.

use serde_json::{Value, json};
use skiff_kinds::quota;
use skiff_object::meta::Meta;
use skiff_object::{Object, Reason, Status};

use crate::admission::{Attributes, Operation};
use crate::failure::Result;

const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const ALLOWED: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";
const MEMORY_PRESSURE: &str = "node.kubernetes.io/memory-pressure";
/// Not what somebody may not do, but what cannot be done: upstream gives these errors no code of their own.
const ERROR: u16 = 500;

/// What holds for namespaces that say nothing.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    defaults: Vec<Value>,
    allowed: Vec<Value>,
}

impl Settings {
    /// Reads the plugin's configuration.
    pub fn read(config: &Value) -> Self {
        let list = |field: &str| config.list_at(&[field]).to_vec();
        Self { defaults: list("default"), allowed: list("whitelist") }
    }
}

/// Gives a new Pod the tolerations of its namespace.
pub fn complete(attributes: &Attributes<'_>, pod: &mut Object, _: Option<&Object>) -> Result<()> {
    if !is_concerned(attributes) {
        return Ok(());
    }
    let mut more = Vec::new();
    if attributes.operation == Operation::Create {
        let own = of_namespace(attributes, DEFAULTS)?;
        more = own.unwrap_or_else(|| attributes.server.plugins.settings.tolerations.defaults.clone());
    }
    if !quota::concerns(&json!({"scopes": ["BestEffort"]}), "", "pods", pod) {
        more.push(json!({"key": MEMORY_PRESSURE, "operator": "Exists", "effect": "NoSchedule"}));
    }
    if !more.is_empty() {
        let merged = merged(pod.list_at(&["spec", "tolerations"]), &more);
        pod.set_at(&["spec", "tolerations"], merged);
    }
    check(attributes, Some(pod), None)
}

/// Refuses tolerations that the namespace may not have.
pub fn check(attributes: &Attributes<'_>, pod: Option<&Object>, _: Option<&Object>) -> Result<()> {
    let Some(pod) = pod.filter(|_| is_concerned(attributes)) else { return Ok(()) };
    let (allowed, scope) = match of_namespace(attributes, ALLOWED)? {
        Some(own) => (own, "namespace"),
        None => (attributes.server.plugins.settings.tolerations.allowed.clone(), "cluster"),
    };
    let is_allowed = |toleration: &Value| allowed.iter().any(|allowed| covers(allowed, toleration));
    if allowed.is_empty() || pod.list_at(&["spec", "tolerations"]).iter().all(is_allowed) {
        return Ok(());
    }
    let why = format!(
        "pod tolerations (possibly merged with namespace default tolerations) conflict with its {scope} whitelist"
    );
    Err(Status::failure(ERROR, Reason::Unknown, why).into())
}

fn is_concerned(attributes: &Attributes<'_>) -> bool {
    matches!(attributes.operation, Operation::Create | Operation::Update) && attributes.is("", "pods")
}

/// What an annotation of the Pod's namespace lists; an empty one lists nothing, and is not the same as none.
fn of_namespace(attributes: &Attributes<'_>, annotation: &str) -> Result<Option<Vec<Value>>> {
    let cache = attributes.server.catalogue.cache("", "namespaces");
    let namespace = cache.map(|cache| cache.object("", attributes.namespace)).transpose()?.flatten();
    match namespace.as_ref().and_then(|namespace| namespace.annotation(annotation)) {
        None => Ok(None),
        Some("") => Ok(Some(Vec::new())),
        Some(text) => match serde_json::from_str(text) {
            Ok(list) => Ok(Some(list)),
            Err(error) => Err(Status::failure(ERROR, Reason::Unknown, error.to_string()).into()),
        },
    }
}

/// Both lists in order, without those that another one covers. Of two that are equal the first stays.
fn merged(own: &[Value], more: &[Value]) -> Vec<Value> {
    let all: Vec<_> = own.iter().chain(more).collect();
    let mut kept: Vec<Value> = Vec::new();
    for (at, toleration) in all.iter().enumerate() {
        let by_later = |later: &&&Value| !is_same(later, toleration) && covers(later, toleration);
        if !kept.iter().any(|kept| covers(kept, toleration)) && !all[at + 1..].iter().any(|later| by_later(&later)) {
            kept.push((*toleration).clone());
        }
    }
    kept
}

/// What a toleration says, with empty texts where it says nothing.
fn fields(toleration: &Value) -> ([&str; 4], Option<i64>) {
    let texts = ["key", "operator", "value", "effect"].map(|field| toleration.str_at(&[field]));
    (texts, toleration.int_at(&["tolerationSeconds"]))
}

fn is_same(a: &Value, b: &Value) -> bool {
    fields(a) == fields(b)
}

/// Whether `wide` tolerates all that `narrow` does.
fn covers(wide: &Value, narrow: &Value) -> bool {
    if is_same(wide, narrow) {
        return true;
    }
    let ([wide_key, wide_operator, wide_value, wide_effect], wide_seconds) = fields(wide);
    let ([key, operator, value, effect], seconds) = fields(narrow);
    // Without a key everything exists; without an effect all are meant.
    if key != wide_key && !(wide_key.is_empty() && wide_operator == "Exists") {
        return false;
    }
    if effect != wide_effect && !wide_effect.is_empty() {
        return false;
    }
    let is_longer = |limit: i64| seconds.is_none_or(|seconds| seconds > limit);
    if wide_effect == "NoExecute" && wide_seconds.is_some_and(is_longer) {
        return false;
    }
    match wide_operator {
        "Exists" => true,
        "Equal" | "" => operator == "Equal" && value == wide_value,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(yaml: &str) -> Vec<Value> {
        serde_saphyr::from_str(yaml).expect(yaml)
    }

    #[track_caller]
    fn check(wide: &str, narrow: &str, expected: bool) {
        let (wide, narrow) = (list(&format!("[{wide}]")), list(&format!("[{narrow}]")));
        assert_eq!(covers(&wide[0], &narrow[0]), expected);
    }

    #[test]
    fn a_toleration_covers_those_that_tolerate_less() {
        let equal = "{key: a, operator: Equal, value: x, effect: NoSchedule}";
        check("{operator: Exists}", equal, true);
        check("{key: a, operator: Exists}", equal, true);
        check("{key: b, operator: Exists}", equal, false);
        check("{key: a, operator: Exists, effect: NoExecute}", equal, false);
        check("{key: a, value: x}", equal, true);
        check("{key: a, value: y}", equal, false);
        check(equal, "{key: a, operator: Exists, effect: NoSchedule}", false);
        let seconds =
            |number: i64| format!("{{key: a, operator: Exists, effect: NoExecute, tolerationSeconds: {number}}}");
        check(&seconds(10), &seconds(5), true);
        check(&seconds(5), &seconds(10), false);
        check(&seconds(5), "{key: a, operator: Exists, effect: NoExecute}", false);
        check("{key: a, operator: Lt, value: x}", equal, false);
    }

    #[test]
    fn merged_tolerations_say_nothing_twice() {
        let own = list("[{key: a, operator: Equal, value: x}, {key: b, operator: Exists}]");
        let more = list("[{key: a, operator: Exists}, {key: b, operator: Exists}, {key: c, operator: Exists}]");
        let expected = list("[{key: b, operator: Exists}, {key: a, operator: Exists}, {key: c, operator: Exists}]");
        assert_eq!(merged(&own, &more), expected);
    }
}
