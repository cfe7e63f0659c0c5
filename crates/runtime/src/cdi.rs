//! Devices of the Container Device Interface: what vendors' files say that a container needs for a device, put into the
//! container's configuration. Pure, but for reading the files.
//! See <https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md>.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use skiff_cri::{ContainerConfig, CriError, CriResult, Device, KeyValue, Mount};

/// Where vendors' files are; what stands in a later folder wins.
pub const FOLDERS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// Versions of the specification whose forms are read begin so.
const VERSIONS: [&str; 2] = ["0.", "1."];

/// A vendor's file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    cdi_version: String,
    kind: String,
    devices: Vec<NamedDevice>,
    container_edits: Edits,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NamedDevice {
    name: String,
    container_edits: Edits,
}

/// What a container needs.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<VendorMount>,
    hooks: Vec<serde_json::Value>,
    #[serde(rename = "additionalGids")]
    additional_gids: Vec<i64>,
    intel_rdt: Option<serde_json::Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Node {
    path: String,
    host_path: String,
    permissions: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct VendorMount {
    host_path: String,
    container_path: String,
    options: Vec<String>,
}

/// The devices that the machine's vendors offer.
#[derive(Debug, Default)]
pub struct Registry {
    /// By their full names, `vendor.com/class=name`.
    devices: BTreeMap<String, (Edits, Edits)>,
    /// Files that cannot be read, with the reason.
    pub broken: Vec<String>,
}

impl Registry {
    /// Reads all files of the folders.
    pub fn read(folders: &[impl AsRef<Path>]) -> Self {
        let mut found = Self::default();
        for folder in folders {
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
            files.sort();
            for file in files {
                let ending = file.extension().and_then(|ending| ending.to_str());
                if !matches!(ending, Some("json" | "yaml" | "yml")) {
                    continue;
                }
                let read = std::fs::read_to_string(&file).map_err(|error| error.to_string());
                if let Err(error) = read.and_then(|text| found.add(&text)) {
                    found.broken.push(format!("{}: {error}", file.display()));
                }
            }
        }
        found
    }

    /// Takes up the devices of one file.
    fn add(&mut self, text: &str) -> Result<(), String> {
        let spec: Spec = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if !VERSIONS.iter().any(|major| spec.cdi_version.starts_with(major)) {
            return Err(format!("invalid version {:?}", spec.cdi_version));
        }
        if !spec.kind.split_once('/').is_some_and(|(vendor, class)| !vendor.is_empty() && !class.is_empty()) {
            return Err(format!("invalid kind {:?}", spec.kind));
        }
        for device in spec.devices {
            let name = format!("{}={}", spec.kind, device.name);
            self.devices.insert(name, (spec.container_edits.clone(), device.container_edits));
        }
        Ok(())
    }

    /// Puts what its devices need into a container's configuration.
    ///
    /// # Errors
    /// Nobody offers a device, or it needs what this runtime does not do.
    pub fn inject(&self, config: &mut ContainerConfig) -> CriResult<()> {
        let names: Vec<String> = config.cdi_devices.iter().map(|device| device.name.clone()).collect();
        let unknown: Vec<&str> =
            names.iter().map(String::as_str).filter(|name| !self.devices.contains_key(*name)).collect();
        if !unknown.is_empty() {
            let mut words = format!("CDI device injection failed: unresolvable CDI devices {}", unknown.join(", "));
            if !self.broken.is_empty() {
                words.push_str(&format!(" (files that cannot be read: {})", self.broken.join("; ")));
            }
            return Err(CriError::invalid_argument(words));
        }
        // What a file says for all its devices is done once.
        let mut done: Vec<&Edits> = Vec::new();
        for name in &names {
            let (common, own) = &self.devices[name];
            for edits in [common, own] {
                if !done.contains(&edits) {
                    apply(name, edits, config)?;
                    done.push(edits);
                }
            }
        }
        Ok(())
    }
}

fn apply(name: &str, edits: &Edits, config: &mut ContainerConfig) -> CriResult<()> {
    let refuse = |what: &str| Err(CriError::invalid_argument(format!("CDI device {name:?}: {what} are not offered")));
    if !edits.hooks.is_empty() {
        return refuse("hooks");
    }
    if edits.intel_rdt.is_some() {
        return refuse("classes of Intel RDT");
    }
    for entry in &edits.env {
        let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
        config.envs.retain(|old| old.key != key);
        config.envs.push(KeyValue { key: key.to_owned(), value: value.to_owned() });
    }
    for node in &edits.device_nodes {
        let host_path = if node.host_path.is_empty() { &node.path } else { &node.host_path };
        config.devices.retain(|old| old.container_path != node.path);
        config.devices.push(Device {
            container_path: node.path.clone(),
            host_path: host_path.clone(),
            permissions: node.permissions.clone(),
        });
    }
    for mount in &edits.mounts {
        let readonly = mount.options.iter().any(|option| option == "ro");
        config.mounts.retain(|old| old.container_path != mount.container_path);
        config.mounts.push(Mount {
            container_path: mount.container_path.clone(),
            host_path: mount.host_path.clone(),
            readonly,
            ..Mount::default()
        });
    }
    if !edits.additional_gids.is_empty() {
        let linux = config.linux.get_or_insert_default();
        let security = linux.security_context.get_or_insert_default();
        let groups = edits.additional_gids.iter().filter(|gid| **gid > 0);
        security.supplemental_groups.extend(groups);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use skiff_cri::CdiDevice;

    use super::*;

    const GPU: &str = r#"
cdiVersion: "0.6.0"
kind: vendor.com/gpu
containerEdits: {env: ["DRIVER=1"], mounts: [{hostPath: /opt/vendor, containerPath: /usr/lib/vendor, options: [ro, nosuid]}]}
devices:
- name: "0"
  containerEdits: {deviceNodes: [{path: /dev/gpu0, permissions: rw}], additionalGids: [44]}
- name: "1"
  containerEdits: {deviceNodes: [{path: /dev/gpu, hostPath: /dev/gpu1}]}
- name: hooked
  containerEdits: {hooks: [{hookName: createContainer, path: /bin/hook}]}
"#;

    fn check(devices: &[&str], expected: Expect) {
        let mut registry = Registry::default();
        registry.add(GPU).expect("it can be read");
        let mut config = ContainerConfig {
            cdi_devices: devices.iter().map(|name| CdiDevice { name: (*name).to_owned() }).collect(),
            envs: vec![KeyValue { key: "DRIVER".into(), value: "0".into() }],
            ..ContainerConfig::default()
        };
        let text = match registry.inject(&mut config) {
            Ok(()) => {
                let envs: Vec<_> = config.envs.iter().map(|env| format!("{}={}", env.key, env.value)).collect();
                let devices: Vec<_> = config
                    .devices
                    .iter()
                    .map(|one| format!("{}->{} {}", one.host_path, one.container_path, one.permissions))
                    .collect();
                let mounts: Vec<_> = config
                    .mounts
                    .iter()
                    .map(|one| format!("{}->{} ro={}", one.host_path, one.container_path, one.readonly))
                    .collect();
                let groups = config.linux.and_then(|linux| linux.security_context).map(|it| it.supplemental_groups);
                format!("{envs:?} {devices:?} {mounts:?} {groups:?}")
            }
            Err(error) => error.message,
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn a_device_brings_what_its_vendor_says() {
        check(
            &["vendor.com/gpu=0", "vendor.com/gpu=1"],
            expect![[
                r#"["DRIVER=1"] ["/dev/gpu0->/dev/gpu0 rw", "/dev/gpu1->/dev/gpu "] ["/opt/vendor->/usr/lib/vendor ro=true"] Some([44])"#
            ]],
        );
        check(
            &["vendor.com/gpu=0", "vendor.com/gpu=7", "other.com/net=a"],
            expect!["CDI device injection failed: unresolvable CDI devices vendor.com/gpu=7, other.com/net=a"],
        );
        check(&["vendor.com/gpu=hooked"], expect![[r#"CDI device "vendor.com/gpu=hooked": hooks are not offered"#]]);
    }

    #[test]
    fn later_folders_win_and_broken_files_are_named() {
        let folder = std::env::temp_dir().join(format!("skiff-cdi-{}", std::process::id()));
        let folders = [folder.join("etc"), folder.join("run"), folder.join("none")];
        folders[..2].iter().for_each(|folder| std::fs::create_dir_all(folder).expect("a folder"));
        let device = |path: &str| {
            format!(
                r#"{{"cdiVersion": "1.0.0", "kind": "v.com/c", "devices": [{{"name": "d", "containerEdits": {{"deviceNodes": [{{"path": "{path}"}}]}}}}]}}"#
            )
        };
        for (file, text) in [
            ("etc/a.json", device("/dev/early")),
            ("run/a.json", device("/dev/late")),
            ("run/b.yaml", "kind: x".to_owned()),
            ("run/notes.txt", "no matter".to_owned()),
        ] {
            std::fs::write(folder.join(file), text).expect("a file");
        }
        let registry = Registry::read(&folders);
        let mut config =
            ContainerConfig { cdi_devices: vec![CdiDevice { name: "v.com/c=d".into() }], ..ContainerConfig::default() };
        let injected = registry.inject(&mut config);
        std::fs::remove_dir_all(&folder).expect("it goes");
        assert_eq!(injected, Ok(()));
        assert_eq!(config.devices[0].container_path, "/dev/late");
        assert_eq!(registry.broken.len(), 1, "{:?}", registry.broken);
        assert!(registry.broken[0].contains("b.yaml: invalid version"), "{:?}", registry.broken);
    }
}
