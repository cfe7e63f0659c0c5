//! Kernel parameters under `/proc/sys/net`, which always shows the calling thread's network namespace.

use std::io;
use std::path::Path;

/// Sets a parameter such as `ipv4/ip_forward`; leaves it alone if it has the value already, so that a read-only
/// `/proc/sys` is no obstacle where nothing needs to change.
pub(crate) fn set(name: &str, value: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys/net").join(name);
    if std::fs::read_to_string(&path)?.trim() == value {
        return Ok(());
    }
    std::fs::write(path, value)
}
