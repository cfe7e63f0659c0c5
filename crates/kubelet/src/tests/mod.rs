//! The whole agent against a small API in memory and a runtime that only pretends.

mod api;
mod whole;
