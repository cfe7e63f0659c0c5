//! What is switched on beyond what is always there: feature gates, and versions of kinds that have to be asked for.

use skiff_apiserver::runtime_config;
use skiff_base::gates::{
    GANG_SCHEDULING, GENERIC_WORKLOAD, Gates, TOPOLOGY_AWARE_WORKLOADS, WORKLOAD_AWARE_PREEMPTION, WORKLOAD_WITH_JOB,
};
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

/// What the scheduler knows of groups of Pods: there are some where they are served.
///
/// # Errors
/// What is asked for makes no sense.
pub fn groups(options: &NodeOptions) -> Result<skiff_scheduler::Features, CommandError> {
    let gates = gates(&options.machine)?;
    let are_served = kinds(options)?.iter().any(|def| def.kind == "PodGroup");
    let is_on = |gate: &str| are_served && gates.enabled(gate);
    Ok(skiff_scheduler::Features {
        groups: is_on(GENERIC_WORKLOAD),
        gangs: is_on(GANG_SCHEDULING),
        topology: is_on(TOPOLOGY_AWARE_WORKLOADS),
        preemption: is_on(WORKLOAD_AWARE_PREEMPTION),
    })
}

/// Whether Jobs are given Workloads and PodGroups.
///
/// # Errors
/// What is asked for makes no sense.
pub fn job_groups(options: &NodeOptions) -> Result<bool, CommandError> {
    let served = kinds(options)?;
    let are_served = ["PodGroup", "Workload"].iter().all(|kind| served.iter().any(|def| def.kind == *kind));
    Ok(are_served && gates(&options.machine)?.enabled(WORKLOAD_WITH_JOB))
}
