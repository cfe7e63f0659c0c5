//! The kinds of `events.k8s.io`.

pub mod event;
