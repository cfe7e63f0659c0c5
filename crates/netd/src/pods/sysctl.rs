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

/// A machine that forwards IPv6 does not listen to routers any more unless it is told to all the same: those interfaces
/// that do now go on, so that the machine keeps the addresses and the default route that it has from them.
pub(crate) fn keep_router_advertisements() -> io::Result<()> {
    let folder = Path::new("/proc/sys/net/ipv6/conf");
    if std::fs::read_to_string(folder.join("all/forwarding"))?.trim() == "1" {
        return Ok(());
    }
    for interface in std::fs::read_dir(folder)? {
        let interface = interface?;
        // Those that are yet to come are not all the machine's: nothing is assumed of them.
        if ["all", "default"].iter().any(|name| interface.file_name() == *name) {
            continue;
        }
        let path = interface.path().join("accept_ra");
        // An interface may go at any time.
        if std::fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1") {
            std::fs::write(path, "2")?;
        }
    }
    Ok(())
}
