//! What may be wrong with where a container mounts volumes, and with the devices that it gets.

use std::collections::BTreeSet;

use crate::rules::check::{At, Faults};
use crate::rules::volume_check::{self, Source, Volumes};

/// Checks a container's mounts. As upstream has it, faults of what a mount says (rather than of what it names) are told
/// of the list.
pub fn mounts(faults: &mut Faults, container: &At, volumes: &Volumes) {
    let privileged = container.walk(&["securityContext", "privileged"]).flag();
    let devices = container.get("volumeDevices").items();
    let all = container.get("volumeMounts");
    let mut paths = BTreeSet::new();
    for mount in all.items() {
        let (name, path) = (mount.get("name"), mount.get("mountPath"));
        faults.needs(&name);
        if !volumes.contains_key(name.text()) {
            faults.0.push(skiff_object::FieldError::not_found(name.path(), name.text()));
        }
        faults.needs(&path);
        if !paths.insert(path.text()) {
            faults.invalid(&path, "must be unique");
        }
        if devices.iter().any(|device| device.get("name").text() == name.text()) {
            faults.invalid(&name, "must not already exist in volumeDevices");
        }
        if devices.iter().any(|device| device.get("devicePath").text() == path.text()) {
            faults.invalid(&path, "must not already exist as a path in volumeDevices");
        }
        sub_path(faults, &mount, &all);
        let of_list = |field: &str| mount.get(field).renamed(all.path().child(field));
        propagation(faults, &of_list("mountPropagation"), privileged);
        recursive(faults, &of_list("recursiveReadOnly"), &mount);
    }
}

fn sub_path(faults: &mut Faults, mount: &At, all: &At) {
    let (fixed, expanded) = (mount.get("subPath"), mount.get("subPathExpr"));
    if !fixed.is_blank() {
        volume_check::relative(faults, &fixed.renamed(all.path().child("subPath")));
    }
    if !expanded.is_blank() {
        if !fixed.is_blank() {
            faults.invalid(&expanded, "subPathExpr and subPath are mutually exclusive");
        }
        volume_check::relative(faults, &expanded.renamed(all.path().child("subPathExpr")));
    }
}

fn propagation(faults: &mut Faults, propagation: &At, privileged: bool) {
    faults.choice(propagation, &["Bidirectional", "HostToContainer", "None"]);
    if propagation.text() == "Bidirectional" && !privileged {
        faults.forbidden(propagation, "Bidirectional mount propagation is available only to privileged containers");
    }
}

fn recursive(faults: &mut Faults, recursive: &At, mount: &At) {
    match recursive.text() {
        "Enabled" | "IfPossible" => {
            if !mount.get("readOnly").flag() {
                faults.forbidden(recursive, "may only be specified when readOnly is true");
            }
            if !matches!(mount.get("mountPropagation").text(), "" | "None") {
                let words = "may only be specified when mountPropagation is None or not specified";
                faults.forbidden(recursive, words);
            }
        }
        _ => faults.choice(recursive, &["Disabled", "Enabled", "IfPossible"]),
    }
}

/// Checks a container's devices.
pub fn devices(faults: &mut Faults, container: &At, volumes: &Volumes) {
    let mounts = container.get("volumeMounts").items();
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for device in container.get("volumeDevices").items() {
        let (name, path) = (device.get("name"), device.get("devicePath"));
        faults.needs(&name);
        if !name.is_blank() && !names.insert(name.text()) {
            faults.invalid(&name, "must be unique");
        }
        match volumes.get(name.text()) {
            None => faults.0.push(skiff_object::FieldError::not_found(name.path(), name.text())),
            Some(Source::Claim) => {}
            Some(_) => {
                let words = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                faults.invalid(&name, words);
            }
        }
        faults.needs(&path);
        if paths.contains(path.text()) {
            faults.invalid(&path, "must be unique");
        }
        if path.text().split('/').any(|part| part == "..") {
            faults.invalid(&path, "can not contain backsteps ('..')");
        } else {
            paths.insert(path.text());
        }
        if mounts.iter().any(|mount| mount.get("name").text() == name.text()) {
            faults.invalid(&name, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|mount| mount.get("mountPath").text() == path.text()) {
            faults.invalid(&path, "must not already exist as a path in volumeMounts");
        }
    }
}
