//! Feature gates: the features of upstream's v1.36 that this program always has, never has, or has where it is told to.
//! A gate that cannot be switched may still be named with the value that it has. Gates of which neither is true, or which
//! speak of how upstream's programs are made inside, are unknown.
//! See <https://kubernetes.io/docs/reference/command-line-tools-reference/feature-gates/>.

use std::collections::BTreeMap;

use Stage::{Alpha, Beta, Deprecated, Stable};

/// ClusterTrustBundles are served, where `--runtime-config` has them too.
pub const CLUSTER_TRUST_BUNDLE: &str = "ClusterTrustBundle";
/// Pods may have them in their volumes.
pub const CLUSTER_TRUST_BUNDLE_PROJECTION: &str = "ClusterTrustBundleProjection";
/// The Pods of a gang are given to nodes all at once or not at all.
pub const GANG_SCHEDULING: &str = "GangScheduling";
/// Workloads and PodGroups are served, where `--runtime-config` has them too, and Pods may be of a group.
pub const GENERIC_WORKLOAD: &str = "GenericWorkload";
/// Limits of memory slow down before they kill.
pub const MEMORY_QOS: &str = "MemoryQoS";

/// A group may have to stay within one domain of nodes.
pub const TOPOLOGY_AWARE_WORKLOADS: &str = "TopologyAwareWorkloadScheduling";
/// Groups have priorities, and room is made for a group as a whole.
pub const WORKLOAD_AWARE_PREEMPTION: &str = "WorkloadAwarePreemption";
/// Jobs are given Workloads and PodGroups.
pub const WORKLOAD_WITH_JOB: &str = "WorkloadWithJob";

/// Every gate of a stage that is not told of by itself, as far as it can be switched.
const STAGES: [(&str, Stage); 2] = [("AllAlpha", Alpha), ("AllBeta", Beta)];

/// How far a feature has come upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Tried out.
    Alpha,
    /// Nearly done.
    Beta,
    /// Done.
    Stable,
    /// On its way out.
    Deprecated,
}

impl Stage {
    /// As it is told: what is stable has no name.
    pub const fn name(self) -> &'static str {
        match self {
            Alpha => "ALPHA",
            Beta => "BETA",
            Stable => "",
            Deprecated => "DEPRECATED",
        }
    }
}

/// A feature that has a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gate {
    /// Its name.
    pub name: &'static str,
    /// How far it has come.
    pub stage: Stage,
    /// Whether it is there where nothing is said.
    pub by_default: bool,
    /// Whether that can be changed.
    pub switches: bool,
    /// The gates without which it cannot be on.
    pub needs: &'static [&'static str],
}

const fn fixed(name: &'static str, stage: Stage, by_default: bool) -> Gate {
    Gate { name, stage, by_default, switches: false, needs: &[] }
}

const fn switch(name: &'static str, stage: Stage, needs: &'static [&'static str]) -> Gate {
    Gate { name, stage, by_default: false, switches: true, needs }
}

/// All of them, in the order of their names.
pub static ALL: &[Gate] = &[
    fixed("APIResponseCompression", Beta, true),
    fixed("APIServerIdentity", Beta, true),
    fixed("APIServerTracing", Stable, false),
    switch("AllAlpha", Alpha, &[]),
    switch("AllBeta", Beta, &[]),
    fixed("AllowParsingUserUIDFromCertAuth", Beta, false),
    fixed("AllowUnsafeMalformedObjectDeletion", Alpha, false),
    fixed("AnonymousAuthConfigurableEndpoints", Stable, true),
    fixed("AuthorizeWithSelectors", Stable, true),
    fixed("CBORServingAndStorage", Alpha, false),
    fixed("CRDObservedGenerationTracking", Beta, false),
    fixed("CRDValidationRatcheting", Stable, true),
    switch(CLUSTER_TRUST_BUNDLE, Beta, &[]),
    switch(CLUSTER_TRUST_BUNDLE_PROJECTION, Beta, &[CLUSTER_TRUST_BUNDLE]),
    fixed("ConsistentListFromCache", Stable, true),
    fixed("ConstrainedImpersonation", Beta, false),
    fixed("CoordinatedLeaderElection", Beta, false),
    fixed("CustomResourceFieldSelectors", Stable, true),
    fixed("DRAWorkloadResourceClaims", Alpha, false),
    fixed("DetectCacheInconsistency", Beta, false),
    switch(GANG_SCHEDULING, Alpha, &[GENERIC_WORKLOAD]),
    switch(GENERIC_WORKLOAD, Alpha, &[]),
    fixed("KMSv1", Deprecated, false),
    fixed("ManifestBasedAdmissionControlConfig", Alpha, false),
    switch(MEMORY_QOS, Alpha, &[]),
    fixed("MutatingAdmissionPolicy", Stable, true),
    fixed("OpenAPIEnums", Beta, true),
    fixed("RemoteRequestHeaderUID", Beta, true),
    fixed("RetryGenerateName", Stable, true),
    fixed("ShardedListAndWatch", Alpha, false),
    fixed("SizeBasedListCostEstimate", Beta, true),
    fixed("StorageVersionAPI", Alpha, false),
    fixed("StorageVersionHash", Beta, true),
    fixed("StreamingCollectionEncodingToJSON", Stable, true),
    fixed("StructuredAuthenticationConfiguration", Stable, true),
    fixed("StructuredAuthenticationConfigurationEgressSelector", Beta, false),
    fixed("StructuredAuthenticationConfigurationJWKSMetrics", Beta, false),
    fixed("TokenRequestServiceAccountUIDValidation", Beta, true),
    switch(TOPOLOGY_AWARE_WORKLOADS, Alpha, &[GENERIC_WORKLOAD]),
    fixed("UnknownVersionInteroperabilityProxy", Beta, false),
    fixed("WatchList", Beta, true),
    switch(WORKLOAD_AWARE_PREEMPTION, Alpha, &[GANG_SCHEDULING]),
    switch(WORKLOAD_WITH_JOB, Alpha, &[GENERIC_WORKLOAD]),
];

/// Which features are on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gates {
    told: BTreeMap<&'static str, bool>,
}

impl Gates {
    /// What was told of gates by name, over the defaults.
    ///
    /// # Errors
    /// A gate is unknown, cannot be switched so, or needs another that is off; the words are upstream's.
    pub fn of<'a>(told: impl IntoIterator<Item = (&'a str, bool)>) -> Result<Self, String> {
        let mut gates = Self::default();
        for (name, value) in told {
            gates.told.insert(switched(name, value)?.name, value);
        }
        for (name, stage) in STAGES {
            let Some(value) = gates.told.get(name).copied() else { continue };
            for gate in ALL.iter().filter(|gate| gate.stage == stage && gate.switches) {
                gates.told.entry(gate.name).or_insert(value);
            }
        }
        for gate in ALL.iter().filter(|gate| gates.enabled(gate.name)) {
            let off: Vec<&str> = gate.needs.iter().copied().filter(|name| !gates.enabled(name)).collect();
            if !off.is_empty() {
                let (name, off) = (gate.name, off.join(" "));
                return Err(format!("{name} is enabled, but depends on features that are disabled: [{off}]"));
            }
        }
        Ok(gates)
    }

    /// Whether a feature is on; one that is unknown is not.
    pub fn enabled(&self, name: &str) -> bool {
        let by_default = || ALL.iter().any(|gate| gate.name == name && gate.by_default);
        self.told.get(name).copied().unwrap_or_else(by_default)
    }
}

fn switched(name: &str, value: bool) -> Result<&'static Gate, String> {
    let gate = ALL.iter().find(|gate| gate.name == name);
    let gate = gate.ok_or_else(|| format!("unrecognized feature gate: {name}"))?;
    if !gate.switches && gate.by_default != value {
        let locked = gate.by_default;
        return Err(format!("cannot set feature gate {name} to {value}, feature is locked to {locked}"));
    }
    Ok(gate)
}

/// Reads one gate as command lines have it, `Name=true`.
///
/// # Errors
/// There is no such gate, or it cannot be so; the words are upstream's.
pub fn parse(text: &str) -> Result<(String, bool), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("missing bool value for {}", text.trim()))?;
    let (name, value) = (name.trim(), value.trim());
    let value = parse_bool(value).map_err(|error| format!("invalid value of {name}={value}, err: {error}"))?;
    switched(name, value)?;
    Ok((name.to_owned(), value))
}

/// Reads a truth value as Go does.
///
/// # Errors
/// It is none, in Go's words.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gate_is_there_once_in_order() {
        assert!(ALL.is_sorted_by(|left, right| left.name < right.name));
        let known = |name: &&str| ALL.iter().any(|gate| gate.name == *name);
        assert!(ALL.iter().all(|gate| gate.needs.iter().all(&known)));
        Gates::of([]).expect("the defaults agree with each other");
    }

    #[test]
    fn gates_are_switched_by_name() {
        let told = [(CLUSTER_TRUST_BUNDLE, true), ("WatchList", true)];
        let gates = Gates::of(told).expect("they can be so");
        assert!(gates.enabled(CLUSTER_TRUST_BUNDLE) && gates.enabled("WatchList"));
        assert!(!gates.enabled(CLUSTER_TRUST_BUNDLE_PROJECTION) && !gates.enabled("KMSv1") && !gates.enabled("None"));
        let refused = |told: &[(&str, bool)]| Gates::of(told.iter().copied()).expect_err("it cannot be so");
        assert_eq!(refused(&[("Magic", true)]), "unrecognized feature gate: Magic");
        let locked = "cannot set feature gate WatchList to false, feature is locked to true";
        assert_eq!(refused(&[("WatchList", false)]), locked);
        let alone = refused(&[(CLUSTER_TRUST_BUNDLE_PROJECTION, true)]);
        let wanted =
            "ClusterTrustBundleProjection is enabled, but depends on features that are disabled: [ClusterTrustBundle]";
        assert_eq!(alone, wanted);
    }

    #[test]
    fn a_stage_is_switched_but_for_what_is_told_apart() {
        let on = |told: &[(&str, bool)], name: &str| Gates::of(told.iter().copied()).map(|gates| gates.enabled(name));
        let beta = [("AllBeta", true)];
        for name in ["AllBeta", CLUSTER_TRUST_BUNDLE, CLUSTER_TRUST_BUNDLE_PROJECTION] {
            assert_eq!(on(&beta, name), Ok(true), "{name}");
        }
        assert_eq!((on(&beta, MEMORY_QOS), on(&[("AllAlpha", true)], MEMORY_QOS)), (Ok(false), Ok(true)));
        assert_eq!(on(&beta, "CoordinatedLeaderElection"), Ok(false), "what is never there cannot be switched on");
        let apart = [(CLUSTER_TRUST_BUNDLE_PROJECTION, false), ("AllBeta", true)];
        assert_eq!(on(&apart, CLUSTER_TRUST_BUNDLE_PROJECTION), Ok(false));
        assert_eq!(on(&[("AllBeta", false)], "WatchList"), Ok(true), "nor off what is always there");
        let without = [("AllBeta", true), (CLUSTER_TRUST_BUNDLE, false)];
        assert!(on(&without, CLUSTER_TRUST_BUNDLE).is_err_and(|why| why.contains("depends on features")));
    }

    #[test]
    fn command_lines_are_read_as_upstream_does() {
        assert_eq!(parse("MemoryQoS = T"), Ok(("MemoryQoS".to_owned(), true)));
        let refused = |text: &str| parse(text).expect_err(text);
        assert_eq!(refused("MemoryQoS"), "missing bool value for MemoryQoS");
        let words = "invalid value of MemoryQoS=yes, err: strconv.ParseBool: parsing \"yes\": invalid syntax";
        assert_eq!(refused("MemoryQoS=yes"), words);
        assert_eq!(refused("Magic=true"), "unrecognized feature gate: Magic");
    }
}
