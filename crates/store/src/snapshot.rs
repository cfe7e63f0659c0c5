//! A whole store in one file: every key at one revision, and a few files that belong to it, with a digest over all.
//! A file that was cut off or changed is refused; nothing of it is ever used.
//!
//! | part | bytes |
//! |---|---|
//! | head | `skiff snapshot 1` and a line end |
//! | revision | `r`, 8 |
//! | each file | `f`, name and content, each behind its length (8) |
//! | each key | `k`, create and mod revision (8 each), key and value, each behind its length (8) |
//! | end | `e`, the number of keys (8), then the SHA-256 of all before it |

use std::io::{self, Read, Write};

use bytes::Bytes;
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use crate::{Change, Compare, KeyRange, KeyValue, Outcome, Revision, Store, StoreError, Transaction};

const HEAD: &[u8] = b"skiff snapshot 1\n";

/// How much is written in one transaction; etcd takes 1.5 MiB.
const PART_BYTES: usize = 1024 * 1024;
const PART_KEYS: usize = 100;

/// A whole store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The revision at which all keys stood so.
    pub revision: Revision,
    /// Files that belong to the cluster, by name.
    pub files: Vec<(String, Bytes)>,
    /// The keys in order.
    pub items: Vec<KeyValue>,
}

impl Snapshot {
    /// Reads all of a store at one revision.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn take(store: &dyn Store, files: Vec<(String, Bytes)>) -> Result<Self, StoreError> {
        let everything = store.range(&KeyRange::prefix(""), None, 0).await?;
        Ok(Self { revision: everything.revision, files, items: everything.items })
    }

    /// Writes the file.
    ///
    /// # Errors
    /// `out` fails.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let mut out = Hashing { inner: out, context: Context::new(&SHA256) };
        out.write_all(HEAD)?;
        out.write_all(b"r")?;
        out.number(self.revision)?;
        for (name, content) in &self.files {
            out.write_all(b"f")?;
            out.bytes(name.as_bytes())?;
            out.bytes(content)?;
        }
        for item in &self.items {
            out.write_all(b"k")?;
            out.number(item.create_revision)?;
            out.number(item.mod_revision)?;
            out.bytes(&item.key)?;
            out.bytes(&item.value)?;
        }
        out.write_all(b"e")?;
        out.number(self.items.len() as u64)?;
        let digest = out.context.clone().finish();
        out.inner.write_all(digest.as_ref())?;
        out.inner.flush()
    }

    /// Reads the file, all of it before any of it is believed.
    ///
    /// # Errors
    /// `input` fails, or what it gives is no whole snapshot.
    pub fn read(mut input: impl Read) -> io::Result<Self> {
        let mut all = Vec::new();
        input.read_to_end(&mut all)?;
        let all = Bytes::from(all);
        if !all.starts_with(HEAD) {
            return Err(damaged("it is no snapshot, or one of another version"));
        }
        let length = all.len().checked_sub(SHA256_OUTPUT_LEN).ok_or_else(|| damaged("it is cut off"))?;
        let mut context = Context::new(&SHA256);
        context.update(&all[..length]);
        if context.finish().as_ref() != &all[length..] {
            return Err(damaged("its digest is another: it was cut off or changed"));
        }
        Parser { rest: all.slice(HEAD.len()..length) }.snapshot().ok_or_else(|| damaged("its parts do not fit"))
    }

    /// Writes everything into a store that holds nothing. The keys get new revisions.
    ///
    /// # Errors
    /// The store holds something, or cannot be written.
    pub async fn restore_into(&self, store: &dyn Store) -> Result<(), StoreError> {
        let first = store.range(&KeyRange::prefix(""), None, 1).await?;
        if let Some(item) = first.items.first() {
            let key = String::from_utf8_lossy(&item.key);
            return Err(StoreError::Unavailable(format!("the store is not empty: it has {key}")));
        }
        let mut items = self.items.iter().peekable();
        while items.peek().is_some() {
            let (mut part, mut bytes) = (Transaction::default(), 0);
            while part.changes.len() < PART_KEYS && bytes < PART_BYTES {
                let Some(item) = items.next() else { break };
                bytes += item.key.len() + item.value.len();
                part.compares.push(Compare { key: item.key.clone(), mod_revision: 0 });
                part.changes.push(Change::Put { key: item.key.clone(), value: item.value.clone() });
            }
            if let Outcome::Failed { .. } = store.commit(part).await? {
                return Err(StoreError::Unavailable("somebody else writes to the store".into()));
            }
        }
        Ok(())
    }
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot cannot be used: {why}"))
}

struct Hashing<W> {
    inner: W,
    context: Context,
}

impl<W: Write> Hashing<W> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.context.update(bytes);
        self.inner.write_all(bytes)
    }

    fn number(&mut self, number: u64) -> io::Result<()> {
        self.write_all(&number.to_be_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.number(bytes.len() as u64)?;
        self.write_all(bytes)
    }
}

/// Takes a verified file apart; `None` where a part does not fit.
struct Parser {
    rest: Bytes,
}

impl Parser {
    fn snapshot(mut self) -> Option<Snapshot> {
        let mut snapshot = Snapshot { revision: 0, files: Vec::new(), items: Vec::new() };
        loop {
            match self.take(1)?[0] {
                b'r' => snapshot.revision = self.number()?,
                b'f' => {
                    let name = String::from_utf8(self.bytes()?.to_vec()).ok()?;
                    snapshot.files.push((name, self.bytes()?));
                }
                b'k' => {
                    let (create_revision, mod_revision) = (self.number()?, self.number()?);
                    let (key, value) = (self.bytes()?, self.bytes()?);
                    snapshot.items.push(KeyValue { key, value, create_revision, mod_revision });
                }
                b'e' => {
                    let whole = self.number()? == snapshot.items.len() as u64 && self.rest.is_empty();
                    return whole.then_some(snapshot);
                }
                _ => return None,
            }
        }
    }

    fn take(&mut self, count: usize) -> Option<Bytes> {
        (count <= self.rest.len()).then(|| self.rest.split_to(count))
    }

    fn number(&mut self) -> Option<u64> {
        self.take(8)?.as_ref().try_into().ok().map(u64::from_be_bytes)
    }

    fn bytes(&mut self) -> Option<Bytes> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn snapshot() -> impl Strategy<Value = Snapshot> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
        let item =
            (bytes(), bytes(), any::<u64>(), any::<u64>()).prop_map(|(key, value, create_revision, mod_revision)| {
                KeyValue { key, value, create_revision, mod_revision }
            });
        let file = ("[a-z./]{0,12}", bytes());
        (any::<u64>(), prop::collection::vec(file, 0..3), prop::collection::vec(item, 0..20))
            .prop_map(|(revision, files, items)| Snapshot { revision, files, items })
    }

    fn written(snapshot: &Snapshot) -> Vec<u8> {
        let mut file = Vec::new();
        snapshot.write(&mut file).expect("writing to memory cannot fail");
        file
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(snapshot in snapshot()) {
            prop_assert_eq!(Snapshot::read(written(&snapshot).as_slice()).expect("whole"), snapshot);
        }

        #[test]
        fn a_file_that_was_cut_off_or_changed_is_refused(snapshot in snapshot(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let file = written(&snapshot);
            let at = at.index(file.len());
            prop_assert!(Snapshot::read(&file[..at]).is_err());
            let mut flipped = file.clone();
            flipped[at] ^= 1 << bit;
            prop_assert!(Snapshot::read(flipped.as_slice()).is_err());
            let longer = [file.as_slice(), &[0]].concat();
            prop_assert!(Snapshot::read(longer.as_slice()).is_err());
        }
    }
}
