//! `apps/v1` StatefulSet: Pods with stable names and storage.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, list, scale, text, texts};
use crate::def::{ResourceDef, Subresource};
use crate::rules::table::{AGE, CONTAINERS, IMAGES, NAME, cells, column};
use crate::rules::{pod_defaults, storage_rules, table, tree};

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
    row: row,
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
