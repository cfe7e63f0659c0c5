//! Whether a process hears a signal. The kernel drops signals to the first process of a pid namespace that has no handler for
//! them, so whoever waits for such a process to end waits in vain.

/// What becomes of a signal that is sent to a process now. One that is gone, or cannot be looked at, may have heard it.
pub fn is_dropped(pid: u32, signal: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| drops(&status, signal))
}

/// The same, by what `/proc/PID/status` says.
fn drops(status: &str, signal: i32) -> bool {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim));
    let is_in = |name: &str| {
        let mask = field(name).and_then(|text| u64::from_str_radix(text, 16).ok());
        mask.is_none_or(|mask| mask >> (signal - 1) & 1 == 1)
    };
    // A signal that is blocked waits to be fetched.
    if !(1..=64).contains(&signal) || is_in("SigBlk") || is_in("SigCgt") {
        return false;
    }
    let is_first = field("NSpid").is_some_and(|pids| pids.split_whitespace().nth(1).is_some() && pids.ends_with("\t1"));
    is_first || is_in("SigIgn")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_first_process_without_a_handler_drops_a_signal() {
        let status = |pids: &str, blocked: u64, ignored: u64, caught: u64| {
            format!(
                "Name:\tx\nNSpid:\t{pids}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n"
            )
        };
        const TERM: u64 = 1 << 14;
        let drops_term = |status: &str| drops(status, 15);
        assert!(drops_term(&status("4711\t1", 0, 0, 1)), "it is the first of its namespace");
        assert!(!drops_term(&status("4711\t1", 0, 0, TERM)), "it has a handler");
        assert!(!drops_term(&status("4711\t1", TERM, 0, 0)), "it fetches what comes");
        assert!(!drops_term(&status("4711\t11", 0, 0, 0)), "it ends as any process does");
        assert!(!drops_term(&status("1", 0, 0, 0)), "it shares the namespace of whoever looks");
        assert!(drops_term(&status("4711", 0, TERM, 0)), "it ignores what comes");
        assert!(!drops_term("Name:\tx\n"), "nothing is known of it");
    }
}
