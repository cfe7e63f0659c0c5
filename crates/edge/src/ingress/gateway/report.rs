//! What the statuses of Gateways and routes say.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skiff_kinds::bootstrap::{GATEWAY_CONTROLLER, GATEWAY_GROUP};

use super::conditions::{Condition, merged};
use super::listeners::ListenerState;
use super::plan::{GatewayPlan, RoutePlan};

/// The addresses that a Gateway's status tells.
pub fn addresses(status: &Value) -> Vec<String> {
    let points = status["addresses"].as_array().into_iter().flatten();
    points.filter_map(|point| point["value"].as_str()).map(str::to_owned).collect()
}

/// The ports that a Gateway needs.
pub fn ports(plan: &GatewayPlan) -> BTreeSet<u16> {
    let usable = plan.listeners.iter().filter(|state| plan.refused.is_none() && state.is_usable());
    usable.map(|state| state.spec.port).collect()
}

/// The status that a Gateway ought to have, where these are its addresses and these ports are served, by this node or
/// by another one.
pub fn gateway_status(plan: &GatewayPlan, addresses: &[String], is_served: impl Fn(u16) -> bool, now: &str) -> Value {
    let current = &plan.gateway.status;
    let generation = plan.gateway.generation();
    let told: Vec<(Vec<Condition>, &ListenerState)> =
        plan.listeners.iter().map(|state| (of_listener(state, plan, &is_served), state)).collect();
    let good = told.iter().filter(|(conditions, _)| is_good(conditions)).count();
    let accepted = plan.refused.clone().unwrap_or_else(|| match (good, told.len() - good) {
        (_, 0) => Condition::yes("Accepted", "Accepted", "Gateway is accepted"),
        (0, _) => Condition::no("Accepted", "ListenersNotValid", "No listener can be served"),
        _ => Condition::yes("Accepted", "ListenersNotValid", "Some listeners cannot be served"),
    });
    let programmed = if !accepted.holds {
        Condition::no("Programmed", "Invalid", "The Gateway is not accepted")
    } else if addresses.is_empty() {
        Condition::no("Programmed", "AddressNotAssigned", "No node serves it")
    } else {
        Condition::yes("Programmed", "Programmed", "Gateway is served")
    };
    let listeners: Vec<Value> = told
        .iter()
        .map(|(conditions, state)| {
            let before = current["listeners"].as_array().into_iter().flatten();
            let mut before =
                before.filter(|known| known["name"] == state.spec.name.as_str()).map(|it| &it["conditions"]);
            let kinds: Vec<Value> =
                state.kinds.iter().map(|kind| json!({"group": GATEWAY_GROUP, "kind": kind})).collect();
            json!({"name": state.spec.name, "supportedKinds": kinds, "attachedRoutes": state.attached,
                "conditions": merged(before.next(), conditions, generation, now)})
        })
        .collect();
    let points: Vec<Value> = addresses.iter().map(|address| json!({"type": "IPAddress", "value": address})).collect();
    let mut status = json!({
        "conditions": merged(current.get("conditions"), &[accepted, programmed], generation, now),
        "listeners": listeners,
    });
    if !points.is_empty() {
        status["addresses"] = points.into();
    }
    status
}

fn is_good(conditions: &[Condition]) -> bool {
    conditions.iter().any(|condition| condition.kind == "Programmed" && condition.holds)
}

fn of_listener(state: &ListenerState, plan: &GatewayPlan, is_served: impl Fn(u16) -> bool) -> Vec<Condition> {
    let port = state.spec.port;
    let is_usable = plan.refused.is_none() && state.is_usable();
    let accepted = if is_usable && !is_served(port) {
        let message =
            format!("Port {port} is taken by another program or by a Service, on every node that would serve it");
        Condition::no("Accepted", "PortUnavailable", message)
    } else {
        state.accepted.clone()
    };
    let programmed = if is_usable && accepted.holds {
        Condition::yes("Programmed", "Programmed", "Listener is served")
    } else {
        Condition::no("Programmed", "Invalid", "Listener cannot be served")
    };
    vec![accepted, programmed, state.conflicted.clone(), state.resolved.clone()]
}

/// The list of parents that a route's status ought to have, if that is not what it says; what other controllers say is
/// left as it is.
pub fn route_status(plan: &RoutePlan, now: &str) -> Option<Value> {
    let current: &[Value] = plan.status["parents"].as_array().map_or(&[], Vec::as_slice);
    let is_own = |parent: &Value| parent["controllerName"] == GATEWAY_CONTROLLER;
    let own = plan.parents.iter().map(|parent| {
        let reference = json!(parent.parent);
        let before = current.iter().find(|known| is_own(known) && known["parentRef"] == reference);
        let conditions = before.and_then(|known| known.get("conditions"));
        // What does not hold any more is not said any more.
        let known = conditions.and_then(Value::as_array).into_iter().flatten();
        let kept: Value = known
            .filter(|known| parent.conditions.iter().any(|wanted| known["type"] == wanted.kind))
            .cloned()
            .collect();
        json!({"parentRef": reference, "controllerName": GATEWAY_CONTROLLER,
            "conditions": merged(Some(&kept), &parent.conditions, plan.generation, now)})
    });
    let wanted: Vec<Value> = current.iter().filter(|parent| !is_own(parent)).cloned().chain(own).collect();
    (wanted != current).then(|| wanted.into())
}
