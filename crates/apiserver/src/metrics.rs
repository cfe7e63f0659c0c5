//! The few figures of `/metrics`, under upstream's names.

use std::collections::BTreeMap;
use std::fmt::Write;

use parking_lot::Mutex;

use crate::http::request::RequestInfo;
use crate::storage::catalogue::Snapshot;

/// How many different requests are counted apart; what comes then is counted together.
const MAX_SERIES: usize = 4096;

/// Counters of requests.
#[derive(Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<(String, String, u16), u64>>,
}

impl Metrics {
    /// Counts an answered request.
    pub fn count(&self, info: &RequestInfo, code: u16) {
        let mut requests = self.requests.lock();
        let resource = if info.is_resource { info.full_resource() } else { String::new() };
        let mut key = (info.verb.to_ascii_uppercase(), resource, code);
        if requests.len() >= MAX_SERIES && !requests.contains_key(&key) {
            key = ("other".into(), "other".into(), code);
        }
        *requests.entry(key).or_default() += 1;
    }

    /// The exposition text.
    pub fn text(&self, snapshot: &Snapshot) -> String {
        let mut text = String::from("# TYPE apiserver_request_total counter\n");
        for ((verb, resource, code), count) in self.requests.lock().iter() {
            put(
                &mut text,
                format_args!("apiserver_request_total{{verb={verb:?},resource={resource:?},code=\"{code}\"}} {count}"),
            );
        }
        text.push_str("# TYPE apiserver_storage_objects gauge\n# TYPE apiserver_longrunning_requests gauge\n");
        for cache in snapshot.caches() {
            let resource = cache.def.group_resource().to_string();
            put(&mut text, format_args!("apiserver_storage_objects{{resource={resource:?}}} {}", cache.object_count()));
            if cache.watcher_count() > 0 {
                let count = cache.watcher_count();
                put(
                    &mut text,
                    format_args!("apiserver_longrunning_requests{{verb=\"WATCH\",resource={resource:?}}} {count}"),
                );
            }
        }
        text
    }
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a string cannot fail");
}
