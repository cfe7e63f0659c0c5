//! ResourceQuotas: telling what is used of them. What each object uses is known by [`skiff_kinds::quota`].
//! The API server charges what is created before it is there; here it is counted anew once that has settled.
//! See <https://kubernetes.io/docs/concepts/policy/resource-quotas/>.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as RawQuantity;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_base::clock::SharedClock;
use skiff_base::quantity::Format;
use skiff_base::{Quantity, Timestamp};
use skiff_client::{Change, Definition, Happened, Informer, Informers, Kind, ObjectKey, Resource};
use skiff_kinds::quota::{Amounts, add, concerns, count_name, usage};

use crate::plan::{Action, Plan};
use crate::resources::{Deletable, builtin, custom};
use crate::runner::{Controller, Failure, Setup};

/// What was charged is believed for this long: the object that it was charged for may be under way still, and a count
/// that does not see it would let others pass the limit.
const SETTLING: Duration = Duration::from_secs(2);

type Used = Option<BTreeMap<String, RawQuantity>>;

fn used_of(quota: &ResourceQuota) -> Used {
    quota.status.as_ref().and_then(|status| status.used.clone())
}

/// When quotas were charged by others, and what was told of them here.
#[derive(Default)]
struct Charges {
    at: HashMap<ObjectKey, Timestamp>,
    told: HashMap<ObjectKey, Used>,
}

impl Charges {
    /// Writes down when somebody else changed what is used.
    fn note(&mut self, change: &Change<ResourceQuota>, now: Timestamp) {
        let key = ObjectKey::of(&change.object().metadata);
        match change {
            Change::Updated { old, new } if used_of(old) != used_of(new) => {
                if self.told.get(&key) != Some(&used_of(new)) {
                    self.at.insert(key, now);
                }
            }
            Change::Deleted(_) => {
                self.at.remove(&key);
                self.told.remove(&key);
            }
            Change::Added(_) | Change::Updated { .. } => {}
        }
    }

    /// How long what was charged is still believed.
    fn left(&self, key: &ObjectKey, now: Timestamp) -> Duration {
        self.at.get(key).map_or(Duration::ZERO, |at| {
            SETTLING.saturating_sub(Duration::try_from(now.duration_since(*at)).unwrap_or_default())
        })
    }
}

/// What is to be told of a quota, given what the objects that it concerns use in all.
fn status(quota: &ResourceQuota, used: &Amounts) -> ResourceQuotaStatus {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default();
    let amount = |name: &String| {
        let amount = used.get(name).copied().unwrap_or(Quantity::ZERO);
        RawQuantity(amount.to_string())
    };
    let told: BTreeMap<_, _> = hard.keys().map(|name| (name.clone(), amount(name))).collect();
    ResourceQuotaStatus { hard: Some(hard), used: Some(told) }
}

/// Tells it, unless it has been told.
pub fn reconcile(quota: &ResourceQuota, status: ResourceQuotaStatus) -> Plan {
    let mut plan = Plan::nothing();
    if quota.metadata.deletion_timestamp.is_none() && !is_same(quota.status.as_ref(), &status) {
        plan.then(Action::update_status(&ResourceQuota { status: Some(status), ..quota.clone() }));
    }
    plan
}

/// Amounts are the same however they are written.
fn is_same(old: Option<&ResourceQuotaStatus>, new: &ResourceQuotaStatus) -> bool {
    type Raw = Option<BTreeMap<String, RawQuantity>>;
    let amounts = |raw: &Raw| -> Vec<(String, Option<Quantity>)> {
        raw.iter().flatten().map(|(name, raw)| (name.clone(), raw.0.parse().ok())).collect()
    };
    old.is_some_and(|old| amounts(&old.hard) == amounts(&new.hard) && amounts(&old.used) == amounts(&new.used))
}

/// The controller.
pub struct Quotas {
    quotas: Informer<ResourceQuota>,
    pods: Informer<Pod>,
    services: Informer<Service>,
    claims: Informer<PersistentVolumeClaim>,
    definitions: Informer<Definition>,
    informers: Informers,
    builtin: Vec<Deletable>,
    charges: Arc<Mutex<Charges>>,
}

impl Quotas {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup, clock: SharedClock) -> Arc<dyn Controller> {
        let quotas = setup.informer::<ResourceQuota>();
        let charges = Arc::new(Mutex::new(Charges::default()));
        let book = charges.clone();
        setup.on_change::<ResourceQuota>(move |change| {
            book.lock().note(change, clock.now());
            vec![ObjectKey::of(&change.object().metadata)]
        });
        let known = quotas.clone();
        setup.on_change::<Pod>(move |change| quotas_of(&known, change.object().metadata.namespace.as_deref()));
        let known = quotas.clone();
        setup.on_change::<Service>(move |change| quotas_of(&known, change.object().metadata.namespace.as_deref()));
        let known = quotas.clone();
        setup.on_change::<PersistentVolumeClaim>(move |change| {
            quotas_of(&known, change.object().metadata.namespace.as_deref())
        });
        let builtin: Vec<_> = builtin().into_iter().filter(|deletable| deletable.namespaced).collect();
        // The same caches that the garbage collector fills.
        for deletable in builtin.iter().filter(|deletable| deletable.resource.kind != "Event") {
            let (known, queue) = (quotas.clone(), setup.queue.clone());
            setup.informers().metadata(&deletable.resource).on_change(move |happened, object| {
                if happened != Happened::Updated {
                    let keys = quotas_of(&known, Some(&*object.namespace));
                    keys.into_iter().for_each(|key| queue.add(key));
                }
            });
        }
        Arc::new(Self {
            quotas,
            pods: setup.informer(),
            services: setup.informer(),
            claims: setup.informer(),
            definitions: setup.informer(),
            informers: setup.informers().clone(),
            builtin,
            charges,
        })
    }

    fn used(&self, quota: &ResourceQuota, now: Timestamp) -> Amounts {
        let namespace = quota.metadata.namespace.as_deref().unwrap_or_default();
        let spec = json!(quota.spec);
        let mut used = Amounts::new();
        self.add_all(&self.pods, namespace, &spec, now, &mut used);
        self.add_all(&self.services, namespace, &spec, now, &mut used);
        self.add_all(&self.claims, namespace, &spec, now, &mut used);
        let all = self.builtin.iter().filter(|deletable| !is_measured(&deletable.resource)).cloned();
        let all = all.chain(custom(&self.definitions));
        for Deletable { resource, .. } in all {
            let name = count_name(&resource.group, &resource.plural);
            let wanted = quota.spec.iter().flat_map(|spec| spec.hard.iter().flatten());
            let legacy = |hard: &str| resource.group.is_empty() && hard == resource.plural;
            let asked: Vec<_> = wanted.map(|(hard, _)| hard).filter(|hard| **hard == name || legacy(hard)).collect();
            if asked.is_empty() || !concerns(&spec, &resource.group, &resource.plural, &Value::Null) {
                continue;
            }
            let count = self.informers.metadata(&resource).count(namespace);
            for hard in asked.into_iter().filter(|hard| !used.contains_key(*hard)).cloned().collect::<Vec<_>>() {
                add(&mut used, hard, Quantity::from_units(count as i64, Format::DecimalSi));
            }
        }
        used
    }

    fn add_all<K: Kind>(&self, objects: &Informer<K>, namespace: &str, spec: &Value, now: Timestamp, to: &mut Amounts) {
        let plural = K::resource().plural.to_string();
        for object in objects.list_namespace(namespace) {
            let tree = json!(&*object);
            if concerns(spec, "", &plural, &tree) {
                for (name, amount) in usage("", &plural, &tree, now) {
                    add(to, name, amount);
                }
            }
        }
    }
}

impl Controller for Quotas {
    fn plan(&self, key: &ObjectKey, now: Timestamp, _failure: Option<&Failure>) -> Plan {
        let Some(quota) = self.quotas.by_key(key) else { return Plan::nothing() };
        let left = self.charges.lock().left(key, now);
        if !left.is_zero() && is_current(&quota) {
            let mut plan = Plan::nothing();
            plan.look_again(left);
            return plan;
        }
        let told = status(&quota, &self.used(&quota, now));
        self.charges.lock().told.insert(key.clone(), told.used.clone());
        reconcile(&quota, told)
    }
}

/// Whether objects of the resource are looked into one by one, and not only counted.
fn is_measured(resource: &Resource) -> bool {
    [Pod::resource(), Service::resource(), PersistentVolumeClaim::resource()].contains(resource)
}

/// Whether the limits that are told are those that are asked for.
fn is_current(quota: &ResourceQuota) -> bool {
    let wanted = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    quota.status.as_ref().is_some_and(|status| status.hard.as_ref() == wanted)
}

fn quotas_of(quotas: &Informer<ResourceQuota>, namespace: Option<&str>) -> Vec<ObjectKey> {
    let all = quotas.list_namespace(namespace.unwrap_or_default());
    all.iter().map(|quota| ObjectKey::of(&quota.metadata)).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::testing::{now, object};

    #[test]
    fn what_is_used_is_told_once() {
        let quota = |status: &str| -> ResourceQuota {
            object(&format!(
                "{{metadata: {{name: q, namespace: d}}, spec: {{hard: {{cpu: 1, pods: 3}}}}, status: {status}}}"
            ))
        };
        let used =
            Amounts::from([("cpu".to_owned(), Quantity::from_millis(500)), ("memory".to_owned(), Quantity::ZERO)]);
        expect![[r#"
            update resourcequotas/status d/q {"hard":{"cpu":"1","pods":"3"},"used":{"cpu":"500m","pods":"0"}}
        "#]]
        .assert_eq(&reconcile(&quota("{}"), status(&quota("{}"), &used)).to_string());
        let told = quota("{hard: {cpu: '1000m', pods: '3'}, used: {cpu: '0.5', pods: '0'}}");
        assert!(reconcile(&told, status(&told, &used)).steps.is_empty());
    }

    #[test]
    fn what_others_charge_is_believed_for_a_while() {
        let quota = |pods: u32| -> Arc<ResourceQuota> {
            Arc::new(object(&format!("{{metadata: {{name: q, namespace: d}}, status: {{used: {{pods: '{pods}'}}}}}}")))
        };
        let (key, at) = (ObjectKey::new("d", "q"), |seconds: u64| now() + Duration::from_secs(seconds));
        let mut charges = Charges::default();
        charges.note(&Change::Updated { old: quota(0), new: quota(1) }, at(0));
        assert_eq!(charges.left(&key, at(1)), Duration::from_secs(1));
        assert_eq!(charges.left(&key, at(2)), Duration::ZERO);
        charges.told.insert(key.clone(), used_of(&quota(0)));
        charges.note(&Change::Updated { old: quota(1), new: quota(0) }, at(5));
        assert_eq!(charges.left(&key, at(5)), Duration::ZERO, "what is told here is no charge");
    }
}
