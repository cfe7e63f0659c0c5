//! Conditions as the API has them, and when they are written: not when they say what is there already.

use serde_json::{Value, json};

/// What is told of one aspect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Which aspect.
    pub kind: &'static str,
    /// Whether it is so.
    pub holds: bool,
    /// Why, in one word.
    pub reason: &'static str,
    /// Why, for people. It says nothing that only one of several nodes knows: they would correct each other for ever.
    pub message: String,
}

impl Condition {
    /// It is so.
    pub fn yes(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, holds: true, reason, message: message.into() }
    }

    /// It is not so.
    pub fn no(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, holds: false, reason, message: message.into() }
    }
}

/// The conditions as they ought to be: since when they hold is kept, and so is what others say.
pub fn merged(current: Option<&Value>, wanted: &[Condition], generation: i64, now: &str) -> Value {
    let current: &[Value] = current.and_then(Value::as_array).map_or(&[], Vec::as_slice);
    let own = wanted.iter().map(|condition| {
        let status = if condition.holds { "True" } else { "False" };
        let before = current.iter().find(|known| known["type"] == condition.kind && known["status"] == status);
        let since = before.and_then(|known| known["lastTransitionTime"].as_str()).unwrap_or(now);
        json!({"type": condition.kind, "status": status, "observedGeneration": generation, "reason": condition.reason,
            "message": condition.message, "lastTransitionTime": since})
    });
    let others = current.iter().filter(|known| wanted.iter().all(|condition| known["type"] != condition.kind));
    own.chain(others.cloned()).collect()
}
