//! A user namespace for a sandbox. This process stays outside of it, so that it can still mount the host's files for
//! containers; only the namespaces that belong to the sandbox are made inside, by a helper that ends at once.

use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::server::open_namespace;
use super::{Step, StepContext};
use crate::oci::{IdMaps, IdRange};
use crate::sys;

/// The namespaces that a sandbox may have of its own, and how `/proc` calls them.
const KINDS: [(libc::c_int, &str); 3] =
    [(libc::CLONE_NEWNET, "net"), (libc::CLONE_NEWIPC, "ipc"), (libc::CLONE_NEWUTS, "uts")];

/// Makes a user namespace with these ids, and in it the others of `flags`, which this process enters.
pub fn make(maps: &IdMaps, flags: libc::c_int) -> Step<OwnedFd> {
    let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (own, other) = pair.step(|| "make a socket pair".into())?;
    match sys::fork().step(|| "fork".into())? {
        sys::Fork::Child => {
            drop(own);
            if let Err(error) = help(&other, flags) {
                // If nobody listens any more there is nobody to tell.
                drop(sys::send_packet(other.as_fd(), format!("E{error}").as_bytes(), &[]));
            }
            sys::exit_now(0)
        }
        sys::Fork::Parent(pid) => {
            drop(other);
            hear(&own)?;
            let map = |file: &str, ranges: &[IdRange]| {
                let lines =
                    ranges.iter().map(|range| format!("{} {} {}\n", range.container_id, range.host_id, range.size));
                let path = format!("/proc/{pid}/{file}");
                std::fs::write(&path, lines.collect::<String>()).step(|| format!("write {file} of the user namespace"))
            };
            map("uid_map", &maps.uids)?;
            map("gid_map", &maps.gids)?;
            say(&own)?;
            hear(&own)?;
            let process = pid.to_string();
            let users = open_namespace(&process, "user")?;
            for (flag, kind) in KINDS.into_iter().filter(|(flag, _)| flags & flag != 0) {
                let namespace = open_namespace(&process, kind)?;
                sys::setns(namespace.as_fd(), flag).step(|| format!("join the sandbox's {kind} namespace"))?;
            }
            // The helper ends when this side of the socket is closed, and is reaped like everybody else.
            Ok(users)
        }
    }
}

/// The helper's part.
fn help(socket: &OwnedFd, flags: libc::c_int) -> Step<()> {
    sys::unshare(libc::CLONE_NEWUSER).step(|| "unshare user namespace".into())?;
    say(socket)?;
    hear(socket)?;
    sys::unshare(flags).step(|| "unshare the sandbox's namespaces".into())?;
    say(socket)?;
    // Until the namespaces are held by others.
    hear(socket)
}

fn say(socket: &OwnedFd) -> Step<()> {
    sys::send_packet(socket.as_fd(), b"+", &[]).step(|| "talk with the helper".into())
}

fn hear(socket: &OwnedFd) -> Step<()> {
    let mut buffer = [0; 512];
    match sys::receive_packet(socket.as_fd(), &mut buffer) {
        Ok((0, _)) => Err("the helper of the user namespace ended".to_owned()),
        Ok((length, _)) if buffer[0] == b'E' => Err(String::from_utf8_lossy(&buffer[1..length]).into_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("talk with the helper: {error}")),
    }
}
