//! Cluster IPs and node ports: reserved before a Service is written, given back when the write fails or the Service goes.

use skiff_object::Object;

use crate::config::Config;
use crate::failure::Result;
use crate::storage::catalogue::Catalogue;
use crate::write::Target;

/// What Services have taken.
pub struct Allocators {}

/// What one write has reserved; given back unless the write commits.
pub struct Reservation {}

impl Reservation {
    /// The write is done: what was reserved stays taken.
    pub fn commit(self) {}
}

impl Allocators {
    /// Repaired from the store's content.
    pub fn new(_config: &Config, _catalogue: &Catalogue) -> Result<Self> {
        Ok(Self {})
    }

    /// Reserves what an object asks for.
    pub(crate) fn begin(&self, _target: &Target<'_>, _new: &mut Object, _old: Option<&Object>) -> Result<Reservation> {
        Ok(Reservation {})
    }

    /// Gives back what a removed object had.
    pub(crate) fn release(&self, _target: &Target<'_>, _object: &Object) {}
}
