//! Hands transactions to the kernel.

use nix::errno::Errno;

use super::encode;
use super::ruleset::{Ruleset, Transaction};
use crate::netlink::{NetlinkError, Protocol, Socket};

/// The kernel's copy of the rules, in the network namespace in which this was opened.
pub struct KernelRules {
    socket: Socket,
}

impl KernelRules {
    /// Opens the way to the kernel; changes nothing.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { socket: Socket::open(Protocol::Netfilter)? })
    }

    /// Whether our table is there.
    pub fn exist(&self) -> Result<bool, NetlinkError> {
        match self.socket.execute(&encode::presence()) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts these rules in place of whatever was there, in one step.
    pub fn recreate(&self, ruleset: &Ruleset) -> Result<(), NetlinkError> {
        self.socket.execute(&encode::recreation(&ruleset.creation()))
    }

    /// Applies a change.
    pub fn update(&self, transaction: &Transaction) -> Result<(), NetlinkError> {
        for step in [transaction.preparation(), transaction.changes()] {
            if !step.is_empty() {
                self.socket.execute(&encode::update(step))?;
            }
        }
        Ok(())
    }

    /// Removes our table; no error if it is not there.
    pub fn remove(&self) -> Result<(), NetlinkError> {
        self.socket.execute(&encode::removal())
    }
}
