//! Pages of the program's own file that this process has mapped. Every page that was ever looked at counts as its memory
//! until the kernel runs short, though most of them are what a start goes through once.
#![allow(unsafe_code, reason = "memory is given back by its address; what is given back is read from the file again")]

use std::io;
use std::ops::Range;

/// Gives back all of them, and says how many bytes of the program that was asked for. What is needed after all is mapped
/// again by the kernel when it is looked at, from its cache of files.
///
/// # Errors
/// The process file system cannot be read, or the kernel refuses.
pub fn give_back() -> io::Result<usize> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    let mappings = unwritten(&smaps, &program.to_string_lossy());
    for mapping in &mappings {
        // SAFETY: these are whole mappings of the program's file that hold nothing but what is in the file and cannot be
        // written to. They are there until the process ends, and the kernel reads from the file again what is dropped.
        let result = unsafe { libc::madvise(mapping.start as *mut _, mapping.len(), libc::MADV_DONTNEED) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(mappings.iter().map(ExactSizeIterator::len).sum())
}

/// The mappings of a file in a process's `/proc/self/smaps` that hold nothing but what is in the file: they cannot be written
/// to, and were not before. A static program's relocated tables are read-only too by now, but were written at its start.
fn unwritten(smaps: &str, file: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    // The mapping that the lines are about, until one of them says that it will not do.
    let mut candidate = None;
    for line in smaps.lines() {
        let Some((key, value)) = line.split_once(':').filter(|(key, _)| !key.contains(' ')) else {
            candidate = mapping(line, file);
            continue;
        };
        let is_none = value.trim() == "0 kB";
        match key {
            // What was written to is anonymous memory since then, or stands in a swap area.
            "Anonymous" if is_none => {}
            "Swap" if is_none => found.extend(candidate.take()),
            "Anonymous" | "Swap" => candidate = None,
            _ => {}
        }
    }
    found
}

/// The addresses of a mapping that can only be read, if it is one of the file: `START-END r-xp OFFSET DEVICE INODE   PATH`.
fn mapping(line: &str, file: &str) -> Option<Range<usize>> {
    let (addresses, rest) = line.split_once(' ')?;
    let (rights, rest) = rest.split_once(' ')?;
    let path = rest.splitn(4, ' ').nth(3)?.trim_start();
    let is_clean = matches!(rights, "r--p" | "r-xp") && path == file;
    let (start, end) = addresses.split_once('-').filter(|_| is_clean)?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
00400000-00c00000 r--p 00000000 fe:00 1311                               /opt/a b/skiff
Size:               8192 kB
Rss:                4096 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd mr mw me sd
00c00000-02000000 r-xp 00800000 fe:00 1311                               /opt/a b/skiff
Anonymous:             0 kB
Swap:                  0 kB
02000000-02200000 r--p 01c00000 fe:00 1311                               /opt/a b/skiff
Anonymous:           160 kB
Swap:                  0 kB
02200000-02300000 r--p 01e00000 fe:00 1311                               /opt/a b/skiff
Anonymous:             0 kB
Swap:                160 kB
02300000-02400000 rw-p 01f00000 fe:00 1311                               /opt/a b/skiff
Anonymous:             0 kB
Swap:                  0 kB
7f0000000000-7f0000200000 r--p 00000000 fe:00 77                         /opt/a b/skiff.db
Anonymous:             0 kB
Swap:                  0 kB
7f0000200000-7f0000400000 r--p 00000000 00:00 0
Anonymous:             0 kB
Swap:                  0 kB
7ffd00000000-7ffd00004000 r--p 00000000 00:00 0                          [vvar]
Anonymous:             0 kB
Swap:                  0 kB
";

    fn check(smaps: &str, file: &str, expected: &[Range<usize>]) {
        assert_eq!(unwritten(smaps, file), expected);
    }

    #[test]
    fn only_what_stands_in_the_programs_file_is_given_back() {
        check(SMAPS, "/opt/a b/skiff", &[0x40_0000..0xc0_0000, 0xc0_0000..0x200_0000]);
        check(SMAPS, "/opt/a b/skiff (deleted)", &[]);
        // A kernel that does not say what was written to.
        check(&SMAPS.replace("Swap:", "Other:"), "/opt/a b/skiff", &[]);
    }
}
