//! A disk that is full: the store says so, takes no more writes, keeps all that it has acknowledged, and goes on when there is
//! space again, be it opened anew or not. On a file system of the test's own, in a mount namespace that goes with it.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic, and starts programs")]

mod suite;

use std::process::Command;
use std::time::Duration;

use skiff_store::{EmbeddedOptions, EmbeddedStore, Outcome, Store, StoreError, Transaction};
use suite::{Folder, PATIENCE, put};

const FOLDER: &str = "SKIFF_FULL_DISK";
/// A little more than the engine's journal, and what lies in its way until it is taken out.
const SIZE: &str = "size=140m";
/// More than the engine may have put off: it writes that to its tables as soon as it can, before there is room for more.
const BALLAST_BYTES: usize = 56 << 20;
const VALUE_BYTES: usize = 200_000;

/// This test's name: it starts itself again, in a mount namespace.
const NAME: &str = "a_full_disk_loses_nothing_that_was_acknowledged";

#[test]
fn a_full_disk_loses_nothing_that_was_acknowledged() {
    match std::env::var_os(FOLDER) {
        Some(folder) => inside(folder.as_ref()),
        None => outside(),
    }
}

fn outside() {
    let folder = Folder::new("full-disk");
    let mount = format!("mount -t tmpfs -o {SIZE} none \"${FOLDER}\" && exec \"$0\" --exact {NAME}");
    let program = std::env::current_exe().unwrap();
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "slave", "sh", "-c", &mount])
        .arg(program)
        .env(FOLDER, folder.path())
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) if status.code() == Some(101) => panic!("see above"),
        // Without the right to mount there is nothing to fill.
        other => eprintln!("SKIPPED: a file system cannot be mounted here ({other:?})"),
    }
}

fn inside(folder: &std::path::Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let ballast = folder.join("ballast");
        std::fs::write(&ballast, vec![1; BALLAST_BYTES]).unwrap();
        let path = folder.join("store");
        let store = EmbeddedStore::open(&path, EmbeddedOptions::default()).unwrap();
        let (written, error) = fill(&*store).await;
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        let words = error.to_string();
        assert!(words.contains("No space left on device") || words.contains("an earlier write failed"), "{words}");
        let again = store.commit(Transaction { changes: vec![put("z", "1")], ..Transaction::default() }).await;
        assert!(again.is_err(), "it is full still");
        assert!(store.get(b"k0", None).await.unwrap().1.is_some(), "reads go on");
        std::fs::remove_file(&ballast).unwrap();
        let later = go_on(&*store).await;
        let revision = store.revision().await.unwrap();
        assert_eq!(later, revision, "what failed is not there");
        store.close();
        drop(store);
        let store = EmbeddedStore::open(&path, EmbeddedOptions::default()).unwrap();
        assert_eq!(store.revision().await.unwrap(), revision);
        for number in 0..written {
            let found = store.get(format!("k{number}").as_bytes(), None).await.unwrap().1;
            assert_eq!(found.map(|pair| pair.value.len()), Some(VALUE_BYTES), "k{number} was acknowledged");
        }
        let refused = store.get(format!("k{written}").as_bytes(), None).await.unwrap().1;
        assert!(refused.is_none(), "k{written} was refused");
        go_on(&*store).await;
    });
}

/// Writes until it succeeds; the revision that the write has.
async fn go_on(store: &dyn Store) -> u64 {
    let change = || Transaction { changes: vec![put("z", "1")], ..Transaction::default() };
    let mut refused = None;
    let tries = async {
        loop {
            match store.commit(change()).await {
                Ok(Outcome::Committed(revision)) => return revision,
                Ok(other) => panic!("{other:?}"),
                Err(error) => refused = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let went_on = tokio::time::timeout(PATIENCE, tries).await;
    went_on.unwrap_or_else(|_| panic!("there is space again, but: {refused:?}"))
}

/// Writes until there is no more space; gives how many writes were acknowledged, and the error.
async fn fill(store: &dyn Store) -> (u64, StoreError) {
    for number in 0.. {
        let value = "x".repeat(VALUE_BYTES);
        let changes = vec![put(&format!("k{number}"), &value)];
        if let Err(error) = store.commit(Transaction { changes, ..Transaction::default() }).await {
            return (number, error);
        }
    }
    unreachable!("the disk is not endless")
}
