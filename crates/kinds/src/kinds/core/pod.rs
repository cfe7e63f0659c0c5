//! `v1` Pod: containers that run together on a node.

pub(crate) mod qos;
mod resize;
mod row;
mod validate;

use serde_json::{Value, json};
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, list, special, text, texts};
use crate::def::{Context, Deletion, ResourceDef, SelectableField, Subresource};
use crate::rules::table::{AGE, NAME, column, wide};
use crate::rules::{pod_defaults, pod_warnings, prepare, tree};

/// `pods`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("pods"),
    singular: text("pod"),
    kind: text("Pod"),
    list_kind: text("PodList"),
    short_names: texts!["po"],
    categories: texts!["all"],
    schema: text("io.k8s.api.core.v1.Pod"),
    subresources: list![
        special("attach", ("", "v1", "PodAttachOptions"), texts!["create", "get"]),
        special("binding", ("", "v1", "Binding"), texts!["create"]),
        special("ephemeralcontainers", ("", "v1", "Pod"), texts!["get", "patch", "update"]),
        special("eviction", ("policy", "v1", "Eviction"), texts!["create"]),
        special("exec", ("", "v1", "PodExecOptions"), texts!["create", "get"]),
        special("log", ("", "v1", "Pod"), texts!["get"]),
        special("portforward", ("", "v1", "PodPortForwardOptions"), texts!["create", "get"]),
        special("proxy", ("", "v1", "PodProxyOptions"), texts!["create", "delete", "get", "patch", "update"]),
        special("resize", ("", "v1", "Pod"), texts!["get", "patch", "update"]),
        Subresource::Status,
    ],
    has_generation: true,
    deletion: Deletion::GracefulPod,
    selectable: list![
        by_path("spec.nodeName"),
        by_path("spec.restartPolicy"),
        by_path("spec.schedulerName"),
        by_path("spec.serviceAccountName"),
        SelectableField { path: text("spec.hostNetwork"), read: Some((&["spec.hostNetwork"], host_network)) },
        by_path("status.phase"),
        by_path("status.podIP"),
        SelectableField { path: text("status.podIPs"), read: Some((&["status.podIPs"], pod_ips)) },
        by_path("status.nominatedNodeName"),
    ],
    columns: list![
        NAME,
        column("Ready", "string", "The containers that are ready, of all."),
        column("Status", "string", "The phase of the Pod, or what keeps it from the next."),
        column("Restarts", "string", "How often containers were restarted, and when last."),
        AGE,
        wide("IP", "string", "The Pod's address."),
        wide("Node", "string", "The node that the Pod is bound to."),
        wide("Nominated Node", "string", "The node where others make room for the Pod."),
        wide(
            "Readiness Gates",
            "string",
            "The conditions that are met, of those that the Pod must also meet to be ready."
        ),
    ],
    default: defaults,
    prepare_create,
    prepare_update,
    row: row::row,
    validate: validate::validate,
    validate_update: validate::validate_update,
    warnings,
    ..BASE
};

const fn by_path(path: &'static str) -> SelectableField {
    SelectableField { path: text(path), read: None }
}

fn host_network(object: &Object) -> String {
    object.bool_at(&["spec", "hostNetwork"]).to_string()
}

fn pod_ips(object: &Object) -> String {
    let addresses = object.list_at(&["status", "podIPs"]).iter();
    addresses.map(|address| address.str_at(&["ip"])).collect::<Vec<_>>().join(",")
}

fn defaults(object: &mut Object) {
    pod_defaults::pod(tree::made_mut(object, &["spec"]));
}

fn prepare_create(context: &Context, object: &mut Object) {
    let spec = tree::made_mut(object, &["spec"]);
    pod_defaults::service_account_alias(spec);
    spec.default_at(&["priority"], 0);
    tree::default_text(spec, &["preemptionPolicy"], "PreemptLowerPriority");
    pod_defaults::own_labels(object);
    let spec = tree::made_mut(object, &["spec"]);
    let mut status = json!({"phase": "Pending", "qosClass": qos::class(spec)});
    if !spec.list_at(&["schedulingGates"]).is_empty() {
        status["conditions"] = json!([{
            "type": "PodScheduled",
            "status": "False",
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        }]);
    }
    prepare::create_with_status(context, object, status);
}

fn prepare_update(context: &Context, new: &mut Object, old: &Object) {
    match context.subresource {
        "status" => {
            prepare::update(context, new, old);
            tree::default_text(new, &["status", "qosClass"], old.str_at(&["status", "qosClass"]));
        }
        "ephemeralcontainers" => {
            let added = new.at(&["spec", "ephemeralContainers"]).cloned();
            keep_spec_but(context, new, old, |spec| match added {
                Some(containers) => spec.set_at(&["ephemeralContainers"], containers),
                None => drop(spec.remove_at(&["ephemeralContainers"])),
            });
        }
        "resize" => {
            let wanted = new.at(&["spec"]).cloned().unwrap_or_default();
            keep_spec_but(context, new, old, |spec| resize::take_over(spec, &wanted));
        }
        _ => {
            for field in ["priority", "preemptionPolicy"] {
                if new.at(&["spec", field]).is_none() {
                    tree::carry_over(new, old, &["spec", field]);
                }
            }
            pod_defaults::service_account_alias(tree::made_mut(new, &["spec"]));
            prepare::update(context, new, old);
        }
    }
}

/// The update changes one part of the specification, and of the metadata only what any write does.
fn keep_spec_but(context: &Context, new: &mut Object, old: &Object, change: impl FnOnce(&mut Value)) {
    for part in ["spec", "status"] {
        tree::carry_over(new, old, &[part]);
    }
    change(tree::made_mut(new, &["spec"]));
    prepare::raise_generation(context, new, old);
}

fn warnings(object: &Object) -> Vec<String> {
    pod_warnings::pod(object.at(&["spec"]).unwrap_or(&Value::Null), "spec", object.at(&["metadata"]))
}
