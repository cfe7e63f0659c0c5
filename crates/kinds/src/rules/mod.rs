//! What several kinds share: pod templates, containers, volumes, selectors, table cells, the ways of writing.
//! A rule that belongs to one kind alone stands in that kind's file.

pub mod container_defaults;
pub mod pod_defaults;
pub mod prepare;
pub mod table;
pub mod tree;
