//! Snapshot, plugins, queue and one bind loop.
