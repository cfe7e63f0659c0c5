//! User namespaces of pods: whether the kernel can do them.

use std::sync::OnceLock;

/// Overlays can stand on layers with mapped ids from this version on.
const NEEDED: (u32, u32) = (5, 19);

/// Whether pods can have user namespaces here; else why not.
///
/// # Errors
/// They cannot; the error says what is missing.
pub fn supported() -> Result<(), String> {
    static ANSWER: OnceLock<Result<(), String>> = OnceLock::new();
    ANSWER
        .get_or_init(|| {
            let release = rustix::system::uname().release().to_string_lossy().into_owned();
            let limit = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").ok();
            judge(&release, limit.as_deref())
        })
        .clone()
}

fn judge(release: &str, limit: Option<&str>) -> Result<(), String> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < NEEDED {
        let (major, minor) = NEEDED;
        return Err(format!("user namespaces need Linux {major}.{minor} or newer, and this is {release}"));
    }
    match limit.map(str::trim) {
        None => Err("this kernel has no user namespaces".to_owned()),
        Some("0") => Err("user namespaces are switched off (sysctl user.max_user_namespaces is 0)".to_owned()),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said() {
        assert_eq!(judge("6.1.0-18-amd64", Some("7000\n")), Ok(()));
        assert_eq!(
            judge("5.15.0", Some("1")).expect_err("too old"),
            "user namespaces need Linux 5.19 or newer, and this is 5.15.0"
        );
        assert!(judge("6.1.0", Some("0\n")).expect_err("off").contains("switched off"));
        assert!(judge("6.1.0", None).is_err());
    }
}
