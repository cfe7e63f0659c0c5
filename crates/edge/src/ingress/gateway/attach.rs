//! Which routes hang on which listeners, and what their rules become there.

use std::sync::Arc;
use std::time::Duration;

use skiff_client::selectors::{Labels, selector, selects_labels};
use skiff_kinds::bootstrap::GATEWAY_GROUP;

use super::super::annotations::{Options, Protocol, Redirect};
use super::super::filters::Filters;
use super::super::hosts::intersection;
use super::super::site::{Route, Secured, Site};
use super::super::table::{Condition as Match, PathMatch, Table};
use super::api::{BackendRef, Custom, Filter, GrpcRouteSpec, HttpRouteSpec, ParentRef, Spec, Timeouts, TlsRouteSpec};
use super::backends::Finder;
use super::conditions::Condition;
use super::listeners::ListenerState;
use super::plan::{GatewayPlan, ParentPlan};
use super::{filters, matches};

/// Where an API has no limit to how long something may take, and one is needed all the same.
const NO_LIMIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// What all kinds of routes have.
pub trait RouteSpec: Spec {
    /// The protocol that backends are asked by, if that is not theirs to say.
    const PROTOCOL: Option<Protocol>;
    /// The parents that the route wants.
    fn parents(&self) -> &[ParentRef];
    /// The hosts that it is for; all of its listeners', if there is none.
    fn hostnames(&self) -> &[String];
    /// What it says.
    fn drafts(&self) -> Vec<Draft<'_>>;
}

/// A rule as it is written.
pub struct Draft<'a> {
    matches: Result<Vec<Match>, String>,
    filters: &'a [Filter],
    backends: &'a [BackendRef],
    timeouts: Option<&'a Timeouts>,
}

impl RouteSpec for HttpRouteSpec {
    const PROTOCOL: Option<Protocol> = None;

    fn parents(&self) -> &[ParentRef] {
        &self.parent_refs
    }

    fn hostnames(&self) -> &[String] {
        &self.hostnames
    }

    fn drafts(&self) -> Vec<Draft<'_>> {
        self.rules
            .iter()
            .map(|rule| Draft {
                matches: everything(rule.matches.iter().map(matches::of_http).collect()),
                filters: &rule.filters,
                backends: &rule.backend_refs,
                timeouts: rule.timeouts.as_ref(),
            })
            .collect()
    }
}

impl RouteSpec for GrpcRouteSpec {
    const PROTOCOL: Option<Protocol> = Some(Protocol::Http2);

    fn parents(&self) -> &[ParentRef] {
        &self.parent_refs
    }

    fn hostnames(&self) -> &[String] {
        &self.hostnames
    }

    fn drafts(&self) -> Vec<Draft<'_>> {
        self.rules
            .iter()
            .map(|rule| Draft {
                matches: everything(rule.matches.iter().map(matches::of_grpc).collect()),
                filters: &rule.filters,
                backends: &rule.backend_refs,
                timeouts: None,
            })
            .collect()
    }
}

impl RouteSpec for TlsRouteSpec {
    const PROTOCOL: Option<Protocol> = None;

    fn parents(&self) -> &[ParentRef] {
        &self.parent_refs
    }

    fn hostnames(&self) -> &[String] {
        &self.hostnames
    }

    fn drafts(&self) -> Vec<Draft<'_>> {
        self.rules
            .iter()
            .map(|rule| Draft { matches: Ok(Vec::new()), filters: &[], backends: &rule.backend_refs, timeouts: None })
            .collect()
    }
}

/// No match at all matches everything.
fn everything(matches: Result<Vec<Match>, String>) -> Result<Vec<Match>, String> {
    matches.map(|some| if some.is_empty() { vec![Match::path(PathMatch::prefix("/"))] } else { some })
}

/// A rule that can be served.
struct Rule {
    matches: Vec<Match>,
    route: Route,
}

/// Reads a route's rules; the texts are why some cannot be served.
fn rules<S: RouteSpec>(route: &Custom<S>, finder: &mut Finder<'_>) -> (Vec<Rule>, Vec<String>) {
    let owner: Arc<str> = format!("{} {}", S::KIND, route.key()).into();
    let (options, _) = Options::read(route.metadata.annotations.as_ref());
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for (at, draft) in route.spec.drafts().into_iter().enumerate() {
        match rule(draft, &format!("{owner} {at}"), &owner, &options, finder) {
            Ok(rule) => good.push(rule),
            Err(what) => bad.push(format!("rule {at}: {what} is not supported")),
        }
    }
    (good, bad)
}

fn rule(
    draft: Draft<'_>,
    name: &str,
    owner: &Arc<str>,
    options: &Options,
    finder: &mut Finder<'_>,
) -> Result<Rule, String> {
    let matches = draft.matches?;
    let (filters, mirrors) = filters::read(draft.filters)?;
    let options = with_timeouts(options.clone(), draft.timeouts)?;
    let choice = finder.choice(name.to_owned(), draft.backends)?;
    let mirrors = mirrors.into_iter().filter_map(|wanted| finder.mirror(wanted)).collect();
    let route = Route {
        owner: owner.clone(),
        options: Arc::new(options),
        to_tls: false,
        filters: Arc::new(Filters { mirrors, ..filters }),
        prefix: "".into(),
        choice,
    };
    Ok(Rule { matches, route })
}

fn with_timeouts(options: Options, timeouts: Option<&Timeouts>) -> Result<Options, String> {
    let read = |text: Option<&String>| {
        let parsed = text.map(|text| duration(text).ok_or_else(|| format!("a timeout of {text:?}")));
        parsed.transpose()
    };
    let request = read(timeouts.and_then(|timeouts| timeouts.request.as_ref()))?;
    let backend = read(timeouts.and_then(|timeouts| timeouts.backend_request.as_ref()))?;
    // Nothing means that there is no limit.
    let limit = |given: Duration| if given.is_zero() { NO_LIMIT } else { given };
    Ok(Options {
        redirect: Redirect::Never,
        protocol: None,
        read_timeout: backend.map_or(options.read_timeout, limit),
        request_timeout: request.filter(|given| !given.is_zero()),
        ..options
    })
}

/// A duration as the API writes it, such as `1h30m` and `100ms`.
pub fn duration(text: &str) -> Option<Duration> {
    let (mut total, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        let letters = after.len() - after.trim_start_matches(|c: char| c.is_ascii_lowercase()).len();
        let (unit, after) = after.split_at(letters);
        let number: u64 = number.parse().ok()?;
        total += match unit {
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return None,
        };
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

/// Hangs a route on the listeners that it wants and that take it; what is told of each of its parents.
pub fn attach<S: RouteSpec>(
    route: &Custom<S>,
    gateways: &mut [GatewayPlan],
    mut finder: Finder<'_>,
) -> Vec<ParentPlan> {
    let is_ours = |parent: &ParentRef, gateway: &GatewayPlan| {
        parent.group.as_deref().is_none_or(|group| group == GATEWAY_GROUP)
            && parent.kind.as_deref().is_none_or(|kind| kind == "Gateway")
            && parent.namespace.as_deref().unwrap_or(route.namespace()) == gateway.gateway.namespace()
            && gateway.gateway.metadata.name.as_deref() == Some(parent.name.as_str())
    };
    let ours: Vec<(&ParentRef, usize)> = (route.spec.parents().iter())
        .filter_map(|parent| Some((parent, gateways.iter().position(|gateway| is_ours(parent, gateway))?)))
        .collect();
    if ours.is_empty() {
        return Vec::new();
    }
    let (rules, faults) = rules(route, &mut finder);
    let resolved = finder.fault.take();
    let resolved =
        resolved.unwrap_or_else(|| Condition::yes("ResolvedRefs", "ResolvedRefs", "All references are resolved"));
    let mut plans = Vec::new();
    for (parent, at) in ours {
        let labels = finder.observed.labels;
        let accepted = if rules.is_empty() && !faults.is_empty() {
            Condition::no("Accepted", "UnsupportedValue", faults.join("; "))
        } else {
            hang(route, parent, &mut gateways[at], &rules, labels, &mut finder)
        };
        let mut conditions = vec![accepted, resolved.clone()];
        if !rules.is_empty() && !faults.is_empty() {
            let message = format!("Dropped Rule: {}", faults.join("; "));
            conditions.push(Condition::yes("PartiallyInvalid", "UnsupportedValue", message));
        }
        plans.push(ParentPlan { parent: whole(parent), conditions });
    }
    plans
}

/// A reference with what it leaves out, as it is stored in a status.
fn whole(parent: &ParentRef) -> ParentRef {
    let (group, kind) = (parent.group.as_deref().unwrap_or(GATEWAY_GROUP), parent.kind.as_deref().unwrap_or("Gateway"));
    ParentRef { group: Some(group.to_owned()), kind: Some(kind.to_owned()), ..parent.clone() }
}

/// The labels of a namespace.
type LabelsOf<'a> = &'a dyn Fn(&str) -> Option<Labels>;

/// Hangs a route on those listeners of one Gateway that one of its references means.
fn hang<S: RouteSpec>(
    route: &Custom<S>,
    parent: &ParentRef,
    gateway: &mut GatewayPlan,
    rules: &[Rule],
    labels: LabelsOf<'_>,
    finder: &mut Finder<'_>,
) -> Condition {
    let no = |reason, message: &str| Condition::no("Accepted", reason, message);
    let own = gateway.gateway.namespace().to_owned();
    let is_meant = |state: &&mut ListenerState| {
        parent.section_name.as_ref().is_none_or(|name| *name == state.spec.name)
            && parent.port.is_none_or(|port| port == state.spec.port)
    };
    let mut meant = gateway.listeners.iter_mut().filter(is_meant).peekable();
    if meant.peek().is_none() {
        return no("NoMatchingParent", "The Gateway has no such listener");
    }
    let mut taking = meant.filter(|state| takes::<S>(state, &own, route.namespace(), labels)).peekable();
    if taking.peek().is_none() {
        return no("NotAllowedByListeners", "No listener allows routes of this kind from this namespace");
    }
    let is_served = gateway.refused.is_none();
    let mut is_attached = false;
    for state in taking {
        let hosts = common_hosts(state.host(), route.spec.hostnames());
        if hosts.is_empty() {
            continue;
        }
        is_attached = true;
        state.attached += 1;
        if is_served && state.is_usable() {
            let site = finder.routes.sites.entry(state.spec.port).or_default();
            serve(site, state, &hosts, rules);
        }
    }
    if is_attached {
        Condition::yes("Accepted", "Accepted", "Route is accepted")
    } else {
        no("NoMatchingListenerHostname", "No listener has a hostname in common with the route")
    }
}

fn takes<S: Spec>(state: &ListenerState, own: &str, namespace: &str, labels: LabelsOf<'_>) -> bool {
    let from = &state.spec.allowed_routes.namespaces;
    let is_allowed = match from.from.as_deref().unwrap_or("Same") {
        "All" => true,
        "Same" => own == namespace,
        "Selector" => from.selector.as_ref().is_some_and(|wanted| {
            labels(namespace).is_some_and(|labels| selects_labels(&selector(Some(wanted)), Some(&labels)))
        }),
        _ => false,
    };
    is_allowed && state.kinds.contains(&S::KIND)
}

/// The hosts that a listener and a route have in common.
fn common_hosts(listener: &str, route: &[String]) -> Vec<String> {
    if route.is_empty() {
        return vec![listener.to_owned()];
    }
    route.iter().filter_map(|host| intersection(listener, host)).map(str::to_owned).collect()
}

/// Puts a route's rules where the listener's requests look for them.
fn serve(site: &mut Site, state: &ListenerState, hosts: &[String], rules: &[Rule]) {
    let is_stream = state.spec.protocol == "TLS";
    for (host, rule) in hosts.iter().flat_map(|host| rules.iter().map(move |rule| (host, rule))) {
        if is_stream {
            let route = rule.route.clone();
            let secured = if state.passes() { Secured::Passed(route) } else { Secured::Unwrapped(route) };
            site.names.entry(host, || secured);
            continue;
        }
        let table = site.listeners.entry(state.host(), Table::default);
        for condition in &rule.matches {
            let route = Route { prefix: matches::prefix(condition).into(), ..rule.route.clone() };
            table.add_matching(host, condition.clone(), route);
        }
    }
}
