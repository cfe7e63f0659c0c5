//! Upstream's control plane as a peer: etcd, the API server, the scheduler and the controllers, built from their Go
//! modules (`tests/upstream`).

use std::path::PathBuf;
use std::process::Command;

use crate::clients::go_toolchain;
use crate::needs::tools;
use crate::shell::{command, output, root, run};

/// Set to `no`, it leaves peers out that have to be built or installed.
const PEER: &str = "SKIFF_BENCH_PEER";
/// Where benchmarks find the peer's programs.
const UPSTREAM: &str = "SKIFF_UPSTREAM";
/// The module whose version is the peer's.
const MODULE: &str = "k8s.io/kubernetes";

/// Tells a benchmark where the peer is. One that cannot be built is told and left out.
pub fn offer(bench: &mut Command) {
    if std::env::var(PEER).is_ok_and(|wanted| wanted == "no") {
        return;
    }
    match build() {
        Ok(folder) => {
            bench.env(UPSTREAM, folder);
        }
        Err(error) => println!("upstream's programs are not to be had ({error}); their figures are left out"),
    }
}

fn build() -> Result<PathBuf, String> {
    let folder = tools().join("upstream");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let program = go_toolchain()?;
    let go = |arguments: &[&str]| {
        let mut go = command(&program, arguments);
        go.current_dir(root().join("tests/upstream")).env("GOTOOLCHAIN", "local");
        go
    };
    println!("building upstream's control plane");
    let version = output(&mut go(&["list", "-m", "-f", "{{.Version}}", MODULE]))?;
    run(go(&["build", "-trimpath", "-ldflags", &stamps(version.trim()), "-o"]).arg(&folder).arg("./..."))?;
    Ok(folder)
}

/// What upstream's own build tells the programs of their version, without which they do not know what they emulate.
fn stamps(version: &str) -> String {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let set = |(name, value): (&str, &str)| format!(" -X k8s.io/component-base/version.{name}={value}");
    let stamps = [("gitVersion", version), ("gitMajor", major), ("gitMinor", minor), ("gitTreeState", "clean")];
    format!("-s -w{}", stamps.map(set).concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_stamped_in_parts() {
        let stamps = stamps("v1.36.3");
        for part in ["gitVersion=v1.36.3", "gitMajor=1", "gitMinor=36"] {
            assert!(stamps.contains(&format!("version.{part} ")), "{stamps}");
        }
    }
}
