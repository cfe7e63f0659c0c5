//! Damaged files: whatever happens to a store's files, opening it is an error, or it shows a state that it once had, up
//! to some revision; never a value that was not written, and never one state in some keys and another in others.
//! `SKIFF_DAMAGE_ROUNDS` lengthens it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod suite;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skiff_base::ids::Ids;
use skiff_store::{EmbeddedOptions, EmbeddedStore, HistoryLimits, KeyRange, Store};
use suite::{Folder, commit, delete, put};

const ROUNDS: &str = "SKIFF_DAMAGE_ROUNDS";
const DEFAULT_ROUNDS: u64 = 16;
const WRITES: u64 = 300;
const KEYS: u64 = 20;
/// Enough for the engine to write tables beside its journal.
const LARGE_BYTES: usize = 20_000;

type State = BTreeMap<String, String>;

fn options() -> EmbeddedOptions {
    let history = HistoryLimits { revisions: 50, ..HistoryLimits::default() };
    EmbeddedOptions { history, ..EmbeddedOptions::default() }
}

/// Writes a history; gives the state after each revision.
async fn fill(folder: &Path, ids: &Ids) -> BTreeMap<u64, State> {
    let store = EmbeddedStore::open(folder, options()).unwrap();
    let mut state = State::new();
    let mut states = BTreeMap::from([(store.revision().await.unwrap(), state.clone())]);
    for number in 0..WRITES {
        let key = format!("k{}", ids.next_u64() % KEYS);
        let change = if ids.next_u64().is_multiple_of(6) {
            state.remove(&key);
            delete(&key)
        } else {
            let value = format!("{number}/{}", "x".repeat((ids.next_u64() as usize) % LARGE_BYTES));
            state.insert(key.clone(), value.clone());
            put(&key, &value)
        };
        states.insert(commit(&*store, vec![change]).await, state.clone());
    }
    store.close();
    states
}

async fn shown(store: &Arc<EmbeddedStore>) -> State {
    let found = store.range(&KeyRange::prefix(""), None, 0).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    found.items.iter().map(|item| (text(&item.key), text(&item.value))).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(file, target).unwrap();
    }
}

/// The files that hold something, and how far: the engine makes its journal longer than it needs.
fn contents(folder: &Path) -> Vec<(PathBuf, usize)> {
    let held = |file: &PathBuf| {
        let bytes = std::fs::read(file).unwrap();
        bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
    };
    let all = files(folder).into_iter().map(|file| (file.strip_prefix(folder).unwrap().to_owned(), held(&file)));
    all.filter(|(_, length)| *length > 0).collect()
}

/// Cuts a file off, or flips one bit of what it holds; tells which.
fn damage(folder: &Path, contents: &[(PathBuf, usize)], ids: &Ids) -> String {
    let (name, length) = &contents[(ids.next_u64() as usize) % contents.len()];
    let at = (ids.next_u64() as usize) % length;
    let file = std::fs::File::options().read(true).write(true).open(folder.join(name)).unwrap();
    let name = name.display();
    if ids.next_u64().is_multiple_of(3) {
        file.set_len(at as u64).unwrap();
        return format!("{name} cut off at {at}");
    }
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << (ids.next_u64() % 8))], at as u64).unwrap();
    format!("{name} with a bit flipped at {at}")
}

#[tokio::test]
async fn damage_is_found_out_or_leaves_a_state_that_once_was() {
    let rounds = std::env::var(ROUNDS).map_or(DEFAULT_ROUNDS, |text| text.parse().unwrap());
    let seed =
        std::env::var("SKIFF_DAMAGE_SEED").map_or_else(|_| Ids::random().next_u64() >> 1, |text| text.parse().unwrap());
    println!("SKIFF_DAMAGE_SEED={seed}");
    let ids = Ids::seeded(seed);
    let root = Folder::new("damage");
    let whole = root.path().join("whole");
    let states = fill(&whole, &ids).await;
    let contents = contents(&whole);
    let (mut refused, mut older) = (0, 0);
    for round in 0..rounds {
        let damaged = root.path().join(format!("round-{round}"));
        copy(&whole, &damaged);
        let what = damage(&damaged, &contents, &ids);
        match EmbeddedStore::open(&damaged, options()) {
            Err(_) => refused += 1,
            Ok(store) => {
                let now = shown(&store).await;
                let known = states.values().rev().position(|state| *state == now);
                assert!(known.is_some(), "{what}: the store shows a state that never was");
                older += u64::from(known > Some(0));
            }
        }
        std::fs::remove_dir_all(&damaged).unwrap();
    }
    println!("{rounds} damaged stores: {refused} refused, {older} shown as they were earlier");
    assert!(refused > 0, "damage is never found out");
}

#[tokio::test]
async fn every_bit_of_the_lists_of_tables_counts() {
    let root = Folder::new("lists");
    let states = fill(root.path(), &Ids::seeded(1)).await;
    let name = |file: &Path| file.file_name().unwrap().to_str().unwrap().to_owned();
    let all = files(&root.path().join("keyspaces"));
    let mut tried = 0;
    for current in all.iter().filter(|file| name(file) == "current") {
        let number = u64::from_le_bytes(std::fs::read(current).unwrap()[..8].try_into().unwrap());
        let list = current.with_file_name(format!("v{number}"));
        for file in [current, &list] {
            let whole = std::fs::read(file).unwrap();
            // The last byte says what the digest is made with, and there is but one way.
            let counts = if file == current { whole.len() - 1 } else { whole.len() };
            for at in 0..counts {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << (at % 8);
                std::fs::write(file, &damaged).unwrap();
                let refused = EmbeddedStore::open(root.path(), options()).err();
                let refused = refused.unwrap_or_else(|| panic!("{} with byte {at} changed", file.display()));
                assert!(refused.to_string().contains("the list of tables"), "{refused}");
                tried += 1;
            }
            std::fs::write(file, &whole).unwrap();
        }
    }
    assert!(tried > 100, "{tried}");
    let store = EmbeddedStore::open(root.path(), options()).unwrap();
    assert_eq!(Some(&shown(&store).await), states.values().next_back());
}
