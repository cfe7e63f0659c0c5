//! A Pod's row in a Table. Its STATUS tells the one thing that a reader must know: what the Pod is waiting for, or what failed.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::def::ResourceDef;
use crate::rules::table::{self, cells};

/// The reason that a Pod on a lost node carries.
const NODE_LOST: &str = "NodeLost";

/// What the containers' statuses come to.
struct Summary {
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
    reason: String,
}

pub(super) fn row(_: &ResourceDef, pod: &Object, now: Timestamp) -> Vec<Value> {
    let summary = summarize(pod);
    let restarts = match summary.last_restart {
        Some(at) if summary.restarts > 0 => {
            format!("{} ({} ago)", summary.restarts, table::human_duration(now.as_second() - at.as_second()))
        }
        _ => summary.restarts.to_string(),
    };
    let ip = pod.list_at(&["status", "podIPs"]).first().map_or("", |address| address.str_at(&["ip"]));
    let ip = if ip.is_empty() { table::text_or(pod, &["status", "podIP"], table::NONE) } else { ip };
    cells![
        pod.name(),
        format!("{}/{}", summary.ready, summary.total),
        status(pod, summary.reason),
        restarts,
        table::age(pod, now),
        ip,
        table::text_or(pod, &["spec", "nodeName"], table::NONE),
        table::text_or(pod, &["status", "nominatedNodeName"], table::NONE),
        readiness_gates(pod),
    ]
}

fn status(pod: &Object, reason: String) -> String {
    let is_over = matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed");
    match pod.is_deleting() {
        true if pod.str_at(&["status", "reason"]) == NODE_LOST => "Unknown".to_owned(),
        true if !is_over => "Terminating".to_owned(),
        _ => reason,
    }
}

fn readiness_gates(pod: &Object) -> String {
    let gates = pod.list_at(&["spec", "readinessGates"]);
    if gates.is_empty() {
        return table::NONE.to_owned();
    }
    let met = gates.iter().filter(|gate| table::is_condition_true(pod, gate.str_at(&["conditionType"]))).count();
    format!("{met}/{}", gates.len())
}

fn summarize(pod: &Object) -> Summary {
    let mut summary = Summary {
        ready: 0,
        total: pod.list_at(&["spec", "containers"]).len()
            + pod.list_at(&["spec", "initContainers"]).iter().filter(|c| is_sidecar(c)).count(),
        restarts: 0,
        last_restart: None,
        reason: table::text_or(pod, &["status", "reason"], pod.str_at(&["status", "phase"])).to_owned(),
    };
    let gated = |condition: &&Value| {
        condition.str_at(&["type"]) == "PodScheduled" && condition.str_at(&["reason"]) == "SchedulingGated"
    };
    if pod.list_at(&["status", "conditions"]).iter().find(gated).is_some() {
        summary.reason = "SchedulingGated".to_owned();
    }
    let sidecars = Restarts::default();
    let (initializing, sidecars) = init_containers(pod, &mut summary, sidecars);
    if !initializing || table::is_condition_true(pod, "Initialized") {
        summary.restarts = sidecars.count;
        summary.last_restart = sidecars.last;
        containers(pod, &mut summary);
    }
    summary
}

#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += table::number(status, &["restartCount"]);
        self.last = self.last.max(last_end(status));
    }
}

fn last_end(status: &Value) -> Option<Timestamp> {
    table::time_at(status, &["lastState", "terminated", "finishedAt"])
}

fn is_sidecar(container: &Value) -> bool {
    container.str_at(&["restartPolicy"]) == "Always"
}

/// Goes over the init containers up to the first that is not done; tells whether there is one.
fn init_containers(pod: &Object, summary: &mut Summary, mut sidecars: Restarts) -> (bool, Restarts) {
    let specs = pod.list_at(&["spec", "initContainers"]);
    let mut all = Restarts::default();
    let mut initializing = false;
    for (index, status) in pod.list_at(&["status", "initContainerStatuses"]).iter().enumerate() {
        let spec = specs.iter().find(|spec| spec.str_at(&["name"]) == status.str_at(&["name"]));
        let sidecar = spec.is_some_and(is_sidecar);
        all.add(status);
        if sidecar {
            sidecars.add(status);
        }
        let terminated = status.at(&["state", "terminated"]);
        let waiting = status.str_at(&["state", "waiting", "reason"]);
        if terminated.is_some_and(|terminated| table::number(terminated, &["exitCode"]) == 0) {
            continue;
        }
        if sidecar && status.bool_at(&["started"]) {
            summary.ready += usize::from(status.bool_at(&["ready"]));
            continue;
        }
        summary.reason = match terminated {
            Some(terminated) => format!("Init:{}", end_reason(terminated)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            None => format!("Init:{index}/{}", specs.len()),
        };
        initializing = true;
        break;
    }
    summary.restarts = all.count;
    summary.last_restart = all.last;
    (initializing, sidecars)
}

fn end_reason(terminated: &Value) -> String {
    match (terminated.str_at(&["reason"]), table::number(terminated, &["signal"])) {
        ("", 0) => format!("ExitCode:{}", table::number(terminated, &["exitCode"])),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// Goes over the containers from the last to the first, so that the first one's reason is the one shown.
fn containers(pod: &Object, summary: &mut Summary) {
    let mut has_running = false;
    let mut restarts = Restarts { count: summary.restarts, last: summary.last_restart };
    for status in pod.list_at(&["status", "containerStatuses"]).iter().rev() {
        restarts.add(status);
        let waiting = status.str_at(&["state", "waiting", "reason"]);
        if !waiting.is_empty() {
            summary.reason = waiting.to_owned();
        } else if let Some(terminated) = status.at(&["state", "terminated"]) {
            summary.reason = end_reason(terminated);
        } else if status.bool_at(&["ready"]) && status.at(&["state", "running"]).is_some() {
            has_running = true;
            summary.ready += 1;
        }
    }
    summary.restarts = restarts.count;
    summary.last_restart = restarts.last;
    if summary.reason == "Completed" && has_running {
        let ready = table::is_condition_true(pod, "Ready");
        summary.reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}
