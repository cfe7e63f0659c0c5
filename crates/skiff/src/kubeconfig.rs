//! The kubeconfig: written for the administrator, and merged into the one that kubectl reads.
//! See <https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/>.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::commands::CommandError;
use crate::node::read_yaml;
use crate::paths::{named, write_atomically};
use crate::pki::Leaf;

/// What a kubeconfig may name files for: the field with the file's name, and the one with what is in it.
const FILES: [(&str, &str, &str); 3] = [
    ("cluster", "certificate-authority", "certificate-authority-data"),
    ("user", "client-certificate", "client-certificate-data"),
    ("user", "client-key", "client-key-data"),
];

/// A kubeconfig with one cluster, one user and one context, all called `name`.
pub fn render(name: &str, server: &str, ca_pem: &str, user: &Leaf) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "preferences": {},
        "clusters": [{"name": name, "cluster": {
            "certificate-authority-data": STANDARD.encode(ca_pem),
            "server": server,
        }}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "users": [{"name": name, "user": {
            "client-certificate-data": STANDARD.encode(&user.certificate_pem),
            "client-key-data": STANDARD.encode(&user.key_pem),
        }}],
    })
}

/// The YAML of a kubeconfig.
///
/// # Errors
/// The tree has something that YAML cannot say.
pub fn to_yaml(config: &Value) -> io::Result<String> {
    serde_saphyr::to_string(config).map_err(|error| io::Error::other(format!("write YAML: {error}")))
}

/// Where kubectl of this user reads its configuration: the first file of `$KUBECONFIG`, or `~/.kube/config`.
pub fn users_file() -> Option<PathBuf> {
    let listed = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty());
    match listed {
        Some(list) => std::env::split_paths(&list).find(|path| !path.as_os_str().is_empty()),
        None => std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config")),
    }
}

/// Puts the entries of `config` into the file at `path` and selects its context; everything else there stays.
///
/// # Errors
/// The file is there and is no kubeconfig, or cannot be written.
pub fn merge_into(path: &Path, config: &Value) -> io::Result<()> {
    let mut merged = read(path)?.unwrap_or_else(|| json!({"apiVersion": "v1", "kind": "Config", "preferences": {}}));
    merge(&mut merged, config);
    write(path, &merged)
}

/// Takes the entries called `name` out of the file at `path` again.
///
/// # Errors
/// As [`merge_into`].
pub fn remove_from(path: &Path, name: &str) -> io::Result<()> {
    let Some(mut config) = read(path)? else { return Ok(()) };
    remove(&mut config, name);
    write(path, &config)
}

fn read(path: &Path) -> io::Result<Option<Value>> {
    let text = match fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => return Ok(None),
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(named(path, "read", error)),
    };
    let config: Value = serde_saphyr::from_str(&text).map_err(|error| named(path, "read", io::Error::other(error)))?;
    if !config.is_object() {
        return Err(named(path, "read", io::Error::other("it is no kubeconfig")));
    }
    Ok(Some(config))
}

fn write(path: &Path, config: &Value) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| named(folder, "create folder", error))?;
    }
    write_atomically(path, to_yaml(config)?.as_bytes(), 0o600)
}

const LISTS: [&str; 3] = ["clusters", "contexts", "users"];

fn merge(into: &mut Value, config: &Value) {
    let name = config["current-context"].as_str().unwrap_or_default().to_owned();
    remove(into, &name);
    for list in LISTS {
        let entries = config[list].as_array().cloned().unwrap_or_default();
        match into[list].as_array_mut() {
            Some(present) => present.extend(entries),
            None => into[list] = entries.into(),
        }
    }
    into["current-context"] = name.into();
}

fn remove(config: &mut Value, name: &str) {
    for list in LISTS {
        if let Some(entries) = config[list].as_array_mut() {
            entries.retain(|entry| entry["name"] != name);
        }
    }
    if config["current-context"] == name {
        config["current-context"] = "".into();
    }
}

/// A kubeconfig with what is in its files instead of their names, which are relative to its folder.
///
/// # Errors
/// It or one of its files cannot be read.
pub fn read_whole(path: &Path) -> Result<Value, CommandError> {
    let mut config = read_yaml(path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    for (what, file, data) in FILES {
        let entries = config.get_mut(format!("{what}s")).and_then(Value::as_array_mut);
        for entry in entries.into_iter().flatten() {
            let Some(name) = entry.get(what).and_then(|own| own.get(file)).and_then(Value::as_str) else { continue };
            let named_file = folder.join(name);
            let content = fs::read(&named_file).map_err(|error| named(&named_file, "read", error))?;
            entry[what][data] = STANDARD.encode(content).into();
        }
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf() -> Leaf {
        Leaf { certificate_pem: "cert".into(), key_pem: "key".into() }
    }

    #[test]
    fn merging_keeps_what_others_wrote_and_selects_the_context() {
        let mut mine = json!({"clusters": [{"name": "other"}, {"name": "skiff", "cluster": {"server": "old"}}],
            "contexts": null, "users": [], "current-context": "other", "extra": 1});
        merge(&mut mine, &render("skiff", "https://127.0.0.1:6443", "ca", &leaf()));
        assert_eq!(mine["current-context"], "skiff");
        assert_eq!(mine["extra"], 1);
        let names: Vec<_> = mine["clusters"].as_array().expect("a list").iter().map(|c| c["name"].clone()).collect();
        assert_eq!(names, ["other", "skiff"]);
        assert_eq!(mine["clusters"][1]["cluster"]["server"], "https://127.0.0.1:6443");
        remove(&mut mine, "skiff");
        assert_eq!(mine["clusters"], json!([{"name": "other"}]));
        assert_eq!(mine["current-context"], "");
    }

    #[test]
    fn the_yaml_reads_back() {
        let config = render("skiff", "https://127.0.0.1:6443", "ca", &leaf());
        let back: Value = serde_saphyr::from_str(&to_yaml(&config).expect("YAML")).expect("YAML");
        assert_eq!(back, config);
    }
}
