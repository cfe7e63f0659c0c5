//! What is answered, computed from what is known and what time it is.

use std::time::Duration;

use http::StatusCode;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use skiff_base::clock::Timestamp;
use skiff_client::ObjectKey;

/// How old a change may be that is not in the rules yet before the node counts as ill; upstream's is twice its longest
/// pause between two looks.
const LATE: Duration = Duration::from_secs(60);
/// Upstream's autoscaler puts this on a node that it is about to delete.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// An answer: status, headers beside the type of the content, and text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// How many endpoints there are, for balancers that weigh nodes by it.
    pub weight: Option<usize>,
    /// The type of the text.
    pub content_type: &'static str,
    /// The text.
    pub text: String,
}

impl Answer {
    fn json(is_good: bool, text: String) -> Self {
        let status = if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        Self { status, weight: None, content_type: "application/json", text }
    }

    /// Whether this node is good for a Service's clients.
    pub fn of_service(service: &ObjectKey, local_endpoints: usize, is_proxy_healthy: bool) -> Self {
        let ObjectKey { namespace, name } = service;
        let text = format!(
            "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\t\"localEndpoints\": {local_endpoints},\n\t\"serviceProxyHealthy\": {is_proxy_healthy}\n}}"
        );
        Self { weight: Some(local_endpoints), ..Self::json(local_endpoints > 0 && is_proxy_healthy, text) }
    }

    /// What is at `path` of the node's own port.
    pub fn of_node(path: &str, health: &NodeHealth, now: Timestamp) -> Self {
        match path {
            "/healthz" => health.healthz(now),
            "/livez" => health.livez(now),
            _ => Self {
                status: StatusCode::NOT_FOUND,
                weight: None,
                content_type: "text/plain; charset=utf-8",
                text: "404 page not found\n".into(),
            },
        }
    }
}

/// Whether the rules are up to date, and whether the node is to have new connections.
#[derive(Debug)]
pub struct NodeHealth {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Since when there is a change that is not in the rules.
    pending_since: Option<Timestamp>,
    updated: Option<Timestamp>,
    is_eligible: bool,
}

impl NodeHealth {
    /// Before anything is known, all is well: a node that starts must not seem ill.
    pub fn new() -> Self {
        Self { state: Mutex::new(State { pending_since: None, updated: None, is_eligible: true }) }
    }

    /// Something is to be changed in the rules.
    pub fn queued(&self, now: Timestamp) {
        self.state.lock().pending_since.get_or_insert(now);
    }

    /// All that was queued until `began` is in the rules.
    pub fn updated(&self, began: Timestamp) {
        let mut state = self.state.lock();
        state.pending_since = state.pending_since.filter(|since| *since > began);
        state.updated = Some(began);
    }

    /// What the node's object says; none if it is gone.
    pub fn observe_node(&self, node: Option<&Node>) {
        let is_leaving = |node: &Node| {
            let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
            node.metadata.deletion_timestamp.is_some() || taints.any(|taint| taint.key == TO_BE_DELETED)
        };
        self.state.lock().is_eligible = node.is_none_or(|node| !is_leaving(node));
    }

    /// Whether the rules are not late.
    pub fn is_healthy(&self, now: Timestamp) -> bool {
        self.state.lock().is_healthy(now)
    }

    fn healthz(&self, now: Timestamp) -> Answer {
        let state = self.state.lock();
        let is_good = state.is_healthy(now) && state.is_eligible;
        let (updated, current) = state.times(is_good, now);
        let eligible = state.is_eligible;
        let text = format!(r#"{{"lastUpdated": "{updated}","currentTime": "{current}", "nodeEligible": {eligible}}}"#);
        Answer::json(is_good, text)
    }

    fn livez(&self, now: Timestamp) -> Answer {
        let state = self.state.lock();
        let is_good = state.is_healthy(now);
        let (updated, current) = state.times(is_good, now);
        Answer::json(is_good, format!(r#"{{"lastUpdated": "{updated}","currentTime": "{current}"}}"#))
    }
}

impl Default for NodeHealth {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    fn is_healthy(&self, now: Timestamp) -> bool {
        self.pending_since.is_none_or(|since| now.duration_since(since).unsigned_abs() < LATE)
    }

    /// When the rules were up to date last (now, if they are), and now.
    fn times(&self, is_good: bool, now: Timestamp) -> (String, String) {
        let updated = if is_good { Some(now) } else { self.updated };
        let text = |at: Timestamp| at.strftime("%Y-%m-%d %H:%M:%S%.f +0000 UTC").to_string();
        (updated.map_or_else(|| "0001-01-01 00:00:00 +0000 UTC".into(), text), text(now))
    }
}
