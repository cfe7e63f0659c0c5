//! What is switched on beyond what is always there: feature gates, and versions of kinds that have to be asked for.

use skiff_apiserver::runtime_config;
use skiff_base::gates::Gates;
use skiff_kinds::ResourceDef;

use crate::cli::{MachineOptions, NodeOptions};
use crate::commands::CommandError;

/// Which features are on.
///
/// # Errors
/// One needs another that is off.
pub fn gates(options: &MachineOptions) -> Result<Gates, CommandError> {
    let told = options.feature_gates.iter().map(|(name, value)| (name.as_str(), *value));
    Ok(Gates::of(told).map_err(|error| format!("--feature-gates: {error}"))?)
}

/// The built-in kinds that are served.
///
/// # Errors
/// What is asked for makes no sense.
pub fn kinds(options: &NodeOptions) -> Result<Vec<&'static ResourceDef>, CommandError> {
    let served = runtime_config::kinds(&options.runtime_config, &gates(&options.machine)?);
    Ok(served.map_err(|error| format!("--runtime-config: {error}"))?)
}
