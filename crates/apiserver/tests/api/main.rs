//! The API server as its clients see it: requests in, answers out.

mod access;
mod aggregated;
mod audited;
mod bundles;
mod conformance;
mod custom;
mod deciders;
mod distributed;
mod documents;
mod encrypted;
mod entries;
#[path = "../../../store/tests/suite/etcd.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "a fixture, of which these tests need a part")]
mod etcd;
mod every_kind;
mod exchanged;
mod fair;
mod families;
mod forms;
mod groups;
mod guarded;
mod issuers;
mod lists;
mod objects;
mod operating;
mod owners;
mod peer;
mod plugin;
mod pods;
mod policies;
mod served;
mod slow;
mod smuggling;
mod strangers;
mod support;
mod threats;
mod webhooks;
