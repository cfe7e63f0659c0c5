//! What a process that lasts gives back while it has little to do: the pages of the program. A start goes through much of
//! it once, and so does whatever happens now and then; they would count as memory of the node for ever.

use std::fs;
use std::io;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use skiff_runtime::pages;

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(5);
/// So much processor time from one look to the next is little to do: a twentieth of one processor.
const LITTLE: Duration = Duration::from_millis(250);
/// Fewer bytes are not worth to be looked at again.
const WORTH_BYTES: u64 = 4 << 20;

/// Gives pages back whenever there are some that nobody needs, for ever.
pub async fn keep() {
    let (mut needs, mut worked) = (Needs::default(), Duration::ZERO);
    loop {
        tokio::time::sleep(LOOK).await;
        if let Err(error) = look(&mut needs, &mut worked) {
            tracing::debug!(%error, "the program's pages are not given back");
            return;
        }
    }
}

fn look(needs: &mut Needs, worked: &mut Duration) -> io::Result<()> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let now = duration(usage.user_time()) + duration(usage.system_time());
    let since = now.saturating_sub(std::mem::replace(worked, now));
    let status = fs::read_to_string("/proc/self/status")?;
    let mapped_bytes = mapped(&status).ok_or(io::ErrorKind::InvalidData)?;
    if needs.decide(since, mapped_bytes) {
        let bytes = pages::give_back()?;
        tracing::debug!(mapped_bytes, bytes, "gave the program's pages back");
    }
    Ok(())
}

/// The bytes of files that are mapped, by `/proc/self/status`.
fn mapped(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssFile:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

fn duration(time: TimeVal) -> Duration {
    let part = |number: i64| u64::try_from(number).unwrap_or(0);
    Duration::from_secs(part(time.tv_sec())) + Duration::from_micros(part(time.tv_usec()))
}

/// What is known of the pages that are needed while there is little to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Needs {
    #[default]
    Unknown,
    /// All were given back; those that are there at the next look are needed.
    Learning,
    Known(u64),
}

impl Needs {
    /// Whether to give them back, by the processor time since the last look and what is mapped.
    fn decide(&mut self, worked: Duration, mapped_bytes: u64) -> bool {
        let (next, wanted) = match *self {
            _ if worked > LITTLE => (Self::Unknown, false),
            Self::Unknown => (Self::Learning, true),
            Self::Learning => (Self::Known(mapped_bytes), false),
            Self::Known(needed) if mapped_bytes > needed + WORTH_BYTES => (Self::Learning, true),
            known @ Self::Known(_) => (known, false),
        };
        *self = next;
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(looks: &[(u64, u64, bool)]) {
        let mut needs = Needs::default();
        let decided: Vec<_> = looks
            .iter()
            .map(|&(milliseconds, mib, _)| {
                (milliseconds, mib, needs.decide(Duration::from_millis(milliseconds), mib << 20))
            })
            .collect();
        assert_eq!(decided, looks);
    }

    #[test]
    fn pages_are_given_back_once_there_is_little_to_do() {
        check(&[(4000, 25, false), (10, 25, true), (10, 6, false), (10, 7, false)]);
    }

    #[test]
    fn what_comes_by_and_by_is_given_back_when_it_is_much() {
        check(&[(10, 25, true), (10, 6, false), (100, 10, false), (100, 11, true), (10, 7, false), (10, 11, false)]);
    }

    #[test]
    fn what_much_work_needs_says_nothing_of_what_little_needs() {
        check(&[(10, 25, true), (900, 20, false), (10, 20, true), (10, 6, false)]);
    }

    #[test]
    fn the_kernel_says_what_is_mapped() {
        assert_eq!(mapped("RssAnon:\t    512 kB\nRssFile:\t   1024 kB\nRssShmem:\t 0 kB\n"), Some(1 << 20));
        assert!(mapped(&fs::read_to_string("/proc/self/status").expect("readable")).is_some_and(|bytes| bytes > 0));
    }
}
