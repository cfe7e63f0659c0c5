//! The controllers: one module each, deciding purely from what its caches show, and one runner that carries plans out.
//! Nothing here knows the store or the server; everything is learnt and done through the API.

mod deployment;
mod expectations;
mod meta;
mod plan;
mod pods;
mod replicas;
mod runner;
#[cfg(test)]
mod testing;
