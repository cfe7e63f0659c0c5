//! Levels and versions, what the labels of a namespace ask for, and what a Pod violates of it. Pure.
//! See <https://kubernetes.io/docs/concepts/security/pod-security-standards/>.

use std::fmt;

use skiff_object::{ErrorList, FieldError, FieldPath, Object};

use super::checks::{self, Violation};
use super::restricted;

/// How much a Pod is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// Not at all.
    #[default]
    Privileged,
    /// Known ways out of a container are closed.
    Baseline,
    /// As hardened Pods are.
    Restricted,
}

/// Which release's idea of a level is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// That of this server.
    #[default]
    Latest,
    /// That of 1.x.
    Minor(u32),
}

/// A level of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LevelVersion {
    /// The level.
    pub level: Level,
    /// The version.
    pub version: Version,
}

/// What is asked of the Pods of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// What violates it is refused.
    pub enforce: LevelVersion,
    /// What violates it is written down.
    pub audit: LevelVersion,
    /// What violates it is warned of.
    pub warn: LevelVersion,
}

impl Level {
    /// Reads a level.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "privileged" => Self::Privileged,
            "baseline" => Self::Baseline,
            "restricted" => Self::Restricted,
            _ => return None,
        })
    }
}

impl Version {
    /// Reads `latest` or `v1.x`.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "latest" {
            return Some(Self::Latest);
        }
        let minor = text.strip_prefix("v1.")?;
        let is_plain = minor.bytes().all(|byte| byte.is_ascii_digit()) && (minor == "0" || !minor.starts_with('0'));
        is_plain.then(|| minor.parse().ok().map(Self::Minor))?
    }

    /// The number that the controls compare.
    fn minor(self) -> u32 {
        match self {
            Self::Latest => u32::MAX,
            Self::Minor(minor) => minor,
        }
    }
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            Version::Latest => write!(f, "{level}:latest"),
            Version::Minor(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

/// The labels of a mode: its level and its version.
struct Labels {
    level: &'static str,
    version: &'static str,
}

const ENFORCE: Labels =
    Labels { level: "pod-security.kubernetes.io/enforce", version: "pod-security.kubernetes.io/enforce-version" };
const AUDIT: Labels =
    Labels { level: "pod-security.kubernetes.io/audit", version: "pod-security.kubernetes.io/audit-version" };
const WARN: Labels =
    Labels { level: "pod-security.kubernetes.io/warn", version: "pod-security.kubernetes.io/warn-version" };
const BAD_LEVEL: &str = "must be one of privileged, baseline, restricted";
const BAD_VERSION: &str = "must be \"latest\" or \"v1.x\"";

/// What a namespace's labels ask for, and what is wrong with them. What cannot be read counts as the strictest.
pub fn asked<'a>(label: impl Fn(&str) -> Option<&'a str>, defaults: &Policy) -> (Policy, ErrorList) {
    let (mut policy, mut errors) = (*defaults, Vec::new());
    let mut read = |labels: &Labels, to: &mut LevelVersion| -> bool {
        let (level, version) = (label(labels.level), label(labels.version));
        let mut refuse = |key: &str, value: &str, why: &str| {
            errors.push(FieldError::invalid(&FieldPath::new("metadata.labels").key(key), value, why));
        };
        if let Some(text) = level {
            to.level = Level::parse(text).unwrap_or_else(|| {
                refuse(labels.level, text, BAD_LEVEL);
                Level::Restricted
            });
        }
        if let Some(text) = version {
            to.version = Version::parse(text).unwrap_or_else(|| {
                refuse(labels.version, text, BAD_VERSION);
                Version::Latest
            });
        }
        level.is_some()
    };
    let enforces = read(&ENFORCE, &mut policy.enforce);
    read(&AUDIT, &mut policy.audit);
    let warns = read(&WARN, &mut policy.warn);
    // What is enforced on Pods is warned of where they are made from a template.
    if enforces && !warns && policy.enforce.level > policy.warn.level {
        policy.warn = policy.enforce;
    }
    (policy, errors)
}

type Check = fn(&Object, u32) -> Option<Violation>;

/// One control: since which version it is what.
struct Control {
    id: &'static str,
    level: Level,
    /// The control of the level below that this one contains.
    instead_of: &'static str,
    since: &'static [(u32, Check)],
}

const fn baseline(id: &'static str, since: &'static [(u32, Check)]) -> Control {
    Control { id, level: Level::Baseline, instead_of: "", since }
}

const fn restricted(id: &'static str, instead_of: &'static str, since: &'static [(u32, Check)]) -> Control {
    Control { id, level: Level::Restricted, instead_of, since }
}

/// All controls, in the order in which violations are told: by level, then by name.
static CONTROLS: [Control; 19] = [
    baseline("appArmorProfile", &[(0, checks::apparmor)]),
    baseline("capabilities_baseline", &[(0, checks::capabilities)]),
    baseline("hostNamespaces", &[(0, checks::host_namespaces)]),
    baseline("hostPathVolumes", &[(0, checks::host_paths)]),
    baseline("hostPorts", &[(0, checks::host_ports)]),
    baseline("hostProbesAndHostLifecycle", &[(34, checks::probe_hosts)]),
    baseline("privileged", &[(0, checks::privileged)]),
    baseline("procMount_baseline", &[(0, checks::proc_mount_baseline)]),
    baseline("seLinuxOptions", &[(0, checks::selinux)]),
    baseline("seccompProfile_baseline", &[(0, checks::seccomp_annotations), (19, checks::seccomp_baseline)]),
    baseline("sysctls", &[(0, checks::sysctls)]),
    baseline("windowsHostProcess", &[(0, checks::host_process)]),
    restricted("allowPrivilegeEscalation", "", &[(8, restricted::escalation)]),
    restricted("capabilities_restricted", "capabilities_baseline", &[(22, restricted::capabilities)]),
    restricted("procMount_restricted", "procMount_baseline", &[(35, checks::proc_mount)]),
    restricted("restrictedVolumes", "hostPathVolumes", &[(0, restricted::volumes)]),
    restricted("runAsNonRoot", "", &[(0, restricted::non_root)]),
    restricted("runAsUser", "", &[(23, restricted::user)]),
    restricted("seccompProfile_restricted", "seccompProfile_baseline", &[(19, restricted::seccomp)]),
];

impl Control {
    fn at(&self, asked: LevelVersion) -> Option<Check> {
        let minor = asked.version.minor();
        let known = self.since.iter().rev().find(|(since, _)| minor >= *since);
        known.filter(|_| self.level <= asked.level).map(|(_, check)| *check)
    }
}

/// Everything that a Pod violates.
pub fn violations(asked: LevelVersion, pod: &Object) -> Vec<Violation> {
    if asked.level == Level::Privileged {
        return Vec::new();
    }
    let contained = |id: &str| {
        let mut stricter = CONTROLS.iter().filter(|control| control.at(asked).is_some());
        stricter.any(|control| control.instead_of == id)
    };
    let active = CONTROLS.iter().filter(|control| !contained(control.id));
    active.filter_map(|control| control.at(asked)?(pod, asked.version.minor())).collect()
}

/// Violations as one Pod is told of them: `hostPort (container "a" uses hostPort 80), ...`.
pub fn in_full(violations: &[Violation]) -> String {
    let one = |violation: &Violation| format!("{} ({})", violation.reason, violation.detail);
    violations.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Violations as many Pods are told of them: `hostPort, privileged`.
pub fn in_short(violations: &[Violation]) -> String {
    violations.iter().map(|violation| violation.reason.as_str()).collect::<Vec<_>>().join(", ")
}
