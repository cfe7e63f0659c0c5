//! Decompressing and hashing a layer on a thread of its own, while another writes its files: both cost about the same, so
//! that a large layer takes half the time on two processors.

use std::io::{self, Read};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};

use super::digest::{Digest, Hasher};

/// What is handed over at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// How many chunks may wait. More would only take memory: the slower side sets the pace.
const CHUNKS: usize = 4;

type Chunk = io::Result<Vec<u8>>;

/// Lets `consume` read all of `source`; returns what it made of it, and the digest of what was read.
///
/// # Errors
/// Reading failed, or `consume` did.
pub(super) fn hashed<T>(
    source: impl Read + Send,
    consume: impl FnOnce(&mut Chunks) -> io::Result<T>,
) -> io::Result<(T, Digest)> {
    let (full, chunks) = mpsc::sync_channel(CHUNKS);
    let (give_back, empty) = mpsc::channel();
    std::thread::scope(|scope| {
        let producer = scope.spawn(move || produce(source, &full, &empty));
        // Dropped with the closure's end, so that the producer never waits for a consumer that has given up.
        let mut chunks = Chunks { chunks, give_back, current: Vec::new(), at: 0 };
        let consumed = consume(&mut chunks);
        drop(chunks);
        let digest = producer.join().map_err(|_| io::Error::other("the thread that reads the layer panicked"))?;
        Ok((consumed?, digest))
    })
}

fn produce(mut source: impl Read, full: &SyncSender<Chunk>, empty: &Receiver<Vec<u8>>) -> Digest {
    let mut hasher = Hasher::default();
    loop {
        let mut chunk = empty.try_recv().unwrap_or_else(|_| vec![0; CHUNK_BYTES]);
        chunk.resize(CHUNK_BYTES, 0);
        let read = fill(&mut source, &mut chunk);
        let message = read.map(|length| {
            chunk.truncate(length);
            hasher.update(&chunk);
            chunk
        });
        let is_last = message.as_ref().map_or(true, Vec::is_empty);
        if full.send(message).is_err() || is_last {
            return hasher.finish();
        }
    }
}

/// Reads until the chunk is full or nothing more comes.
fn fill(source: &mut impl Read, chunk: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < chunk.len() {
        match source.read(&mut chunk[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The consumer's side.
pub(super) struct Chunks {
    chunks: Receiver<Chunk>,
    give_back: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.current.len() {
            let used = std::mem::take(&mut self.current);
            self.at = 0;
            if used.capacity() > 0 && self.give_back.send(used).is_err() {
                // The producer has come to its end and needs no more.
            }
            // Nobody sends any more: the empty chunk that marks the end was taken before.
            self.current = self.chunks.recv().unwrap_or_else(|_| Ok(Vec::new()))?;
        }
        let count = buffer.len().min(self.current.len() - self.at);
        buffer[..count].copy_from_slice(&self.current[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_read_and_hashed() {
        for length in [0, 1, CHUNK_BYTES, CHUNK_BYTES * 9 + 7] {
            let source: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
            let mut seen = Vec::new();
            let (count, digest) = hashed(&source[..], |chunks| chunks.read_to_end(&mut seen)).expect("it is read");
            assert_eq!((count, seen == source, digest), (length, true, Digest::of(&source)));
        }
    }

    #[test]
    fn errors_of_either_side_end_both() {
        struct Broken(usize);
        impl Read for Broken {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(1).ok_or_else(|| io::Error::other("the disk is gone"))?;
                Ok(buffer.len())
            }
        }
        let error = hashed(Broken(3), |chunks| io::copy(chunks, &mut io::sink())).map(drop).expect_err("it breaks off");
        assert_eq!(error.to_string(), "the disk is gone");
        let given_up = hashed(Broken(usize::MAX), |_| Err::<(), _>(io::Error::other("no room")));
        assert_eq!(given_up.map(drop).expect_err("nobody reads").to_string(), "no room");
    }
}
