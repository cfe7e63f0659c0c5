//! Prints how many durable writes a second the embedded store does with 1, 16 and 256 writers, beside the rate of the disk's
//! own syncs, measured in the same run on the same folder: `store_bench [FOLDER [SECONDS]]`. One JSON object per line.
#![allow(clippy::disallowed_methods, reason = "a measurement reads the machine's clock")]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use skiff_store::{Change, EmbeddedOptions, EmbeddedStore, Store, Transaction};

/// A small API object.
const VALUE_BYTES: usize = 512;
const KEYS: u64 = 1000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let folder = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let seconds = match arguments.next() {
        Some(text) => text.to_string_lossy().parse()?,
        None => 2.0,
    };
    let folder = folder.join(format!("skiff-store-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let result = measure(&folder, Duration::from_secs_f64(seconds));
    std::fs::remove_dir_all(&folder)?;
    result
}

fn measure(folder: &Path, period: Duration) -> Result<(), Box<dyn std::error::Error>> {
    println!("{{\"figure\":\"fdatasync/s\",\"value\":{:.0}}}", syncs(folder, period)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    for writers in [1, 16, 256] {
        let store = EmbeddedStore::open(folder.join(writers.to_string()), EmbeddedOptions::default())?;
        let rate = runtime.block_on(writes(store, writers, period))?;
        println!(
            "{{\"figure\":\"durable writes/s\",\"writers\":{writers},\"value\":{rate:.0},\"folder_bytes\":{}}}",
            size(&folder.join(writers.to_string()))?
        );
    }
    Ok(())
}

/// Appends of one value, each followed by a sync.
fn syncs(folder: &Path, period: Duration) -> std::io::Result<f64> {
    let mut file = File::create(folder.join("sync"))?;
    // The store writes into a file of fixed length, too: a sync then has no new length to write.
    file.set_len(64 * 1024 * 1024)?;
    file.sync_all()?;
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < period {
        file.write_all(&[1; VALUE_BYTES])?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

async fn writes(store: Arc<EmbeddedStore>, writers: u64, period: Duration) -> Result<f64, Box<dyn std::error::Error>> {
    let start = Instant::now();
    let tasks = (0..writers).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut count = 0u64;
            while start.elapsed() < period {
                let key = Bytes::from(format!("/registry/pods/default/pod-{}", (count * writers + writer) % KEYS));
                let change = Change::Put { key, value: Bytes::from(vec![b'x'; VALUE_BYTES]) };
                store.commit(Transaction { changes: vec![change], ..Transaction::default() }).await?;
                count += 1;
            }
            Ok::<u64, skiff_store::StoreError>(count)
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let mut count = 0;
    for task in tasks {
        count += task.await??;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// What the folder takes on the disk.
fn size(folder: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { size(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}
