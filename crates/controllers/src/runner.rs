//! The one executor: takes keys from a controller's queue, asks it for a plan, and carries the plan out.
//! It knows preconditions, conflicts, slow starts and what has not been seen yet; it knows no kind and decides nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{self, StreamExt};
use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_base::clock::SharedClock;
use skiff_base::ids::Ids;
use skiff_client::{
    Change, Client, DeleteOptions, Error, Informer, Informers, Kind, ObjectKey, Outline, Outlines, PartialObject,
    Patch, Recorder, Resource, Revision, WorkQueue,
};

use crate::expectations::{Expectations, Seen, Want};
use crate::plan::{Action, Deletion, Guard, Note, Plan, Step, Target, Write};

/// Keys of one controller that are worked on at once.
const WORKERS: usize = 5;
/// A key rests for so many times as long as its last plan took to make. Who owns ten thousand Pods and is woken by each of
/// them is planned for often enough, and leaves the processor to those who make the Pods.
const REST_FACTOR: u32 = 9;
/// Shorter rests are not worth a timer.
const SHORTEST_REST: Duration = Duration::from_millis(2);
/// The longest rest.
const LONGEST_REST: Duration = Duration::from_millis(500);
/// So many timers are kept before those that have run out are looked for.
const TIMERS_KEPT: usize = 64;
/// The largest number of writes of one burst that are under way at once.
const MAX_BURST: usize = 64;

/// The queue of a controller.
pub type Queue = WorkQueue<ObjectKey>;

/// What the last attempt at a key met with, until an attempt meets with nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The reason of the note that told of it, `FailedCreate`.
    pub reason: &'static str,
    /// The error.
    pub message: String,
}

/// A controller: from a key to a plan, reading caches and nothing else.
pub trait Controller: Send + Sync + 'static {
    /// What is to be done about the object with this key, as the caches show the cluster now.
    fn plan(&self, key: &ObjectKey, now: Timestamp, failure: Option<&Failure>) -> Plan;
}

type Lookup = Box<dyn Fn(&ObjectKey) -> Option<Seen> + Send + Sync>;

/// What a controller is set up with: informers that feed its queue and show it its own writes.
pub struct Setup {
    informers: Informers,
    /// Its queue.
    pub queue: Arc<Queue>,
    /// Where names come from.
    pub ids: Arc<Ids>,
    expectations: Arc<Expectations>,
    lookups: HashMap<Resource, Lookup>,
    synced: Vec<BoxFuture<'static, ()>>,
}

impl Setup {
    /// A fresh queue on shared informers.
    pub fn new(informers: &Informers, ids: Arc<Ids>) -> Self {
        Self {
            informers: informers.clone(),
            queue: Arc::default(),
            ids,
            expectations: Arc::default(),
            lookups: HashMap::new(),
            synced: Vec::new(),
        }
    }

    /// Tells the figures of its queue under this name; to be said before anything is set up.
    pub fn named(mut self, name: &str) -> Self {
        self.queue = Queue::named(name);
        self
    }

    /// The informers that it reads through.
    pub fn informers(&self) -> &Informers {
        &self.informers
    }

    /// The informer of a kind; the controller starts when it is synced.
    pub fn informer<K: Kind>(&mut self) -> Informer<K> {
        let informer = self.informers.of::<K>();
        if !self.lookups.contains_key(&K::resource()) {
            self.watch(&informer);
        }
        informer
    }

    /// Waits for the informer to be synced, and sees the controller's own writes through it.
    fn watch<K: Kind>(&mut self, informer: &Informer<K>) {
        let resource = K::resource();
        let waiting = informer.clone();
        self.synced.push(Box::pin(async move { waiting.synced().await }));
        let (expectations, queue, gone) = (self.expectations.clone(), self.queue.clone(), resource.clone());
        informer.on_change(move |change: &Change<K>| {
            if let Change::Deleted(object) = change {
                let keys = expectations.object_gone(&gone, &ObjectKey::of(object.metadata()));
                keys.into_iter().for_each(|key| queue.add(key));
            }
        });
        let cache = informer.clone();
        self.lookups.insert(resource, Box::new(move |key| cache.by_key(key).map(|object| seen(&*object))));
    }

    /// Waits until all its informers are synced.
    pub async fn synced(&mut self) {
        join_all(std::mem::take(&mut self.synced)).await;
    }

    /// An informer of its own for those objects of a kind that a field selector names; their changes add keys.
    pub fn selected<K: Kind>(
        &mut self,
        field_selector: &str,
        keys: impl Fn(&Change<K>) -> Vec<ObjectKey> + Send + Sync + 'static,
    ) -> Informer<K> {
        self.selected_in("", field_selector, keys)
    }

    /// The same in one namespace.
    pub fn selected_in<K: Kind>(
        &mut self,
        namespace: &str,
        field_selector: &str,
        keys: impl Fn(&Change<K>) -> Vec<ObjectKey> + Send + Sync + 'static,
    ) -> Informer<K> {
        let informer = self.informers.selected::<K>(namespace, "", field_selector);
        self.watch(&informer);
        let queue = self.queue.clone();
        informer.on_change(move |change| keys(change).into_iter().for_each(|key| queue.add(key)));
        informer
    }

    /// Adds to the queue the keys that a change of a kind concerns.
    pub fn on_change<K: Kind>(&mut self, keys: impl Fn(&Change<K>) -> Vec<ObjectKey> + Send + Sync + 'static) {
        let queue = self.queue.clone();
        self.informer::<K>().on_change(move |change| keys(change).into_iter().for_each(|key| queue.add(key)));
    }

    /// The outlines of a kind's objects; the controller starts when they are synced, and their changes add keys.
    pub fn outlines<K: Kind>(&mut self, keys: impl Fn(&Outline) -> Vec<ObjectKey> + Send + Sync + 'static) -> Outlines {
        let outlines = self.informers.metadata(&K::resource());
        let waiting = outlines.clone();
        self.synced.push(Box::pin(async move { waiting.synced().await }));
        let queue = self.queue.clone();
        outlines.on_change(move |_, object| keys(object).into_iter().for_each(|key| queue.add(key)));
        outlines
    }

    /// Adds to the queue the key of every object of the controller's own kind that changes.
    pub fn for_each<K: Kind>(&mut self) {
        self.on_change::<K>(|change| vec![ObjectKey::of(change.object().metadata())]);
    }
}

fn seen<K: Kind>(object: &K) -> Seen {
    let meta = object.metadata();
    Seen {
        uid: meta.uid.clone().unwrap_or_default(),
        version: version(meta.resource_version.as_deref()),
        deleting: meta.deletion_timestamp.is_some(),
    }
}

fn version(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Runs one controller until dropped.
pub struct Runner {
    name: &'static str,
    client: Client,
    clock: SharedClock,
    recorder: Recorder,
    queue: Arc<Queue>,
    expectations: Arc<Expectations>,
    lookups: HashMap<Resource, Lookup>,
    failures: Mutex<HashMap<ObjectKey, Failure>>,
    timers: Mutex<Timers>,
    rests: Mutex<HashMap<ObjectKey, Duration>>,
    /// Writes whose answers did not come, by the key whose plan had them.
    doubts: Mutex<HashMap<ObjectKey, Vec<Doubt>>>,
}

/// A write of which it is not known whether it was done. A plan that is made in ignorance of it might do more than is
/// allowed: delete another Pod in place of the one that is gone, or count on Pods that a smaller ReplicaSet has not.
enum Doubt {
    /// It says which object it is about, so that twice does no harm: it is made again.
    Again(Write),
    /// It was meant for one state of this object: the caches must show the state that it is in now.
    Look(Target),
}

impl Runner {
    /// Starts the workers of a controller once its informers are synced.
    pub async fn run(
        name: &'static str,
        mut setup: Setup,
        controller: Arc<dyn Controller>,
        client: Client,
        clock: SharedClock,
    ) {
        setup.synced().await;
        let runner = Self {
            name,
            recorder: Recorder::start(client.clone(), clock.clone(), name, ""),
            client,
            clock,
            queue: setup.queue,
            expectations: setup.expectations,
            lookups: setup.lookups,
            failures: Mutex::default(),
            timers: Mutex::default(),
            rests: Mutex::default(),
            doubts: Mutex::default(),
        };
        join_all((0..WORKERS).map(|_| runner.work(&*controller))).await;
    }

    async fn work(&self, controller: &dyn Controller) {
        while let Some(key) = self.queue.next().await {
            self.attend_to(controller, &key).await;
            self.queue.done(&key);
        }
    }

    async fn attend_to(&self, controller: &dyn Controller, key: &ObjectKey) {
        if !self.make_sure(key).await {
            return self.queue.retry(key.clone());
        }
        let now = self.clock.monotonic();
        let look_up =
            |resource: &Resource, object: &ObjectKey| self.lookups.get(resource).and_then(|look| look(object));
        if let Some(wait) = self.expectations.wait(key, now, look_up) {
            // The event that shows the write brings the key back; the timer is for a watch that lost it.
            return self.look_again(key, wait, now);
        }
        if let Some(rest) = self.rest(key, now) {
            return self.look_again(key, rest, now);
        }
        let failure = self.failures.lock().get(key).cloned();
        let plan = controller.plan(key, self.clock.now(), failure.as_ref());
        self.note_cost(key, now);
        let again_after = plan.again_after;
        match self.carry_out(key, plan).await {
            Ok(()) => {
                self.failures.lock().remove(key);
                self.queue.forget(key);
                if let Some(delay) = again_after {
                    self.look_again(key, delay, now);
                }
            }
            Err(Some(failure)) => {
                tracing::debug!(controller = self.name, %key, message = failure.message, "plan failed");
                self.failures.lock().insert(key.clone(), failure);
                self.queue.retry(key.clone());
            }
            Err(None) => self.queue.retry(key.clone()),
        }
    }

    /// How much longer the key has to rest.
    fn rest(&self, key: &ObjectKey, now: Duration) -> Option<Duration> {
        let mut rests = self.rests.lock();
        let left = rests.get(key)?.checked_sub(now).filter(|left| !left.is_zero());
        if left.is_none() {
            rests.remove(key);
        }
        left
    }

    fn note_cost(&self, key: &ObjectKey, began: Duration) {
        let now = self.clock.monotonic();
        let rest = now.saturating_sub(began) * REST_FACTOR;
        if rest >= SHORTEST_REST {
            self.rests.lock().insert(key.clone(), now + rest.min(LONGEST_REST));
        }
    }

    /// Sets a timer for the key, unless one that ends no later is running.
    fn look_again(&self, key: &ObjectKey, delay: Duration, now: Duration) {
        if self.timers.lock().set(key, now + delay, now) {
            self.queue.add_after(key.clone(), delay);
        }
    }

    /// `Err(None)` where the world changed meanwhile and the key is simply to be looked at again.
    async fn carry_out(&self, key: &ObjectKey, plan: Plan) -> Result<(), Option<Failure>> {
        let mut written = HashMap::new();
        let mut first = None;
        for step in plan.steps {
            match step {
                Step::One(action) => {
                    let target = target_of(&action.write).cloned();
                    let newest = self.act(key, *action, &written).await?;
                    if let (Some(target), Some(newest)) = (target, newest) {
                        written.insert((target.resource, target.key), newest);
                    }
                }
                Step::Burst(actions) => {
                    if let Err(failure) = self.burst(key, actions).await {
                        first.get_or_insert(failure);
                    }
                }
            }
        }
        first.map_or(Ok(()), Err)
    }

    async fn burst(&self, key: &ObjectKey, actions: Vec<Action>) -> Result<(), Option<Failure>> {
        let mut actions = actions.into_iter();
        let (mut size, nothing) = (1, HashMap::new());
        while size < MAX_BURST {
            let batch: Vec<_> = actions.by_ref().take(size).collect();
            if batch.is_empty() {
                return Ok(());
            }
            let results = join_all(batch.into_iter().map(|action| self.act(key, action, &nothing))).await;
            results.into_iter().collect::<Result<Vec<_>, _>>()?;
            size *= 2;
        }
        // So many have gone well that the rest need not wait for each other. After a failure none is begun any more, but what
        // is under way is waited for: of a write that is given up nobody would know that it was done.
        let first = Mutex::new(Ok(()));
        let (rest, seen) = (stream::iter(actions), &first);
        let rest =
            rest.take_while(|_| std::future::ready(seen.lock().is_ok())).map(|action| self.act(key, action, &nothing));
        let done = rest.buffer_unordered(MAX_BURST).for_each(|outcome| {
            let mut first = seen.lock();
            if first.is_ok() {
                *first = outcome.map(drop);
            }
            std::future::ready(())
        });
        done.await;
        first.into_inner()
    }

    /// Does one write and tells of it; gives the object's new revision.
    async fn act(
        &self,
        key: &ObjectKey,
        action: Action,
        written: &HashMap<(Resource, ObjectKey), String>,
    ) -> Result<Option<String>, Option<Failure>> {
        if let Some(guard) = &action.guard
            && !self.stays(guard).await
        {
            return Err(None);
        }
        match self.write(key, action.write, written).await {
            Ok(newest) => {
                if let Some(note) = action.done {
                    self.tell(&note, note.message.clone());
                }
                Ok(newest)
            }
            Err(error) if error.is_conflict() => Err(None),
            Err(error) if is_namespace_ending(&error) => Ok(None),
            Err(error) => {
                let reason = action.failed.as_ref().map_or("Failed", |note| note.reason);
                if let Some(note) = action.failed {
                    self.tell(&note, format!("{}{error}", note.message));
                }
                Err(Some(Failure { reason, message: error.to_string() }))
            }
        }
    }

    async fn stays(&self, guard: &Guard) -> bool {
        let found = self.client.get_path::<PartialObject>(&guard.target.path()).await;
        found.is_ok_and(|owner| {
            owner.metadata.uid.as_ref() == Some(&guard.uid) && owner.metadata.deletion_timestamp.is_none()
        })
    }

    fn tell(&self, note: &Note, message: String) {
        self.recorder.record(&note.about, note.warning, note.reason, message);
    }

    async fn write(
        &self,
        key: &ObjectKey,
        write: Write,
        written: &HashMap<(Resource, ObjectKey), String>,
    ) -> Result<Option<String>, Error> {
        match write {
            Write::Nothing => Ok(None),
            Write::Create(target, body) => self.create(key, target, body).await,
            Write::Update(target, mut body) => {
                if let Some(newest) = written.get(&(target.resource.clone(), target.key.clone())) {
                    body["metadata"]["resourceVersion"] = json!(newest);
                }
                let answer = self.client.send_json::<Revision>(Method::PUT, &target.path(), &body).await;
                self.after_change(key, &target, answer.map(Revision::into_text))
            }
            Write::Patch(target, mut patch) => {
                if let Some(newest) = written.get(&(target.resource.clone(), target.key.clone())) {
                    renew(&mut patch, newest);
                }
                let answer = self.client.patch_raw(&target.path(), &patch).await;
                self.after_change(key, &target, answer.map(|bytes| Revision::of(&bytes)))
            }
            Write::Delete(target, deletion) => self.delete(key, target, deletion).await.map(|()| None),
        }
    }

    async fn create(&self, key: &ObjectKey, target: Target, body: Value) -> Result<Option<String>, Error> {
        self.expect(key, &target, Want::Exists);
        let path = target.resource.path(&target.key.namespace);
        let result = self.client.send_json::<Revision>(Method::POST, &path, &body).await;
        if let Err(Error::Transport(_)) = result {
            self.doubt(key, Doubt::Again(Write::Create(target, body)));
        } else if result.is_err() {
            self.expectations.settle(key, &target.resource, &target.key);
        }
        Ok(result?.into_text())
    }

    async fn delete(&self, key: &ObjectKey, target: Target, deletion: Deletion) -> Result<(), Error> {
        self.expect(key, &target, Want::Gone(deletion.uid.clone()));
        let mut options = DeleteOptions {
            grace_period_seconds: deletion.grace_seconds,
            propagation_policy: deletion.propagation,
            ..DeleteOptions::of_uid(deletion.uid.clone())
        };
        if let Some(preconditions) = &mut options.preconditions {
            preconditions.resource_version = deletion.version.clone();
        }
        let result = self.client.delete_path(&target.path(), &options).await;
        if let Err(Error::Transport(_)) = result {
            self.doubt(key, Doubt::Again(Write::Delete(target, deletion)));
        } else if result.is_err() {
            self.expectations.settle(key, &target.resource, &target.key);
        }
        result.or_else(unless_gone)
    }

    fn doubt(&self, key: &ObjectKey, doubt: Doubt) {
        self.doubts.lock().entry(key.clone()).or_default().push(doubt);
    }

    /// Resolves the doubts about a key's writes; false where the server still does not answer.
    async fn make_sure(&self, key: &ObjectKey) -> bool {
        let doubts = self.doubts.lock().remove(key).unwrap_or_default();
        for doubt in doubts {
            match doubt {
                Doubt::Again(write) => self.write_again(key, write).await,
                Doubt::Look(target) => self.look_at(key, target).await,
            }
        }
        !self.doubts.lock().contains_key(key)
    }

    /// Whatever the answer is, it says that the write was done or that it cannot be; if none comes the doubt remains.
    async fn write_again(&self, key: &ObjectKey, write: Write) {
        let target = target_of(&write).cloned();
        let answer = self.write(key, write, &HashMap::new()).await;
        match (answer, target) {
            // It was done the first time, and the caches will show it.
            (Err(error), Some(target)) if error.is_already_exists() => self.expect(key, &target, Want::Exists),
            // It was done the first time, or the object has changed meanwhile.
            (Err(error), Some(target)) if error.is_conflict() => self.look_at(key, target).await,
            _ => {}
        }
    }

    async fn look_at(&self, key: &ObjectKey, target: Target) {
        let path = Target { subresource: "", ..target.clone() }.path();
        match self.client.get_path::<Revision>(&path).await {
            Ok(now) => self.expect(key, &target, Want::Version(version(now.into_text().as_deref()))),
            Err(Error::Transport(_)) => self.doubt(key, Doubt::Look(target)),
            Err(_) => {}
        }
    }

    fn after_change(
        &self,
        key: &ObjectKey,
        target: &Target,
        newest: Result<Option<String>, Error>,
    ) -> Result<Option<String>, Error> {
        match newest {
            Ok(newest) => {
                self.expect(key, target, Want::Version(version(newest.as_deref())));
                Ok(newest)
            }
            Err(error) => {
                if let Error::Transport(_) = error {
                    self.doubt(key, Doubt::Look(target.clone()));
                }
                unless_gone(error).map(|()| None)
            }
        }
    }

    fn expect(&self, key: &ObjectKey, target: &Target, want: Want) {
        // Only what the controller watches can be waited for.
        if self.lookups.contains_key(&target.resource) {
            self.expectations.expect(key, &target.resource, &target.key, want, self.clock.monotonic());
        }
    }
}

/// Which keys come back by themselves, and when.
#[derive(Default)]
struct Timers {
    at: HashMap<ObjectKey, Duration>,
    /// Those that have run out are thrown away when there are so many, lest each look goes over all of them.
    limit: usize,
}

impl Timers {
    /// Notes a timer; false where one is running that ends no later.
    fn set(&mut self, key: &ObjectKey, at: Duration, now: Duration) -> bool {
        if self.at.get(key).is_some_and(|other| *other > now && *other <= at) {
            return false;
        }
        if self.at.len() >= self.limit {
            self.at.retain(|_, other| *other > now);
            self.limit = (2 * self.at.len()).max(TIMERS_KEPT);
        }
        self.at.insert(key.clone(), at);
        true
    }
}

fn target_of(write: &Write) -> Option<&Target> {
    match write {
        Write::Nothing => None,
        Write::Create(target, _) | Write::Update(target, _) | Write::Patch(target, _) | Write::Delete(target, _) => {
            Some(target)
        }
    }
}

/// A patch that builds on an earlier step of the same plan is meant for what that step made.
fn renew(patch: &mut Patch, newest: &str) {
    if let Patch::Merge(body) | Patch::Strategic(body) = patch
        && let Some(version) = body.pointer_mut("/metadata/resourceVersion")
    {
        *version = json!(newest);
    }
}

/// What is gone need not be changed or deleted.
fn unless_gone(error: Error) -> Result<(), Error> {
    if error.is_not_found() { Ok(()) } else { Err(error) }
}

/// Nothing can be created in a namespace that is being deleted, and nothing has to.
fn is_namespace_ending(error: &Error) -> bool {
    let details = error.status().and_then(|status| status.details.as_ref());
    details.is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"))
}
