//! The figures of `/metrics`, under upstream's names.
//! See <https://kubernetes.io/docs/reference/instrumentation/metrics/>.

mod admission;
pub mod expressions;
mod gates;
mod told;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use skiff_base::Timestamp;
use skiff_base::figures::{Family, Registry, Series};
use skiff_base::gates::Gates;
use skiff_store::Store;

pub use admission::{Admission, Step, WHOLE};

use crate::admission::Operation;
use crate::aggregation::remote::Remote;
use crate::config::VersionInfo;
use crate::http::query::Query;
use crate::http::request::RequestInfo;
use crate::storage::cache::ResourceCache;
use crate::storage::catalogue::Snapshot;

/// How many different requests are counted apart; what comes then is not counted by itself.
const MAX_SERIES: usize = 4096;
/// The upper bounds of the durations that are told apart, in seconds; those of service levels are not as fine.
const DURATIONS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];
const LEVELS: [f64; 21] =
    [0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0];
/// The upper bounds of the sizes of answers that are told apart, in bytes.
const SIZES: [f64; 7] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
const HOUR: f64 = 3600.0;
const DAY: f64 = 24.0 * HOUR;
/// The upper bounds of how long certificates last that are told apart, in seconds.
const LIFETIMES: [f64; 15] = [
    0.0,
    0.5 * HOUR,
    HOUR,
    2.0 * HOUR,
    6.0 * HOUR,
    12.0 * HOUR,
    DAY,
    2.0 * DAY,
    4.0 * DAY,
    7.0 * DAY,
    30.0 * DAY,
    90.0 * DAY,
    180.0 * DAY,
    270.0 * DAY,
    365.0 * DAY,
];

static REQUESTS: Family =
    Family::counter("apiserver_request_total", "Requests that were answered, by what they were and how it went.");
static REQUEST_SECONDS: Family =
    Family::buckets("apiserver_request_duration_seconds", "How long answers took, by what was asked.", &DURATIONS);
static LEVEL_SECONDS: Family = Family::buckets(
    "apiserver_request_sli_duration_seconds",
    "How long answers took, by what was asked, for service levels.",
    &LEVELS,
);
static ANSWER_BYTES: Family =
    Family::buckets("apiserver_response_sizes", "How large answers were, in bytes, by what was asked.", &SIZES);
static UNDERWAY: Family = Family::gauge("apiserver_current_inflight_requests", "Requests that are under way.");
static TERMINATED: Family = Family::counter(
    "apiserver_request_terminations_total",
    "Requests that the server has ended by itself, by what they were.",
);
static DEPRECATED: Family =
    Family::gauge("apiserver_requested_deprecated_apis", "Deprecated parts of the API that were asked for.");
static CERTIFICATES: Family = Family::buckets(
    "apiserver_client_certificate_expiration_seconds",
    "How long the certificates were still valid with which requests were made, in seconds.",
    &LIFETIMES,
);
static HANDSHAKES: Family =
    Family::counter("apiserver_tls_handshake_errors_total", "TLS handshakes that came to nothing.");
static HEALTH: Family = Family::counter("kubernetes_healthchecks_total", "How parts of the server were found to be.");
static UNAVAILABLE: Family =
    Family::gauge("aggregator_unavailable_apiservice", "Aggregated servers, and whether they cannot be asked.");
static LOST: Family = Family::counter(
    "aggregator_unavailable_apiservice_total",
    "How often aggregated servers could be asked no longer, by reason.",
);
static STORED_SECONDS: Family =
    Family::buckets("etcd_request_duration_seconds", "How long the store took, by what was asked of it.", &DURATIONS);
static STORED: Family = Family::counter("etcd_requests_total", "What was asked of the store.");
static STORE_ERRORS: Family = Family::counter("etcd_request_errors_total", "What the store could not do.");

/// What is known of one sort of request.
struct Kept {
    /// With and without what tells dry runs apart.
    labels: [String; 2],
    codes: Mutex<Vec<(u16, Series)>>,
    seconds: OnceLock<[Series; 2]>,
    bytes: OnceLock<Series>,
}

impl Kept {
    fn of(answered: &Answered) -> Self {
        let labels = [true, false].map(|with_dry_run| answered.labels(with_dry_run));
        Self { labels, codes: Mutex::default(), seconds: OnceLock::new(), bytes: OnceLock::new() }
    }

    fn count(&self, registry: &Registry, answered: &Answered) {
        let [all, plain] = &self.labels;
        let mut codes = self.codes.lock();
        match codes.iter().find(|(code, _)| *code == answered.code) {
            Some((_, series)) => series.inc(),
            None => {
                let series = registry.series(&REQUESTS, &format!("code=\"{}\",{all}", answered.code));
                series.inc();
                codes.push((answered.code, series));
            }
        }
        drop(codes);
        if let Some(took) = answered.took {
            let make = || [registry.series(&REQUEST_SECONDS, all), registry.series(&LEVEL_SECONDS, plain)];
            self.seconds.get_or_init(make).iter().for_each(|series| series.took(took));
        }
        if let (Some(size), "get" | "list") = (answered.size_bytes, answered.info.verb.as_str()) {
            self.bytes.get_or_init(|| registry.series(&ANSWER_BYTES, plain)).observe(size as f64);
        }
    }
}

/// What is asked of the store about one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// An object is read.
    Get,
    /// An object is made.
    Create,
    /// An object is changed.
    Update,
    /// An object is removed.
    Delete,
}

/// How the store did of one resource, by what was asked of it.
#[derive(Default)]
pub struct StoreFigures([OnceLock<[Series; 2]>; 4]);

/// Counters of requests, and what is under way.
pub struct Metrics {
    registry: Registry,
    requests: RwLock<HashMap<u64, Arc<Kept>>>,
    reading: Series,
    writing: Series,
    certificates: OnceLock<Series>,
    admission: Admission,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::default();
        let underway = |kind: &str| registry.series(&UNDERWAY, &format!("request_kind={kind:?}"));
        Self {
            reading: underway("readOnly"),
            writing: underway("mutating"),
            requests: RwLock::default(),
            certificates: OnceLock::new(),
            admission: Admission::default(),
            registry,
        }
    }
}

/// A request that is under way, and counted so until this is dropped.
pub struct Underway<'a>(Option<&'a Series>);

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        if let Some(count) = self.0 {
            count.dec();
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

    fn labels(&self, with_dry_run: bool) -> String {
        let info = self.info;
        let dry_run = match (with_dry_run, self.is_dry()) {
            (true, true) => "dry_run=\"All\",",
            (true, false) => "dry_run=\"\",",
            (false, _) => "",
        };
        format!(
            "component=\"apiserver\",{dry_run}group={:?},resource={:?},scope={:?},subresource={:?},verb={:?},version={:?}",
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
        count.inc();
        Underway(Some(count))
    }

    /// Counts an answered request. What is served under no path of ours is not told apart.
    pub fn count(&self, answered: &Answered) {
        let key = answered.key();
        let known = self.requests.read().get(&key).cloned();
        let kept = known.or_else(|| {
            let mut requests = self.requests.write();
            let has_room = requests.len() < MAX_SERIES || requests.contains_key(&key);
            has_room.then(|| requests.entry(key).or_insert_with(|| Arc::new(Kept::of(answered))).clone())
        });
        if let Some(kept) = kept {
            kept.count(&self.registry, answered);
        }
    }

    /// Counts a request that the server itself has ended.
    pub fn terminated(&self, answered: &Answered) {
        let labels = format!("code=\"{}\",{}", answered.code, answered.labels(false));
        self.registry.series(&TERMINATED, &labels).inc();
    }

    /// A series of this server; the same again is the same.
    pub fn series(&self, family: &'static Family, labels: &str) -> Series {
        self.registry.series(family, labels)
    }

    /// A plugin of admission (or [`WHOLE`], the step) took so long.
    pub fn admitted(&self, plugin: usize, what: (Operation, Step), is_refused: bool, took: Duration) {
        self.admission.took(&self.registry, plugin, what, is_refused, took);
    }

    /// A webhook took so long.
    pub fn webhook_took(&self, name: &str, what: (Operation, &str), is_refused: bool, took: Duration) {
        Admission::webhook_took(&self.registry, name, what, is_refused, took);
    }

    /// The store took so long; `has_failed` tells whether it could not.
    pub fn stored(&self, cache: &ResourceCache, asked: Asked, took: Duration, has_failed: bool) {
        let labels = || {
            let operation = match asked {
                Asked::Get => "get",
                Asked::Create => "create",
                Asked::Update => "update",
                Asked::Delete => "delete",
            };
            let (group, resource) = (&cache.def.group, &cache.def.plural);
            format!("group={group:?},operation=\"{operation}\",resource={resource:?}")
        };
        let make = || [&STORED_SECONDS, &STORED].map(|family| self.registry.series(family, &labels()));
        let [seconds, count] = cache.figures.0[asked as usize].get_or_init(make);
        seconds.took(took);
        count.inc();
        if has_failed {
            self.registry.series(&STORE_ERRORS, &labels()).inc();
        }
    }

    /// A request was made with a certificate that is valid for so many seconds more.
    pub fn certificate(&self, seconds: f64) {
        self.certificates.get_or_init(|| self.registry.series(&CERTIFICATES, "")).observe(seconds);
    }

    /// A TLS handshake came to nothing.
    pub fn handshake_failed(&self) {
        self.registry.series(&HANDSHAKES, "").inc();
    }

    /// A part of the server was looked at.
    pub fn health(&self, kind: &str, check: &str, is_well: bool) {
        let status = if is_well { "success" } else { "error" };
        self.registry.series(&HEALTH, &format!("name={check:?},status=\"{status}\",type={kind:?}")).inc();
    }

    /// Notes that somebody uses what is deprecated.
    pub fn deprecated(&self, info: &RequestInfo) {
        let labels = format!(
            "group={:?},removed_release=\"\",resource={:?},subresource={:?},version={:?}",
            info.group, info.resource, info.subresource, info.version
        );
        self.registry.series(&DEPRECATED, &labels).set(1.0);
    }

    /// Counts a server that can be asked no longer.
    pub fn aggregated_unavailable(&self, name: &str, reason: &'static str) {
        self.registry.series(&LOST, &format!("name={name:?},reason={reason:?}")).inc();
    }

    /// The exposition text, with what else the process tells.
    pub fn text(
        &self,
        snapshot: &Snapshot,
        remotes: &[Arc<Remote>],
        store: &dyn Store,
        version: &VersionInfo,
        started: Timestamp,
        switched: &Gates,
    ) -> String {
        let mut text = self.registry.text();
        told::storage(&mut text, snapshot, store);
        told::build(&mut text, version);
        told::process(&mut text, started);
        gates::write(&mut text, switched);
        UNAVAILABLE.write_head(&mut text);
        for remote in remotes {
            let is_lost = f64::from(u8::from(!remote.is_available()));
            UNAVAILABLE.write_value(&mut text, &format!("name={:?}", remote.name), is_lost);
        }
        text.push_str(&skiff_base::figures::text());
        text
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
        let text = metrics.registry.text();
        let series: Vec<&str> =
            text.lines().filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series).collect();
        let once: std::collections::BTreeSet<&str> =
            series.iter().copied().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(once.len(), series.iter().filter(|line| !line.starts_with('#')).count(), "no series twice");
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("apiserver_request_total")).collect();
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
                of("200", &ready.replace("dry_run=\"\"", "dry_run=\"All\""), "1"),
                of("201", dry, "1"),
                of("403", pods, "1"),
            ]
        );
        let bucket = |bound: &str| {
            format!("apiserver_request_duration_seconds_bucket{{component=\"apiserver\",{pods},le=\"{bound}\"}}")
        };
        assert!(text.contains(&format!("{} 0\n", bucket("0.025"))));
        assert!(text.contains(&format!("{} 3\n", bucket("0.05"))));
        assert!(text.contains(&format!("{} 3\n", bucket("+Inf"))));
        let level = bucket("0.05").replace("request_duration", "request_sli_duration").replace("dry_run=\"\",", "");
        assert!(text.contains(&format!("{level} 3\n")), "{level}");
        assert!(text.contains(&format!(
            "apiserver_response_sizes_bucket{{component=\"apiserver\",{},le=\"1e+09\"}} 3\n",
            pods.replace("dry_run=\"\",", "")
        )));
    }

    #[test]
    fn what_is_under_way_is_known() {
        let metrics = Metrics::default();
        let query = Query::default();
        let get = RequestInfo::parse(&Method::GET, "/api/v1/nodes", &query);
        let post = RequestInfo::parse(&Method::POST, "/api/v1/nodes", &query);
        let (first, second) = (metrics.begin(&get), metrics.begin(&post));
        drop(first);
        let text = metrics.registry.text();
        assert!(text.contains("apiserver_current_inflight_requests{request_kind=\"mutating\"} 1"));
        assert!(text.contains("apiserver_current_inflight_requests{request_kind=\"readOnly\"} 0"));
        drop(second);
    }
}
