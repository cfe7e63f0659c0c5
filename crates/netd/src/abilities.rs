//! Whether the kernel can do what the network needs. It is tried out, in a namespace that is thrown away: lists of
//! modules do not tell what is built in, and the kernel loads by itself what is asked for and there.

use nix::sched::{CloneFlags, unshare};

use crate::family::Family;
use crate::netlink::{Batch, NetlinkError, Protocol, Socket};
use crate::pods::link;
use crate::rules::kernel::KernelRules;

/// What was tried, each with why it cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abilities {
    /// Bridges.
    pub bridge: Result<(), String>,
    /// Pairs of virtual interfaces.
    pub veth: Result<(), String>,
    /// Packet rules.
    pub nftables: Result<(), String>,
}

impl Abilities {
    /// Tries them; takes about a millisecond.
    ///
    /// # Errors
    /// There can be no namespace to try them in: mostly because the caller is not root.
    pub fn observe() -> std::io::Result<Self> {
        let in_a_namespace = || -> std::io::Result<Self> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let told = |outcome: Result<(), NetlinkError>| outcome.map_err(|error| error.to_string());
            Ok(Self {
                bridge: told(make_link("bridge")),
                veth: told(make_link("veth")),
                nftables: told(KernelRules::open(Family::V4).and_then(|rules| rules.exist().map(drop))),
            })
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("abilities".into()).spawn_scoped(scope, in_a_namespace)?;
            thread.join().map_err(|_| std::io::Error::other("trying the kernel's abilities panicked"))?
        })
    }
}

fn make_link(kind: &'static str) -> Result<(), NetlinkError> {
    let mut batch = Batch::new();
    link::add_plain(&mut batch, &format!("try-{kind}"), kind);
    Socket::open(Protocol::Route)?.execute(&batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_runs_these_tests_has_them_all() {
        let abilities = Abilities::observe().expect("a namespace");
        assert_eq!(abilities, Abilities { bridge: Ok(()), veth: Ok(()), nftables: Ok(()) });
    }

    #[test]
    fn what_the_kernel_lacks_is_told() {
        let inside = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
            make_link("nothing").map_err(|error| error.errno())
        };
        let outcome = std::thread::spawn(inside).join().expect("no panic");
        assert_eq!(outcome, Err(Some(nix::errno::Errno::EOPNOTSUPP)));
    }
}
