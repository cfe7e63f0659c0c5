//! The messages of the interface, with the names, fields and numbers of `runtime.v1`.
//! Fields for other operating systems than Linux are left out; a decoder skips them.
#![allow(missing_docs, reason = "the protocol's own documentation says what each field means")]

mod container;
mod image;
mod runtime;
mod sandbox;
mod security;
mod stats;

pub use container::*;
pub use image::*;
pub use runtime::*;
pub use sandbox::*;
pub use security::*;
pub use stats::*;

/// Says only who logs in where; the secrets of an [`AuthConfig`] must not reach a log.
impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn fields_are_written_with_the_protocols_numbers() {
        let spec = ImageSpec { image: "a".into(), user_specified_image: "b".into(), ..Default::default() };
        assert_eq!(spec.encode_to_vec(), [0x0a, 1, b'a', 0x92, 0x01, 1, b'b']);
        let mount = Mount { propagation: MountPropagation::PropagationBidirectional as i32, ..Default::default() };
        assert_eq!(mount.encode_to_vec(), [0x28, 2]);
    }

    #[test]
    fn unknown_fields_are_skipped() {
        // Field 9 of PodSandboxConfig is for Windows.
        let bytes = [0x4a, 0, 0x12, 1, b'h'];
        let config = PodSandboxConfig::decode(&bytes[..]).expect("decodes");
        assert_eq!(config.hostname, "h");
    }

    #[test]
    fn secrets_stay_out_of_debug_output() {
        let auth = AuthConfig { username: "me".into(), password: "hunter2".into(), ..Default::default() };
        let shown = format!("{auth:?}");
        assert!(shown.contains("me") && !shown.contains("hunter2"));
    }
}
