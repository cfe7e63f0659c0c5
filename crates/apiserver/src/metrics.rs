//! The figures of `/metrics`, under upstream's names.
//! See <https://kubernetes.io/docs/reference/instrumentation/metrics/>.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use skiff_base::Timestamp;

use crate::aggregation::remote::Remote;
use crate::config::VersionInfo;
use crate::http::query::Query;
use crate::http::request::RequestInfo;
use crate::storage::catalogue::Snapshot;

/// How many different requests are counted apart; what comes then is not counted by itself.
const MAX_SERIES: usize = 4096;
/// The upper bounds of the durations that are told apart, in seconds.
const DURATIONS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];
/// The upper bounds of the sizes of answers that are told apart, in bytes.
const SIZES: [f64; 7] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// Ticks of the processor's clock in a second, which Linux has fixed for programs.
const TICKS_PER_SECOND: f64 = 100.0;
/// The upper bounds of the durations of admission that are told apart, in seconds; those of webhooks.
const ADMISSION_DURATIONS: [f64; 8] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];
/// How many of the finest durations are one in the service level's figures.
const FINER_DURATIONS: usize = 2;
/// A page of memory.
const PAGE_BYTES: u64 = 4096;

/// How values spread over ranges.
#[derive(Clone)]
struct Histogram<const N: usize> {
    below: [u64; N],
    sum: f64,
    count: u64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self { below: [0; N], sum: 0.0, count: 0 }
    }
}

impl<const N: usize> Histogram<N> {
    fn observe(&mut self, bounds: &[f64; N], value: f64) {
        if let Some(first) = bounds.iter().position(|bound| value <= *bound) {
            self.below[first] += 1;
        }
        self.sum += value;
        self.count += 1;
    }

    fn add(&mut self, other: &Self) {
        self.below.iter_mut().zip(other.below).for_each(|(own, more)| *own += more);
        self.sum += other.sum;
        self.count += other.count;
    }

    fn write(&self, text: &mut Text, name: &str, labels: &str, bounds: &[f64; N]) {
        self.write_from(0, text, name, labels, bounds);
    }

    /// Writes it without the `skipped` finest ranges of its own.
    fn write_from(&self, skipped: usize, text: &mut Text, name: &str, labels: &str, bounds: &[f64; N]) {
        let mut sum: u64 = self.below[..skipped].iter().sum();
        for (bound, count) in bounds.iter().zip(self.below).skip(skipped) {
            sum += count;
            text.line(format_args!("{name}_bucket{{{labels},le=\"{}\"}} {sum}", number(*bound)));
        }
        text.line(format_args!("{name}_bucket{{{labels},le=\"+Inf\"}} {}", self.count));
        text.line(format_args!("{name}_sum{{{labels}}} {}", self.sum));
        text.line(format_args!("{name}_count{{{labels}}} {}", self.count));
    }
}

/// Large bounds are written as upstream writes them, `1e+06`.
fn number(value: f64) -> String {
    if value >= 1e6 { format!("1e+{:02}", value.log10().round() as u32) } else { value.to_string() }
}

/// What is known of one sort of request.
#[derive(Default)]
struct Series {
    labels: String,
    codes: Vec<(u16, u64)>,
    durations: Histogram<23>,
    sizes: Histogram<7>,
}

/// Counters of requests, and what is under way.
#[derive(Default)]
pub struct Metrics {
    requests: Mutex<HashMap<u64, Series>>,
    reading: AtomicI64,
    writing: AtomicI64,
    deprecated: Mutex<Vec<String>>,
    admission: Mutex<HashMap<Admitted, Histogram<8>>>,
    /// How often which other server could be asked no longer, and why.
    unavailable: Mutex<BTreeMap<(String, &'static str), u64>>,
}

/// Who admits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Admitter {
    /// All built-in plugins, one after the other.
    Step,
    /// One of them.
    Controller(&'static str),
    /// A webhook of the user's.
    Webhook(String),
}

/// What is told apart of admission.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Admitted {
    /// By whom.
    pub by: Admitter,
    /// What was to be done, `CREATE`.
    pub operation: &'static str,
    /// Which step it is, `admit` or `validate`.
    pub step: &'static str,
    /// Whether it was refused.
    pub rejected: bool,
}

impl Admitted {
    fn labels(&self) -> String {
        let rest = format!("operation={:?},rejected=\"{}\",type={:?}", self.operation, self.rejected, self.step);
        match &self.by {
            Admitter::Step => rest,
            Admitter::Controller(name) => format!("name={name:?},{rest}"),
            Admitter::Webhook(name) => format!("name={name:?},{rest}"),
        }
    }
}

/// A request that is under way, and counted so until this is dropped.
pub struct Underway<'a>(Option<&'a AtomicI64>);

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        if let Some(count) = self.0 {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What an answered request was like.
pub struct Answered<'a> {
    /// What it was about.
    pub info: &'a RequestInfo,
    /// Its query string.
    pub query: &'a Query,
    /// Whether a patch was an apply.
    pub applied: bool,
    /// The code of the answer.
    pub code: u16,
    /// How long it took; `None` for what lasts as long as its client likes.
    pub took: Option<Duration>,
    /// How large the answer is, where that is known.
    pub size_bytes: Option<u64>,
}

impl Answered<'_> {
    /// The verb as upstream's figures name it.
    fn verb(&self) -> &'static str {
        let is_connect = matches!(self.info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy");
        match self.info.verb.as_str() {
            _ if is_connect => "CONNECT",
            "get" => "GET",
            "list" => "LIST",
            "watch" => "WATCH",
            "create" | "post" => "POST",
            "update" | "put" => "PUT",
            "patch" if self.applied => "APPLY",
            "patch" => "PATCH",
            "delete" => "DELETE",
            "deletecollection" => "DELETECOLLECTION",
            "head" => "HEAD",
            _ => "other",
        }
    }

    fn scope(&self) -> &'static str {
        let info = self.info;
        match (info.is_resource, info.name.is_empty() && info.verb != "create", info.namespace.is_empty()) {
            (false, _, _) => "",
            (true, false, _) => "resource",
            (true, true, false) => "namespace",
            (true, true, true) => "cluster",
        }
    }

    fn is_dry(&self) -> bool {
        self.query.get("dryRun").is_some_and(|value| !value.is_empty())
    }

    fn labels(&self) -> String {
        let info = self.info;
        format!(
            "component=\"apiserver\",dry_run=\"{}\",group={:?},resource={:?},scope={:?},subresource={:?},verb={:?},version={:?}",
            if self.is_dry() { "All" } else { "" },
            info.group,
            info.resource,
            self.scope(),
            if info.is_resource { &info.subresource } else { &info.path },
            self.verb(),
            info.version,
        )
    }

    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let info = self.info;
        let path = if info.is_resource { "" } else { &info.path };
        (&info.group, &info.version, &info.resource, &info.subresource, path).hash(&mut hasher);
        (self.verb(), self.scope(), self.is_dry()).hash(&mut hasher);
        hasher.finish()
    }
}

impl Metrics {
    /// Counts a request as under way; what lasts as long as its client likes is not.
    pub fn begin(&self, info: &RequestInfo) -> Underway<'_> {
        if info.is_long_running() {
            return Underway(None);
        }
        let is_read = matches!(info.verb.as_str(), "get" | "list" | "watch" | "head" | "options");
        let count = if is_read { &self.reading } else { &self.writing };
        count.fetch_add(1, Ordering::Relaxed);
        Underway(Some(count))
    }

    /// Counts an answered request. What is served under no path of ours is not told apart.
    pub fn count(&self, answered: &Answered) {
        let mut requests = self.requests.lock();
        let key = answered.key();
        if !requests.contains_key(&key) {
            if requests.len() >= MAX_SERIES {
                return;
            }
            requests.insert(key, Series { labels: answered.labels(), ..Series::default() });
        }
        let Some(series) = requests.get_mut(&key) else { return };
        match series.codes.iter_mut().find(|(code, _)| *code == answered.code) {
            Some((_, count)) => *count += 1,
            None => series.codes.push((answered.code, 1)),
        }
        if let Some(took) = answered.took {
            series.durations.observe(&DURATIONS, took.as_secs_f64());
        }
        if let (Some(size), "get" | "list") = (answered.size_bytes, answered.info.verb.as_str()) {
            series.sizes.observe(&SIZES, size as f64);
        }
    }

    /// Counts how long admission took.
    pub fn admitted(&self, all: impl IntoIterator<Item = (Admitted, Duration)>) {
        let mut admission = self.admission.lock();
        for (admitted, took) in all {
            let seconds = took.as_secs_f64();
            // Every write comes by here: what is known already is looked for once.
            if let Some(durations) = admission.get_mut(&admitted) {
                durations.observe(&ADMISSION_DURATIONS, seconds);
            } else if admission.len() < MAX_SERIES {
                admission.entry(admitted).or_default().observe(&ADMISSION_DURATIONS, seconds);
            }
        }
    }

    /// Notes that somebody uses what is deprecated.
    pub fn deprecated(&self, info: &RequestInfo) {
        let line = format!(
            "group={:?},removed_release=\"\",resource={:?},subresource={:?},version={:?}",
            info.group, info.resource, info.subresource, info.version
        );
        let mut deprecated = self.deprecated.lock();
        if deprecated.len() < MAX_SERIES && !deprecated.contains(&line) {
            deprecated.push(line);
        }
    }

    /// The exposition text.
    pub fn text(&self, snapshot: &Snapshot, version: &VersionInfo, started: Timestamp) -> String {
        let mut text = Text::default();
        self.write_requests(&mut text);
        self.write_admission(&mut text);
        self.write_underway(&mut text);
        write_storage(&mut text, snapshot);
        write_build(&mut text, version);
        write_process(&mut text, started);
        text.0
    }

    /// Counts a server that can be asked no longer.
    pub fn aggregated_unavailable(&self, name: &str, reason: &'static str) {
        *self.unavailable.lock().entry((name.to_owned(), reason)).or_default() += 1;
    }

    /// Which other servers can be asked, and how often they could not.
    pub fn aggregated(&self, remotes: &[Arc<Remote>]) -> String {
        let mut text = Text::default();
        let name = "aggregator_unavailable_apiservice";
        text.head(name, "gauge", "Aggregated servers, and whether they cannot be asked.");
        for remote in remotes {
            text.line(format_args!("{name}{{name={:?}}} {}", remote.name, u8::from(!remote.is_available())));
        }
        let name = "aggregator_unavailable_apiservice_total";
        text.head(name, "counter", "How often aggregated servers could be asked no longer, by reason.");
        for ((service, reason), count) in self.unavailable.lock().iter() {
            text.line(format_args!("{name}{{name={service:?},reason={reason:?}}} {count}"));
        }
        text.0
    }

    fn write_requests(&self, text: &mut Text) {
        let requests = self.requests.lock();
        let mut all: Vec<&Series> = requests.values().collect();
        all.sort_by(|left, right| left.labels.cmp(&right.labels));
        text.head(
            "apiserver_request_total",
            "counter",
            "Requests that were answered, by what they were and how it went.",
        );
        for series in &all {
            for (code, count) in &series.codes {
                text.line(format_args!("apiserver_request_total{{code=\"{code}\",{}}} {count}", series.labels));
            }
        }
        let name = "apiserver_request_duration_seconds";
        text.head(name, "histogram", "How long answers took, by what was asked.");
        for series in all.iter().filter(|series| series.durations.count > 0) {
            series.durations.write(text, name, &series.labels, &DURATIONS);
        }
        let name = "apiserver_request_sli_duration_seconds";
        text.head(name, "histogram", "How long answers took, by what was asked, for service levels.");
        // These do not tell dry runs apart.
        let mut levels: BTreeMap<String, Histogram<23>> = BTreeMap::new();
        for series in all.iter().filter(|series| series.durations.count > 0) {
            let labels: Vec<_> = series.labels.split(',').filter(|label| !label.starts_with("dry_run=")).collect();
            levels.entry(labels.join(",")).or_default().add(&series.durations);
        }
        for (labels, durations) in &levels {
            durations.write_from(FINER_DURATIONS, text, name, labels, &DURATIONS);
        }
        let name = "apiserver_response_sizes";
        text.head(name, "histogram", "How large answers were, in bytes, by what was asked.");
        for series in all.iter().filter(|series| series.sizes.count > 0) {
            series.sizes.write(text, name, &series.labels, &SIZES);
        }
        text.head("apiserver_requested_deprecated_apis", "gauge", "Deprecated parts of the API that were asked for.");
        for labels in self.deprecated.lock().iter() {
            text.line(format_args!("apiserver_requested_deprecated_apis{{{labels}}} 1"));
        }
    }

    fn write_admission(&self, text: &mut Text) {
        let admission = self.admission.lock();
        let mut all: Vec<_> = admission.iter().collect();
        all.sort_by_key(|(admitted, _)| *admitted);
        let sorts: [(&str, &str, fn(&Admitter) -> bool); 3] = [
            ("step", "a step of admission", |by| *by == Admitter::Step),
            ("controller", "one of its plugins", |by| matches!(by, Admitter::Controller(_))),
            ("webhook", "a webhook", |by| matches!(by, Admitter::Webhook(_))),
        ];
        for (sort, what, is_such) in sorts {
            let name = format!("apiserver_admission_{sort}_admission_duration_seconds");
            text.head(&name, "histogram", &format!("How long {what} took, by what was to be done."));
            for (admitted, durations) in all.iter().filter(|(admitted, _)| is_such(&admitted.by)) {
                durations.write(text, &name, &admitted.labels(), &ADMISSION_DURATIONS);
            }
        }
    }

    fn write_underway(&self, text: &mut Text) {
        let name = "apiserver_current_inflight_requests";
        text.head(name, "gauge", "Requests that are under way.");
        for (kind, count) in [("mutating", &self.writing), ("readOnly", &self.reading)] {
            text.line(format_args!("{name}{{request_kind={kind:?}}} {}", count.load(Ordering::Relaxed)));
        }
    }
}

/// What is stored of each resource, and who watches it.
fn write_storage(text: &mut Text, snapshot: &Snapshot) {
    text.head("apiserver_storage_objects", "gauge", "Objects that are stored, by resource.");
    for cache in snapshot.caches() {
        let resource = cache.def.group_resource().to_string();
        text.line(format_args!("apiserver_storage_objects{{resource={resource:?}}} {}", cache.object_count()));
    }
    text.head("apiserver_resource_objects", "gauge", "Objects that are stored, by group and resource.");
    for cache in snapshot.caches() {
        let (group, resource) = (&cache.def.group, &cache.def.plural);
        let labels = format!("group={group:?},resource={resource:?}");
        text.line(format_args!("apiserver_resource_objects{{{labels}}} {}", cache.object_count()));
    }
    text.head("apiserver_longrunning_requests", "gauge", "Watches that are under way.");
    for cache in snapshot.caches().filter(|cache| cache.watcher_count() > 0) {
        let (def, count) = (&cache.def, cache.watcher_count());
        text.line(format_args!(
            "apiserver_longrunning_requests{{component=\"apiserver\",group={:?},resource={:?},scope=\"\",subresource=\"\",\
             verb=\"WATCH\",version={:?}}} {count}",
            def.group, def.plural, def.version
        ));
    }
    text.head("apiserver_watch_events_total", "counter", "Events that were sent to watchers, by resource.");
    for cache in snapshot.caches() {
        let (def, count) = (&cache.def, cache.sent_events());
        if count > 0 {
            let labels = format!("group={:?},resource={:?},version={:?}", def.group, def.plural, def.version);
            text.line(format_args!("apiserver_watch_events_total{{{labels}}} {count}"));
        }
    }
}

fn write_build(text: &mut Text, version: &VersionInfo) {
    text.head("kubernetes_build_info", "gauge", "Always 1; its labels tell what was built.");
    text.line(format_args!(
        "kubernetes_build_info{{build_date={:?},compiler={:?},git_commit={:?},git_tree_state={:?},git_version={:?},\
         go_version={:?},major={:?},minor={:?},platform={:?}}} 1",
        version.build_date,
        version.compiler,
        version.git_commit,
        version.git_tree_state,
        version.git_version,
        version.go_version,
        version.major,
        version.minor,
        version.platform
    ));
}

/// What the kernel knows of this process; what it does not tell is left out.
fn write_process(text: &mut Text, started: Timestamp) {
    let mut one = |name: &str, kind: &str, help: &str, value: String| {
        text.head(name, kind, help);
        text.line(format_args!("{name} {value}"));
    };
    one(
        "process_start_time_seconds",
        "gauge",
        "When the server began, in seconds since 1970.",
        (started.as_millisecond() as f64 / 1000.0).to_string(),
    );
    let fields = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The program's name, in parentheses, may hold anything; the rest is numbers.
    let fields: Vec<&str> = fields.rsplit(')').next().unwrap_or("").split_ascii_whitespace().collect();
    let field = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok());
    if let (Some(user), Some(system)) = (field(11), field(12)) {
        let seconds = (user + system) as f64 / TICKS_PER_SECOND;
        one("process_cpu_seconds_total", "counter", "Time on processors, in seconds.", seconds.to_string());
    }
    if let Some(bytes) = field(20) {
        one("process_virtual_memory_bytes", "gauge", "Virtual memory, in bytes.", bytes.to_string());
    }
    if let Some(pages) = field(21) {
        let bytes = pages * PAGE_BYTES;
        one("process_resident_memory_bytes", "gauge", "Resident memory, in bytes.", bytes.to_string());
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        one("process_open_fds", "gauge", "Open files.", open.count().to_string());
    }
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let most = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_ascii_whitespace().next());
    if let Some(most) = most {
        one("process_max_fds", "gauge", "How many files may be open.", most.to_owned());
    }
}

/// The text of an exposition.
#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("writing to a string cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn answered(metrics: &Metrics, method: Method, path: &str, query: &str, code: u16) {
        let query = Query::parse(query);
        let info = RequestInfo::parse(&method, path, &query);
        let took = Some(Duration::from_millis(30));
        metrics.count(&Answered { info: &info, query: &query, applied: false, code, took, size_bytes: Some(20_000) });
    }

    #[test]
    fn requests_are_counted_by_what_they_were() {
        let metrics = Metrics::default();
        answered(&metrics, Method::GET, "/api/v1/namespaces/a/pods", "", 200);
        answered(&metrics, Method::GET, "/api/v1/namespaces/a/pods", "", 200);
        answered(&metrics, Method::GET, "/api/v1/namespaces/b/pods", "", 403);
        answered(&metrics, Method::POST, "/apis/apps/v1/namespaces/b/deployments", "dryRun=All", 201);
        answered(&metrics, Method::GET, "/readyz", "", 200);
        answered(&metrics, Method::GET, "/readyz", "dryRun=All", 200);
        let mut text = Text::default();
        metrics.write_requests(&mut text);
        let series: Vec<&str> =
            text.0.lines().filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series).collect();
        let once: std::collections::BTreeSet<&str> =
            series.iter().copied().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(once.len(), series.iter().filter(|line| !line.starts_with('#')).count(), "no series twice");
        let lines: Vec<&str> = text.0.lines().filter(|line| line.starts_with("apiserver_request_total")).collect();
        let of = |code: &str, what: &str, count: &str| {
            format!("apiserver_request_total{{code=\"{code}\",component=\"apiserver\",{what}}} {count}")
        };
        let pods = r#"dry_run="",group="",resource="pods",scope="namespace",subresource="",verb="LIST",version="v1""#;
        let ready = r#"dry_run="",group="",resource="",scope="",subresource="/readyz",verb="GET",version="""#;
        let dry = r#"dry_run="All",group="apps",resource="deployments",scope="resource",subresource="",verb="POST",version="v1""#;
        assert_eq!(
            lines,
            [
                of("200", ready, "1"),
                of("200", pods, "2"),
                of("403", pods, "1"),
                of("200", &ready.replace("dry_run=\"\"", "dry_run=\"All\""), "1"),
                of("201", dry, "1")
            ]
        );
        let bucket = |bound: &str| {
            format!("apiserver_request_duration_seconds_bucket{{component=\"apiserver\",{pods},le=\"{bound}\"}}")
        };
        assert!(text.0.contains(&format!("{} 0\n", bucket("0.025"))));
        assert!(text.0.contains(&format!("{} 3\n", bucket("0.05"))));
        assert!(text.0.contains(&format!("{} 3\n", bucket("+Inf"))));
        let level = bucket("0.05").replace("request_duration", "request_sli_duration").replace("dry_run=\"\",", "");
        assert!(text.0.contains(&format!("{level} 3\n")), "{level}");
        assert!(
            text.0.contains(&format!(
                "apiserver_response_sizes_bucket{{component=\"apiserver\",{pods},le=\"1e+09\"}} 3\n"
            ))
        );
    }

    #[test]
    fn admission_is_timed() {
        let metrics = Metrics::default();
        let by = |by: Admitter, rejected| Admitted { by, operation: "CREATE", step: "validate", rejected };
        let millis = Duration::from_millis;
        metrics.admitted([
            (by(Admitter::Controller("ResourceQuota"), true), millis(2)),
            (by(Admitter::Step, true), millis(30)),
            (by(Admitter::Webhook("a.b.c".to_owned()), false), millis(3)),
        ]);
        let mut text = Text::default();
        metrics.write_admission(&mut text);
        let counts: Vec<&str> = text.0.lines().filter(|line| line.contains("_count{")).collect();
        assert_eq!(
            counts,
            [
                r#"apiserver_admission_step_admission_duration_seconds_count{operation="CREATE",rejected="true",type="validate"} 1"#,
                r#"apiserver_admission_controller_admission_duration_seconds_count{name="ResourceQuota",operation="CREATE",rejected="true",type="validate"} 1"#,
                r#"apiserver_admission_webhook_admission_duration_seconds_count{name="a.b.c",operation="CREATE",rejected="false",type="validate"} 1"#,
            ]
        );
    }

    #[test]
    fn what_is_under_way_is_known() {
        let metrics = Metrics::default();
        let query = Query::default();
        let get = RequestInfo::parse(&Method::GET, "/api/v1/nodes", &query);
        let post = RequestInfo::parse(&Method::POST, "/api/v1/nodes", &query);
        let (first, second) = (metrics.begin(&get), metrics.begin(&post));
        drop(first);
        let mut text = Text::default();
        metrics.write_underway(&mut text);
        assert!(text.0.contains("apiserver_current_inflight_requests{request_kind=\"mutating\"} 1"));
        assert!(text.0.contains("apiserver_current_inflight_requests{request_kind=\"readOnly\"} 0"));
        drop(second);
    }
}
