//! What is stored of a value that a KMS plugin guards: the value under a key of its own, and the seed of such keys under
//! the plugin's key. Pure: nobody is called here.
//! See <https://kubernetes.io/docs/tasks/administer-cluster/kms-provider/>.

use std::collections::BTreeMap;

use prost::Message;
use ring::digest::{SHA256, digest};
use skiff_object::names;

use crate::encryption::ciphers::{Cipher, Result};

const MAX_KEY_ID_BYTES: usize = 1024;
const MAX_SOURCE_BYTES: usize = 1024;
const MAX_ANNOTATIONS_BYTES: usize = 32 * 1024;
/// The source is a key of AES-GCM.
const KEY: i32 = 0;
/// The source is a seed; every value has a key of its own, derived from it.
pub const SEED: i32 = 1;

/// What is stored, as upstream's message.
#[derive(Clone, PartialEq, Message)]
pub struct EncryptedObject {
    /// The encrypted value.
    #[prost(bytes = "vec", tag = "1")]
    pub data: Vec<u8>,
    /// The plugin's name of its key.
    #[prost(string, tag = "2")]
    pub key_id: String,
    /// The seed, encrypted by the plugin.
    #[prost(bytes = "vec", tag = "3")]
    pub source: Vec<u8>,
    /// What the plugin wants to be told when it decrypts the seed.
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub annotations: BTreeMap<String, Vec<u8>>,
    /// What the source is.
    #[prost(int32, tag = "5")]
    pub source_type: i32,
}

impl EncryptedObject {
    /// Whether it is whole.
    ///
    /// # Errors
    /// It is not, in upstream's words.
    pub fn check(&self) -> Result<()> {
        if self.data.is_empty() {
            return Err("encrypted data is empty".into());
        }
        self.check_head()
    }

    /// The same of what comes from the plugin.
    ///
    /// # Errors
    /// As [`EncryptedObject::check`].
    pub fn check_head(&self) -> Result<()> {
        if self.source_type != KEY && self.source_type != SEED {
            return Err(format!("unknown encryptedDEKSourceType: {}", self.source_type));
        }
        let length = self.source.len();
        let fault = "failed to validate encrypted DEK source";
        if length == 0 {
            return Err(format!("{fault}: encrypted DEK source is empty"));
        }
        if length > MAX_SOURCE_BYTES {
            let most = MAX_SOURCE_BYTES;
            return Err(format!(
                "{fault}: encrypted DEK source is {length} bytes, which exceeds the max size of {most}"
            ));
        }
        check_key_id(&self.key_id).map_err(|(_, why)| format!("failed to validate key id: {why}"))?;
        self.check_annotations().map_err(|why| format!("failed to validate annotations: {why}"))
    }

    fn check_annotations(&self) -> Result<()> {
        for name in self.annotations.keys() {
            let mut faults = names::check_dns_subdomain(name);
            if faults.is_empty() && !name.contains('.') {
                faults.push("should be a domain with at least two segments separated by dots".to_owned());
            }
            if !faults.is_empty() {
                return Err(format!("annotations: Invalid value: {name:?}: {}", faults.join(", ")));
            }
        }
        let size: usize = self.annotations.iter().map(|(name, value)| name.len() + value.len()).sum();
        if size > MAX_ANNOTATIONS_BYTES {
            let most = MAX_ANNOTATIONS_BYTES;
            return Err(format!("total size of annotations is {size}, which exceeds the max size of {most}"));
        }
        Ok(())
    }

    /// By what the decrypted source is known: all that the plugin is told of it.
    pub fn identity(&self) -> Vec<u8> {
        Self { data: Vec::new(), ..self.clone() }.encode_to_vec()
    }

    /// The cipher of a decrypted source.
    ///
    /// # Errors
    /// The plugin gave something else.
    pub fn cipher(&self, source: &[u8]) -> Result<Cipher> {
        if self.source_type == SEED { Cipher::seed(source) } else { Cipher::gcm(source) }
    }
}

/// Whether a plugin may name its key so; else a short word for it, and the long one.
///
/// # Errors
/// It may not.
pub fn check_key_id(id: &str) -> Result<(), (&'static str, String)> {
    if id.is_empty() {
        return Err(("empty", "keyID is empty".into()));
    }
    if id.len() > MAX_KEY_ID_BYTES {
        let (length, most) = (id.len(), MAX_KEY_ID_BYTES);
        return Err(("too_long", format!("keyID is {length} bytes, which exceeds the max size of {most}")));
    }
    Ok(())
}

/// How figures and messages name a key; an empty one not at all.
pub fn hash_of(id: &str) -> String {
    if id.is_empty() {
        return String::new();
    }
    let digest = digest(&SHA256, id.as_bytes());
    let digits: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> EncryptedObject {
        EncryptedObject {
            data: vec![1],
            key_id: "k".into(),
            source: vec![2],
            annotations: BTreeMap::from([("version.kms.io".into(), vec![3])]),
            source_type: SEED,
        }
    }

    #[test]
    fn what_is_stored_is_upstreams_message() {
        let expected = b"\x0a\x01\x01\x12\x01k\x1a\x01\x02\x22\x13\x0a\x0eversion.kms.io\x12\x01\x03\x28\x01";
        assert_eq!(object().encode_to_vec(), expected);
        assert_eq!(object().check(), Ok(()));
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        let check = |change: fn(&mut EncryptedObject), expected: &str| {
            let mut object = object();
            change(&mut object);
            let fault = object.check().expect_err(expected);
            assert!(fault.contains(expected), "{fault}");
        };
        check(|object| object.data.clear(), "encrypted data is empty");
        check(|object| object.source_type = 2, "unknown encryptedDEKSourceType: 2");
        check(|object| object.source.clear(), "encrypted DEK source is empty");
        check(|object| object.source = vec![0; 1025], "1025 bytes, which exceeds the max size of 1024");
        check(|object| object.key_id.clear(), "failed to validate key id: keyID is empty");
        check(|object| object.key_id = "k".repeat(1025), "keyID is 1025 bytes");
        check(|object| drop(object.annotations.insert("short".into(), Vec::new())), "at least two segments");
        check(|object| drop(object.annotations.insert("a.b".into(), vec![0; 40_000])), "total size of annotations");
    }

    #[test]
    fn a_source_is_known_by_all_that_the_plugin_is_told() {
        let whole = object();
        assert_eq!(EncryptedObject { data: vec![9], ..object() }.identity(), whole.identity());
        for other in [
            EncryptedObject { key_id: "l".into(), ..object() },
            EncryptedObject { source: vec![3], ..object() },
            EncryptedObject { annotations: BTreeMap::new(), ..object() },
            EncryptedObject { source_type: KEY, ..object() },
        ] {
            assert_ne!(other.identity(), whole.identity());
        }
    }

    #[test]
    fn keys_are_told_by_their_hash() {
        assert_eq!(hash_of(""), "");
        assert_eq!(hash_of("1"), "sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b");
    }
}
