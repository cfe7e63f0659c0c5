//! What the runtime keeps on disk of sandboxes and containers, so that it knows them after a restart.
//! The records are written whole, by a rename; how a container ended is the shim's to write, beside them.

use std::io;
use std::path::Path;

use prost::Message;
use skiff_cri::{ContainerConfig, LinuxContainerResources, LinuxContainerUser, PodSandboxConfig};

/// The record's file name in the folder of its sandbox or container.
pub const RECORD_FILE: &str = "record.pb";

/// A sandbox.
#[derive(Clone, PartialEq, Message)]
pub struct SandboxRecord {
    /// Its id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// As it was asked for.
    #[prost(message, optional, tag = "2")]
    pub config: Option<PodSandboxConfig>,
    /// In nanoseconds.
    #[prost(int64, tag = "3")]
    pub created_at: i64,
    /// The named configuration it was asked for with.
    #[prost(string, tag = "4")]
    pub runtime_handler: String,
    /// Its addresses, the first one first.
    #[prost(string, repeated, tag = "5")]
    pub addresses: Vec<String>,
    /// Whether it was stopped on purpose and its network given back.
    #[prost(bool, tag = "6")]
    pub stopped: bool,
}

/// A container.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerRecord {
    /// Its id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Its sandbox.
    #[prost(string, tag = "2")]
    pub sandbox: String,
    /// As it was asked for.
    #[prost(message, optional, tag = "3")]
    pub config: Option<ContainerConfig>,
    /// In nanoseconds.
    #[prost(int64, tag = "4")]
    pub created_at: i64,
    /// The image's id.
    #[prost(string, tag = "5")]
    pub image_id: String,
    /// The image's digested reference.
    #[prost(string, tag = "6")]
    pub image_ref: String,
    /// Its cgroup.
    #[prost(string, tag = "7")]
    pub cgroup: String,
    /// As whom it runs.
    #[prost(message, optional, tag = "8")]
    pub user: Option<LinuxContainerUser>,
    /// Its limits now.
    #[prost(message, optional, tag = "9")]
    pub resources: Option<LinuxContainerResources>,
    /// The signal that asks it to end.
    #[prost(int32, tag = "10")]
    pub stop_signal: i32,
    /// Where its log is; empty when it keeps none.
    #[prost(string, tag = "11")]
    pub log_path: String,
    /// The layers that it stands on.
    #[prost(string, repeated, tag = "12")]
    pub layers: Vec<String>,
}

/// Writes a record into a folder.
pub fn save(folder: &Path, record: &impl Message) -> io::Result<()> {
    let draft = folder.join(format!(".{RECORD_FILE}"));
    std::fs::write(&draft, record.encode_to_vec())?;
    std::fs::rename(draft, folder.join(RECORD_FILE))
}

/// Reads the record of a folder.
pub fn load<R: Message + Default>(folder: &Path) -> io::Result<R> {
    let bytes = std::fs::read(folder.join(RECORD_FILE))?;
    if bytes.is_empty() {
        // What a power cut leaves of a file that was new. It would be read as a record with an empty id.
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the record is empty"));
    }
    R::decode(&bytes[..]).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_record_is_none() {
        let folder = std::env::temp_dir().join(format!("skiff-records-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let record = SandboxRecord { id: "one".into(), ..SandboxRecord::default() };
        save(&folder, &record).expect("written");
        let whole = load::<SandboxRecord>(&folder);
        std::fs::write(folder.join(RECORD_FILE), "").expect("written");
        let empty = load::<SandboxRecord>(&folder);
        std::fs::remove_dir_all(&folder).expect("it goes");
        assert_eq!(whole.expect("it is whole"), record);
        assert_eq!(empty.expect_err("it is empty").kind(), io::ErrorKind::InvalidData);
    }
}
