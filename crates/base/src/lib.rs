//! The ground that every other crate stands on: time, schedules, ids, quantities, back-off, allowances, what is remembered for a while, feature gates, figures, and ranges of addresses.
//! Nothing here does I/O, and nothing here knows Kubernetes' kinds.

pub mod backoff;
pub mod bucket;
pub mod cidr;
pub mod clock;
pub mod cron;
pub mod duration;
pub mod figures;
pub mod gates;
pub mod ids;
pub mod quantity;
pub mod remembered;

pub use cidr::{Cidr, Family};
pub use clock::{Clock, SystemClock, Timestamp};
pub use quantity::Quantity;
