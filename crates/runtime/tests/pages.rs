//! What a process has mapped of its own program, given back while it runs.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::collections::BTreeMap;

/// The pages of files that this process has mapped, in KiB.
fn mapped() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Something of which the program's code and constants decide.
fn work() -> String {
    let names: BTreeMap<u32, String> =
        (0..100).map(|number| (number, format!("{:?}", "name".repeat(number as usize % 3)))).collect();
    let (text, parsed): (_, serde_json::Value) =
        (serde_json::to_string(&names).unwrap(), serde_json::json!({"a": [1]}));
    format!("{text}{parsed}")
}

#[test]
fn a_program_runs_on_without_the_pages_it_gave_back() {
    let (said, before) = (work(), mapped());
    // Others look at it all the time, so that it is given back under their feet too.
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..2).map(|_| scope.spawn(|| (0..500).map(|_| work()).all(|again| again == work()))).collect();
        for _ in 0..50 {
            assert!(skiff_runtime::pages::give_back().unwrap() > 0, "the program has pages");
        }
        assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
    });
    skiff_runtime::pages::give_back().unwrap();
    let after = mapped();
    assert!(after < before, "{after} KiB are mapped, and {before} KiB were before");
    assert_eq!(work(), said);
}
