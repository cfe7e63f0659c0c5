//! What may be wrong with a CustomResourceDefinition, as far as its own fields tell.
//! See <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/>.

use std::collections::BTreeSet;

use skiff_object::{FieldPath, Object, names};

use crate::rules::check::{At, Faults};
use crate::rules::crd_schema_check;

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];

/// Checks a definition.
pub fn definition(faults: &mut Faults, object: &Object) {
    let (metadata, spec) = (At::top(object, "metadata"), At::top(object, "spec"));
    let name = metadata.get("name");
    let (group, plural) = (spec.get("group"), spec.walk(&["names", "plural"]));
    if name.text() != format!("{}.{}", plural.text(), group.text()) {
        faults.invalid(&name, "must be spec.names.plural+\".\"+spec.group");
    }
    faults.needs_name(&group, names::check_dns_subdomain);
    if !group.is_blank() && !group.text().contains('.') {
        faults.invalid(&group, "should be a domain with at least one dot");
    }
    faults.needs_choice(&spec.get("scope"), &["Cluster", "Namespaced"]);
    if spec.get("preserveUnknownFields").flag() {
        let words =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        faults.invalid(&spec.get("preserveUnknownFields"), words);
    }
    approval(faults, &metadata, group.text());
    own_names(faults, &spec.get("names"));
    versions(faults, &spec.get("versions"));
    conversion(faults, &spec.get("conversion"));
}

/// What is wrong with the schemas of a definition, for people. Nothing that is created here has any fault, but a store may
/// come from another cluster.
pub fn violations(object: &Object) -> Vec<String> {
    let mut faults = Faults::new();
    for version in At::top(object, "spec").get("versions").items() {
        let schema = version.walk(&["schema", "openAPIV3Schema"]);
        if schema.is_set() {
            crd_schema_check::schema(&mut faults, &schema);
        }
    }
    faults.into_list().iter().map(ToString::to_string).collect()
}

/// The annotation by which a group of the project itself is approved.
pub const APPROVAL: &str = "api-approved.kubernetes.io";
const APPROVAL_PAGE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";

/// Whether a group is one that only the project itself may define.
pub fn is_protected(group: &str) -> bool {
    [".k8s.io", ".kubernetes.io"].iter().any(|suffix| group.ends_with(suffix))
        || matches!(group, "k8s.io" | "kubernetes.io")
}

fn approval(faults: &mut Faults, metadata: &At, group: &str) {
    if !is_protected(group) {
        return;
    }
    let annotations = metadata.get("annotations");
    let given = annotations.get(APPROVAL).renamed(annotations.path().key(APPROVAL));
    if given.is_blank() {
        let words = format!("protected groups must have approval annotation {APPROVAL:?}, {APPROVAL_PAGE}");
        faults.required(&given, &words);
    } else if !given.text().starts_with("unapproved") && !given.text().contains("://") {
        let words = format!(
            "protected groups must have approval annotation {APPROVAL:?} with either a URL or a reason starting with \"unapproved\", {APPROVAL_PAGE}"
        );
        faults.invalid(&given, words);
    }
}

fn own_names(faults: &mut Faults, given: &At) {
    faults.needs_name(&given.get("plural"), names::check_dns_1035_label);
    faults.needs_name(&given.get("singular"), names::check_dns_1035_label);
    for field in ["kind", "listKind"] {
        let kind = given.get(field);
        if faults.needs(&kind) {
            for words in names::check_dns_1035_label(&kind.text().to_lowercase()) {
                faults.invalid(&kind, format!("may have mixed case, but should otherwise match: {words}"));
            }
        }
    }
    for field in ["shortNames", "categories"] {
        for name in given.get(field).items() {
            faults.all_invalid(&name, names::check_dns_1035_label(name.text()));
        }
    }
    if !given.get("kind").is_blank() && given.get("kind").text() == given.get("listKind").text() {
        faults.invalid(&given.get("listKind"), "kind and listKind may not be the same");
    }
}

fn versions(faults: &mut Faults, versions: &At) {
    let all = versions.items();
    if all.is_empty() {
        faults.required(versions, "must have at least one version");
        return;
    }
    let mut seen = BTreeSet::new();
    if !all.iter().all(|version| seen.insert(version.get("name").text())) {
        faults.invalid(versions, "must contain unique version names");
    }
    if all.iter().filter(|version| version.get("storage").flag()).count() != 1 {
        faults.invalid(versions, "must have exactly one version marked as storage version");
    }
    for version in &all {
        faults.all_invalid(&version.get("name"), names::check_dns_1035_label(version.get("name").text()));
        if !version.walk(&["schema", "openAPIV3Schema"]).is_set() {
            faults.required(&version.walk(&["schema", "openAPIV3Schema"]), "schemas are required");
        }
    }
    for schema in told_once(versions, &["schema"], "validation").iter().map(|schema| schema.get("openAPIV3Schema")) {
        if schema.is_set() {
            crd_schema_check::schema(faults, &schema);
        }
    }
    for columns in told_once(versions, &["additionalPrinterColumns"], "additionalPrinterColumns") {
        self::columns(faults, &columns);
    }
    for scale in told_once(versions, &["subresources"], "subresources").iter().map(|own| own.get("scale")) {
        if scale.is_set() {
            replica_path(faults, &scale.get("specReplicasPath"), ".spec.");
            replica_path(faults, &scale.get("statusReplicasPath"), ".status.");
        }
    }
    let fields = told_once(versions, &["selectableFields"], "selectableFields");
    for (fields, version) in fields.iter().zip(&all) {
        selectable_fields(faults, fields, &version.walk(&["schema", "openAPIV3Schema"]));
    }
}

/// What stands at a path in each version; where it is the same in all of them, it is one thing of the whole `spec`, and
/// faults in it are told once, by the name that it has there.
pub fn told_once<'a>(versions: &At<'a>, path: &[&str], name: &str) -> Vec<At<'a>> {
    let mut each: Vec<_> = versions.items().iter().map(|version| version.walk(path)).collect();
    if each.iter().all(|other| other.node() == each[0].node()) {
        each.truncate(1);
        each.iter_mut().for_each(|one| *one = one.renamed(FieldPath::new("spec").child(name)));
    }
    each
}

fn columns(faults: &mut Faults, columns: &At) {
    for column in columns.items() {
        faults.needs(&column.get("name"));
        faults.needs_choice(&column.get("type"), &COLUMN_TYPES);
        let path = column.get("jsonPath");
        if faults.needs(&path) && !path.text().starts_with('.') {
            faults.invalid(&path, "is an invalid path: must start with .");
        }
    }
}

fn selectable_fields(faults: &mut Faults, fields: &At, schema: &At) {
    const SELECTABLE_LIMIT: usize = 8;
    faults.at_most_items(fields, SELECTABLE_LIMIT);
    let mut seen = BTreeSet::new();
    for field in fields.items() {
        let path = field.get("jsonPath");
        if !faults.needs(&path) {
            continue;
        }
        if !seen.insert(path.text()) {
            faults.duplicate(&path);
        }
        if let Err(words) = selectable(schema, path.text()) {
            faults.invalid(&path, words);
        }
    }
}

/// Whether a selectable field leads to a text, a number or a truth value that is not part of the metadata.
fn selectable(schema: &At, path: &str) -> Result<(), String> {
    let Some(fields) = path.strip_prefix('.').filter(|_| !path.contains('[')) else {
        return Err("is an invalid path: must be a simple json path".to_owned());
    };
    if fields.starts_with("metadata") {
        return Err("must not point to fields in metadata".to_owned());
    }
    let mut at = schema.clone();
    for field in fields.split('.') {
        at = at.get("properties").get(field);
        if !at.is_set() {
            return Err("is an invalid path: does not refer to a valid field".to_owned());
        }
    }
    match at.get("type").text() {
        "string" | "integer" | "boolean" => Ok(()),
        _ => Err("must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.".to_owned()),
    }
}

fn replica_path(faults: &mut Faults, path: &At, under: &str) {
    if faults.needs(path) && !path.text().starts_with(under) {
        faults.invalid(path, format!("should be a json path under {}", under.trim_end_matches('.')));
    }
}

fn conversion(faults: &mut Faults, conversion: &At) {
    if !conversion.is_set() {
        return;
    }
    let strategy = conversion.get("strategy");
    faults.needs_choice(&strategy, &["None", "Webhook"]);
    let webhook = conversion.get("webhook");
    match strategy.text() {
        "Webhook" if !webhook.get("clientConfig").is_set() => {
            faults.required(&webhook.get("clientConfig"), "required when strategy is set to Webhook");
        }
        "Webhook" => {
            let versions = webhook.get("conversionReviewVersions");
            if versions.is_blank() {
                faults.required(&versions, "");
            }
        }
        "None" if webhook.is_set() => {
            faults.forbidden(&webhook, "should not be set when strategy is not set to Webhook")
        }
        _ => {}
    }
}

/// What a definition may not change.
pub fn update(faults: &mut Faults, new: &Object, old: &Object) {
    let (spec, was) = (At::top(new, "spec"), At::top(old, "spec"));
    faults.immutable(&spec.get("group"), &was.get("group"));
    faults.immutable(&spec.get("scope"), &was.get("scope"));
    faults.immutable(&spec.walk(&["names", "kind"]), &was.walk(&["names", "kind"]));
    faults.immutable(&spec.walk(&["names", "plural"]), &was.walk(&["names", "plural"]));
    let status = At::top(new, "status").get("storedVersions");
    let storage = spec.get("versions").items().into_iter().find(|version| version.get("storage").flag());
    if let Some(storage) = storage.map(|version| version.get("name").text())
        && status.is_set()
        && !status.texts().contains(&storage)
    {
        faults.invalid(&status, format!("must have the storage version {storage}"));
    }
    let kept: Vec<_> = spec.get("versions").items().iter().map(|version| version.get("name").text()).collect();
    for (index, stored) in At::top(old, "status").get("storedVersions").items().iter().enumerate() {
        if !kept.contains(&stored.text()) {
            let at = At::top(new, "status").get("storedVersions");
            let path = at.path().index(index);
            let name = stored.text();
            faults.invalid_as(&at.renamed(path), name, "missing from spec.versions; ".to_owned() + name + " was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in " + name + " and removes " + name + " from status.storedVersions");
        }
    }
}
