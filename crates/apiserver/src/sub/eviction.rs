//! `pods/eviction`: a delete that asks the Pod's disruption budget first.
//! See <https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/>.

use serde_json::{Value, json};
use skiff_base::clock;
use skiff_object::meta::Meta;
use skiff_object::status::Cause;
use skiff_object::{LabelSelector, Object, Status};

use crate::call::Call;
use crate::failure::{Result, plain};
use crate::http::answer::Answer;
use crate::read::present;
use crate::server::ApiServer;
use crate::storage::filter::Filter;
use crate::sub;
use crate::write::delete::{self, DeleteOptions};
use crate::write::{Options, Target, decode, update};

/// When a client that was refused may try again.
const RETRY_SECONDS: u32 = 10;

/// Answers `POST .../pods/NAME/eviction`.
pub async fn answer(server: &ApiServer, call: &Call, body: &[u8]) -> Result<Answer> {
    let eviction = decode::as_kind(call, sub::definition("policy", "v1", "Eviction")?, body)?;
    if !eviction.name().is_empty() && eviction.name() != call.info.name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object").into());
    }
    let given = eviction.get("deleteOptions").cloned().unwrap_or(json!({}));
    let (options, dry_run) = DeleteOptions::of(call, &given)?;
    let mut target = Target::of(server, call)?;
    target.subresource = String::new();
    target.options.dry_run |= dry_run;
    let (_, found) = server.store().get(&target.key(), None).await?;
    let pair = found.ok_or_else(|| target.not_found())?;
    let pod = present::decode(target.served, &pair.value, pair.mod_revision)?;
    if !is_free(&pod) {
        spend_budget(server, call, &pod, target.options.dry_run).await?;
    }
    delete::object_of(&target, &options).await?;
    Ok(sub::done(call, 201))
}

/// Pods that do no work need no budget.
fn is_free(pod: &Object) -> bool {
    pod.is_deleting() || matches!(pod.str_at(&["status", "phase"]), "Pending" | "Succeeded" | "Failed")
}

async fn spend_budget(server: &ApiServer, call: &Call, pod: &Object, dry_run: bool) -> Result<()> {
    let Some(budgets) = server.catalogue.get("policy", "v1", "poddisruptionbudgets") else { return Ok(()) };
    server.hub.fresh().await?;
    let concerns = |budget: &Object| {
        let selector = budget.at(&["spec", "selector"]).unwrap_or(&Value::Null);
        LabelSelector::from_object(selector).is_ok_and(|selector| selector.matches_object(pod))
    };
    let all = budgets.cache.objects(&Filter::namespace(pod.namespace()))?;
    let concerned: Vec<&Object> = all.iter().filter(|budget| concerns(budget)).collect();
    let budget = match concerned.as_slice() {
        [] => return Ok(()),
        [budget] => *budget,
        _ => {
            let text =
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(plain(500, text));
        }
    };
    if !is_ready(pod) && may_evict_unready(budget) {
        return Ok(());
    }
    let target = Target {
        server,
        call,
        served: &budgets,
        namespace: pod.namespace().to_owned(),
        name: budget.name().to_owned(),
        subresource: "status".into(),
        options: Options { dry_run, ..Options::default() },
        own: true,
        applied: false,
    };
    update::change(&target, |old| spent(old, pod.name(), &clock::rfc3339(call.now))).await?;
    Ok(())
}

fn is_ready(pod: &Object) -> bool {
    let ready = |condition: &Value| condition.str_at(&["type"]) == "Ready" && condition.str_at(&["status"]) == "True";
    pod.list_at(&["status", "conditions"]).iter().any(ready)
}

/// A Pod that is not ready costs nothing while enough others are healthy, or where the budget says so.
fn may_evict_unready(budget: &Object) -> bool {
    if budget.str_at(&["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow" {
        return true;
    }
    let number = |field: &str| budget.int_at(&["status", field]).unwrap_or(0);
    number("desiredHealthy") > 0 && number("currentHealthy") >= number("desiredHealthy")
}

/// The budget after one disruption, or 429 where it allows none.
fn spent(old: &Object, pod: &str, now: &str) -> Result<Object> {
    let number = |field: &str| old.int_at(&["status", field]).unwrap_or(0);
    if number("observedGeneration") < old.generation() {
        let text = "Cannot evict pod as it would violate the pod's disruption budget.";
        let mut status = Status::too_many_requests(text, RETRY_SECONDS);
        let message = format!("The disruption budget {} is still being processed by the server.", old.name());
        add_cause(&mut status, message);
        return Err(status.into());
    }
    if number("disruptionsAllowed") <= 0 {
        let text = "Cannot evict pod as it would violate the pod's disruption budget.";
        let mut status = Status::too_many_requests(text, 0);
        let (wanted, present) = (number("desiredHealthy"), number("currentHealthy"));
        add_cause(
            &mut status,
            format!("The disruption budget {} needs {wanted} healthy pods and has {present} currently", old.name()),
        );
        return Err(status.into());
    }
    let mut new = old.clone();
    new.remove_at(&["metadata", "resourceVersion"]);
    new.set_at(&["status", "disruptionsAllowed"], number("disruptionsAllowed") - 1);
    new.map_mut(&["status", "disruptedPods"]).insert(pod.to_owned(), now.into());
    Ok(new)
}

fn add_cause(status: &mut Status, message: String) {
    let cause = Cause { reason: "DisruptionBudget".into(), message, field: String::new() };
    status.details.get_or_insert_default().causes.push(cause);
}
