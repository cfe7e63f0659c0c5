//! Of a Pod only what a simulated node has to know; everything else is skipped while it is read.

use serde::Deserialize;

/// A Pod as the watch shows it.
#[derive(Debug, Deserialize)]
pub struct SeenPod {
    /// Its names and its end.
    pub metadata: Meta,
    /// What it asks for.
    #[serde(default)]
    pub spec: Spec,
    /// What was said of it.
    #[serde(default)]
    pub status: Status,
}

/// Its metadata.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    pub namespace: Box<str>,
    pub name: Box<str>,
    pub uid: Box<str>,
    pub generation: i64,
    pub deletion_timestamp: Option<Box<str>>,
    pub deletion_grace_period_seconds: Option<u64>,
    pub finalizers: Vec<serde::de::IgnoredAny>,
    pub annotations: Option<Wishes>,
}

/// How users tell a simulated node what a Pod shall do.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Wishes {
    /// When, after it has become ready, its containers end: `5s`.
    #[serde(rename = "sim.skiff.io/complete-after")]
    pub complete_after: Option<Box<str>>,
    /// With which code they end then; 0 makes the Pod Succeeded, any other Failed.
    #[serde(rename = "sim.skiff.io/exit-code")]
    pub exit_code: Option<Box<str>>,
    /// How long it takes to be ready, instead of what all Pods take.
    #[serde(rename = "sim.skiff.io/start-delay")]
    pub start_delay: Option<Box<str>>,
    /// How long it takes to end, instead of what all Pods take.
    #[serde(rename = "sim.skiff.io/stop-delay")]
    pub stop_delay: Option<Box<str>>,
}

/// Its spec.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    pub node_name: Box<str>,
    pub host_network: bool,
    pub init_containers: Vec<Container>,
    pub containers: Vec<Container>,
    pub readiness_gates: Vec<Gate>,
}

/// A container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    pub name: Box<str>,
    pub image: Box<str>,
    pub restart_policy: Option<Box<str>>,
}

impl Container {
    /// An init container that goes on beside the others.
    pub fn is_sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some("Always")
    }
}

/// A condition that others must make true before the Pod is ready.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Gate {
    pub condition_type: Box<str>,
}

/// Its status.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    pub phase: Box<str>,
    #[serde(rename = "podIP")]
    pub pod_ip: Option<Box<str>>,
    pub conditions: Vec<Condition>,
}

/// A condition.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: Box<str>,
    pub status: Box<str>,
}

impl SeenPod {
    fn is_true(&self, condition: &str) -> bool {
        self.status.conditions.iter().any(|c| &*c.kind == condition && &*c.status == "True")
    }

    /// Whether it is said to be ready.
    pub fn is_ready(&self) -> bool {
        self.is_true("Ready")
    }

    /// Whether others let it be ready.
    pub fn gates_are_open(&self) -> bool {
        self.spec.readiness_gates.iter().all(|gate| self.is_true(&gate.condition_type))
    }
}
