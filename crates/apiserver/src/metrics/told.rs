//! What is told when somebody asks, and counted by nobody: what is stored, what the program is, what the kernel knows of
//! it.

use std::fmt::Display;

use skiff_base::Timestamp;
use skiff_base::figures::Family;
use skiff_store::Store;

use crate::config::VersionInfo;
use crate::storage::cache::ResourceCache;
use crate::storage::catalogue::Snapshot;

/// Ticks of the processor's clock in a second, which Linux has fixed for programs.
const TICKS_PER_SECOND: f64 = 100.0;
/// A page of memory.
const PAGE_BYTES: u64 = 4096;

static STORAGE_OBJECTS: Family = Family::gauge("apiserver_storage_objects", "Objects that are stored, by resource.");
static RESOURCE_OBJECTS: Family =
    Family::gauge("apiserver_resource_objects", "Objects that are stored, by group and resource.");
static STORAGE_BYTES: Family =
    Family::gauge("apiserver_storage_size_bytes", "What the store's files take on the disk, in bytes.");
static WATCHES: Family = Family::gauge("apiserver_longrunning_requests", "Watches that are under way.");
static EVENTS: Family =
    Family::counter("apiserver_watch_events_total", "Events that were sent to watchers, by resource.");
static BUILD: Family = Family::gauge("kubernetes_build_info", "Always 1; its labels tell what was built.");
static STARTED: Family = Family::gauge("process_start_time_seconds", "When the server began, in seconds since 1970.");
static CPU: Family = Family::counter("process_cpu_seconds_total", "Time on processors, in seconds.");
static VIRTUAL: Family = Family::gauge("process_virtual_memory_bytes", "Virtual memory, in bytes.");
static RESIDENT: Family = Family::gauge("process_resident_memory_bytes", "Resident memory, in bytes.");
static THREADS: Family = Family::gauge("process_threads", "Threads of the process.");
static OPEN_FILES: Family = Family::gauge("process_open_fds", "Open files.");
static MOST_FILES: Family = Family::gauge("process_max_fds", "How many files may be open.");

/// Writes a family's values; nothing where there is none.
fn write(text: &mut String, family: &Family, values: impl IntoIterator<Item = (String, f64)>) {
    let mut values = values.into_iter().peekable();
    if values.peek().is_some() {
        family.write_head(text);
    }
    for (labels, value) in values {
        family.write_value(text, &labels, value);
    }
}

fn write_one(text: &mut String, family: &Family, value: Option<f64>) {
    write(text, family, value.map(|value| (String::new(), value)));
}

/// What is stored of each resource, and who watches it.
pub fn storage(text: &mut String, snapshot: &Snapshot, store: &dyn Store) {
    let objects = |cache: &ResourceCache| cache.object_count() as f64;
    let by_name = snapshot.caches().map(|cache| (format!("resource={:?}", named(cache)), objects(cache)));
    write(text, &STORAGE_OBJECTS, by_name);
    let by_group = snapshot.caches().map(|cache| {
        let (group, resource) = (&cache.def.group, &cache.def.plural);
        (format!("group={group:?},resource={resource:?}"), objects(cache))
    });
    write(text, &RESOURCE_OBJECTS, by_group);
    let size = store.size_bytes().map(|bytes| ("storage_cluster_id=\"etcd-0\"".to_owned(), bytes as f64));
    write(text, &STORAGE_BYTES, size);
    let watched = snapshot.caches().filter(|cache| cache.watcher_count() > 0).map(|cache| {
        let (group, resource, version) = (&cache.def.group, &cache.def.plural, &cache.def.version);
        let labels = format!(
            "component=\"apiserver\",group={group:?},resource={resource:?},scope=\"\",subresource=\"\",verb=\"WATCH\",\
             version={version:?}"
        );
        (labels, cache.watcher_count() as f64)
    });
    write(text, &WATCHES, watched);
    let sent = snapshot.caches().filter(|cache| cache.sent_events() > 0).map(|cache| {
        let (group, resource, version) = (&cache.def.group, &cache.def.plural, &cache.def.version);
        let labels = format!("group={group:?},resource={resource:?},version={version:?}");
        (labels, cache.sent_events() as f64)
    });
    write(text, &EVENTS, sent);
}

fn named(cache: &ResourceCache) -> String {
    cache.def.group_resource().to_string()
}

/// What the program is.
pub fn build(text: &mut String, version: &VersionInfo) {
    let label = |name: &str, value: &dyn Display| format!("{name}={:?}", value.to_string());
    let labels = [
        label("build_date", &version.build_date),
        label("compiler", &version.compiler),
        label("git_commit", &version.git_commit),
        label("git_tree_state", &version.git_tree_state),
        label("git_version", &version.git_version),
        label("go_version", &version.go_version),
        label("major", &version.major),
        label("minor", &version.minor),
        label("platform", &version.platform),
    ];
    write(text, &BUILD, [(labels.join(","), 1.0)]);
}

/// What the kernel knows of this process; what it does not tell is left out.
pub fn process(text: &mut String, started: Timestamp) {
    write_one(text, &STARTED, Some(started.as_millisecond() as f64 / 1000.0));
    let fields = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The program's name, in parentheses, may hold anything; the rest is numbers.
    let fields: Vec<&str> = fields.rsplit(')').next().unwrap_or("").split_ascii_whitespace().collect();
    let field = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok());
    let ticks = field(11).zip(field(12)).map(|(user, system)| user + system);
    write_one(text, &CPU, ticks.map(|ticks| ticks as f64 / TICKS_PER_SECOND));
    write_one(text, &THREADS, field(17).map(|threads| threads as f64));
    write_one(text, &VIRTUAL, field(20).map(|bytes| bytes as f64));
    write_one(text, &RESIDENT, field(21).map(|pages| (pages * PAGE_BYTES) as f64));
    write_one(text, &OPEN_FILES, std::fs::read_dir("/proc/self/fd").ok().map(|open| open.count() as f64));
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let most = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_ascii_whitespace().next());
    write_one(text, &MOST_FILES, most.and_then(|most| most.parse().ok()));
}
