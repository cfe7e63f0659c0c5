//! What may be wrong with the sources that volumes of Pods and PersistentVolumes share: disks, exports, drivers.

use skiff_object::names;

use crate::rules::check::{At, Faults};
use crate::rules::volume_check::no_backsteps;

/// The longest name of a storage driver.
const DRIVER_NAME_LIMIT_BYTES: usize = 63;
const LUN_RANGE: (i64, i64) = (0, 255);

/// Checks the name of a storage driver.
pub fn driver_name(faults: &mut Faults, name: &At) {
    faults.needs(name);
    faults.at_most_bytes(name, DRIVER_NAME_LIMIT_BYTES);
    for words in names::check_dns_subdomain(&name.text().to_lowercase()) {
        faults.invalid_as(name, name.text(), words);
    }
}

/// Checks a source by its kind; PersistentVolumes name secrets with their namespace.
pub fn storage_source(faults: &mut Faults, kind: &str, source: &At, persistent: bool) {
    let needs = |faults: &mut Faults, fields: &[&str]| {
        for field in fields {
            faults.needs(&source.get(field));
        }
    };
    match kind {
        "hostPath" => host_path(faults, source),
        "local" => {
            faults.needs(&source.get("path"));
            no_backsteps(faults, &source.get("path"));
        }
        "nfs" => {
            needs(faults, &["server", "path"]);
            let path = source.get("path");
            if !path.text().starts_with('/') {
                faults.invalid_as(&path, path.text(), "must be an absolute path");
            }
        }
        "csi" => persistent_csi(faults, source),
        "iscsi" => iscsi(faults, source, persistent),
        "fc" => fibre_channel(faults, source),
        "glusterfs" => needs(faults, &["endpoints", "path"]),
        "rbd" => needs(faults, &["monitors", "image"]),
        "cephfs" => needs(faults, &["monitors"]),
        "flexVolume" => flex(faults, source),
        "azureFile" => {
            needs(faults, &["secretName", "shareName"]);
            if source.get("secretNamespace").is_set() {
                needs(faults, &["secretNamespace"]);
            }
        }
        "azureDisk" => azure_disk(faults, source),
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            needs(faults, &[if kind == "gcePersistentDisk" { "pdName" } else { "volumeID" }]);
            let partition = source.get("partition");
            if partition.int().is_some_and(|number| !(0..=255).contains(&number)) {
                faults.invalid(&partition, names::between(1, 255));
            }
        }
        "cinder" => {
            needs(faults, &["volumeID"]);
            secret(faults, &source.get("secretRef"), persistent);
        }
        "vsphereVolume" => needs(faults, &["volumePath"]),
        "photonPersistentDisk" => needs(faults, &["pdID"]),
        "portworxVolume" => needs(faults, &["volumeID"]),
        "scaleIO" => needs(faults, &["gateway", "system", "volumeName"]),
        "storageos" => {
            faults.needs_name(&source.get("volumeName"), names::check_dns_label);
            faults.name(&source.get("volumeNamespace"), names::check_dns_label);
            secret(faults, &source.get("secretRef"), persistent);
        }
        "quobyte" => quobyte(faults, source),
        "flocker" => flocker(faults, source),
        _ => {}
    }
}

fn host_path(faults: &mut Faults, source: &At) {
    const TYPES: [&str; 8] =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    let path = source.get("path");
    if faults.needs(&path) {
        no_backsteps(faults, &path);
        faults.choice(&source.get("type"), &TYPES);
    }
}

/// A secret must be named, for PersistentVolumes with its namespace.
fn secret(faults: &mut Faults, secret: &At, persistent: bool) {
    if secret.is_set() {
        faults.needs(&secret.get("name"));
        if persistent {
            faults.needs(&secret.get("namespace"));
        }
    }
}

fn persistent_csi(faults: &mut Faults, source: &At) {
    const SECRETS: [&str; 5] = [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
        "nodeStageSecretRef",
    ];
    driver_name(faults, &source.get("driver"));
    faults.needs(&source.get("volumeHandle"));
    for secret in SECRETS.map(|field| source.get(field)) {
        if secret.is_set() {
            faults.needs_name(&secret.get("name"), names::check_dns_subdomain);
            faults.needs_name(&secret.get("namespace"), names::check_dns_label);
        }
    }
}

fn iscsi(faults: &mut Faults, source: &At, persistent: bool) {
    let is_name = |name: &str| ["iqn", "eui", "naa"].iter().any(|start| name.starts_with(start));
    faults.needs(&source.get("targetPortal"));
    let name = source.get("iqn");
    if faults.needs(&name) && !is_name(name.text()) {
        faults.invalid(&name, "must be valid format starting with iqn, eui, or naa");
    } else if !name.is_blank() && !is_iscsi_name(name.text()) {
        faults.invalid(&name, "must be valid format");
    }
    faults.between(&source.get("lun"), LUN_RANGE.0, LUN_RANGE.1);
    let needs_secret = source.get("chapAuthDiscovery").flag() || source.get("chapAuthSession").flag();
    let credentials = source.get("secretRef");
    if needs_secret && !credentials.is_set() {
        faults.required(&credentials, "");
    }
    if persistent && credentials.is_set() {
        faults.needs(&credentials.get("name"));
    }
    let initiator = source.get("initiatorName");
    if initiator.is_set() && !is_iscsi_name(initiator.text()) {
        faults.invalid(&initiator, "must be valid format");
    }
}

/// `iqn.2001-04.com.example:anything`, or the number of a device after `eui.` or `naa.`
fn is_iscsi_name(name: &str) -> bool {
    let hex = |digits: &str, lengths: &[usize]| {
        lengths.contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    if let Some(digits) = name.strip_prefix("eui.") {
        return hex(digits, &[16]);
    }
    if let Some(digits) = name.strip_prefix("naa.") {
        return hex(digits, &[16, 32]);
    }
    let Some((date, rest)) = name.strip_prefix("iqn.").and_then(|rest| rest.split_once('.')) else {
        return false;
    };
    let digits = |text: &str, count: usize| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_date = date.split_once('-').is_some_and(|(year, month)| digits(year, 4) && digits(month, 2));
    is_date && !rest.is_empty() && !rest.contains(char::is_whitespace)
}

fn fibre_channel(faults: &mut Faults, source: &At) {
    let (targets, wwids, lun) = (source.get("targetWWNs"), source.get("wwids"), source.get("lun"));
    if targets.is_blank() && wwids.is_blank() {
        faults.required(&targets, "must specify either targetWWNs or wwids, but not both");
    }
    if !targets.is_blank() && !wwids.is_blank() {
        faults.invalid(&targets, "targetWWNs and wwids can not be specified simultaneously");
    }
    if !targets.is_blank() {
        if lun.is_set() {
            faults.between(&lun, LUN_RANGE.0, LUN_RANGE.1);
        } else {
            faults.required(&lun, "lun is required if targetWWNs is specified");
        }
    }
}

fn flex(faults: &mut Faults, source: &At) {
    faults.needs(&source.get("driver"));
    for (key, option) in source.get("options").entries() {
        let domain = format!(".{}", key.split('/').next().unwrap_or(key).to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            faults.invalid_as(&option, key, "kubernetes.io and k8s.io namespaces are reserved");
        }
    }
}

fn azure_disk(faults: &mut Faults, source: &At) {
    const MANAGED: &str =
        "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    const BLOB: &str = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    let (uri, kind) = (source.get("diskURI"), source.get("kind"));
    faults.needs(&source.get("diskName"));
    faults.needs(&uri);
    faults.choice(&source.get("cachingMode"), &["None", "ReadOnly", "ReadWrite"]);
    faults.choice(&kind, &["Dedicated", "Managed", "Shared"]);
    if kind.text() == "Managed" && !uri.text().starts_with("/subscriptions/") {
        faults.not_supported(&uri, &[MANAGED]);
    }
    if kind.is_set() && kind.text() != "Managed" && !uri.text().starts_with("https://") {
        faults.not_supported(&uri, &[BLOB]);
    }
}

/// The length that a tenant's name must stay below.
const TENANT_LIMIT_BYTES: usize = 65;

fn quobyte(faults: &mut Faults, source: &At) {
    let (registry, tenant) = (source.get("registry"), source.get("tenant"));
    let pairs = "must be a host:port pair or multiple pairs separated by commas";
    if registry.is_blank() {
        faults.required(&registry, pairs);
    } else if tenant.text().len() >= TENANT_LIMIT_BYTES {
        faults.required(&tenant, "must be a UUID and may not exceed a length of 64 characters");
    } else if registry.text().split(',').any(|pair| pair.rsplit_once(':').is_none()) {
        faults.invalid(&registry, pairs);
    }
    faults.needs(&source.get("volume"));
}

fn flocker(faults: &mut Faults, source: &At) {
    let (name, uuid) = (source.get("datasetName"), source.get("datasetUUID"));
    if name.is_blank() && uuid.is_blank() {
        faults.required(source, "one of datasetName and datasetUUID is required");
    }
    if !name.is_blank() && !uuid.is_blank() {
        let words = "datasetName and datasetUUID can not be specified simultaneously";
        faults.invalid_as(source, "resource", words);
    }
    if name.text().contains('/') {
        faults.invalid(&name, "must not contain '/'");
    }
}
