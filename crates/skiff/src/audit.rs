//! From the options and files of the command line to what the API server is told of its records.

use std::path::Path;

use base64::Engine as _;
use serde_json::Value;
use skiff_apiserver::audit::{Remote, Settings, log, policy::Policy};

use crate::cli::AuditOptions;
use crate::commands::CommandError;
use crate::node::read_yaml;
use crate::paths::named;

/// What a kubeconfig may name files for: the field with the file's name, and the one with what is in it.
const FILES: [(&str, &str, &str); 3] = [
    ("cluster", "certificate-authority", "certificate-authority-data"),
    ("user", "client-certificate", "client-certificate-data"),
    ("user", "client-key", "client-key-data"),
];

/// What is written down, and where; `None` where nothing is.
pub fn settings(options: &AuditOptions) -> Result<Option<Settings>, CommandError> {
    let Some(path) = &options.audit_policy_file else { return Ok(None) };
    let of_file = |path: &Path, error: String| format!("{}: {error}", path.display());
    let policy = Policy::read(&read_yaml(path)?).map_err(|error| of_file(path, error))?;
    let log = options.audit_log_path.clone().map(|path| log::Settings {
        path,
        max_age_days: options.audit_log_maxage,
        max_backups: options.audit_log_maxbackup,
        max_size_mb: options.audit_log_maxsize,
    });
    let webhook = match &options.audit_webhook_config_file {
        Some(path) => Some(Remote::read(&kubeconfig(path)?).map_err(|error| of_file(path, error))?),
        None => None,
    };
    Ok(Some(Settings { policy, log, webhook }))
}

/// A kubeconfig with what is in its files instead of their names, which are relative to its folder.
fn kubeconfig(path: &Path) -> Result<Value, CommandError> {
    let mut config = read_yaml(path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    for (what, file, data) in FILES {
        let entries = config.get_mut(format!("{what}s")).and_then(Value::as_array_mut);
        for entry in entries.into_iter().flatten() {
            let Some(name) = entry.get(what).and_then(|own| own.get(file)).and_then(Value::as_str) else { continue };
            let named_file = folder.join(name);
            let content = std::fs::read(&named_file).map_err(|error| named(&named_file, "read", error))?;
            entry[what][data] = base64::engine::general_purpose::STANDARD.encode(content).into();
        }
    }
    Ok(config)
}
