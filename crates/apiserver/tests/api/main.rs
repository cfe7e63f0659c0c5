//! The API server as its clients see it: requests in, answers out.

mod access;
mod aggregated;
mod custom;
mod documents;
mod entries;
mod every_kind;
mod forms;
mod guarded;
mod lists;
mod objects;
mod operating;
mod owners;
mod pods;
mod policies;
mod served;
mod strangers;
mod support;
mod webhooks;
