//! `apps/v1` StatefulSet: Pods with stable names and storage.

use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object, names};

use crate::base::{BASE, list, scale, text, texts};
use crate::def::{Context, ResourceDef, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, CONTAINERS, IMAGES, NAME, cells, column};
use crate::rules::{pod_defaults, pod_warnings, status_check, storage_rules, table, tree, workload_check};

/// `statefulsets`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("apps"),
    plural: text("statefulsets"),
    singular: text("statefulset"),
    kind: text("StatefulSet"),
    list_kind: text("StatefulSetList"),
    short_names: texts!["sts"],
    categories: texts!["all"],
    schema: text("io.k8s.api.apps.v1.StatefulSet"),
    subresources: list![scale(".spec.selector"), Subresource::Status,],
    has_generation: true,
    columns: list![
        NAME,
        column("Ready", "string", "The Pods that are ready, of those that are wanted."),
        AGE,
        CONTAINERS,
        IMAGES,
    ],
    default: defaults,
    row,
    validate,
    validate_update,
    warnings,
    ..BASE
};

const REVISION_HISTORY_LIMIT: i64 = 10;

fn defaults(object: &mut Object) {
    pod_defaults::template(object, &["spec", "template"]);
    let spec = tree::made_mut(object, &["spec"]);
    tree::default_text(spec, &["podManagementPolicy"], "OrderedReady");
    tree::default_text(spec, &["updateStrategy", "type"], "RollingUpdate");
    if spec.str_at(&["updateStrategy", "type"]) == "RollingUpdate" {
        spec.default_at(&["updateStrategy", "rollingUpdate", "partition"], 0);
    }
    tree::default_text(spec, &["persistentVolumeClaimRetentionPolicy", "whenDeleted"], "Retain");
    tree::default_text(spec, &["persistentVolumeClaimRetentionPolicy", "whenScaled"], "Retain");
    spec.default_at(&["replicas"], 1);
    spec.default_at(&["revisionHistoryLimit"], REVISION_HISTORY_LIMIT);
    for claim in tree::items_mut(spec, &["volumeClaimTemplates"]) {
        tree::default_text(claim, &["apiVersion"], "v1");
        tree::default_text(claim, &["kind"], "PersistentVolumeClaim");
        storage_rules::claim_defaults(claim);
    }
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let (names, images) = table::template_containers(object);
    let (ready, wanted) =
        (table::number(object, &["status", "readyReplicas"]), table::number(object, &["spec", "replicas"]));
    cells![object.name(), format!("{ready}/{wanted}"), table::age(object, now), names, images]
}

/// What an update may change.
const MUTABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

fn validate(_: &Context, object: &Object) -> ErrorList {
    let (spec, mut faults) = (At::top(object, "spec"), Faults::new());
    let management = spec.get("podManagementPolicy");
    if faults.needs(&management) && !matches!(management.text(), "OrderedReady" | "Parallel") {
        faults.invalid(&management, "must be 'OrderedReady' or 'Parallel'");
    }
    update_strategy(&mut faults, &spec.get("updateStrategy"));
    for when in ["whenDeleted", "whenScaled"] {
        faults.choice(&spec.get("persistentVolumeClaimRetentionPolicy").get(when), &["Retain", "Delete"]);
    }
    for field in ["replicas", "minReadySeconds"] {
        faults.non_negative(&spec.get(field));
    }
    faults.non_negative(&spec.get("ordinals").get("start"));
    for claim in spec.get("volumeClaimTemplates").items() {
        storage_rules::check_claim(&mut faults, &claim.get("spec"));
    }
    faults.name(&spec.get("serviceName"), names::check_dns_subdomain);
    workload_check::selector(&mut faults, &spec.get("selector"), "statefulset");
    template(&mut faults, &spec);
    faults.into_list()
}

/// A template's mounts may also name the claims that the set makes.
fn template(faults: &mut Faults, spec: &At) {
    let mut object = spec.value().clone();
    for claim in spec.get("volumeClaimTemplates").items() {
        let name = claim.walk(&["metadata", "name"]).text();
        let volume = json!({"name": name, "persistentVolumeClaim": {"claimName": name}});
        let volumes =
            object.at(&["template", "spec", "volumes"]).and_then(Value::as_array).cloned().unwrap_or_default();
        if volumes.iter().all(|volume| volume.str_at(&["name"]) != name) {
            object.set_at(&["template", "spec", "volumes"], [volumes, vec![volume]].concat());
        }
    }
    let wrapped = json!({"spec": object});
    workload_check::template(faults, &At::top(&wrapped, "spec"), "StatefulSet");
}

fn update_strategy(faults: &mut Faults, strategy: &At) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").text() {
        "" => faults.required(&strategy.get("type"), ""),
        "OnDelete" if rolling.is_set() => {
            faults.invalid(&rolling, "only allowed for updateStrategy 'RollingUpdate'");
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            faults.non_negative(&rolling.get("partition"));
            let unavailable = rolling.get("maxUnavailable");
            if faults.amount(&unavailable) == Some(0) {
                faults.invalid(&unavailable, "cannot be 0");
            }
            faults.at_most_everything(&unavailable);
        }
        _ => faults.invalid(strategy, "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

fn validate_update(context: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    if context.subresource == "status" {
        let (status, was) = (At::top(new, "status"), At::top(old, "status"));
        status_check::replicas(&mut faults, &status, &["currentReplicas", "updatedReplicas"]);
        status_check::counts(&mut faults, &status, &["collisionCount"]);
        status_check::not_decremented(&mut faults, &status.get("collisionCount"), &was.get("collisionCount"));
        return faults.into_list();
    }
    let fixed = |object: &Object| {
        let mut spec = object.get("spec").cloned().unwrap_or(Value::Null);
        for field in MUTABLE {
            spec.remove_at(&[field]);
        }
        for claim in tree::items_mut(&mut spec, &["volumeClaimTemplates"]) {
            claim.remove_at(&["status"]);
        }
        spec
    };
    if fixed(new) != fixed(old) {
        let (last, others) = MUTABLE.split_last().expect("there are several");
        let others: Vec<_> = others.iter().map(|field| format!("'{field}'")).collect();
        let fields = format!("{} and '{last}'", others.join(", "));
        let words = format!("updates to statefulset spec for fields other than {fields} are forbidden");
        faults.forbidden(&At::top(new, "spec"), words);
    }
    faults.into_list()
}

fn warnings(object: &Object) -> Vec<String> {
    let mut warnings = pod_warnings::template(object, &["spec", "template"]);
    if table::number(object, &["spec", "revisionHistoryLimit"]) < 0 {
        let words = "a negative value retains all historical revisions; a value >= 0 is recommended";
        warnings.push(format!("spec.revisionHistoryLimit: {words}"));
    }
    warnings
}
