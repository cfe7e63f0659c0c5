//! How machines join a cluster: the token, trust in its servers, and the certificates of a node.

pub mod certificates;
pub mod commands;
pub mod member;
pub mod token;
pub mod trust;
