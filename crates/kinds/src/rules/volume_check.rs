//! What may be wrong with volumes and with where containers mount them.

use std::collections::{BTreeMap, BTreeSet};

use skiff_object::names;

use crate::rules::check::{At, Faults};
use crate::rules::container_check::{field_reference, resource_reference};

/// The names of a Pod's volumes, and whether each is a claim (which alone may be a block device).
pub type Volumes<'a> = BTreeMap<&'a str, bool>;

/// The greatest mode of a file.
const MODE_LIMIT: i64 = 0o777;
/// The shortest life of a projected token.
const TOKEN_EXPIRATION_MIN_SECONDS: i64 = 10 * 60;
/// The longest life of a projected token.
const TOKEN_EXPIRATION_MAX_SECONDS: i64 = 1 << 32;
const DOWNWARD_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Checks a Pod's volumes; gives their names.
pub fn volumes<'a>(faults: &mut Faults, volumes: &At<'a>) -> Volumes<'a> {
    let mut seen = Volumes::new();
    for volume in volumes.items() {
        source(faults, &volume);
        let name = volume.get("name");
        faults.needs_name(&name, names::check_dns_label);
        let is_claim = volume.get("persistentVolumeClaim").is_set() || volume.get("ephemeral").is_set();
        if !name.is_blank() && seen.insert(name.text(), is_claim).is_some() {
            faults.duplicate(&name);
        }
    }
    seen
}

/// Exactly one source, well-formed.
fn source(faults: &mut Faults, volume: &At) {
    let sources = volume.value().as_object().into_iter().flatten();
    let sources: Vec<_> = sources.map(|(kind, _)| kind.as_str()).filter(|kind| *kind != "name").collect();
    if sources.is_empty() {
        faults.required(volume, "must specify a volume type");
    }
    for (index, kind) in sources.into_iter().enumerate() {
        let source = volume.get(kind);
        if index > 0 {
            faults.forbidden(&source, "may not specify more than 1 volume type");
        } else {
            source_of_kind(faults, kind, &source);
        }
    }
}

fn source_of_kind(faults: &mut Faults, kind: &str, source: &At) {
    match kind {
        "emptyDir" => {
            let limit = source.get("sizeLimit");
            if limit.quantity().is_some_and(|quantity| quantity.is_negative()) {
                faults.forbidden(&limit, "SizeLimit field must be a valid resource quantity");
            }
        }
        "secret" => {
            faults.needs(&source.get("secretName"));
            mode(faults, &source.get("defaultMode"));
            items(faults, &source.get("items"));
        }
        "configMap" => {
            faults.needs(&source.get("name"));
            mode(faults, &source.get("defaultMode"));
            items(faults, &source.get("items"));
        }
        "downwardAPI" => {
            mode(faults, &source.get("defaultMode"));
            source.get("items").items().iter().for_each(|item| downward_item(faults, item));
        }
        "projected" => projected(faults, source),
        "persistentVolumeClaim" => drop(faults.needs(&source.get("claimName"))),
        "ephemeral" => ephemeral(faults, source),
        _ => storage_source(faults, kind, source),
    }
}

/// Checks the sources that volumes and PersistentVolumes share.
pub fn storage_source(faults: &mut Faults, kind: &str, source: &At) {
    const HOST_PATH_TYPES: [&str; 8] =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    let needs = |faults: &mut Faults, fields: &[&str]| {
        for field in fields {
            faults.needs(&source.get(field));
        }
    };
    match kind {
        "hostPath" => {
            let path = source.get("path");
            if faults.needs(&path) && path.text().split('/').any(|part| part == "..") {
                faults.invalid(&path, "must not contain '..'");
            }
            faults.choice(&source.get("type"), &HOST_PATH_TYPES);
        }
        "local" => needs(faults, &["path"]),
        "nfs" => {
            needs(faults, &["server", "path"]);
            let path = source.get("path");
            if !path.is_blank() && !path.text().starts_with('/') {
                faults.invalid(&path, "must be an absolute path");
            }
        }
        "csi" => needs(faults, &["driver"]),
        "iscsi" => {
            needs(faults, &["targetPortal", "iqn"]);
            faults.between(&source.get("lun"), 0, 255);
        }
        "glusterfs" => needs(faults, &["endpoints", "path"]),
        "rbd" => needs(faults, &["monitors", "image"]),
        "cephfs" => needs(faults, &["monitors"]),
        "flexVolume" => needs(faults, &["driver"]),
        "azureFile" => needs(faults, &["secretName", "shareName"]),
        "azureDisk" => needs(faults, &["diskName", "diskURI"]),
        "gcePersistentDisk" => needs(faults, &["pdName"]),
        "awsElasticBlockStore" | "cinder" => needs(faults, &["volumeID"]),
        "vsphereVolume" => needs(faults, &["volumePath"]),
        "photonPersistentDisk" => needs(faults, &["pdID"]),
        "portworxVolume" => needs(faults, &["volumeID"]),
        "scaleIO" => needs(faults, &["gateway", "system", "volumeName"]),
        "quobyte" => needs(faults, &["registry", "volume"]),
        "gitRepo" => needs(faults, &["repository"]),
        "flocker" if source.get("datasetName").is_blank() && source.get("datasetUUID").is_blank() => {
            faults.required(source, "one of datasetName and datasetUUID is required");
        }
        "image" => {
            needs(faults, &["reference"]);
            faults.choice(&source.get("pullPolicy"), &["Always", "IfNotPresent", "Never"]);
        }
        _ => {}
    }
}

fn mode(faults: &mut Faults, mode: &At) {
    if mode.int().is_some_and(|mode| !(0..=MODE_LIMIT).contains(&mode)) {
        faults.invalid(mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

fn items(faults: &mut Faults, items: &At) {
    for item in items.items() {
        faults.needs(&item.get("key"));
        file_path(faults, &item.get("path"));
        mode(faults, &item.get("mode"));
    }
}

/// The path of a projected file.
fn file_path(faults: &mut Faults, path: &At) {
    if faults.needs(path) {
        relative(faults, path);
        if path.text().starts_with("..") && path.text().split('/').all(|part| part != "..") {
            faults.invalid(path, "must not start with '..'");
        }
    }
}

fn relative(faults: &mut Faults, path: &At) {
    if path.text().starts_with('/') {
        faults.invalid(path, "must be a relative path");
    }
    if path.text().split('/').any(|part| part == "..") {
        faults.invalid(path, "must not contain '..'");
    }
}

fn downward_item(faults: &mut Faults, item: &At) {
    file_path(faults, &item.get("path"));
    let (field, resource) = (item.get("fieldRef"), item.get("resourceFieldRef"));
    match (field.is_set(), resource.is_set()) {
        (true, true) => {
            faults.invalid_as(item, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
        }
        (true, false) => field_reference(faults, &field, &DOWNWARD_FIELDS, true),
        (false, true) => resource_reference(faults, &resource, true),
        (false, false) => faults.required(item, "one of fieldRef and resourceFieldRef is required"),
    }
    mode(faults, &item.get("mode"));
}

fn projected(faults: &mut Faults, projected: &At) {
    mode(faults, &projected.get("defaultMode"));
    for source in projected.get("sources").items() {
        let given = source.value().as_object().map_or(0, |map| map.len());
        if given > 1 {
            faults.forbidden(&source, "may not specify more than 1 volume type");
        }
        for kind in ["secret", "configMap"] {
            let part = source.get(kind);
            if part.is_set() {
                faults.needs(&part.get("name"));
                items(faults, &part.get("items"));
            }
        }
        for item in source.get("downwardAPI").get("items").items() {
            downward_item(faults, &item);
        }
        let token = source.get("serviceAccountToken");
        if token.is_set() {
            token_source(faults, &token);
        }
        let bundle = source.get("clusterTrustBundle");
        if bundle.is_set() {
            faults.needs(&bundle.get("path"));
        }
    }
}

fn token_source(faults: &mut Faults, token: &At) {
    let seconds = token.get("expirationSeconds");
    if seconds.int().is_some_and(|seconds| seconds < TOKEN_EXPIRATION_MIN_SECONDS) {
        faults.invalid(&seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds.int().is_some_and(|seconds| seconds > TOKEN_EXPIRATION_MAX_SECONDS) {
        faults.invalid(&seconds, "may not specify a duration larger than 2^32 seconds");
    }
    file_path(faults, &token.get("path"));
}

fn ephemeral(faults: &mut Faults, source: &At) {
    let template = source.get("volumeClaimTemplate");
    if !template.is_set() {
        faults.required(&template, "");
        return;
    }
    faults.labels(&template.walk(&["metadata", "labels"]));
    crate::rules::storage_rules::check_claim(faults, &template.get("spec"));
}

/// Checks where a container mounts volumes, and the devices that it gets.
pub fn mounts(faults: &mut Faults, container: &At, volumes: &Volumes) {
    let privileged = container.walk(&["securityContext", "privileged"]).flag();
    let mut paths = BTreeSet::new();
    for mount in container.get("volumeMounts").items() {
        let (name, path) = (mount.get("name"), mount.get("mountPath"));
        if faults.needs(&name) && !volumes.contains_key(name.text()) {
            faults.not_found(&name);
        }
        faults.needs(&path);
        if !paths.insert(path.text()) {
            faults.invalid(&path, "must be unique");
        }
        sub_path(faults, &mount);
        propagation(faults, &mount, privileged);
    }
    for device in container.get("volumeDevices").items() {
        let (name, path) = (device.get("name"), device.get("devicePath"));
        if faults.needs(&name) {
            match volumes.get(name.text()) {
                None => faults.not_found(&name),
                Some(false) => {
                    faults.invalid(
                        &name,
                        "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                    );
                }
                Some(true) => {}
            }
        }
        faults.needs(&path);
        if !path.is_blank() && !paths.insert(path.text()) {
            faults.invalid(&path, "must not already exist in volumeMounts");
        }
    }
}

fn sub_path(faults: &mut Faults, mount: &At) {
    let (fixed, expanded) = (mount.get("subPath"), mount.get("subPathExpr"));
    for path in [&fixed, &expanded] {
        if !path.is_blank() {
            relative(faults, path);
        }
    }
    if !fixed.is_blank() && !expanded.is_blank() {
        faults.invalid(&expanded, "subPathExpr and subPath are mutually exclusive");
    }
}

fn propagation(faults: &mut Faults, mount: &At, privileged: bool) {
    let propagation = mount.get("mountPropagation");
    faults.choice(&propagation, &["Bidirectional", "HostToContainer", "None"]);
    if propagation.text() == "Bidirectional" && !privileged {
        faults.forbidden(&propagation, "Bidirectional mount propagation is available only to privileged containers");
    }
    let recursive = mount.get("recursiveReadOnly");
    if recursive.is_set() && recursive.text() != "Disabled" {
        faults.choice(&recursive, &["Disabled", "Enabled", "IfPossible"]);
        if !mount.get("readOnly").flag() {
            faults.forbidden(&recursive, "may only be specified when readOnly is true");
        }
    }
}
