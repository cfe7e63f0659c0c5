//! What the tests need beside a Rust toolchain, and how it is installed.

use std::path::PathBuf;

use crate::shell::{command, has, output, root, run};

/// A program of the tests, the Debian package it comes from, and what cannot be tested without it.
struct Need {
    program: &'static str,
    package: &'static str,
    why: &'static str,
}

const NEEDS: [Need; 8] = [
    Need { program: "busybox", package: "busybox-static", why: "the test images" },
    Need { program: "docker-registry", package: "docker-registry", why: "pulling images" },
    Need { program: "curl", package: "curl", why: "filling the registry" },
    Need { program: "nsenter", package: "util-linux", why: "looking into a node's network" },
    Need { program: "nft", package: "nftables", why: "the oracle of the service rules" },
    Need { program: "containerd", package: "containerd", why: "another runtime behind the node's interface" },
    Need { program: "runc", package: "runc", why: "what containerd starts containers with" },
    Need { program: "rsyslogd", package: "rsyslog", why: "collecting logs" },
];

/// Installs what is missing.
///
/// # Errors
/// Something that all node tests need cannot be installed.
pub fn install() -> Result<(), String> {
    let missing: Vec<_> = NEEDS.iter().filter(|need| !has(need.program)).collect();
    if !missing.is_empty() {
        let packages: Vec<_> = missing.iter().map(|need| need.package).collect();
        println!("installing {}", packages.join(", "));
        run(&mut quiet_apt(&["update"]))?;
        run(quiet_apt(&["install", "--yes", "--no-install-recommends"]).args(&packages))?;
    }
    if let Some(need) = NEEDS.iter().find(|need| !has(need.program)) {
        return Err(format!("{} is not there after installing {}; {} needs it", need.program, need.package, need.why));
    }
    fetch_etcd();
    install_packages(&["containernetworking-plugins"])?;
    install_crictl()?;
    install_kubectl()
}

/// etcd's server is unpacked, not installed, because its package would start it. Tests that need it say so where it is
/// not to be had.
fn fetch_etcd() {
    const PACKAGE: &str = "etcd-server";
    if has("etcd") || tools().join("etcd").is_file() {
        return;
    }
    let folder = tools().join("etcd-package");
    let fetch = || {
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        run(&mut quiet_apt(&["update"]))?;
        run(quiet_apt(&["download", PACKAGE]).current_dir(&folder))?;
        let unpack = format!("dpkg -x {PACKAGE}_*.deb . && cp usr/bin/etcd ..");
        run(command("sh", &["-ec", &unpack]).current_dir(&folder))
    };
    println!("fetching {PACKAGE}");
    if let Err(error) = fetch() {
        println!("etcd is not to be had ({error}); what needs it is skipped");
    }
}

/// Installs Debian packages, unless they are there.
///
/// # Errors
/// They cannot be installed.
pub fn install_packages(packages: &[&str]) -> Result<(), String> {
    if output(command("dpkg", &["--status"]).args(packages).stderr(std::process::Stdio::null())).is_ok() {
        return Ok(());
    }
    run(&mut quiet_apt(&["update"]))?;
    run(quiet_apt(&["install", "--yes", "--no-install-recommends"]).args(packages))
}

fn quiet_apt(arguments: &[&str]) -> std::process::Command {
    let mut apt = command("apt-get", &["-qq", "-o", "Dpkg::Use-Pty=0"]);
    apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdout(std::process::Stdio::null());
    apt
}

/// The folder of programs that are built for the tests.
pub fn tools() -> PathBuf {
    root().join("target").join("tools")
}

/// kubectl is taken as it is found; else it is built from its Go module, else installed from Debian's package.
fn install_kubectl() -> Result<(), String> {
    if has("kubectl") || tools().join("kubectl").is_file() {
        return Ok(());
    }
    if has("go") {
        println!("building kubectl from its Go module");
        return build_kubectl();
    }
    println!("installing kubectl from Debian's package");
    run(&mut quiet_apt(&["update"]))?;
    run(&mut quiet_apt(&["install", "--yes", "--no-install-recommends", "kubernetes-client"]))
}

/// The version of `crictl` that is built, of the same release as the interface that is spoken.
const CRI_TOOLS: &str = "sigs.k8s.io/cri-tools@v1.36.0";

/// crictl is taken as it is found, else built from its Go module.
fn install_crictl() -> Result<(), String> {
    let place = tools().join("crictl");
    if has("crictl") || place.is_file() {
        return Ok(());
    }
    if !has("go") {
        return Err("crictl is not there and cannot be built: install it, or Go (https://go.dev/dl)".to_owned());
    }
    println!("building crictl from its Go module");
    let folder = tools().join("crictl-src");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let found = output(command("go", &["mod", "download", "-json", CRI_TOOLS]).current_dir(&folder))?;
    let found: serde_json::Value = serde_json::from_str(&found).map_err(|error| format!("go mod download: {error}"))?;
    let source = found["Dir"].as_str().ok_or_else(|| format!("{CRI_TOOLS}: {}", found["Error"]))?;
    run(command("go", &["build", "-trimpath", "-o"]).arg(&place).arg("./cmd/crictl").current_dir(source))
}

const KUBECTL_MAIN: &str = r#"package main

import (
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

func main() {
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
	}
}
"#;

fn build_kubectl() -> Result<(), String> {
    let folder = tools().join("kubectl-src");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    std::fs::write(folder.join("main.go"), KUBECTL_MAIN).map_err(|error| error.to_string())?;
    let go = |arguments: &[&str]| run(command("go", arguments).current_dir(&folder));
    if !folder.join("go.mod").exists() {
        go(&["mod", "init", "kubectl"])?;
    }
    go(&["get", "k8s.io/kubectl@v0.36.0", "k8s.io/component-base@v0.36.0"])?;
    go(&["mod", "tidy"])?;
    go(&["build", "-o", "../kubectl", "."])
}

/// The PATH with the built tools in it.
pub fn path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:{}", tools().display())
}

/// What the machine's kubectl says of itself.
pub fn kubectl_version() -> String {
    output(command("kubectl", &["version", "--client"]).env("PATH", path()))
        .map_or_else(|error| error, |text| text.lines().next().unwrap_or_default().to_owned())
}
