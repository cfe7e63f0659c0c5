//! A KubeSchedulerConfiguration: profiles with their plugins, weights and settings, and the queue's back-off. The words of
//! what is wrong with one are upstream's. A field that has no effect here is refused rather than passed over.
//! See <https://kubernetes.io/docs/reference/config-api/kube-scheduler-config.v1/>.

mod arguments;
mod extenders;

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::extender::Extender;
use crate::groups::Features;
use crate::plugins::{PLUGINS, plugin};
use crate::profile::{DEFAULT_NAME, Enabled, Profile};
use crate::queue::Backoff;

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";
/// Plugins of the default profile that neither filter nor score here, or that have nothing to do in this version.
const OTHERS: [&str; 7] = [
    "PrioritySort",
    "SchedulingGates",
    "DefaultPreemption",
    "DefaultBinder",
    "NodeVolumeLimits",
    "DynamicResources",
    "NodeDeclaredFeatures",
];
const PREEMPTION: &str = "DefaultPreemption";
const ALL: &str = "*";

/// What can be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// How pods are scheduled, by their `spec.schedulerName`.
    pub profiles: Vec<Profile>,
    /// How long pods wait that could not be scheduled.
    pub backoff: Backoff,
    /// Others that have a say; each is given a way to it by whoever starts the scheduler.
    pub extenders: Vec<Extender>,
    /// Breaks ties between equally good nodes.
    pub seed: u64,
    /// Whether there are groups of pods; no file tells that.
    pub groups: Features,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            profiles: vec![Profile::default()],
            backoff: Backoff::default(),
            extenders: Vec::new(),
            seed: 1,
            groups: Features::default(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    profiles: Option<Vec<ProfileFile>>,
    percentage_of_nodes_to_score: Option<i64>,
    pod_initial_backoff_seconds: Option<i64>,
    pod_max_backoff_seconds: Option<i64>,
    #[serde(default)]
    extenders: Vec<extenders::ExtenderFile>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProfileFile {
    scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<i64>,
    #[serde(default)]
    plugins: Plugins,
    #[serde(default)]
    plugin_config: Vec<PluginConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Plugins {
    multi_point: Set,
    filter: Set,
    score: Set,
    post_filter: Set,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Set {
    enabled: Vec<Named>,
    disabled: Vec<Named>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
    #[serde(default)]
    weight: i64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginConfig {
    name: String,
    #[serde(default)]
    args: Value,
}

/// What is wrong, each with its field.
#[derive(Debug, Default)]
struct Errors(Vec<String>);

impl Errors {
    fn invalid(&mut self, field: &str, value: impl std::fmt::Debug, why: &str) {
        self.0.push(format!("{field}: Invalid value: {value:?}: {why}"));
    }

    fn told(self) -> Result<(), String> {
        match self.0.as_slice() {
            [] => Ok(()),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }
}

impl Config {
    /// Reads a KubeSchedulerConfiguration. `pem` reads what extenders' TLS names: a file, or base64 in its place; neither
    /// gives nothing.
    ///
    /// # Errors
    /// It cannot be read, or something in it makes no sense or has no effect here.
    pub fn parse(text: &[u8], pem: impl Fn(&str, &str) -> Result<Vec<u8>, String>) -> Result<Self, String> {
        let tree = skiff_object::yaml::parse(text)?.into_value();
        let file: File = serde_json::from_value(tree).map_err(|error| format!("{KIND}: {error}"))?;
        if file.api_version != API_VERSION || file.kind != KIND {
            return Err(format!("must be {KIND} of {API_VERSION}, not {} of {}", file.kind, file.api_version));
        }
        let mut errors = Errors::default();
        let config = file.read(&pem, &mut errors);
        errors.told()?;
        Ok(config)
    }
}

impl File {
    fn read(self, pem: extenders::ReadPem, errors: &mut Errors) -> Config {
        let (first, most) = (self.pod_initial_backoff_seconds.unwrap_or(1), self.pod_max_backoff_seconds.unwrap_or(10));
        let share = percentage("percentageOfNodesToScore", self.percentage_of_nodes_to_score, errors);
        let mut profiles: Vec<Profile> = Vec::new();
        for (at, file) in self.profiles.unwrap_or_else(|| vec![ProfileFile::default()]).into_iter().enumerate() {
            let path = format!("profiles[{at}]");
            let mut profile = file.read(&path, errors);
            profile.percentage_of_nodes = profile.percentage_of_nodes.or(share);
            if let Some(twin) = profiles.iter().position(|other| other.name == profile.name) {
                errors.0.push(format!("{path}.schedulerName: Duplicate value: \"profiles[{twin}].schedulerName\""));
            }
            profiles.push(profile);
        }
        if profiles.is_empty() {
            errors.0.push("profiles: Required value".to_owned());
        }
        if first <= 0 {
            errors.invalid("podInitialBackoffSeconds", first, "must be greater than 0");
        }
        if most < first {
            errors.invalid("podMaxBackoffSeconds", most, "must be greater than or equal to PodInitialBackoffSeconds");
        }
        let extenders = extenders::read(self.extenders, pem, &mut profiles, errors);
        let seconds = |seconds: i64| Duration::from_secs(seconds.unsigned_abs());
        let backoff = Backoff { first: seconds(first), most: seconds(most) };
        Config { profiles, backoff, extenders, ..Config::default() }
    }
}

fn percentage(path: &str, given: Option<i64>, errors: &mut Errors) -> Option<usize> {
    let given = given?;
    if !(0..=100).contains(&given) {
        errors.invalid(path, given, "not in valid range [0-100]");
    }
    usize::try_from(given).ok()
}

impl ProfileFile {
    fn read(self, path: &str, errors: &mut Errors) -> Profile {
        let name = self.scheduler_name.unwrap_or_else(|| DEFAULT_NAME.to_owned());
        let mut profile = Profile { name, ..Profile::default() };
        if profile.name.is_empty() {
            errors.0.push(format!("{path}.schedulerName: Required value"));
        }
        let share = percentage(&format!("{path}.percentageOfNodesToScore"), self.percentage_of_nodes_to_score, errors);
        profile.percentage_of_nodes = share;
        self.plugins.apply(&mut profile, &format!("{path}.plugins"), errors);
        let mut seen: Vec<String> = Vec::new();
        for (at, config) in self.plugin_config.into_iter().enumerate() {
            let path = format!("{path}.pluginConfig[{at}]");
            if seen.contains(&config.name) {
                errors.0.push(format!("{path}: Duplicate value: {:?}", config.name));
            }
            arguments::apply(&mut profile, &config.name, config.args, &path, errors);
            seen.push(config.name);
        }
        profile
    }
}

impl Plugins {
    fn apply(&self, profile: &mut Profile, path: &str, errors: &mut Errors) {
        for (point, set) in [
            ("multiPoint", &self.multi_point),
            ("filter", &self.filter),
            ("score", &self.score),
            ("postFilter", &self.post_filter),
        ] {
            for (at, named) in set.enabled.iter().enumerate() {
                let fits = match (point, plugin(&named.name)) {
                    ("filter", found) => found.is_some_and(|plugin| plugin.filters()),
                    ("score", found) => found.is_some_and(|plugin| plugin.scores()),
                    ("postFilter", _) => named.name == PREEMPTION,
                    (_, found) => found.is_some() || OTHERS.contains(&named.name.as_str()),
                };
                if !fits {
                    let why = format!("{point} plugin {:?} does not exist", named.name);
                    errors.invalid(&format!("{path}.{point}.enabled[{at}]"), &named.name, &why);
                }
            }
        }
        let rule = |set: &Set, name: &str, by_default: bool| {
            let off = set.disabled.iter().any(|named| named.name == name || named.name == ALL);
            set.enabled.iter().any(|named| named.name == name) || by_default && !off
        };
        let weight = |set: &Set, name: &str| {
            set.enabled.iter().find(|named| named.name == name).map(|named| named.weight).filter(|weight| *weight != 0)
        };
        let decide = |plugin: &'static crate::plugins::Plugin| {
            let on = rule(&self.multi_point, plugin.name, true);
            let scores = plugin.scores() && rule(&self.score, plugin.name, on);
            let weight = weight(&self.score, plugin.name).or(weight(&self.multi_point, plugin.name));
            Enabled {
                plugin,
                filters: plugin.filters() && rule(&self.filter, plugin.name, on),
                weight: if scores { weight.unwrap_or(plugin.weight) } else { 0 },
            }
        };
        profile.plugins = PLUGINS.iter().map(decide).collect();
        profile.preempts = rule(&self.post_filter, PREEMPTION, rule(&self.multi_point, PREEMPTION, true));
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// What is made of a file, in short, or what is wrong with it.
    fn check(rest: &str, expected: Expect) {
        let told = match Config::parse(format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{rest}").as_bytes(), |_, _| {
            Ok(Vec::new())
        }) {
            Ok(config) => config.profiles.iter().map(short).collect::<Vec<_>>().join("\n"),
            Err(why) => why,
        };
        expected.assert_eq(&told);
    }

    fn short(profile: &Profile) -> String {
        let weights: Vec<_> = profile.plugins.iter().filter(|enabled| enabled.weight > 0).collect();
        let weights: Vec<_> = weights.iter().map(|e| format!("{}:{}", e.plugin.name, e.weight)).collect();
        let off: Vec<_> = profile.plugins.iter().filter(|e| e.plugin.filters() && !e.filters).collect();
        format!("{} [{}] off {off:?} {:?} {}", profile.name, weights.join(" "), profile.strategy, profile.preempts)
    }

    #[test]
    fn profiles_change_what_they_name() {
        check(
            "",
            expect![[
                r#"default-scheduler [TaintToleration:3 NodeAffinity:2 NodeResourcesFit:1 PodTopologySpread:2 InterPodAffinity:2 NodeResourcesBalancedAllocation:1 ImageLocality:1] off [] LeastAllocated true"#
            ]],
        );
        check(
            "profiles: [{schedulerName: packing, plugins: {score: {disabled: [{name: '*'}], enabled: [{name: NodeResourcesFit, weight: 5}]}}, pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 1}]}}}]}]",
            expect![[r#"packing [NodeResourcesFit:5] off [] MostAllocated true"#]],
        );
        check(
            "profiles: [{schedulerName: bare, plugins: {multiPoint: {disabled: [{name: '*'}], enabled: [{name: NodeResourcesFit}]}}}]",
            expect![[
                r#"bare [NodeResourcesFit:1] off [Enabled { plugin: NodeUnschedulable, filters: false, weight: 0 }, Enabled { plugin: NodeName, filters: false, weight: 0 }, Enabled { plugin: TaintToleration, filters: false, weight: 0 }, Enabled { plugin: NodeAffinity, filters: false, weight: 0 }, Enabled { plugin: NodePorts, filters: false, weight: 0 }, Enabled { plugin: VolumeRestrictions, filters: false, weight: 0 }, Enabled { plugin: VolumeBinding, filters: false, weight: 0 }, Enabled { plugin: VolumeZone, filters: false, weight: 0 }, Enabled { plugin: PodTopologySpread, filters: false, weight: 0 }, Enabled { plugin: InterPodAffinity, filters: false, weight: 0 }] LeastAllocated false"#
            ]],
        );
    }

    #[test]
    fn extenders_are_read() {
        let text = "extenders: [{urlPrefix: 'https://x:1/s', filterVerb: filter, bindVerb: bind, enableHTTPS: true, httpTimeout: 1m0.5s, managedResources: [{name: example.com/gpu, ignoredByScheduler: true}]}]";
        let text = format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{text}");
        let config = Config::parse(text.as_bytes(), |_, _| Ok(Vec::new())).expect("it is valid");
        let one = &config.extenders[0];
        assert_eq!((one.timeout, one.tls.insecure), (Duration::from_millis(60_500), true));
        assert_eq!(config.profiles[0].ignored_resources, ["example.com/gpu"]);
        check(
            "extenders: [{bindVerb: b, prioritizeVerb: p, managedResources: [{name: gpu}]}, {bindVerb: b, httpTimeout: soon}]",
            expect![[
                r#"[extenders: Invalid value: "found 2 extenders implementing bind": only one extender can implement bind, extenders[0].weight: Invalid value: 0: must have a positive weight applied to it, extenders[0].managedResources[0].name: Invalid value: "gpu": is an invalid extended resource name, extenders[1].httpTimeout: Invalid value: "soon": must be a duration]"#
            ]],
        );
    }

    #[test]
    fn what_is_wrong_is_told_in_upstreams_words() {
        check(
            "percentageOfNodesToScore: 101",
            expect!["percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]"],
        );
        check(
            "profiles: [{schedulerName: a}, {schedulerName: a}]\npodInitialBackoffSeconds: 0",
            expect![[
                r#"[profiles[1].schedulerName: Duplicate value: "profiles[0].schedulerName", podInitialBackoffSeconds: Invalid value: 0: must be greater than 0]"#
            ]],
        );
        check(
            "profiles: [{plugins: {score: {enabled: [{name: Lottery}]}}, pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: 200}}]}]",
            expect![[
                r#"[profiles[0].plugins.score.enabled[0]: Invalid value: "Lottery": score plugin "Lottery" does not exist, profiles[0].pluginConfig[0].args.hardPodAffinityWeight: Invalid value: 200: not in valid range [0, 100]]"#
            ]],
        );
    }
}
