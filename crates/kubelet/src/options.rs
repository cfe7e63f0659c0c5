//! How a node is configured beyond its wiring: the fields of a KubeletConfiguration that have an effect here, with upstream's
//! defaults. A field that has none is refused rather than passed over.
//! See <https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/>.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use skiff_base::Quantity;
use skiff_base::gates::Gates;

use crate::images::Policy;

/// Resources by name, each as its text.
pub type Amounts = BTreeMap<String, String>;

/// The options of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Options {
    /// `kubelet.config.k8s.io/v1beta1`.
    pub api_version: String,
    /// `KubeletConfiguration`.
    pub kind: String,
    /// Pods that the node takes.
    pub max_pods: i64,
    /// Pods that it takes for each processor; no bound where that is zero.
    pub pods_per_core: i64,
    /// Processes that each Pod may have; no bound where that is not positive.
    pub pod_pids_limit: i64,
    /// Kept for the parts of Kubernetes on the node.
    pub kube_reserved: Amounts,
    /// Kept for the rest of the machine.
    pub system_reserved: Amounts,
    /// Processors that no Pod's containers get for themselves, a list of numbers and ranges.
    #[serde(rename = "reservedSystemCPUs")]
    pub reserved_system_cpus: String,
    /// `pods`, or `none`.
    pub enforce_node_allocatable: Vec<String>,
    /// Thresholds by signal, `memory.available: 100Mi` or `nodefs.available: 10%`.
    pub eviction_hard: BTreeMap<String, String>,
    /// Thresholds that must be met for a while.
    pub eviction_soft: BTreeMap<String, String>,
    /// For how long.
    pub eviction_soft_grace_period: BTreeMap<String, GoDuration>,
    /// How long a pressure condition stays after its threshold was met last.
    pub eviction_pressure_transition_period: GoDuration,
    /// The most seconds that a Pod gets to end when a soft threshold is met.
    pub eviction_max_pod_grace_period: i64,
    /// How far beyond a threshold to go once it is met.
    pub eviction_minimum_reclaim: BTreeMap<String, String>,
    /// The use of the image file system, in percent, from which images are removed.
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: u64,
    /// And down to which.
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: u64,
    /// How long an image stays at least.
    #[serde(rename = "imageMinimumGCAge")]
    pub image_minimum_gc_age: GoDuration,
    /// How long an image that nothing uses stays at most; for ever where that is zero.
    #[serde(rename = "imageMaximumGCAge")]
    pub image_maximum_gc_age: GoDuration,
    /// Whether one image is pulled after the other. Upstream's default is that they are.
    pub serialize_image_pulls: bool,
    /// How many are pulled at a time at most, where not one after the other.
    pub max_parallel_image_pulls: Option<usize>,
    /// Which Pods may use an image that is there without pulling it.
    pub image_pull_credentials_verification_policy: String,
    /// Names of images, and beginnings of names (`registry/team/*`), that every Pod may use where they were there before.
    pub preloaded_images_verification_allowlist: Vec<String>,
    /// The size from which a container's log is put aside.
    pub container_log_max_size: String,
    /// The files that each container's log may have.
    pub container_log_max_files: usize,
    /// A folder or file of Pods that the node runs by itself.
    pub static_pod_path: Option<PathBuf>,
    /// A URL of such Pods.
    #[serde(rename = "staticPodURL")]
    pub static_pod_url: Option<String>,
    /// Headers to ask for it with.
    #[serde(rename = "staticPodURLHeader")]
    pub static_pod_url_header: BTreeMap<String, Vec<String>>,
    /// How often the folder is looked at.
    pub file_check_frequency: GoDuration,
    /// How often the URL is asked.
    pub http_check_frequency: GoDuration,
    /// How long what is known of how full volumes are is good.
    pub volume_stats_agg_period: GoDuration,
    /// How long the node holds up the machine's shutdown for its Pods, and how much of that is for critical ones.
    pub shutdown_grace_period: GoDuration,
    /// Of that, for critical Pods.
    pub shutdown_grace_period_critical_pods: GoDuration,
    /// The same by ranges of priority.
    pub shutdown_grace_period_by_pod_priority: Vec<PriorityGrace>,
    /// `none` or `static`.
    pub cpu_manager_policy: String,
    /// Of the static policy.
    pub cpu_manager_policy_options: BTreeMap<String, String>,
    /// `None` or `Static`.
    pub memory_manager_policy: String,
    /// Memory of each NUMA node that Pods do not get.
    pub reserved_memory: Vec<ReservedMemory>,
    /// `none`, `best-effort`, `restricted` or `single-numa-node`.
    pub topology_manager_policy: String,
    /// `container` or `pod`.
    pub topology_manager_scope: String,
    /// Bounds of the back-off between restarts.
    pub crash_loop_back_off: CrashLoopBackOff,
    /// Whether CPU limits are kept by a quota.
    #[serde(rename = "cpuCFSQuota")]
    pub cpu_cfs_quota: bool,
    /// Features that are on or off: `MemoryQoS`, `ClusterTrustBundleProjection`.
    pub feature_gates: BTreeMap<String, bool>,
    /// Where between request and limit that begins.
    pub memory_throttling_factor: f64,
    /// Taints to register with.
    pub register_with_taints: Vec<Taint>,
    /// Sysctls that Pods may set beyond the safe ones; `name.*` for all below.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Whether Pods that name no seccomp profile get the runtime's.
    pub seccomp_default: bool,
}

/// Pods of at least this priority get so long to end when the machine shuts down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PriorityGrace {
    /// The least priority.
    pub priority: i32,
    /// How long.
    pub shutdown_grace_period_seconds: i64,
}

/// Memory of a NUMA node that is kept from Pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReservedMemory {
    /// Which node.
    pub numa_node: u32,
    /// How much of `memory` and of huge pages.
    pub limits: Amounts,
}

/// Bounds of the back-off between restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CrashLoopBackOff {
    /// The longest wait.
    pub max_container_restart_period: Option<GoDuration>,
}

/// A duration written as Go writes it: `1h30m`, `10s`, `250ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct GoDuration(pub Duration);

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let read = skiff_base::duration::parse(&text).map(Self);
        read.ok_or_else(|| serde::de::Error::custom(format!("invalid duration {text:?}")))
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (seconds, millis) = (self.0.as_secs(), self.0.subsec_millis());
        let rest = if millis == 0 { format!("{}s", seconds % 60) } else { format!("{}.{millis:03}s", seconds % 60) };
        let text = match (seconds / 3600, seconds / 60 % 60) {
            (0, 0) => rest,
            (0, minutes) => format!("{minutes}m{rest}"),
            (hours, minutes) => format!("{hours}h{minutes}m{rest}"),
        };
        serializer.serialize_str(&text)
    }
}

fn seconds(seconds: u64) -> GoDuration {
    GoDuration(Duration::from_secs(seconds))
}

impl Default for Options {
    fn default() -> Self {
        let thresholds = [
            ("memory.available", "100Mi"),
            ("nodefs.available", "10%"),
            ("nodefs.inodesFree", "5%"),
            ("imagefs.available", "15%"),
            ("imagefs.inodesFree", "5%"),
        ];
        Self {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            max_pods: crate::kubelet::DEFAULT_MAX_PODS,
            pods_per_core: 0,
            pod_pids_limit: -1,
            kube_reserved: Amounts::new(),
            system_reserved: Amounts::new(),
            reserved_system_cpus: String::new(),
            enforce_node_allocatable: vec!["pods".to_owned()],
            eviction_hard: thresholds.map(|(signal, amount)| (signal.to_owned(), amount.to_owned())).into(),
            eviction_soft: BTreeMap::new(),
            eviction_soft_grace_period: BTreeMap::new(),
            eviction_pressure_transition_period: seconds(300),
            eviction_max_pod_grace_period: 0,
            eviction_minimum_reclaim: BTreeMap::new(),
            image_gc_high_threshold_percent: 85,
            image_gc_low_threshold_percent: 80,
            image_minimum_gc_age: seconds(120),
            image_maximum_gc_age: seconds(0),
            serialize_image_pulls: false,
            max_parallel_image_pulls: None,
            image_pull_credentials_verification_policy: "NeverVerifyPreloadedImages".to_owned(),
            preloaded_images_verification_allowlist: Vec::new(),
            container_log_max_size: "10Mi".to_owned(),
            container_log_max_files: 5,
            static_pod_path: None,
            static_pod_url: None,
            static_pod_url_header: BTreeMap::new(),
            file_check_frequency: seconds(20),
            http_check_frequency: seconds(20),
            volume_stats_agg_period: GoDuration(Duration::from_secs(60)),
            shutdown_grace_period: seconds(0),
            shutdown_grace_period_critical_pods: seconds(0),
            shutdown_grace_period_by_pod_priority: Vec::new(),
            cpu_manager_policy: "none".to_owned(),
            cpu_manager_policy_options: BTreeMap::new(),
            memory_manager_policy: "None".to_owned(),
            reserved_memory: Vec::new(),
            topology_manager_policy: "none".to_owned(),
            topology_manager_scope: "container".to_owned(),
            crash_loop_back_off: CrashLoopBackOff::default(),
            cpu_cfs_quota: true,
            feature_gates: BTreeMap::new(),
            memory_throttling_factor: 0.9,
            register_with_taints: Vec::new(),
            allowed_unsafe_sysctls: Vec::new(),
            seccomp_default: false,
        }
    }
}

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
const KIND: &str = "KubeletConfiguration";

impl Options {
    /// Reads a KubeletConfiguration.
    ///
    /// # Errors
    /// It cannot be read, or something in it makes no sense or has no effect here.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let tree = skiff_object::yaml::parse(text)?.into_value();
        let options: Self = serde_json::from_value(tree).map_err(|error| format!("KubeletConfiguration: {error}"))?;
        options.check().map_err(|error| format!("KubeletConfiguration: {error}"))?;
        Ok(options)
    }

    fn check(&self) -> Result<(), String> {
        if self.api_version != API_VERSION || self.kind != KIND {
            return Err(format!("must be {KIND} of {API_VERSION}, not {} of {}", self.kind, self.api_version));
        }
        if self.image_gc_low_threshold_percent >= self.image_gc_high_threshold_percent
            || self.image_gc_high_threshold_percent > 100
        {
            return Err("imageGCLowThresholdPercent must be less than imageGCHighThresholdPercent".to_owned());
        }
        for signal in self.eviction_soft.keys() {
            if !self.eviction_soft_grace_period.contains_key(signal) {
                return Err(format!("grace period must be specified for the soft eviction threshold {signal}"));
            }
        }
        for amounts in [&self.kube_reserved, &self.system_reserved] {
            for (name, text) in amounts {
                text.parse::<Quantity>().map_err(|error| format!("reserved {name} {text:?}: {error:?}"))?;
            }
        }
        let known = |field: &str, value: &str, all: &[&str]| match all.contains(&value) {
            true => Ok(()),
            false => Err(format!("{field} {value:?} is none of {}", all.join(", "))),
        };
        known("cpuManagerPolicy", &self.cpu_manager_policy, &["none", "static"])?;
        known("memoryManagerPolicy", &self.memory_manager_policy, &["None", "Static"])?;
        let policies = ["none", "best-effort", "restricted", "single-numa-node"];
        known("topologyManagerPolicy", &self.topology_manager_policy, &policies)?;
        known("topologyManagerScope", &self.topology_manager_scope, &["container", "pod"])?;
        let (policy, field) =
            (&self.image_pull_credentials_verification_policy, "imagePullCredentialsVerificationPolicy");
        known(field, policy, &Policy::NAMES)?;
        if !self.preloaded_images_verification_allowlist.is_empty() && policy != "NeverVerifyAllowlistedImages" {
            return Err(format!("preloadedImagesVerificationAllowlist needs {field} NeverVerifyAllowlistedImages"));
        }
        match (self.serialize_image_pulls, self.max_parallel_image_pulls) {
            (_, Some(0)) => return Err("maxParallelImagePulls 0 must be a positive number".to_owned()),
            (true, Some(2..)) => {
                return Err("maxParallelImagePulls cannot be larger than 1 unless serializeImagePulls is set to false"
                    .to_owned());
            }
            _ => {}
        }
        self.gates()?;
        if self.container_log_max_files < 2 {
            return Err("containerLogMaxFiles must be greater than 1".to_owned());
        }
        self.container_log_max_bytes()?;
        crate::evict::thresholds(self).map(drop)
    }

    /// The options as the kubelet API shows them.
    pub fn shown(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("options have only string keys and finite numbers")
    }

    fn gates(&self) -> Result<Gates, String> {
        Gates::of(self.feature_gates.iter().map(|(name, value)| (name.as_str(), *value)))
    }

    /// The same with gates that are told otherwise, which go before.
    ///
    /// # Errors
    /// They cannot be so, together.
    pub fn with_gates(mut self, told: impl IntoIterator<Item = (String, bool)>) -> Result<Self, String> {
        self.feature_gates.extend(told);
        self.gates()?;
        Ok(self)
    }

    /// Whether a feature is switched on.
    pub fn gate(&self, name: &str) -> bool {
        self.gates().is_ok_and(|gates| gates.enabled(name))
    }

    /// What is kept from Pods of a resource, but for eviction.
    pub fn reserved(&self, name: &str) -> Quantity {
        let of = |amounts: &Amounts| amounts.get(name).and_then(|text| text.parse().ok()).unwrap_or(Quantity::ZERO);
        let sum = of(&self.kube_reserved).plus(of(&self.system_reserved));
        if name == "cpu" && !self.reserved_system_cpus.is_empty() {
            let cpus = crate::assign::cpus::parse(&self.reserved_system_cpus).map_or(0, |cpus| cpus.len());
            return Quantity::from_millis(i64::try_from(cpus).unwrap_or(0) * 1000);
        }
        sum
    }

    /// How many images may be pulled at a time.
    pub fn parallel_image_pulls(&self) -> usize {
        if self.serialize_image_pulls { 1 } else { self.max_parallel_image_pulls.unwrap_or(usize::MAX) }
    }

    /// The size from which a log is put aside.
    ///
    /// # Errors
    /// It is no quantity.
    pub fn container_log_max_bytes(&self) -> Result<u64, String> {
        let size = self.container_log_max_size.parse::<Quantity>().ok();
        size.and_then(|size| u64::try_from(size.value()).ok())
            .ok_or_else(|| format!("containerLogMaxSize {:?} is no quantity", self.container_log_max_size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_effect_is_refused() {
        let check = |text: &str| Options::parse(text.as_bytes()).map(|options| options.max_pods);
        assert_eq!(check("maxPods: 20\nevictionHard: {memory.available: 10%}\nkubeReserved: {cpu: 100m}"), Ok(20));
        let first = |text: &str| check(text).expect_err(text).lines().next().unwrap_or_default().to_owned();
        assert!(first("noSuchField: 1").contains("unknown field `noSuchField`"));
        assert!(first("kind: Pod").contains("must be KubeletConfiguration"));
        assert!(first("evictionHard: {cpu.available: '1'}").contains("cpu.available"));
        assert!(first("evictionSoft: {memory.available: 1Gi}").contains("grace period must be specified"));
        assert!(first("featureGates: {Magic: true}").contains("Magic"));
        assert!(first("imagePullCredentialsVerificationPolicy: Ask").contains("AlwaysVerify"));
        assert!(first("preloadedImagesVerificationAllowlist: [a]").contains("NeverVerifyAllowlistedImages"));
        assert!(first("{serializeImagePulls: true, maxParallelImagePulls: 2}").contains("serializeImagePulls"));
        assert!(first("cpuManagerPolicy: best").contains("none, static"));
        let bundles = "featureGates: {ClusterTrustBundleProjection: true}";
        assert!(first(bundles).contains("depends on features that are disabled: [ClusterTrustBundle]"));
    }

    #[test]
    fn command_lines_go_before_the_configuration() {
        let options = Options::parse(b"featureGates: {MemoryQoS: true}").expect("it makes sense");
        assert!(options.gate("MemoryQoS") && !options.gate("ClusterTrustBundle"));
        let told = [("MemoryQoS".to_owned(), false), ("ClusterTrustBundle".to_owned(), true)];
        let options = options.with_gates(told).expect("it makes sense");
        assert!(!options.gate("MemoryQoS") && options.gate("ClusterTrustBundle"));
    }
}
