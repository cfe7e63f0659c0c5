//! Which tables the engine has is told by a file whose digest it keeps and does not look at: one that is damaged ends the
//! whole process where the engine reads it. It is looked at here, before.

use std::fs;
use std::io;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

/// The folder with one folder for each part of the engine's data.
const PARTS: &str = "keyspaces";
/// In each: the number of the newest list of tables (8 bytes) and its digest (16 bytes), little end first.
const CURRENT: &str = "current";
const CURRENT_BYTES: usize = 24;

/// Whether all lists of tables are as they were written; says which is not. A store that is yet to be made has none.
///
/// # Errors
/// A file cannot be read.
pub(super) fn damaged(store: &Path) -> io::Result<Option<String>> {
    let parts = match fs::read_dir(store.join(PARTS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        parts => parts?,
    };
    for part in parts {
        let part = part?.path();
        let current = match fs::read(part.join(CURRENT)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            current => current?,
        };
        if !is_whole(&part, &current)? {
            return Ok(Some(format!("the list of tables in {}", part.display())));
        }
    }
    Ok(None)
}

fn is_whole(part: &Path, current: &[u8]) -> io::Result<bool> {
    let Some((number, digest)) = current.get(..CURRENT_BYTES).and_then(<[u8]>::split_first_chunk) else {
        return Ok(false);
    };
    let list = match fs::read(part.join(format!("v{}", u64::from_le_bytes(*number)))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        list => list?,
    };
    Ok(xxh3_128(&list).to_le_bytes() == digest)
}
