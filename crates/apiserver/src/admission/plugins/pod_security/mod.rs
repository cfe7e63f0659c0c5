//! PodSecurity: Pods are held to the level that their namespace's labels name; what makes Pods is warned of.
//! See <https://kubernetes.io/docs/concepts/security/pod-security-admission/>.

mod checks;
pub mod policy;
mod restricted;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::Value;
use skiff_object::meta::Meta;
use skiff_object::{Object, Status};

use self::policy::{Level, LevelVersion, Policy, Version, asked, in_full, in_short, violations};
use crate::admission::{Attributes, Operation};
use crate::failure::Result;
use crate::storage::filter::Filter;

/// So many Pods are looked at when a namespace becomes stricter, as upstream does.
const MAX_PODS: usize = 3000;
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
/// Subresources of Pods that change nothing that is bound here.
const IGNORED: [&str; 8] = ["attach", "binding", "eviction", "exec", "log", "portforward", "proxy", "status"];

/// What is asked of namespaces that ask nothing themselves, and what is not looked at.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Where labels say nothing.
    pub defaults: Policy,
    /// Namespaces that are left alone.
    pub namespaces: Vec<String>,
    /// Users that are left alone.
    pub users: Vec<String>,
    /// Runtime classes that are left alone.
    pub runtime_classes: Vec<String>,
}

impl Settings {
    /// Reads a `PodSecurityConfiguration`.
    ///
    /// # Errors
    /// A level or version is none.
    pub fn read(config: &Value) -> Result<Self, String> {
        let one = |mode: &str| -> Result<LevelVersion, String> {
            let (level, version) =
                (config.str_at(&["defaults", mode]), config.str_at(&["defaults", &format!("{mode}-version")]));
            let bad = |value: &str, why: &str| format!("PodSecurity: defaults.{mode}: Invalid value: {value:?}: {why}");
            Ok(LevelVersion {
                level: if level.is_empty() { Some(Level::Privileged) } else { Level::parse(level) }
                    .ok_or_else(|| bad(level, "must be one of privileged, baseline, restricted"))?,
                version: if version.is_empty() { Some(Version::Latest) } else { Version::parse(version) }
                    .ok_or_else(|| bad(version, "must be \"latest\" or \"v1.x\""))?,
            })
        };
        let list = |field: &str| {
            let all = config.list_at(&["exemptions", field]).iter().filter_map(Value::as_str);
            all.map(str::to_owned).collect()
        };
        Ok(Self {
            defaults: Policy { enforce: one("enforce")?, audit: one("audit")?, warn: one("warn")? },
            namespaces: list("namespaces"),
            users: list("usernames"),
            runtime_classes: list("runtimeClasses"),
        })
    }

    /// Why a request is left alone.
    fn exempts(&self, attributes: &Attributes<'_>, pod: &Object) -> Option<&'static str> {
        let is = |list: &[String], value: &str| list.iter().any(|one| one == value);
        if is(&self.namespaces, attributes.namespace) {
            Some("namespace")
        } else if is(&self.users, &attributes.call.user.name) {
            Some("user")
        } else {
            self.exempts_class(pod).then_some("runtimeClass")
        }
    }

    fn exempts_class(&self, pod: &Object) -> bool {
        let class = pod.str_at(&["spec", "runtimeClassName"]);
        !class.is_empty() && self.runtime_classes.iter().any(|exempt| exempt == class)
    }
}

/// Where the template of Pods is, in the kinds that have one.
fn template<'a>(attributes: &Attributes<'_>, object: &'a Object) -> Option<&'a Object> {
    match (attributes.def.group.as_ref(), attributes.def.plural.as_ref()) {
        ("", "podtemplates") => object.at(&["template"]),
        ("", "replicationcontrollers")
        | ("apps", "daemonsets" | "deployments" | "replicasets" | "statefulsets")
        | ("batch", "jobs") => object.at(&["spec", "template"]),
        ("batch", "cronjobs") => object.at(&["spec", "jobTemplate", "spec", "template"]),
        _ => None,
    }
}

/// Refuses and warns.
pub fn validate(attributes: &Attributes<'_>, object: Option<&Object>, old: Option<&Object>) -> Result<()> {
    let Some(object) = object.filter(|_| attributes.operation != Operation::Delete) else { return Ok(()) };
    if attributes.is("", "namespaces") {
        return namespace(attributes, object, old);
    }
    let settings = &attributes.server.plugins.settings.pod_security;
    let is_pod = attributes.def.group.is_empty() && attributes.def.plural == "pods";
    if is_pod {
        let unchanged = old.is_some_and(|old| !is_significant(object, old));
        if unchanged || IGNORED.contains(&attributes.subresource) {
            return Ok(());
        }
        return pod(attributes, settings, object, true);
    }
    match template(attributes, object).filter(|_| attributes.subresource.is_empty()) {
        Some(template) => pod(attributes, settings, template, false),
        None => Ok(()),
    }
}

fn pod(attributes: &Attributes<'_>, settings: &Settings, pod: &Object, enforce: bool) -> Result<()> {
    let Some(namespaces) = attributes.server.catalogue.cache("", "namespaces") else { return Ok(()) };
    let entry = namespaces.get("", attributes.namespace);
    let label = |key: &str| entry.as_ref().and_then(|entry| entry.label(key));
    let (policy, _) = asked(label, &settings.defaults);
    let free = |asked: LevelVersion| asked.level == Level::Privileged;
    let is_recorded = attributes.call.audit.is_some();
    let note = |key: &str, value: String| attributes.call.annotate(format!("pod-security.kubernetes.io/{key}"), value);
    if (free(policy.enforce) || !enforce) && free(policy.warn) && !is_recorded {
        return Ok(());
    }
    if let Some(why) = settings.exempts(attributes, pod) {
        note("exempt", why.to_owned());
        return Ok(());
    }
    if is_recorded {
        let found = violations(policy.audit, pod);
        if !found.is_empty() {
            note("audit-violations", format!("would violate PodSecurity \"{}\": {}", policy.audit, in_full(&found)));
        }
    }
    if enforce {
        note("enforce-policy", policy.enforce.to_string());
        let found = violations(policy.enforce, pod);
        if !found.is_empty() {
            let why = format!("violates PodSecurity \"{}\": {}", policy.enforce, in_full(&found));
            return Err(attributes.forbidden(why));
        }
    }
    let found = violations(policy.warn, pod);
    if !found.is_empty() {
        attributes.call.warn(format!("would violate PodSecurity \"{}\": {}", policy.warn, in_full(&found)));
    }
    Ok(())
}

/// Whether a change of a Pod touches what is bound: images, containers, and profiles given by annotation.
fn is_significant(new: &Object, old: &Object) -> bool {
    if new.annotation(SECCOMP_POD) != old.annotation(SECCOMP_POD) {
        return true;
    }
    let changed = |one: &Value, other: &Value| {
        let key = format!("{SECCOMP_CONTAINER}{}", one.str_at(&["name"]));
        one.str_at(&["image"]) != other.str_at(&["image"]) || new.annotation(&key) != old.annotation(&key)
    };
    let lists = ["containers", "initContainers"].into_iter().any(|list| {
        let (new, old) = (new.list_at(&["spec", list]), old.list_at(&["spec", list]));
        new.len() != old.len() || new.iter().zip(old).any(|(new, old)| changed(new, old))
    });
    let before = old.list_at(&["spec", "ephemeralContainers"]);
    lists
        || new.list_at(&["spec", "ephemeralContainers"]).iter().any(|container| {
            let known = before.iter().find(|known| known.str_at(&["name"]) == container.str_at(&["name"]));
            known.is_none_or(|known| changed(container, known))
        })
}

/// The labels of a namespace have to be readable; Pods that a stricter level would refuse are told of.
fn namespace(attributes: &Attributes<'_>, new: &Object, old: Option<&Object>) -> Result<()> {
    let settings = &attributes.server.plugins.settings.pod_security;
    let read = |namespace: &Object| {
        let labels = namespace.labels();
        asked(|key| labels.get(key).map(String::as_str), &settings.defaults)
    };
    let (policy, errors) = read(new);
    let before = old.map(read);
    if !errors.is_empty() && before.as_ref().is_none_or(|(_, known)| *known != errors) {
        return Err(Status::invalid(&attributes.def.group_kind(), attributes.name, &errors).into());
    }
    let Some((before, _)) = before else { return Ok(()) };
    let (new_level, old_level) = (policy.enforce, before.enforce);
    let relaxed = new_level.version == old_level.version && new_level.level <= old_level.level;
    if new_level.level == Level::Privileged || relaxed || settings.namespaces.iter().any(|name| name == new.name()) {
        return Ok(());
    }
    for warning in existing(attributes, new.name(), new_level)? {
        attributes.call.warn(warning);
    }
    Ok(())
}

fn existing(attributes: &Attributes<'_>, namespace: &str, asked: LevelVersion) -> Result<Vec<String>> {
    let settings = &attributes.server.plugins.settings.pod_security;
    let Some(cache) = attributes.server.catalogue.cache("", "pods") else { return Ok(Vec::new()) };
    let pods = cache.select(&Filter::namespace(namespace));
    let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for entry in pods.iter().take(MAX_PODS) {
        let pod = cache.decode(entry)?;
        let violations = violations(asked, &pod);
        if !violations.is_empty() && !settings.exempts_class(&pod) {
            found.entry(in_short(&violations)).or_insert_with(|| (pod.name().to_owned(), 0)).1 += 1;
        }
    }
    let mut warnings = Vec::new();
    if pods.len() > MAX_PODS {
        let total = pods.len();
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {MAX_PODS} of {total} existing pods"
        ));
    }
    if !found.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{asked}\""
        ));
    }
    let mut by_pod: Vec<_> = found
        .into_iter()
        .map(|(what, (name, count))| match count {
            1 => format!("{name}: {what}"),
            2 => format!("{name} (and 1 other pod): {what}"),
            _ => format!("{name} (and {} other pods): {what}", count - 1),
        })
        .collect();
    by_pod.sort();
    warnings.extend(by_pod);
    Ok(warnings)
}
