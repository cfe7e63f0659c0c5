//! What the kernel's security modules are told of a container: its AppArmor profile and its SELinux labels.
//! What is told is decided purely; only [`Modules::look`], [`check_loaded`] and [`relabel`] touch the machine.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use skiff_cri::security_profile::ProfileType;
use skiff_cri::{CriError, CriResult, LinuxContainerSecurityContext, SeLinuxOption};

/// The name of the profile that containers have whose pod names none.
pub const DEFAULT_PROFILE: &str = "skiff-default";
/// Where the kernel lists the profiles that are loaded.
const LOADED_PROFILES: &str = "/sys/kernel/security/apparmor/profiles";
/// The tool that makes profiles what the kernel reads.
const PARSERS: [&str; 3] = ["/sbin/apparmor_parser", "/usr/sbin/apparmor_parser", "/usr/bin/apparmor_parser"];

/// The default profile: all that a container needs, but nothing by which it would change the machine. It allows what
/// other runtimes' default profiles allow.
/// See <https://kubernetes.io/docs/tutorials/security/apparmor/>.
const PROFILE_TEXT: &str = "
profile skiff-default flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  umount,

  # The runtime and whoever administers the machine may end processes; processes of containers each other.
  signal (receive) peer=unconfined,
  signal (send, receive) peer=skiff-default,
  ptrace (trace, read, tracedby, readby) peer=skiff-default,

  # Of /proc, only a process's own files and shared memory's settings are written.
  deny /proc/* w,
  deny /proc/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,
  deny /proc/mem rwklx,
  deny /proc/kmem rwklx,

  # Mounts are the runtime's.
  deny mount,

  # Of /sys, nothing but cgroups.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
";

/// The security modules of the kernel that are in force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Modules {
    /// AppArmor.
    pub apparmor: bool,
    /// AppArmor, and the default profile is loaded.
    pub default_profile: bool,
    /// SELinux.
    pub selinux: bool,
}

impl Modules {
    /// Those of this machine.
    pub fn look() -> Self {
        let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
        let apparmor = enabled.is_ok_and(|text| text.trim() == "Y");
        Self {
            apparmor,
            default_profile: apparmor && has_default_profile(),
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        }
    }
}

/// Whether the default profile is loaded; it is, where the machine's tool can do it.
fn has_default_profile() -> bool {
    let is_loaded = std::fs::read_to_string(LOADED_PROFILES).is_ok_and(|list| lists(&list, DEFAULT_PROFILE));
    is_loaded
        || match load_default_profile() {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "containers have no default AppArmor profile");
                false
            }
        }
}

/// Whether a profile is in the kernel's list, `name (enforce)` in each line.
fn lists(list: &str, profile: &str) -> bool {
    list.lines().any(|line| line.rsplit_once(" (").is_some_and(|(name, _)| name == profile))
}

/// Has the system's own tool load the profile.
fn load_default_profile() -> std::io::Result<()> {
    let parser = PARSERS.iter().find(|path| Path::new(path).exists());
    let parser = parser.ok_or_else(|| std::io::Error::other("apparmor_parser is not installed"))?;
    let mut child = Command::new(parser)
        .args(["--replace", "--skip-cache"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(PROFILE_TEXT.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(std::io::Error::other(format!("apparmor_parser: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

/// The AppArmor profile of a container; empty for none.
///
/// # Errors
/// It names a profile, and the machine has no AppArmor.
pub fn apparmor(security: &LinuxContainerSecurityContext, modules: Modules) -> CriResult<String> {
    let profile = security.apparmor.as_ref();
    let kind = profile.and_then(|profile| ProfileType::try_from(profile.profile_type).ok());
    match (kind, profile) {
        (Some(ProfileType::Localhost), Some(profile)) if modules.apparmor => Ok(profile.localhost_ref.clone()),
        (Some(ProfileType::Localhost), Some(profile)) => Err(CriError::invalid_argument(format!(
            "apparmor is not supported on this machine, and profile {:?} is asked for",
            profile.localhost_ref
        ))),
        (Some(ProfileType::Unconfined), _) => Ok(String::new()),
        // What is privileged has the default profile only if it asks for it.
        (None, _) if security.privileged => Ok(String::new()),
        _ if modules.default_profile => Ok(DEFAULT_PROFILE.to_owned()),
        _ => Ok(String::new()),
    }
}

/// Refuses a profile that the kernel does not have. Where its list cannot be read, the container's start will tell.
///
/// # Errors
/// The profile is not loaded.
pub fn check_loaded(profile: &str) -> CriResult<()> {
    match std::fs::read_to_string(LOADED_PROFILES) {
        Ok(list) if !profile.is_empty() && !lists(&list, profile) => {
            Err(CriError::not_found(format!("apparmor profile not found {profile}")))
        }
        _ => Ok(()),
    }
}

/// The SELinux labels of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    /// Of its processes.
    pub process: String,
    /// Of its files.
    pub mount: String,
}

/// The labels that a container asks for; what it leaves out is as the policies of containers have it. None where it asks
/// for none or the kernel does not look at labels: they are ignored there, as other runtimes do.
pub fn labels(options: Option<&SeLinuxOption>, modules: Modules) -> Option<Labels> {
    let options = options.filter(|options| modules.selinux && **options != SeLinuxOption::default())?;
    let or = |given: &str, usual: &str| if given.is_empty() { usual.to_owned() } else { given.to_owned() };
    let (user, level) = (or(&options.user, "system_u"), or(&options.level, "s0"));
    let (role, kind) = (or(&options.role, "system_r"), or(&options.r#type, "container_t"));
    Some(Labels {
        process: format!("{user}:{role}:{kind}:{level}"),
        mount: format!("{user}:object_r:container_file_t:{level}"),
    })
}

/// Gives a volume and all that is in it a container's label. Links are labelled themselves, and other file systems left.
///
/// # Errors
/// The file system takes no label.
pub fn relabel(path: &Path, label: &str) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let text = std::ffi::CString::new(label).map_err(std::io::Error::other)?;
    let device = std::fs::symlink_metadata(path)?.dev();
    let mut left = vec![path.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = std::fs::symlink_metadata(&path)?;
        if metadata.dev() != device {
            continue;
        }
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(&path, c"security.selinux", text.as_bytes_with_nul(), flags)?;
        if metadata.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                left.push(entry?.path());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use skiff_cri::SecurityProfile;

    use super::*;

    const NONE: Modules = Modules { apparmor: false, default_profile: false, selinux: false };
    const ALL: Modules = Modules { apparmor: true, default_profile: true, selinux: true };

    fn asks(kind: Option<ProfileType>, privileged: bool) -> LinuxContainerSecurityContext {
        let apparmor = kind.map(|kind| SecurityProfile { profile_type: kind as i32, localhost_ref: "strict".into() });
        LinuxContainerSecurityContext { apparmor, privileged, ..Default::default() }
    }

    #[test]
    fn profiles_are_the_pods_own_the_default_one_or_none() {
        let check = |kind, privileged, modules| {
            apparmor(&asks(kind, privileged), modules).map_err(|error| error.message.split(',').next().map(str::len))
        };
        let without_tool = Modules { default_profile: false, ..ALL };
        assert_eq!(check(None, false, ALL), Ok(DEFAULT_PROFILE.to_owned()));
        assert_eq!(check(None, true, ALL), Ok(String::new()));
        assert_eq!(check(None, false, NONE), Ok(String::new()));
        assert_eq!(check(None, false, without_tool), Ok(String::new()));
        assert_eq!(check(Some(ProfileType::RuntimeDefault), true, ALL), Ok(DEFAULT_PROFILE.to_owned()));
        assert_eq!(check(Some(ProfileType::RuntimeDefault), false, NONE), Ok(String::new()));
        assert_eq!(check(Some(ProfileType::Unconfined), false, ALL), Ok(String::new()));
        assert_eq!(check(Some(ProfileType::Localhost), false, without_tool), Ok("strict".to_owned()));
        let refused = apparmor(&asks(Some(ProfileType::Localhost), false), NONE).expect_err("it is refused");
        assert_eq!(refused.message, "apparmor is not supported on this machine, and profile \"strict\" is asked for");
    }

    #[test]
    fn loaded_profiles_are_found_by_their_whole_names() {
        let list = "docker-default (enforce)\n/usr/bin/man (complain)\nskiff-default (enforce)\n";
        assert!(lists(list, DEFAULT_PROFILE) && lists(list, "/usr/bin/man"));
        assert!(!lists(list, "skiff") && !lists("", DEFAULT_PROFILE));
        assert!(PROFILE_TEXT.contains(&format!("profile {DEFAULT_PROFILE} ")), "the names are one");
    }

    #[test]
    fn labels_are_passed_on_where_the_kernel_looks_at_them() {
        let level = SeLinuxOption { level: "s0:c1,c2".into(), ..Default::default() };
        let all = SeLinuxOption { user: "u".into(), role: "r".into(), r#type: "spc_t".into(), level: "s1".into() };
        let check = |options: &SeLinuxOption, modules| {
            labels(Some(options), modules).map(|labels| format!("{} {}", labels.process, labels.mount))
        };
        let expected = "system_u:system_r:container_t:s0:c1,c2 system_u:object_r:container_file_t:s0:c1,c2";
        assert_eq!(check(&level, ALL).as_deref(), Some(expected));
        assert_eq!(check(&all, ALL).as_deref(), Some("u:r:spc_t:s1 u:object_r:container_file_t:s1"));
        assert_eq!(check(&level, NONE), None);
        assert_eq!(check(&SeLinuxOption::default(), ALL), None);
        assert_eq!(labels(None, ALL), None);
    }
}
