//! The rules of this node: planned from Services, endpoints and host ports, changed element by element in the kernel.
//! All of it is written once for both families of addresses; each has a table of its own.

pub mod api;
mod elements;
mod encode;
mod expressions;
mod frame;
pub mod kernel;
mod language;
pub mod policy;
mod ruleset;
pub mod service;
#[cfg(test)]
pub(crate) mod tests;
mod text;
pub mod topology;

pub use elements::{Elements, Place};
pub use encode::TABLE;
pub use frame::{Frame, REJECT_CHAIN, Shared, Spread};
pub use language::{
    Base, Draw, Endpoint, Hook, Is, Key, KeyType, MASQUERADE_MARK, Refusal, Rule, ServiceId, Set, SetKind, Side,
    Statement, Value, ValueType, Verdict, Whose,
};
pub use ruleset::{Change, Fragment, Ruleset, Transaction};
