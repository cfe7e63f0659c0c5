//! Persistent storage: claims and volumes brought together, protected, and attached to nodes. Volumes are made by provisioners, which are
//! parts of their own: CSI drivers, or the node for its own disk.

mod attach;
mod binder;
mod ephemeral;
mod protect;

pub use attach::Attacher;
pub use binder::Binder;
pub use ephemeral::EphemeralVolumes;
pub use protect::{Claims as ClaimProtection, Volumes as VolumeProtection};
