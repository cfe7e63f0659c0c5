//! The netlink toolbox: building messages, sending a batch in one system call, reading what the kernel says.
//! What the messages mean is the business of [`crate::pods`] (links and routes) and of the rules (nftables).

mod socket;
mod wire;

pub use socket::{Namespace, NetlinkError, Protocol, Socket};
pub use wire::{Attributes, Batch, Message, Nested, attribute, attributes};
