//! Whole lives of Pods: a Pod in YAML and a script, played against a runtime of plain data on a clock that stands still;
//! what was done and shown comes out as text.

mod life;
mod resize;
mod restart_all;
mod world;
