//! Debian itself in the emulated computer, with systemd, AppArmor and an NFS server, and skiff as a service of it.

use std::fs;
use std::path::Path;

use super::Machine;
use crate::needs;
use crate::shell::{command, output, root, run};
use crate::test::Binaries;

/// What is installed beside the smallest system.
const PACKAGES: &str =
    "systemd-sysv,dbus,apparmor,nfs-kernel-server,nfs-common,iproute2,kmod,procps,linux-image-cloud-amd64";
/// The agent's settings: it has 40 s when the computer is shut down.
const KUBELET_CONFIG: &str = "\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
shutdownGracePeriod: 40s
shutdownGracePeriodCriticalPods: 10s
";
/// What this machine's service adds to the example's: where those settings are.
const DROP_IN: &str = "\
[Service]
ExecStart=
ExecStart=/usr/local/bin/skiff server --kubelet-config /etc/skiff/kubelet.yaml
";
/// What the first life must say: containers are confined, shares of an NFS server mounted, and shutdowns held up.
const FIRST: [&str; 9] = [
    "profile: skiff-default (enforce)",
    "confined: no-writes (enforce) touch: /file: Permission denied refused",
    "free: unconfined",
    "writer: 2",
    "files: by claim by server",
    "mounted: 0",
    "Error: apparmor profile not found nobody-knows",
    "inhibited: 1",
    "inhibited again: 1, 1 busctl, 1 cat",
];
/// What the second one must say: Pods had their time, and were told of it.
const SECOND: [&str; 7] = [
    "ends: asked ended",
    "slow: Failed Terminated Pod was terminated in response to imminent node shutdown.",
    "deployment.apps/hello condition met",
    "delay of a node: t 40000000, 99-kubelet.conf",
    "delete: 0",
    "delay without it: t 5000000, clean",
    "left: 0 shims, 0 interfaces, 0 mounts",
];

/// Lets the computer live twice, with an orderly shutdown between.
///
/// # Errors
/// Debian cannot be installed, or the machine says something else.
pub fn check(folder: &Path, binaries: &Binaries) -> Result<(), String> {
    let tree = install(folder)?;
    furnish(folder, &tree, binaries)?;
    let boot = |name: &str| {
        let found = output(&mut command("sh", &["-c", &format!("ls {}/boot/{name}-*", tree.display())]))?;
        found.lines().next_back().map(Into::into).ok_or_else(|| format!("there is no {name}"))
    };
    let machine = Machine {
        kernel: boot("vmlinuz")?,
        initramfs: boot("initrd.img")?,
        disk: folder.join("debian.disk"),
        root: "root=/dev/vda rw systemd.show_status=false systemd.getty_auto=false loglevel=1",
    };
    machine.fill_disk(&["-d", &tree.display().to_string()])?;
    for (life, expected) in [("first", &FIRST[..]), ("second", &SECOND[..])] {
        let mut said = String::new();
        machine.boot("", |line| {
            said.push_str(line);
            said.push('\n');
            true
        })?;
        let missing: Vec<_> = expected.iter().filter(|line| !said.contains(**line)).collect();
        if !missing.is_empty() {
            return Err(format!("in its {life} life Debian did not say {missing:?}"));
        }
    }
    fs::remove_file(&machine.disk).map_err(|error| format!("{}: {error}", machine.disk.display()))
}

/// Debian's files, installed once.
fn install(folder: &Path) -> Result<std::path::PathBuf, String> {
    let (tree, draft) = (folder.join("debian"), folder.join("debian.draft"));
    if !tree.exists() {
        let release = output(&mut command("sh", &["-c", ". /etc/os-release && echo $VERSION_CODENAME"]))?;
        let include = format!("--include={PACKAGES}");
        run(command("rm", &["-rf"]).arg(&draft))?;
        run(command("debootstrap", &["--variant=minbase", &include, release.trim()])
            .arg(&draft)
            .env("PATH", format!("{}:/sbin:/usr/sbin", needs::path())))?;
        fs::rename(&draft, &tree).map_err(|error| format!("{}: {error}", tree.display()))?;
    }
    Ok(tree)
}

/// Puts skiff and what is played into Debian's files.
fn furnish(folder: &Path, tree: &Path, binaries: &Binaries) -> Result<(), String> {
    let script = format!(
        "mkdir -p etc/skiff scenarios etc/systemd/system/skiff.service.d etc/systemd/system/multi-user.target.wants && \
         cp {skiff} usr/local/bin/skiff && cp -L $(command -v kubectl) usr/local/bin/kubectl && \
         cp {folder}/hello.tar root/ && cp {root}/tests/machine/scenarios/debian scenarios/ && \
         cp {root}/examples/skiff.service {root}/tests/machine/scenario.service etc/systemd/system/ && \
         for unit in skiff scenario; do ln -sf ../$unit.service etc/systemd/system/multi-user.target.wants/; done && \
         echo machine > etc/hostname && echo '127.0.0.1 localhost machine' > etc/hosts && \
         rm -rf var/cache/apt/archives/*.deb",
        skiff = binaries.skiff.display(),
        folder = folder.display(),
        root = root().display(),
    );
    run(command("sh", &["-ec", &script]).current_dir(tree).env("PATH", needs::path()))?;
    let drop_in = "etc/systemd/system/skiff.service.d/settings.conf";
    for (file, text) in [("etc/skiff/kubelet.yaml", KUBELET_CONFIG), (drop_in, DROP_IN)] {
        fs::write(tree.join(file), text).map_err(|error| format!("{file}: {error}"))?;
    }
    Ok(())
}
