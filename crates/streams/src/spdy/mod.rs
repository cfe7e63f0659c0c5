//! SPDY/3.1 as Kubernetes' clients speak it: many streams over one connection, opened by the client.
//! See the SPDY protocol drafts 3 and 3.1.

mod connection;
mod frame;
mod headers;

pub(crate) use connection::{Incoming, Opened, serve};
