//! Kinds that are served only as subresources of others.

pub mod eviction;
pub mod scale;
pub mod token_request;
