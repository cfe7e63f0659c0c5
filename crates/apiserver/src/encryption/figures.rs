//! The figures of encryption at rest, with upstream's names.

use std::time::Duration;

use skiff_base::Timestamp;
use skiff_base::figures::Family;

/// Which way a value goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Into the store.
    ToStorage,
    /// Out of it.
    FromStorage,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::ToStorage => "to_storage",
            Self::FromStorage => "from_storage",
        }
    }
}

static OPERATIONS: Family =
    Family::counter("apiserver_storage_transformation_operations_total", "Total number of transformations.");
static DURATION: Family = Family::histogram(
    "apiserver_storage_transformation_duration_seconds",
    "Latencies in seconds of value transformation operations.",
    5,
    2,
    25,
);
static CACHE_MISSES: Family = Family::counter(
    "apiserver_storage_envelope_transformation_cache_misses_total",
    "Total number of cache misses while accessing key decryption key(KEK).",
);
static GENERATION: Family = Family::histogram(
    "apiserver_storage_data_key_generation_duration_seconds",
    "Latencies in seconds of data encryption key(DEK) generation operations.",
    5,
    2,
    14,
);
static GENERATION_FAILURES: Family = Family::counter(
    "apiserver_storage_data_key_generation_failures_total",
    "Total number of failed data encryption key(DEK) generation operations.",
);
static LATENCY: Family = Family::histogram(
    "apiserver_envelope_encryption_kms_operations_latency_seconds",
    "KMS operation duration with gRPC error code status total.",
    100,
    2,
    20,
);
static KEY_IDS: Family = Family::counter(
    "apiserver_envelope_encryption_key_id_hash_total",
    "Number of times a keyID is used split by transformation type and provider.",
);
static KEY_ID_LAST: Family = Family::gauge(
    "apiserver_envelope_encryption_key_id_hash_last_timestamp_seconds",
    "The last time in seconds when a keyID was used.",
);
static KEY_ID_STATUS_LAST: Family = Family::gauge(
    "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds",
    "The last time in seconds when a keyID was returned by the Status RPC call.",
);
static INVALID_KEY_IDS: Family = Family::counter(
    "apiserver_envelope_encryption_invalid_key_id_from_status_total",
    "Number of times an invalid keyID is returned by the Status RPC call split by error.",
);
static SOURCES: Family = Family::gauge(
    "apiserver_envelope_encryption_dek_source_cache_size",
    "Number of records in data encryption key (DEK) source cache. On a restart, this value is an approximation of \
     the number of decrypt RPC calls the server will make to the KMS plugin.",
);

/// A value was encrypted or decrypted, or was not; `status` is gRPC's code of the failure.
pub fn transformed(way: Way, prefix: &str, status: &str, took: Duration) {
    let labels = format!("transformation_type={:?},transformer_prefix={prefix:?}", way.name());
    OPERATIONS.with(&format!("status={status:?},{labels}")).inc();
    if status == "OK" {
        DURATION.with(&labels).took(took);
    }
}

/// A plugin was asked to decrypt a seed.
pub fn missed() {
    CACHE_MISSES.with("").inc();
}

/// A seed was made, or could not be.
pub fn generated(took: Duration, is_made: bool) {
    if is_made { GENERATION.with("").took(took) } else { GENERATION_FAILURES.with("").inc() }
}

/// A plugin was called.
pub fn called(provider: &str, method: &str, status: &str, took: Duration) {
    let labels = format!("grpc_status_code={status:?},method_name={method:?},provider_name={provider:?}");
    LATENCY.with(&labels).took(took);
}

/// A plugin's key was used.
pub fn key_used(way: Way, provider: &str, hash: &str, now: Timestamp) {
    let labels = format!("key_id_hash={hash:?},provider_name={provider:?},transformation_type={:?}", way.name());
    KEY_IDS.with(&labels).inc();
    KEY_ID_LAST.with(&labels).set(seconds(now));
}

/// A plugin named its key.
pub fn key_named(provider: &str, hash: &str, now: Timestamp) {
    KEY_ID_STATUS_LAST.with(&format!("key_id_hash={hash:?},provider_name={provider:?}")).set(seconds(now));
}

/// A plugin named a key that cannot be one.
pub fn key_refused(provider: &str, error: &str) {
    INVALID_KEY_IDS.with(&format!("error={error:?},provider_name={provider:?}")).inc();
}

/// So many seeds are known.
pub fn sources(provider: &str, count: usize) {
    SOURCES.with(&format!("provider_name={provider:?}")).set(count as f64);
}

fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}
