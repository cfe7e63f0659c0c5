//! ResourceQuota: what a namespace uses stays within its quotas. A request is charged before its object is written, by
//! compare-and-swap on the quotas' statuses, so that no number of requests at a time passes a limit. What was charged
//! for an object that was not written after all is given back by the controller, which counts anew.
//! See <https://kubernetes.io/docs/concepts/policy/resource-quotas/>.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_base::Quantity;
use skiff_kinds::quota::{Amounts, concerns, usage};
use skiff_object::Object;
use skiff_object::meta::Meta;
use skiff_store::{Change, Compare, Durability, Outcome, Transaction};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::ApiServer;
use crate::admission::{Attributes, Operation};
use crate::codec;
use crate::failure::{Failure, Result};
use crate::storage::cache::ResourceCache;
use crate::storage::filter::Filter;

/// How often charges are worked out anew where somebody else has changed the quotas meanwhile.
const TRIES: usize = 10;
/// Resources that a quota can only count where every container says how much it takes.
const MUST_SAY: [&str; 6] = ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];

/// What may be used only where a quota covers it.
#[derive(Debug, Clone)]
pub struct Limited {
    group: String,
    plural: String,
    contains: Vec<String>,
    scopes: Vec<Value>,
}

impl Limited {
    /// Reads one of `limitedResources`.
    pub fn read(config: &Value) -> Self {
        let contains = config.list_at(&["matchContains"]).iter().filter_map(Value::as_str);
        Self {
            group: config.str_at(&["apiGroup"]).to_owned(),
            plural: config.str_at(&["resource"]).to_owned(),
            contains: contains.map(str::to_owned).collect(),
            scopes: config.list_at(&["matchScopes"]).to_vec(),
        }
    }
}

/// What a request wants.
#[derive(Debug, Clone)]
struct Wish {
    group: String,
    plural: String,
    object: Object,
    /// How much more is used when it is granted; less than nothing where it gives back.
    delta: Amounts,
    is_new: bool,
    dry_run: bool,
}

/// A quota, as far as it is looked at.
#[derive(Debug, Clone)]
struct Known {
    name: String,
    spec: Value,
    hard: Amounts,
    used: Amounts,
    charged: bool,
}

impl Known {
    fn of(quota: &Object) -> Self {
        let amounts = |field: &str| {
            let pairs = quota.map_at(&["status", field]).into_iter().flatten();
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            pairs.filter_map(|(name, value)| Some((name.clone(), text(value).parse().ok()?))).collect()
        };
        Self {
            name: quota.name().to_owned(),
            spec: quota.get("spec").cloned().unwrap_or_default(),
            hard: amounts("hard"),
            used: amounts("used"),
            charged: false,
        }
    }

    /// The amounts of this quota that a wish touches.
    fn touched(&self, wish: &Wish) -> Vec<String> {
        let must_say = |name: &&String| wish.plural == "pods" && MUST_SAY.contains(&name.as_str());
        let names = self.hard.keys().filter(|name| wish.delta.contains_key(*name) || must_say(name));
        names.cloned().collect()
    }
}

/// Charges a wish to all quotas that it concerns, or to none.
fn grant(quotas: &mut [Known], wish: &Wish, limited: &[Limited]) -> std::result::Result<(), String> {
    let mut covered = BTreeSet::new();
    let mut planned = Vec::new();
    for (at, quota) in quotas.iter().enumerate() {
        let touched = quota.touched(wish);
        if touched.is_empty() || !concerns(&quota.spec, &wish.group, &wish.plural, &wish.object) {
            continue;
        }
        if wish.plural == "pods" && wish.group.is_empty() {
            says_all(&wish.object, &touched).map_err(|why| format!("failed quota: {}: {why}", quota.name))?;
        }
        if let Some(unknown) = missing(&touched, &quota.used) {
            return Err(format!("status unknown for quota: {}, resources: {unknown}", quota.name));
        }
        covered.extend(touched.iter().cloned());
        let used = charged(quota, &touched, wish)?;
        planned.push((at, used));
    }
    if wish.is_new {
        insist_on_cover(quotas, wish, limited, &covered)?;
    }
    for (at, used) in planned {
        let quota = &mut quotas[at];
        quota.charged |= used != quota.used;
        quota.used = used;
    }
    Ok(())
}

fn missing(names: &[String], amounts: &Amounts) -> Option<String> {
    let unknown: Vec<_> = names.iter().filter(|name| !amounts.contains_key(*name)).cloned().collect();
    (!unknown.is_empty()).then(|| unknown.join(","))
}

/// What is used of a quota with the wish granted.
fn charged(quota: &Known, touched: &[String], wish: &Wish) -> std::result::Result<Amounts, String> {
    let (mut used, mut over) = (quota.used.clone(), Vec::new());
    for name in touched {
        let Some(more) = wish.delta.get(name).filter(|more| !more.is_zero()) else { continue };
        let sum = quota.used.get(name).copied().unwrap_or(Quantity::ZERO).plus(*more);
        if !more.is_negative() && quota.hard.get(name).is_some_and(|hard| sum > *hard) {
            over.push(name);
        }
        used.insert(name.clone(), sum);
    }
    if over.is_empty() {
        return Ok(used);
    }
    let list = |amounts: &Amounts| {
        let one = |name: &&String| format!("{name}={}", amounts.get(*name).copied().unwrap_or(Quantity::ZERO));
        over.iter().map(one).collect::<Vec<_>>().join(",")
    };
    Err(format!(
        "exceeded quota: {}, requested: {}, used: {}, limited: {}",
        quota.name,
        list(&wish.delta),
        list(&quota.used),
        list(&quota.hard)
    ))
}

/// Whether every container says how much it takes of what is counted.
fn says_all(pod: &Object, counted: &[String]) -> std::result::Result<(), String> {
    let mut silent: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let containers = pod.list_at(&["spec", "containers"]).iter().chain(pod.list_at(&["spec", "initContainers"]));
    for container in containers {
        for name in counted.iter().filter(|name| MUST_SAY.contains(&name.as_str())) {
            let (field, resource) = name.split_once('.').unwrap_or(("requests", name));
            let says = |whole: &Value| whole.at(&["resources", field, resource]).is_some();
            if !says(container) && !pod.at(&["spec"]).is_some_and(says) {
                silent.entry(name).or_default().insert(container.str_at(&["name"]));
            }
        }
    }
    if silent.is_empty() {
        return Ok(());
    }
    let one = |(name, containers): (&&str, &BTreeSet<&str>)| {
        format!("{name} for: {}", containers.iter().copied().collect::<Vec<_>>().join(","))
    };
    Err(format!("must specify {}", silent.iter().map(one).collect::<Vec<_>>().join("; ")))
}

/// What the administrator lets nobody use without a quota.
fn insist_on_cover(
    quotas: &[Known],
    wish: &Wish,
    limited: &[Limited],
    covered: &BTreeSet<String>,
) -> std::result::Result<(), String> {
    for limited in limited.iter().filter(|l| l.group == wish.group && l.plural == wish.plural) {
        let is_limited = |name: &&String| limited.contains.iter().any(|part| name.contains(part.as_str()));
        let bare: Vec<_> =
            wish.delta.keys().filter(is_limited).filter(|name| !covered.contains(*name)).cloned().collect();
        if !bare.is_empty() {
            return Err(format!("insufficient quota to consume: {}", bare.join(",")));
        }
        let scope_of = |scope: &Value| json!({"scopeSelector": {"matchExpressions": [scope]}});
        let fits = |scope: &&Value| concerns(&scope_of(scope), &wish.group, &wish.plural, &wish.object);
        let open: Vec<_> =
            limited.scopes.iter().filter(fits).filter(|scope| !is_covered(quotas, scope, wish)).collect();
        if !open.is_empty() {
            let one = |scope: &&Value| {
                let values: Vec<_> = scope.list_at(&["values"]).iter().filter_map(Value::as_str).collect();
                let (name, operator) = (scope.str_at(&["scopeName"]), scope.str_at(&["operator"]));
                format!("{{{name} {operator} [{}]}}", values.join(" "))
            };
            let open: Vec<_> = open.iter().map(one).collect();
            return Err(format!("insufficient quota to match these scopes: [{}]", open.join(" ")));
        }
    }
    Ok(())
}

/// Whether a quota with the scope counts the object.
fn is_covered(quotas: &[Known], scope: &Value, wish: &Wish) -> bool {
    let name = scope.str_at(&["scopeName"]);
    let has = |spec: &Value| {
        let expressions = spec.list_at(&["scopeSelector", "matchExpressions"]).iter();
        expressions.map(|expression| expression.str_at(&["scopeName"])).any(|own| own == name)
            || spec.list_at(&["scopes"]).iter().any(|own| own == name)
    };
    let mut counting = quotas.iter().filter(|quota| concerns(&quota.spec, &wish.group, &wish.plural, &wish.object));
    counting.any(|quota| has(&quota.spec))
}

/// A wish that waits for its answer.
struct Waiting {
    wish: Arc<Wish>,
    answer: oneshot::Sender<std::result::Result<(), Refusal>>,
}

/// Why a wish is not granted.
#[derive(Debug, Clone)]
enum Refusal {
    /// A quota says so.
    Quota(String),
    /// It could not be found out.
    Failed(Failure),
}

/// Where the wishes of one namespace are granted, many at a time.
#[derive(Default)]
struct Desk {
    waiting: Mutex<Vec<Waiting>>,
    turn: tokio::sync::Mutex<()>,
}

/// The desks of all namespaces.
#[derive(Default)]
pub struct Desks {
    by_namespace: Mutex<HashMap<String, Arc<Desk>>>,
}

impl Desks {
    fn of(&self, namespace: &str) -> Arc<Desk> {
        let mut desks = self.by_namespace.lock();
        if let Some(desk) = desks.get(namespace) {
            return desk.clone();
        }
        // Whoever is at a desk holds it; the others are free to go.
        desks.retain(|_, desk| Arc::strong_count(desk) > 1);
        desks.entry(namespace.to_owned()).or_default().clone()
    }
}

/// Charges what a request uses, or refuses it.
pub fn charge<'a>(
    attributes: &'a Attributes<'_>,
    object: Option<&'a Object>,
    old: Option<&'a Object>,
) -> BoxFuture<'a, Result<()>> {
    match wish(attributes, object, old) {
        Some(wish) => async move {
            submit(attributes.server, attributes.namespace, wish).await.map_err(|refusal| match refusal {
                Refusal::Quota(why) => attributes.forbidden(why),
                Refusal::Failed(failure) => failure,
            })
        }
        .boxed(),
        None => std::future::ready(Ok(())).boxed(),
    }
}

/// What a request wants, if it is one that quotas count.
fn wish(attributes: &Attributes<'_>, object: Option<&Object>, old: Option<&Object>) -> Option<Wish> {
    let (object, def) = (object?, attributes.def);
    let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
    if !writes || !def.is_namespaced() || !def.stored || attributes.namespace.is_empty() {
        return None;
    }
    let is_counted = match (def.group.as_ref(), def.plural.as_ref(), attributes.subresource, old.is_some()) {
        // What is told of others is not counted, as upstream has it.
        ("" | "events.k8s.io", "events", ..) => false,
        (_, _, "", false) => true,
        ("", "services" | "persistentvolumeclaims", "", true) | ("", "pods", "resize", true) => true,
        _ => false,
    };
    let cache = attributes.server.catalogue.cache("", "resourcequotas")?;
    let limited = &attributes.server.plugins.settings.limited;
    let is_limited = limited.iter().any(|limited| limited.plural == def.plural && limited.group == def.group);
    if !is_counted || (!is_limited && cache.select(&Filter::namespace(attributes.namespace)).is_empty()) {
        return None;
    }
    let now = attributes.call.now;
    let mut delta = usage(&def.group, &def.plural, object, now);
    for (name, before) in old.map(|old| usage(&def.group, &def.plural, old, now)).unwrap_or_default() {
        let after = delta.get(&name).copied().unwrap_or(Quantity::ZERO);
        delta.insert(name, after.minus(before));
    }
    if old.is_some() && delta.values().all(Quantity::is_zero) {
        return None;
    }
    let (group, plural) = (def.group.to_string(), def.plural.to_string());
    Some(Wish { group, plural, object: object.clone(), delta, is_new: old.is_none(), dry_run: attributes.dry_run })
}

/// Hands a wish in, and works on all that wait where nobody else does.
async fn submit(server: &ApiServer, namespace: &str, wish: Wish) -> std::result::Result<(), Refusal> {
    let (desk, wish) = (server.plugins.quotas.of(namespace), Arc::new(wish));
    loop {
        let (answer, mut answered) = oneshot::channel();
        desk.waiting.lock().push(Waiting { wish: wish.clone(), answer });
        let turn = desk.turn.lock().await;
        match answered.try_recv() {
            Ok(answer) => return answer,
            // Whoever had taken it up went away in the middle: what it may have charged the controller gives back.
            Err(TryRecvError::Closed) => continue,
            Err(TryRecvError::Empty) => {}
        }
        let batch = std::mem::take(&mut *desk.waiting.lock());
        let wishes: Vec<_> = batch.iter().map(|waiting| &*waiting.wish).collect();
        let answers = grant_all(server, namespace, &wishes).await;
        for (waiting, answer) in batch.into_iter().zip(answers) {
            // Who has gone meanwhile does not want to know.
            if waiting.answer.send(answer).is_err() {
                tracing::debug!(namespace, "a charged request went away");
            }
        }
        drop(turn);
        if let Ok(answer) = answered.await {
            return answer;
        }
    }
}

/// Answers wishes one after the other, and writes what they come to in one transaction.
async fn grant_all(server: &ApiServer, namespace: &str, wishes: &[&Wish]) -> Vec<std::result::Result<(), Refusal>> {
    let fail = |failure: Failure| vec![Err(Refusal::Failed(failure)); wishes.len()];
    let Some(cache) = server.catalogue.cache("", "resourcequotas") else { return fail(no_quotas()) };
    for _ in 0..TRIES {
        let current = match read(server, &cache, namespace).await {
            Ok(current) => current,
            Err(failure) => return fail(failure),
        };
        let mut quotas: Vec<_> = current.iter().map(|(_, _, quota)| Known::of(quota)).collect();
        let mut answers = Vec::with_capacity(wishes.len());
        for wish in wishes {
            let limited = &server.plugins.settings.limited;
            let answer = if wish.dry_run {
                grant(&mut quotas.clone(), wish, limited)
            } else {
                grant(&mut quotas, wish, limited)
            };
            answers.push(answer.map_err(Refusal::Quota));
        }
        match write(server, &current, &quotas).await {
            Ok(true) => return answers,
            Ok(false) => {}
            Err(failure) => return fail(failure),
        }
    }
    fail(crate::failure::plain(409, "the quotas of the namespace change too often; please try again"))
}

fn no_quotas() -> Failure {
    crate::failure::plain(500, "there is no kind for quotas")
}

type Current = (bytes::Bytes, u64, Object);

/// The quotas of a namespace as the store has them: what the cache shows may be a charge behind.
async fn read(server: &ApiServer, cache: &ResourceCache, namespace: &str) -> Result<Vec<Current>> {
    let mut all = Vec::new();
    for entry in cache.select(&Filter::namespace(namespace)) {
        let (_, found) = server.store().get(&entry.key, None).await?;
        if let Some(pair) = found {
            let quota = codec::decode_stored(&cache.def, &pair.value, pair.mod_revision)?;
            all.push((pair.key, pair.mod_revision, quota));
        }
    }
    Ok(all)
}

/// Writes the quotas that were charged; false where somebody else has changed one meanwhile.
async fn write(server: &ApiServer, current: &[Current], quotas: &[Known]) -> Result<bool> {
    let (mut compares, mut changes) = (Vec::new(), Vec::new());
    for ((key, revision, quota), known) in current.iter().zip(quotas).filter(|(_, known)| known.charged) {
        let mut quota = quota.clone();
        for (name, amount) in &known.used {
            quota.map_mut(&["status", "used"]).insert(name.clone(), amount.to_string().into());
        }
        quota.remove_at(&["metadata", "resourceVersion"]);
        compares.push(Compare { key: key.clone(), mod_revision: *revision });
        changes.push(Change::Put { key: key.clone(), value: codec::encode_stored(&quota) });
    }
    if changes.is_empty() {
        return Ok(true);
    }
    let transaction = Transaction { compares, changes, durability: Durability::Durable };
    Ok(matches!(server.store().commit(transaction).await?, Outcome::Committed(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(yaml: &str) -> Object {
        serde_saphyr::from_str(yaml).expect(yaml)
    }

    fn quota(spec: &str, hard: &str, used: &str) -> Known {
        Known::of(&object(&format!("{{metadata: {{name: q}}, spec: {spec}, status: {{hard: {hard}, used: {used}}}}}")))
    }

    fn wish(plural: &str, yaml: &str) -> Wish {
        let (object, now) = (object(yaml), "2026-01-31T12:00:00Z".parse().expect("a time"));
        let delta = usage("", plural, &object, now);
        Wish { group: String::new(), plural: plural.to_owned(), object, delta, is_new: true, dry_run: false }
    }

    /// What is used afterwards, or why it is refused.
    fn check(mut quotas: Vec<Known>, wish: &Wish, limited: &str, expected: &str) {
        let limited: Vec<_> = object(limited).as_array().into_iter().flatten().map(Limited::read).collect();
        let text = match grant(&mut quotas, wish, &limited) {
            Err(why) => why,
            Ok(()) => {
                let used = quotas.iter().flat_map(|quota| quota.used.iter());
                used.map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(" ")
            }
        };
        assert_eq!(text, expected);
    }

    const POD: &str = "{spec: {containers: [{name: a, resources: {requests: {cpu: 500m}}}]}}";

    #[test]
    fn what_fits_is_charged_and_what_does_not_is_refused() {
        let plain = |used: &str| vec![quota("{}", "{pods: 2, requests.cpu: '1'}", used)];
        check(plain("{pods: 1, requests.cpu: 500m}"), &wish("pods", POD), "[]", "pods=2 requests.cpu=1");
        check(
            plain("{pods: 2, requests.cpu: '0.6'}"),
            &wish("pods", POD),
            "[]",
            "exceeded quota: q, requested: pods=1,requests.cpu=500m, used: pods=2,requests.cpu=600m, limited: pods=2,requests.cpu=1",
        );
        check(plain("{pods: 0}"), &wish("pods", POD), "[]", "status unknown for quota: q, resources: requests.cpu");
        check(
            plain("{pods: 0, requests.cpu: 0}"),
            &wish("pods", "{spec: {containers: [{name: b}, {name: a}]}}"),
            "[]",
            "failed quota: q: must specify requests.cpu for: a,b",
        );
        let counted = vec![quota("{}", "{count/secrets: 1}", "{count/secrets: 1}")];
        check(
            counted,
            &wish("secrets", "{}"),
            "[]",
            "exceeded quota: q, requested: count/secrets=1, used: count/secrets=1, limited: count/secrets=1",
        );
    }

    #[test]
    fn all_quotas_are_charged_or_none() {
        let mut quotas = vec![quota("{}", "{pods: 5}", "{pods: 0}"), quota("{}", "{pods: 1}", "{pods: 1}")];
        assert!(grant(&mut quotas, &wish("pods", POD), &[]).is_err());
        assert!(quotas.iter().all(|quota| !quota.charged));
        assert_eq!(quotas[0].used["pods"], Quantity::ZERO);
    }

    #[test]
    fn scopes_choose_and_cover() {
        let high = "{spec: {priorityClassName: high, containers: [{name: a}]}}";
        let scoped = "{scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: In, values: [high]}]}}";
        let quotas = || vec![quota(scoped, "{pods: 1}", "{pods: 0}")];
        check(quotas(), &wish("pods", high), "[]", "pods=1");
        check(quotas(), &wish("pods", POD), "[]", "pods=0");
        let limited = "[{resource: pods, matchScopes: [{scopeName: PriorityClass, operator: In, values: [high]}]}]";
        check(quotas(), &wish("pods", high), limited, "pods=1");
        let refusal = "insufficient quota to match these scopes: [{PriorityClass In [high]}]";
        check(Vec::new(), &wish("pods", high), limited, refusal);
        let claims =
            "[{resource: persistentvolumeclaims, matchContains: [.storageclass.storage.k8s.io/requests.storage]}]";
        check(
            Vec::new(),
            &wish("persistentvolumeclaims", "{spec: {storageClassName: gold, resources: {requests: {storage: 1Gi}}}}"),
            claims,
            "insufficient quota to consume: gold.storageclass.storage.k8s.io/requests.storage",
        );
    }
}
