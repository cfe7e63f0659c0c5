//! Room made ready in the engine's journal. The journal begins as one large hole, so that every sync of what is appended to it
//! has to write where the file system put it as well; where zeros lie already, a sync is the data and nothing else, in half the
//! time. The zeros read like the hole: what the journal says stays the same, whatever becomes of them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Whence, lseek};

/// How much is made ready at a time: some hundred writes, and no more than a moment of one of them.
const CHUNK_BYTES: u64 = 256 * 1024;
const JOURNAL_EXTENSION: &str = "jnl";

/// What is made ready, and how much of it is left.
pub(super) struct Ahead {
    folder: PathBuf,
    left_bytes: u64,
}

impl Ahead {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf(), left_bytes: 0 }
    }

    /// Before so much is written to the journal by this thread, and by no other.
    pub(super) fn prepare(&mut self, bytes: u64) {
        if self.left_bytes < bytes {
            self.left_bytes = CHUNK_BYTES.max(bytes);
            // Where it fails the journal's own writes tell whether that matters: they need no more than a hole.
            if let Err(error) = fill(&self.folder, self.left_bytes) {
                tracing::debug!(%error, "no room is made ready in the journal");
            }
        }
        self.left_bytes -= bytes;
    }
}

/// Writes zeros where the newest journal's hole begins. One that was opened again has none: it is at its end.
fn fill(folder: &Path, bytes: u64) -> io::Result<()> {
    let Some(path) = newest(folder)? else { return Ok(()) };
    let journal = File::options().write(true).open(path)?;
    let length = journal.metadata()?.len();
    let hole = lseek(&journal, 0, Whence::SeekHole).map(i64::cast_unsigned)?;
    let zeros = vec![0; usize::try_from(bytes.min(length.saturating_sub(hole))).map_err(io::Error::other)?];
    journal.write_all_at(&zeros, hole)
}

fn newest(folder: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != JOURNAL_EXTENSION) {
            continue;
        }
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        if number > newest.as_ref().map(|(number, _)| *number) {
            newest = number.map(|number| (number, path));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOURNAL_BYTES: u64 = 1 << 20;

    #[test]
    fn the_newest_journal_has_room_ahead_and_reads_as_before() {
        let folder = std::env::temp_dir().join(format!("skiff-ahead-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a writable folder");
        for name in ["9.jnl", "10.jnl", "11.table"] {
            let file = File::create(folder.join(name)).expect("made");
            file.set_len(JOURNAL_BYTES).expect("a hole");
            file.write_all_at(name.as_bytes(), 0).expect("written");
        }
        let hole = |name: &str| {
            let file = File::open(folder.join(name)).expect("it is there");
            lseek(&file, 0, Whence::SeekHole).map(i64::cast_unsigned).expect("a position")
        };
        let (old, new) = (hole("9.jnl"), hole("10.jnl"));

        let mut ahead = Ahead::new(&folder);
        ahead.prepare(1000);
        ahead.prepare(1000);
        // A file system that knows of no holes has room everywhere.
        assert_eq!(hole("10.jnl"), (new + CHUNK_BYTES).min(JOURNAL_BYTES));
        assert_eq!((hole("9.jnl"), hole("11.table")), (old, old), "nobody else is touched");
        ahead.prepare(CHUNK_BYTES);
        ahead.prepare(10 * CHUNK_BYTES);
        assert_eq!(hole("10.jnl"), JOURNAL_BYTES, "it never grows");

        let content = fs::read(folder.join("10.jnl")).expect("it can be read");
        assert_eq!(content.len() as u64, JOURNAL_BYTES);
        assert!(content.starts_with(b"10.jnl") && content[6..].iter().all(|byte| *byte == 0));
        fs::remove_dir_all(&folder).expect("removed");
    }
}
