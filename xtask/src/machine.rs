//! The layer `machine`: a whole other computer, emulated in software, with cgroup v2 and the kernel of Debian's package.
//! It is not part of a plain `cargo xtask test`: it fetches a kernel and takes a minute or two.

use std::fs;
use std::path::{Path, PathBuf};

use crate::needs;
use crate::shell::{cargo, command, output, root, run};
use crate::test::build_binaries;

/// The machine ends by itself in less than a minute; this is for when it does not.
const TIME_LIMIT_SECONDS: &str = "300";
/// The parts of the kernel that a node needs as modules.
const MODULES: [&str; 9] = [
    "net/netfilter",
    "net/ipv4",
    "net/ipv6",
    "net/bridge",
    "net/802",
    "net/llc",
    "fs/overlayfs",
    "drivers/net/veth.ko",
    "lib",
];
/// What the machine must have said in the end.
const EXPECTED: [&str; 7] = [
    "cgroups              v2",
    "deployment \"hello\" successfully rolled out",
    "service: hello v1 from hello-",
    "name: hello v1 from hello-",
    "OOMKilled",
    "delete: 0",
    "left: 0 cgroups, 0 interfaces, 0 mounts",
];

/// Boots the machine and checks what it says.
///
/// # Errors
/// Something cannot be installed or built, or the machine says something else.
pub fn check() -> Result<(), String> {
    needs::install_packages(&["qemu-system-x86", "kmod", "cpio"])?;
    let folder = root().join("target/machine");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let (kernel, version) = fetch_kernel(&folder)?;
    let initramfs = build_initramfs(&folder, &version)?;
    let said = output(
        command(
            "timeout",
            &[TIME_LIMIT_SECONDS, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "3000"],
        )
        .args(["-nographic", "-no-reboot", "-nic", "none"])
        .args(["-append", "console=ttyS0 cgroup_no_v1=all rdinit=/init panic=-1 quiet"])
        .arg("-kernel")
        .arg(&kernel)
        .arg("-initrd")
        .arg(&initramfs)
        .stdin(std::process::Stdio::null()),
    )?;
    println!("{said}");
    let missing: Vec<_> = EXPECTED.iter().filter(|line| !said.contains(**line)).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("the machine did not say {missing:?}")) }
}

/// The kernel of Debian's cloud image and its version, from the package archive, unpacked and not installed.
fn fetch_kernel(folder: &Path) -> Result<(PathBuf, String), String> {
    let depends = output(&mut command("apt-cache", &["depends", "linux-image-cloud-amd64"]))?;
    let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).ok_or("no kernel package")?;
    let version = package.trim_start_matches("linux-image-").to_owned();
    let kernel = folder.join("kernel/boot").join(format!("vmlinuz-{version}"));
    if !kernel.exists() {
        run(command("apt-get", &["download", "-qq", package]).current_dir(folder))?;
        let packed = output(command("sh", &["-c", &format!("ls {package}_*.deb")]).current_dir(folder))?;
        run(command("dpkg", &["-x", packed.trim(), "kernel"]).current_dir(folder))?;
    }
    Ok((kernel, version))
}

fn build_initramfs(folder: &Path, version: &str) -> Result<PathBuf, String> {
    let binaries = build_binaries()?;
    let tree = folder.join("root");
    let image = tree.join("hello.tar");
    let modules = tree.join("lib/modules").join(version);
    let script = format!(
        "rm -rf {tree} && mkdir -p {tree}/bin {tree}/sbin {tree}/proc {tree}/sys {tree}/dev {tree}/tmp {tree}/etc {tree}/root \
         {tree}/usr/bin {tree}/var/lib {tree}/run {tree}/newroot {modules}/kernel && \
         cp /bin/busybox {skiff} {tree}/bin/ && cp -L $(command -v kubectl) {tree}/bin/kubectl && cp {root}/tests/machine/init {tree}/init && \
         cd {folder}/kernel/lib/modules/{version} && cp modules.order modules.builtin modules.builtin.modinfo {modules}/ && \
         cd kernel && cp -r --parents {parts} {modules}/kernel/ && depmod -b {tree} {version}",
        tree = tree.display(),
        modules = modules.display(),
        skiff = binaries.skiff.display(),
        root = root().display(),
        folder = folder.display(),
        parts = MODULES.join(" "),
    );
    run(command("sh", &["-ec", &script]).env("PATH", needs::path()))?;
    let mut write_image =
        cargo(&["run", "--release", "--quiet", "--package", "skiff-e2e", "--bin", "hello-image", "--"]);
    run(write_image.arg(&image).env("SKIFF_HELLO", &binaries.hello))?;
    let packed = folder.join("initramfs.gz");
    let pack = format!("find . | cpio --quiet -o -H newc | gzip -1 > {}", packed.display());
    run(command("sh", &["-ec", &pack]).current_dir(&tree))?;
    Ok(packed)
}
