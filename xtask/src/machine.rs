//! The layer `machine`: a whole other computer, emulated in software, with cgroup v2 and the kernel of Debian's package, or
//! with all of Debian.
//! It is not part of a plain `cargo xtask test`: it fetches a kernel and takes some minutes.

mod debian;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::needs;
use crate::shell::{cargo, command, output, root, run};
use crate::test::{Binaries, build_binaries};

/// The machine ends by itself within minutes; this is for when it does not.
const TIME_LIMIT_SECONDS: &str = "600";
/// The parts of the kernel that a node needs as modules.
const MODULES: [&str; 11] = [
    "net/netfilter",
    "net/ipv4",
    "net/ipv6",
    "net/bridge",
    "net/802",
    "net/llc",
    "fs/overlayfs",
    "drivers/net/veth.ko",
    "drivers/virtio",
    "drivers/block",
    "lib",
];
/// What a first day must have said in the end.
const FIRST_DAY: [&str; 7] = [
    "cgroups              v2",
    "deployment \"hello\" successfully rolled out",
    "service: hello v1 from hello-",
    "name: hello v1 from hello-",
    "OOMKilled",
    "delete: 0",
    "left: 0 cgroups, 0 interfaces, 0 mounts",
];
/// The lives of the machine whose power is cut after each but the last.
const LIVES: usize = 4;
/// So many writes are acknowledged in each life before the power goes, in the midst of the next.
const WRITES: usize = 40;
const DISK_MEBIBYTES: u64 = 4096;

/// Boots the machine for each scenario and checks what it says; gives the number of scenarios.
///
/// # Errors
/// Something cannot be installed or built, or the machine says something else.
pub fn check() -> Result<u64, String> {
    needs::install_packages(&["qemu-system-x86", "kmod", "cpio", "e2fsprogs", "debootstrap"])?;
    let folder = root().join("target/machine");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let (kernel, version) = fetch_kernel(&folder)?;
    let binaries = build_binaries()?;
    let image = folder.join("hello.tar");
    write_image(&binaries, &image)?;
    let initramfs = build_initramfs(&folder, &version, &binaries)?;
    let machine = Machine { kernel, initramfs, disk: folder.join("disk"), root: "rdinit=/init" };
    first_day(&machine)?;
    power_cut(&machine)?;
    debian::check(&folder, &binaries)?;
    Ok(3)
}

/// A node's first day, on cgroup v2.
fn first_day(machine: &Machine) -> Result<(), String> {
    let mut said = String::new();
    machine.boot("skiff.scenario=first-day", |line| {
        said.push_str(line);
        said.push('\n');
        true
    })?;
    let missing: Vec<_> = FIRST_DAY.iter().filter(|line| !said.contains(**line)).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("the machine did not say {missing:?}")) }
}

/// The power goes in mid-write, again and again: nothing acknowledged is lost, nothing is started twice.
fn power_cut(machine: &Machine) -> Result<(), String> {
    machine.format_disk()?;
    let mut acknowledged = BTreeSet::new();
    for life in 1..=LIVES {
        let told = live(machine, life)?;
        let lost: Vec<_> = acknowledged.difference(&told.kept).collect();
        println!("-- life {life}: {} writes acknowledged before, {} of them lost --", acknowledged.len(), lost.len());
        let problem = if !lost.is_empty() {
            format!("acknowledged and lost: {lost:?}")
        } else if told.starts != 2 * life {
            format!("containers were started {} times in all, not {}", told.starts, 2 * life)
        } else if life < LIVES && told.wrote.len() < WRITES {
            format!("only {} writes", told.wrote.len())
        } else if life == LIVES && !told.deleted {
            "the node could not be deleted".to_owned()
        } else {
            acknowledged.extend(told.wrote);
            continue;
        };
        return Err(format!("life {life}: {problem}"));
    }
    Ok(())
}

/// What the machine told in one life.
#[derive(Default)]
struct Told {
    kept: BTreeSet<String>,
    starts: usize,
    wrote: BTreeSet<String>,
    deleted: bool,
}

fn live(machine: &Machine, life: usize) -> Result<Told, String> {
    let mut told = Told::default();
    machine.boot(&format!("skiff.scenario=power-cut skiff.round={life} skiff.rounds={LIVES}"), |line| {
        match line.split_once(": ") {
            Some(("wrote", name)) => drop(told.wrote.insert(name.to_owned())),
            Some(("kept", names)) => told.kept = names.split(' ').map(str::to_owned).collect(),
            Some(("starts", count)) => told.starts = count.parse().unwrap_or(0),
            Some(("delete", code)) => told.deleted = code == "0",
            _ => {}
        }
        told.wrote.len() < WRITES
    })?;
    Ok(told)
}

/// The emulated computer.
struct Machine {
    kernel: PathBuf,
    initramfs: PathBuf,
    disk: PathBuf,
    /// Which file system the kernel begins with, as its command line says it.
    root: &'static str,
}

impl Machine {
    /// Makes the disk empty.
    fn format_disk(&self) -> Result<(), String> {
        self.fill_disk(&[])
    }

    /// Makes the disk anew, with what these arguments of `mkfs.ext4` put there.
    fn fill_disk(&self, arguments: &[&str]) -> Result<(), String> {
        let file = fs::File::create(&self.disk).map_err(|error| format!("{}: {error}", self.disk.display()))?;
        file.set_len(DISK_MEBIBYTES << 20).map_err(|error| format!("{}: {error}", self.disk.display()))?;
        run(command("mkfs.ext4", &["-q", "-F"])
            .args(arguments)
            .arg(&self.disk)
            .env("PATH", format!("{}:/sbin:/usr/sbin", needs::path())))
    }

    /// Runs until it powers itself off, or until `listener` has heard enough: then the power is cut.
    fn boot(&self, settings: &str, mut listener: impl FnMut(&str) -> bool) -> Result<(), String> {
        let mut emulator = command("timeout", &["--signal=KILL", TIME_LIMIT_SECONDS, "qemu-system-x86_64"]);
        emulator.args([
            "-accel",
            "tcg,thread=multi",
            "-smp",
            "2",
            "-m",
            "3000",
            "-nographic",
            "-no-reboot",
            "-nic",
            "none",
        ]);
        let root = self.root;
        emulator.arg("-append").arg(format!("console=ttyS0 cgroup_no_v1=all panic=-1 quiet {root} {settings}"));
        emulator.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initramfs);
        if self.disk.exists() {
            emulator.arg("-drive").arg(format!("file={},if=virtio,format=raw", self.disk.display()));
        }
        // A group of its own, so that the cut reaches the emulator behind `timeout`.
        let mut emulator = emulator
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{emulator:?}: {error}"))?;
        let console = emulator.stdout.take().ok_or("the machine has no console")?;
        for line in BufReader::new(console).split(b'\n') {
            let line = line.map_err(|error| format!("read the console: {error}"))?;
            let line = String::from_utf8_lossy(&line);
            println!("{}", line.trim_end());
            if !listener(line.trim_end()) {
                println!("-- the power is cut --");
                run(&mut command("kill", &["-KILL", "--", &format!("-{}", emulator.id())]))?;
                break;
            }
        }
        emulator.wait().map(drop).map_err(|error| format!("wait for the machine: {error}"))
    }
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

/// Writes the test program's image as a tar.
fn write_image(binaries: &Binaries, file: &Path) -> Result<(), String> {
    let mut write = cargo(&["run", "--release", "--quiet", "--package", "skiff-e2e", "--bin", "hello-image", "--"]);
    run(write.arg(file).env("SKIFF_HELLO", &binaries.hello))
}

fn build_initramfs(folder: &Path, version: &str, binaries: &Binaries) -> Result<PathBuf, String> {
    let tree = folder.join("root");
    let modules = tree.join("lib/modules").join(version);
    let script = format!(
        "rm -rf {tree} && mkdir -p {tree}/bin {tree}/sbin {tree}/proc {tree}/sys {tree}/dev {tree}/tmp {tree}/etc {tree}/root \
         {tree}/usr/bin {tree}/var/lib {tree}/run {tree}/newroot {modules}/kernel && \
         cp /bin/busybox {skiff} {tree}/bin/ && cp -L $(command -v kubectl) {tree}/bin/kubectl && cp -r {root}/tests/machine/init {root}/tests/machine/scenarios {folder}/hello.tar {tree}/ && \
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
    let packed = folder.join("initramfs.gz");
    let pack = format!("find . | cpio --quiet -o -H newc | gzip -1 > {}", packed.display());
    run(command("sh", &["-ec", &pack]).current_dir(&tree))?;
    Ok(packed)
}
