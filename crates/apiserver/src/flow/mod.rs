//! API priority and fairness: each request belongs to a FlowSchema, which leads to a priority level, and takes seats of
//! it, at once or in its turn. What to do is decided in [`queues`], [`shares`] and [`width`]; here requests wait, and
//! the objects of the API are followed.
//! See <https://kubernetes.io/docs/concepts/cluster-administration/flow-control/>.

pub mod keeper;
mod level;
mod matching;
mod queues;
mod shares;
mod told;
mod utilization;
mod watches;
mod width;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::{HeaderName, HeaderValue, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use hyper::body::Body as _;
use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_kinds::bootstrap::flow_control_objects;
use skiff_object::Object;
use skiff_object::meta::Meta;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use crate::call::UserInfo;
use crate::failure::Result;
use crate::http::answer::{self, Answer};
use crate::http::body;
use crate::http::query::Query;
use crate::http::request::RequestInfo;
use crate::metrics::Metrics;
use crate::read::options::ListOptions;
use crate::storage::cache::ResourceCache;
use crate::storage::catalogue::Catalogue;
use crate::storage::filter::Filter;
use level::{Asker, Figures, Level, Seat, Sort};
use matching::Rule;
use queues::Refusal;
use utilization::Kinds;
use watches::{Watches, Watching};
use width::Width;

pub use told::dump;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMA_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");
/// Where a schema without a precedence of its own stands.
const DEFAULT_PRECEDENCE: i64 = 1000;
/// What every cluster has whatever its objects say: the schemas and levels of these names.
const MANDATORY: [&str; 2] = ["exempt", "catch-all"];
/// A request waits for its seats for this part of the time that it has, as upstream's.
const PATIENCE_PART: u32 = 4;

/// How many requests the server works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Whether priority and fairness decide who; else the first come are served, and the others refused.
    pub is_enabled: bool,
    /// How many reads at a time.
    pub reads: u32,
    /// How many writes at a time; together with the reads the seats that are shared.
    pub writes: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { is_enabled: true, reads: 400, writes: 200 }
    }
}

/// By what requests of one schema fall into flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Distinguisher {
    User,
    Namespace,
    Nothing,
}

/// The schema of a request, with its level.
#[derive(Clone)]
pub struct Flow(Arc<Facts>);

struct Facts {
    schema: String,
    schema_uid: HeaderValue,
    level_uid: HeaderValue,
    by: Distinguisher,
    level: Arc<Level>,
    figures: Figures,
}

impl Flow {
    /// Whether its requests never wait for seats.
    pub fn is_exempt(&self) -> bool {
        self.0.level.is_exempt
    }

    fn distinguisher<'a>(&self, user: &'a UserInfo, info: &'a RequestInfo) -> &'a str {
        match self.0.by {
            Distinguisher::User => &user.name,
            Distinguisher::Namespace => &info.namespace,
            Distinguisher::Nothing => "",
        }
    }
}

/// A schema, with what it matches.
struct Schema {
    order: (i64, String),
    rules: Vec<Rule>,
    flow: Flow,
}

/// What the objects say, read anew when one of them changes.
#[derive(Default)]
struct Known {
    changed: (u64, u64),
    schemas: Arc<Vec<Schema>>,
    levels: BTreeMap<String, Arc<Level>>,
}

/// The schemas in the order in which they are tried, and the levels.
pub struct Flows {
    settings: Settings,
    clock: SharedClock,
    /// Lets nobody choose names that share queues with somebody else's.
    seed: u64,
    /// Of the schemas and of the levels; built-in kinds keep theirs.
    caches: OnceLock<Option<[Arc<ResourceCache>; 2]>>,
    known: Mutex<Known>,
    kinds: Arc<Kinds>,
    watches: Arc<Watches>,
    /// Reads and writes, where nobody is told apart.
    in_flight: [Semaphore; 2],
}

/// How a request was let in: told by its answer's headers.
#[derive(Clone)]
pub struct Entered {
    flow: Flow,
    seat: Option<Arc<Seat>>,
    watching: Option<Arc<Watching>>,
}

impl Entered {
    /// Notes the flow of a request that has no seats yet.
    pub fn new(flow: Flow) -> Self {
        Self { flow, seat: None, watching: None }
    }

    /// Adds the flow to an answer's headers, and gives the seats back: a watch's once it has begun, others' when all of the
    /// answer is encoded, or after `limit` where the client does not take it.
    pub fn finish(self, mut answer: Answer, goes_on: bool, limit: Duration) -> Answer {
        let facts = &self.flow.0;
        answer.headers_mut().insert(SCHEMA_HEADER, facts.schema_uid.clone());
        answer.headers_mut().insert(LEVEL_HEADER, facts.level_uid.clone());
        if let Some(watching) = self.watching {
            answer = answer.map(|body| body::holding(body, watching));
        }
        let is_whole = answer.body().size_hint().exact().is_some();
        let Some(seat) = self.seat.filter(|_| !goes_on && !is_whole) else { return answer };
        let (held, is_over) = oneshot::channel::<()>();
        tokio::spawn(async move {
            // Nothing is ever sent: the body is dropped.
            drop(tokio::time::timeout(limit, is_over).await);
            drop(seat);
        });
        let (parts, body) = answer.into_parts();
        Answer::from_parts(parts, body::holding(body, held))
    }
}

/// What a request holds while it is worked on.
pub enum Held<'a> {
    /// Nothing.
    Free,
    /// Seats of its level; what was entered has them.
    Seats,
    /// One of the server's places.
    Place(SemaphorePermit<'a>),
}

impl Flows {
    /// No levels yet; they are read with the first request.
    pub fn new(settings: Settings, clock: SharedClock, seed: u64) -> Self {
        let places = |count: u32| Semaphore::new(count as usize);
        let in_flight = [places(settings.reads), places(settings.writes)];
        let kinds = Arc::new(Kinds::new(clock.monotonic()));
        let (caches, known, watches) = (OnceLock::new(), Mutex::default(), Arc::default());
        Self { settings, clock, seed, kinds, caches, known, watches, in_flight }
    }

    /// Whether requests are told apart.
    pub fn is_enabled(&self) -> bool {
        self.settings.is_enabled
    }

    /// The flow of a request; none where no schema matches, or nobody is told apart.
    pub fn of(&self, catalogue: &Catalogue, metrics: &Metrics, user: &UserInfo, info: &RequestInfo) -> Option<Flow> {
        if !self.settings.is_enabled {
            return None;
        }
        let schemas = self.schemas(catalogue, metrics)?;
        let resource = info.full_resource();
        let matching = |schema: &&Schema| schema.rules.iter().any(|rule| rule.matches(user, info, &resource));
        schemas.iter().find(matching).map(|schema| schema.flow.clone())
    }

    /// Waits for a request's turn. `limit` is how long it may take altogether.
    ///
    /// # Errors
    /// It is refused: the answer says so.
    pub async fn enter(
        &self,
        entered: Option<&mut Entered>,
        (user, info): (&UserInfo, &RequestInfo),
        seats: impl FnOnce(u32) -> u32,
        limit: Duration,
    ) -> Result<Held<'_>, Answer> {
        if info.is_long_running() && info.verb != "watch" {
            return Ok(Held::Free);
        }
        let Some(Entered { flow, seat: own, watching }) = entered else { return self.place(user, info) };
        let level = &flow.0.level;
        let width = self.width(flow, info, seats);
        let distinguisher = flow.distinguisher(user, info);
        let hash = if level.is_exempt { 0 } else { self.hash(&flow.0.schema, distinguisher) };
        let asker = || Asker {
            flow: flow.clone(),
            distinguisher: distinguisher.to_owned(),
            user: user.name.clone(),
            info: info.clone(),
            arrived: self.clock.now(),
        };
        let sort = Sort { is_write: !is_read(info), is_watch: info.verb == "watch" };
        let seat = Level::enter(flow, hash, (width, sort), limit / PATIENCE_PART, asker).await;
        *own = Some(Arc::new(seat.map_err(|_: Refusal| too_many())?));
        *watching = (info.verb == "watch").then(|| Arc::new(self.watches.begin(info)));
        Ok(Held::Seats)
    }

    /// What a request takes of its level: writes by those who are told of them, others what `seats` says.
    fn width(&self, flow: &Flow, info: &RequestInfo, seats: impl FnOnce(u32) -> u32) -> Width {
        let most = flow.0.level.most_seats();
        let tells = matches!(info.verb.as_str(), "create" | "update" | "patch" | "delete");
        // Making a token changes nothing that is watched.
        let makes_token = info.resource == "serviceaccounts" && info.subresource == "token";
        if !tells || makes_token {
            return Width::of(seats(most));
        }
        let watches = self.watches.told_of(info);
        flow.0.figures.watched(watches);
        width::write(watches, most)
    }

    /// A place for a request where nobody is told apart; those who may do everything always have one.
    fn place(&self, user: &UserInfo, info: &RequestInfo) -> Result<Held<'_>, Answer> {
        if self.settings.is_enabled || info.is_long_running() {
            return Ok(Held::Free);
        }
        match self.in_flight[usize::from(!is_read(info))].try_acquire() {
            Ok(place) => Ok(Held::Place(place)),
            Err(_) if user.in_group("system:masters") => Ok(Held::Free),
            Err(_) => Err(too_many()),
        }
    }

    fn hash(&self, schema: &str, distinguisher: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.seed, schema, distinguisher).hash(&mut hasher);
        hasher.finish()
    }

    fn schemas(&self, catalogue: &Catalogue, metrics: &Metrics) -> Option<Arc<Vec<Schema>>> {
        let find =
            || Some([catalogue.cache(GROUP, "flowschemas")?, catalogue.cache(GROUP, "prioritylevelconfigurations")?]);
        let [schemas, levels] = self.caches.get_or_init(find).as_ref()?;
        let changed = (schemas.changed(), levels.changed());
        let mut known = self.known.lock();
        if known.changed != changed {
            let objects = || -> Result<[Vec<Object>; 2]> {
                Ok([schemas.objects(&Filter::default())?, levels.objects(&Filter::default())?])
            };
            match objects() {
                Ok([schemas, levels]) => self.digest(&mut known, &with_mandatory(schemas, levels), metrics, changed),
                Err(error) => tracing::warn!(%error, "the flow schemas cannot be read"),
            }
        }
        Some(known.schemas.clone())
    }

    fn digest(&self, known: &mut Known, [schemas, levels]: &[Vec<Object>; 2], metrics: &Metrics, changed: (u64, u64)) {
        let total = self.settings.reads + self.settings.writes;
        known.levels = level::digest(&known.levels, levels, total, (&self.clock, &self.kinds), metrics);
        let read = |schema: &Object| schema_of(schema, levels, &known.levels, metrics);
        let mut all: Vec<Schema> = schemas.iter().filter_map(read).collect();
        all.sort_by(|left, right| left.order.cmp(&right.order));
        known.schemas = Arc::new(all);
        known.changed = changed;
    }

    /// Writes the figures that are not counted as requests come and go.
    pub fn write(&self, text: &mut String) {
        if self.settings.is_enabled {
            level::write(text, &self.levels());
            self.kinds.write(text, self.clock.monotonic());
        }
    }

    fn levels(&self) -> Vec<Arc<Level>> {
        self.known.lock().levels.values().cloned().collect()
    }

    /// Lets levels borrow from each other what they asked for, until the next time.
    pub fn adjust(&self, metrics: &Metrics) {
        level::adjust(&self.levels(), self.settings.reads + self.settings.writes, metrics);
    }
}

fn is_read(info: &RequestInfo) -> bool {
    matches!(info.verb.as_str(), "get" | "list" | "watch" | "head" | "options")
}

/// The seats that a request takes, at most `most`; what is no list takes one.
pub fn seats_of(catalogue: &Catalogue, query: &Query, info: &RequestInfo, most: u32) -> u32 {
    let begins_with_list = info.verb == "watch" && query.flag("sendInitialEvents");
    if !info.is_resource || !(info.verb == "list" || begins_with_list) {
        return 1;
    }
    let Some(served) = catalogue.get(&info.group, &info.version, &info.resource) else { return 1 };
    let Ok(options) = ListOptions::of_list(query) else { return most.max(1) };
    let revision = options.revision().unwrap_or_default();
    let (objects, bytes) = served.cache.weight();
    let listed = width::Listed {
        objects,
        bytes,
        limit: options.limit as u64,
        is_single: !info.selected_name.is_empty(),
        is_cached: begins_with_list || query.text("continue").is_empty() && !options.is_exact(revision),
        is_selective: !info.field_selector.is_empty() || !info.label_selector.is_empty(),
    };
    width::list(&listed, most)
}

/// Adds what is always there, also where somebody has deleted it and nobody has brought it back yet.
fn with_mandatory(mut schemas: Vec<Object>, mut levels: Vec<Object>) -> [Vec<Object>; 2] {
    for name in MANDATORY {
        for (list, kind) in [(&mut schemas, "FlowSchema"), (&mut levels, "PriorityLevelConfiguration")] {
            if !list.iter().any(|object| object.name() == name) {
                let own = |object: &Object| object["kind"] == kind && object.name() == name;
                list.extend(flow_control_objects().into_iter().find(own));
            }
        }
    }
    [schemas, levels]
}

fn schema_of(
    schema: &Object,
    objects: &[Object],
    levels: &BTreeMap<String, Arc<Level>>,
    metrics: &Metrics,
) -> Option<Schema> {
    let wanted = schema.str_at(&["spec", "priorityLevelConfiguration", "name"]);
    let (object, level) = (objects.iter().find(|level| level.name() == wanted)?, levels.get(wanted)?);
    let flow = Flow(Arc::new(Facts {
        schema: schema.name().to_owned(),
        schema_uid: HeaderValue::from_str(schema.uid()).ok()?,
        level_uid: HeaderValue::from_str(object.uid()).ok()?,
        by: match schema.str_at(&["spec", "distinguisherMethod", "type"]) {
            "ByUser" => Distinguisher::User,
            "ByNamespace" => Distinguisher::Namespace,
            _ => Distinguisher::Nothing,
        },
        level: level.clone(),
        figures: Figures::of(metrics, schema.name(), wanted),
    }));
    let precedence = schema.int_at(&["spec", "matchingPrecedence"]).unwrap_or(DEFAULT_PRECEDENCE);
    let rules = schema.list_at(&["spec", "rules"]).iter().map(Rule::of).collect();
    Some(Schema { order: (precedence, schema.name().to_owned()), rules, flow })
}

/// 429 in upstream's words.
fn too_many() -> Answer {
    let mut answer = answer::text(429, "Too many requests, please try again later.\n");
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}
