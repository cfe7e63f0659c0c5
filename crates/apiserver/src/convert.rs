//! Conversion between kinds that share one storage; the rules are the kinds' own.

pub use skiff_kinds::convert::{Conversion, conversion};
