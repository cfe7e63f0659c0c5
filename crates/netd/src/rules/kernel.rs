//! Hands transactions to the kernel.

use nix::errno::Errno;

use super::encode;
use super::ruleset::{Ruleset, Transaction};
use crate::family::Family;
use crate::netlink::{NetlinkError, Protocol, Socket};

/// The kernel's copy of one family's rules, in the network namespace in which this was opened.
pub struct KernelRules {
    socket: Socket,
    family: Family,
}

impl KernelRules {
    /// Opens the way to the kernel; changes nothing.
    pub fn open(family: Family) -> Result<Self, NetlinkError> {
        Ok(Self { socket: Socket::open(Protocol::Netfilter)?, family })
    }

    /// Whether our table is there.
    pub fn exist(&self) -> Result<bool, NetlinkError> {
        match self.socket.execute(&encode::presence(self.family)) {
            Ok(()) => Ok(true),
            Err(error) if [Some(Errno::ENOENT), Some(Errno::EAFNOSUPPORT)].contains(&error.errno()) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts these rules in place of whatever was there, in one step.
    pub fn recreate(&self, ruleset: &Ruleset) -> Result<(), NetlinkError> {
        self.socket.execute(&encode::recreation(self.family, &ruleset.creation()))
    }

    /// Applies a change.
    pub fn update(&self, transaction: &Transaction) -> Result<(), NetlinkError> {
        for step in [transaction.preparation(), transaction.changes()] {
            if !step.is_empty() {
                self.socket.execute(&encode::update(self.family, step))?;
            }
        }
        Ok(())
    }

    /// Removes our table; no error if it is not there, or if the kernel has no such family.
    pub fn remove(&self) -> Result<(), NetlinkError> {
        if self.exist()? { self.socket.execute(&encode::removal(self.family)) } else { Ok(()) }
    }
}
