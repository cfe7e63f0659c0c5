//! A whole control plane in one process: the API server, all controllers, the scheduler and nodes that are only said to be
//! there, on virtual time, with faults that a seed decides. Every write is looked at when it happens, so that what must
//! never be is found wherever it is. Nothing here is part of the program.

mod faults;
mod properties;
mod store;
mod world;

pub use world::{Run, run};
