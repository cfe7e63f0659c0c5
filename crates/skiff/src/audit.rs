//! From the options and files of the command line to what the API server is told of its records.

use std::path::Path;

use skiff_apiserver::audit::{Remote, Settings, log, policy::Policy};

use crate::cli::AuditOptions;
use crate::commands::CommandError;
use crate::kubeconfig::read_whole;
use crate::node::read_yaml;

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
        Some(path) => Some(Remote::read(&read_whole(path)?).map_err(|error| of_file(path, error))?),
        None => None,
    };
    Ok(Some(Settings { policy, log, webhook }))
}
