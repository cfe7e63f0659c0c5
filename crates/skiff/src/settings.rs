//! Settings of libraries that read them from the environment as a program starts, before it can say anything. A process
//! that lasts starts again in its place with those that are missing; whoever has set one knows better.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The allocator's: what is free for so many milliseconds goes back to the system. Describing the whole API takes tens of
/// megabytes for a moment, which would else be kept; giving back at once would cost lists half of their speed.
const MALLOC: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "10");
/// The C library's, `name=value:name=value`: from how many bytes on memory is copied by one instruction (`rep movsb`), and
/// never is what is meant. Before version 2.39 glibc does so from 2112 bytes on where the processor says that it is quick at
/// it. AMD's say so since the third generation of Zen, and are twenty times slower at it than at ordinary copying where
/// source and destination are aligned differently: a third of what a list cost the server. See
/// <https://sourceware.org/bugzilla/show_bug.cgi?id=30994>.
const COPIES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.cpu.x86_rep_movsb_threshold=0x4000000000000000");

/// Says that the process was started again. Where the system takes settings away from a program that it trusts less than the
/// user (`AT_SECURE`), they would be missing for ever.
const TRIED: &str = "SKIFF_SETTINGS_TRIED";

/// Starts this process again in its place, once, unless it has all settings. To be called before anything else is done.
///
/// # Errors
/// The program cannot be started again; then it may go on, slower and larger.
pub fn settle() -> io::Result<()> {
    let missing = missing(|name| std::env::var_os(name));
    if missing.is_empty() {
        return Ok(());
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    Err(Command::new("/proc/self/exe").arg0(name).args(arguments).envs(missing).exec())
}

/// The variables that are to be set, and to what.
fn missing(known: impl Fn(&str) -> Option<OsString>) -> Vec<(&'static str, OsString)> {
    if known(TRIED).is_some() {
        return Vec::new();
    }
    let malloc = known(MALLOC.0).is_none().then(|| (MALLOC.0, OsString::from(MALLOC.1)));
    let tunables = known(COPIES.0).unwrap_or_default();
    let tunable = COPIES.1.split('=').next().unwrap_or_default();
    let copies = (!tunables.to_string_lossy().contains(tunable)).then(|| {
        let mut all = tunables;
        if !all.is_empty() {
            all.push(":");
        }
        all.push(COPIES.1);
        (COPIES.0, all)
    });
    let mut all: Vec<_> = malloc.into_iter().chain(copies).collect();
    if !all.is_empty() {
        all.push((TRIED, "1".into()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(known: &[(&str, &str)]) -> Vec<(&'static str, String)> {
        let find = |name: &str| known.iter().find(|(own, _)| *own == name).map(|(_, value)| value.into());
        missing(find).into_iter().map(|(name, value)| (name, value.into_string().expect("text"))).collect()
    }

    #[test]
    fn what_others_have_set_stays() {
        let of = |(name, value): (&'static str, &str)| (name, value.to_owned());
        assert_eq!(told(&[]), [of(MALLOC), of(COPIES), of((TRIED, "1"))]);
        let other = "glibc.malloc.check=1";
        let both = format!("{other}:{}", COPIES.1);
        assert_eq!(told(&[(MALLOC.0, "0"), (COPIES.0, other)]), [(COPIES.0, both), of((TRIED, "1"))]);
        let own = "glibc.cpu.x86_rep_movsb_threshold=4096";
        assert_eq!(told(&[(MALLOC.0, "0"), (COPIES.0, own)]), [], "the user knows better");
    }

    #[test]
    fn what_is_taken_away_is_not_set_again() {
        assert_eq!(told(&[(MALLOC.0, "10"), (TRIED, "1")]), []);
    }
}
