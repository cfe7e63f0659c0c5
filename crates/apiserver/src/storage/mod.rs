//! Between the store and the requests: keys, the catalogue of what is served, and the watch cache.

pub mod cache;
pub mod catalogue;
pub mod events;
mod facts;
pub mod filter;
pub mod hub;
pub mod keys;
pub mod line;
pub mod parts;
