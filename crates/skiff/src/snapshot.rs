//! The whole cluster in one file: its objects, and the keys without which its certificates and tokens mean nothing. So it
//! is saved, and so it is moved from the node's own folder to an etcd and back.

use std::fs;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::Method;
use serde_json::json;
use skiff_base::SystemClock;
use skiff_store::{EmbeddedStore, Snapshot, Store};

use crate::cli::{SnapshotCommand, Target};
use crate::commands::{CommandError, ask, small_runtime};
use crate::datastore;
use crate::paths::{Datastore, NodeFacts, Paths, named, write_atomically};
use crate::process::Process;

/// The names of the cluster's keys in a snapshot begin with this.
const PKI: &str = "pki/";

/// `skiff snapshot ...`.
///
/// # Errors
/// A file cannot be read or written, the store cannot be used, or the node runs and must not.
pub fn run(command: &SnapshotCommand) -> Result<(), CommandError> {
    match command {
        SnapshotCommand::Save { target, file } => save_command(target, file),
        SnapshotCommand::Restore { target, datastore, file } => {
            let datastore = datastore::chosen(datastore)?;
            restore_command(&Paths::new(&target.data_dir, target.isolated.as_deref()), datastore, file)
        }
    }
}

fn save_command(target: &Target, file: &Path) -> Result<(), CommandError> {
    let paths = Paths::new(&target.data_dir, target.isolated.as_deref());
    // The server that writes it stands in another folder.
    let file = std::path::absolute(file).map_err(|error| named(file, "find", error))?;
    if Process::read(&paths.server_pid())?.is_some() {
        ask(&paths, Method::POST, "/snapshot", &json!({ "file": file }))?;
    } else {
        let facts = NodeFacts::load(&paths)?.ok_or("this node was never set up; there is nothing to save")?;
        small_runtime()?.block_on(async {
            let store = datastore::open(facts.datastore.as_ref(), &paths, SystemClock::shared()).await?;
            save(&*store, &paths.pki(), &file).await
        })?;
    }
    println!("saved {}; keep it as secret as the cluster, whose keys are in it", file.display());
    Ok(())
}

/// Writes what the store holds now into a file, whole or not at all; gives the revision.
///
/// # Errors
/// The store cannot be read, or the file cannot be written.
pub async fn save(store: &dyn Store, pki: &Path, file: &Path) -> Result<u64, CommandError> {
    let snapshot = Snapshot::take(store, keys(pki)?).await?;
    let (revision, file) = (snapshot.revision, file.to_owned());
    tokio::task::spawn_blocking(move || write(&snapshot, &file)).await??;
    Ok(revision)
}

fn write(snapshot: &Snapshot, file: &Path) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let staged = PathBuf::from(format!("{}.new", file.display()));
    let written = || {
        let mut options = fs::OpenOptions::new();
        let open = options.write(true).create(true).truncate(true).mode(0o600).open(&staged)?;
        snapshot.write(BufWriter::new(&open))?;
        open.sync_all()?;
        fs::rename(&staged, file)
    };
    written().map_err(|error| named(file, "write", error))
}

/// The files of the cluster's authority and of its tokens.
fn keys(pki: &Path) -> io::Result<Vec<(String, Bytes)>> {
    let read = || {
        let mut files = Vec::new();
        for entry in fs::read_dir(pki)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                let name = format!("{PKI}{}", entry.file_name().to_string_lossy());
                files.push((name, Bytes::from(fs::read(entry.path())?)));
            }
        }
        files.sort();
        Ok(files)
    };
    read().map_err(|error| named(pki, "read", error))
}

fn restore_command(paths: &Paths, datastore: Option<Datastore>, file: &Path) -> Result<(), CommandError> {
    if Process::read(&paths.server_pid())?.is_some() {
        return Err("the node runs; stop it with skiff down, and restore then".into());
    }
    let read = fs::File::open(file).and_then(Snapshot::read);
    let snapshot = read.map_err(|error| named(file, "read", error))?;
    paths.create()?;
    match &datastore {
        Some(datastore) => small_runtime()?.block_on(async {
            let store = datastore::open(Some(datastore), paths, SystemClock::shared()).await?;
            snapshot.restore_into(&*store).await?;
            Ok::<_, CommandError>(())
        })?,
        None => restore_embedded(paths, &snapshot)?,
    }
    if datastore.is_some() {
        put_aside(&paths.store())?;
    }
    for (name, content) in &snapshot.files {
        let plain = name.strip_prefix(PKI).filter(|name| !name.is_empty() && !name.contains('/') && *name != "..");
        let name =
            plain.ok_or_else(|| format!("the snapshot holds a file {name:?} that this version does not know"))?;
        let mode = if name.ends_with(".key") { 0o600 } else { 0o644 };
        write_atomically(&paths.pki().join(name), content, mode)?;
    }
    if let Some(facts) = NodeFacts::load(paths)? {
        NodeFacts { datastore: datastore.clone(), ..facts }.save(paths)?;
    }
    let place = datastore.map_or_else(|| paths.store().display().to_string(), |etcd| etcd.endpoints.join(","));
    println!("restored {} objects and keys into {place}; start the node with skiff up", snapshot.items.len());
    Ok(())
}

/// The new store is whole before it takes the old one's place.
fn restore_embedded(paths: &Paths, snapshot: &Snapshot) -> Result<(), CommandError> {
    let staged = paths.join("store.new");
    if staged.exists() {
        // Of a restore that was broken off.
        fs::remove_dir_all(&staged).map_err(|error| named(&staged, "remove", error))?;
    }
    EmbeddedStore::restore(&staged, snapshot)?;
    put_aside(&paths.store())?;
    fs::rename(&staged, paths.store()).map_err(|error| named(&paths.store(), "make", error))?;
    Ok(())
}

/// Nothing is lost by a restore: what was there is kept beside.
fn put_aside(store: &Path) -> Result<(), CommandError> {
    if !store.exists() {
        return Ok(());
    }
    let aside = |number: u32| store.with_extension(format!("before-{number}"));
    let free = (1..).map(aside).find(|path| !path.exists()).ok_or("there is no free name for the old store")?;
    fs::rename(store, &free).map_err(|error| named(store, "put aside", error))?;
    println!("the store that was there is kept in {}", free.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_comes_back_with_its_keys_and_the_old_one_is_kept() {
        let folder = std::env::temp_dir().join(format!("skiff-snapshot-{}", std::process::id()));
        let paths = Paths::new(&folder, None);
        paths.create().expect("folders");
        let facts = NodeFacts { api_port: 1, ..NodeFacts::new("n") };
        facts.save(&paths).expect("the facts");
        fs::write(paths.pki().join("ca.key"), "old").expect("a file");
        fs::create_dir(paths.store()).expect("a folder");
        let file = folder.join("file");
        let item =
            skiff_store::KeyValue { key: "/registry/a".into(), value: "1".into(), create_revision: 2, mod_revision: 3 };
        let files = vec![("pki/ca.key".to_owned(), Bytes::from_static(b"new"))];
        write(&Snapshot { revision: 3, files, items: vec![item] }, &file).expect("a snapshot");
        restore_command(&paths, None, &file).expect("it is restored");
        assert_eq!(fs::read(paths.pki().join("ca.key")).expect("the key"), b"new");
        assert!(paths.join("store.before-1").exists() && !paths.join("store.new").exists());
        let taken = small_runtime().expect("a runtime").block_on(async {
            let store = datastore::open(None, &paths, SystemClock::shared()).await.expect("the store");
            Snapshot::take(&*store, keys(&paths.pki()).expect("the keys")).await.expect("a snapshot")
        });
        fs::remove_dir_all(&folder).expect("the folder is there");
        let shown: Vec<_> = taken.items.iter().map(|item| (item.key.as_ref(), item.mod_revision)).collect();
        assert_eq!(shown, [(b"/registry/a".as_slice(), 3)]);
        assert_eq!(taken.files.len(), 1);
    }
}
