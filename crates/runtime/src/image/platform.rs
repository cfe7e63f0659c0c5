//! Which platforms this machine can run, the best first. Pure.

use serde::{Deserialize, Serialize};

/// For what an image is built.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, ...
    pub architecture: String,
    /// `v7`, `v8`, ...
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// Architectures and variants that a machine runs, in the order of preference; its name is Rust's.
pub(super) fn candidates(machine: &str) -> &'static [(&'static str, &'static str)] {
    match machine {
        "x86_64" => &[("amd64", ""), ("386", "")],
        "x86" => &[("386", "")],
        "aarch64" => &[("arm64", "v8"), ("arm", "v8"), ("arm", "v7"), ("arm", "v6"), ("arm", "v5")],
        "arm" => &[("arm", "v7"), ("arm", "v6"), ("arm", "v5")],
        "riscv64" => &[("riscv64", "")],
        "powerpc64" => &[("ppc64le", "")],
        "s390x" => &[("s390x", "")],
        "loongarch64" => &[("loong64", "")],
        _ => &[],
    }
}

/// How well a platform suits this machine, 0 best; `None` where it does not run here.
pub(super) fn rank(platform: &Platform) -> Option<usize> {
    rank_on(std::env::consts::ARCH, platform)
}

fn rank_on(machine: &str, platform: &Platform) -> Option<usize> {
    // What a missing variant means.
    let variant = match (platform.architecture.as_str(), platform.variant.as_str()) {
        ("arm64", "") => "v8",
        ("arm", "") => "v7",
        ("amd64", "v1") => "",
        (_, variant) => variant,
    };
    let same = |candidate: &&(&str, &str)| candidate.0 == platform.architecture && candidate.1 == variant;
    (platform.os == "linux").then(|| candidates(machine).iter().position(|candidate| same(&candidate)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_are_known() {
        let rank = |machine: &str, architecture: &str, variant: &str| {
            rank_on(
                machine,
                &Platform { os: "linux".into(), architecture: architecture.into(), variant: variant.into() },
            )
        };
        assert_eq!(rank("x86_64", "amd64", "v1"), Some(0));
        assert_eq!(rank("x86_64", "amd64", "v3"), None);
        assert_eq!(rank("x86_64", "386", ""), Some(1));
        assert_eq!(rank("aarch64", "arm64", ""), Some(0));
        assert_eq!(rank("aarch64", "arm", ""), Some(2));
        assert_eq!(rank("arm", "arm", "v6"), Some(1));
        assert_eq!(rank("arm", "arm64", "v8"), None);
    }
}
