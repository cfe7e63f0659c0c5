//! The EndpointSlices of a Service, found without a look at all others: one index for all who read them in a process.

use std::borrow::Cow;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::{Index, Informer, ObjectKey};

/// The label that names a slice's Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The Service that a slice belongs to.
pub fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    Some(ObjectKey::new(slice.metadata.namespace.as_deref().unwrap_or_default(), service_name(slice)?))
}

/// Its name alone.
pub fn service_name(slice: &EndpointSlice) -> Option<&str> {
    Some(slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?)
}

/// Slices by their Service. Cheap to clone.
#[derive(Clone)]
pub struct SlicesOfServices(Index<EndpointSlice>);

impl SlicesOfServices {
    /// Reads through an informer.
    pub fn new(slices: &Informer<EndpointSlice>) -> Self {
        Self(slices.index("service", |slice| service_of(slice).map(|key| Cow::Owned(key.to_string()))))
    }

    /// Those of one Service, in the order of their names.
    pub fn of(&self, service: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
        self.0.of(&service.to_string())
    }
}
