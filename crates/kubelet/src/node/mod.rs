//! The Node object: what the machine is, whether it is well, and the lease that says that it lives.

pub mod facts;
pub mod guard;
pub mod keeper;
pub mod news;
pub mod object;
pub mod shutdown;
