//! The functions of the language and of Kubernetes' libraries, by what they work on.

pub mod basic;
pub mod kube;
pub mod lists;
pub mod net;
pub mod patch;
pub mod text;
pub mod when;
