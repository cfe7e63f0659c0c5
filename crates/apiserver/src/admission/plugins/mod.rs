//! The built-in plugins of admission, each declared once: its name, whether it is on where nothing is said, and what it
//! does. Their order is upstream's.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/>.

mod account;
mod certificates;
mod events;
mod groups;
mod images;
mod limits;
mod node;
mod owners;
mod pod_security;
pub mod pods;
mod quota;
mod services;
mod settings;
mod storage;
mod tolerations;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use skiff_object::Object;

pub use certificates::name_requester;
pub use settings::Settings;

use super::kept::Kept;
use super::{Attributes, Operation, lifecycle, matching, policy, webhooks};
use crate::codec;
use crate::failure::Result;
use crate::storage::keys;

/// The annotation of a Pod that stands for one that a node runs by itself.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// How a plugin changes an object on its way in.
pub enum Mutate {
    /// It does not.
    No,
    /// At once.
    Plain(fn(&Attributes<'_>, &mut Object, Option<&Object>) -> Result<()>),
    /// It may have to look something up in the store.
    Waits(for<'a> fn(&'a Attributes<'_>, &'a mut Object) -> BoxFuture<'a, Result<()>>),
    /// A program or a rule of the user's, which tells whether it changed anything.
    Asks(for<'a> fn(&'a Attributes<'_>, &'a mut Object, Option<&'a Object>) -> BoxFuture<'a, Result<bool>>),
}

/// How a plugin refuses an object.
pub enum Validate {
    /// It does not.
    No,
    /// At once.
    Plain(fn(&Attributes<'_>, Option<&Object>, Option<&Object>) -> Result<()>),
    /// It may have to ask somebody.
    Waits(for<'a> fn(&'a Attributes<'_>, Option<&'a Object>, Option<&'a Object>) -> BoxFuture<'a, Result<()>>),
}

/// One plugin.
pub struct Plugin {
    /// As flags and configurations name it.
    pub name: &'static str,
    /// Whether it is on where nothing is said.
    pub by_default: bool,
    /// What it changes.
    pub mutate: Mutate,
    /// What it refuses.
    pub validate: Validate,
}

const fn on(name: &'static str, mutate: Mutate, validate: Validate) -> Plugin {
    Plugin { name, by_default: true, mutate, validate }
}

const fn optional(name: &'static str, mutate: Mutate, validate: Validate) -> Plugin {
    Plugin { name, by_default: false, mutate, validate }
}

/// All of them, in the order in which they act.
pub static ALL: [Plugin; 37] = [
    optional("AlwaysAdmit", Mutate::No, Validate::No),
    on(
        "NamespaceLifecycle",
        Mutate::Waits(|attributes, _| lifecycle::check(attributes).boxed()),
        Validate::Waits(deletable),
    ),
    optional("LimitPodHardAntiAffinityTopology", Mutate::No, Validate::Plain(pods::hard_anti_affinity_check)),
    on("LimitRanger", Mutate::Plain(limits::mutate), Validate::Plain(limits::validate)),
    on("ServiceAccount", Mutate::Waits(account::mutate), Validate::No),
    on("NodeRestriction", Mutate::No, Validate::Plain(node::restrict)),
    on("TaintNodesByCondition", Mutate::Plain(node::taint_new), Validate::No),
    on("PodSecurity", Mutate::No, Validate::Plain(pod_security::validate)),
    optional("AlwaysPullImages", Mutate::Plain(pods::always_pull), Validate::Plain(pods::always_pull_check)),
    optional("ImagePolicyWebhook", Mutate::No, Validate::Waits(images::validate)),
    optional("PodNodeSelector", Mutate::Plain(pods::node_selector), Validate::Plain(pods::node_selector_check)),
    on("Priority", Mutate::Waits(|attributes, pod| pods::priority(attributes, pod).boxed()), Validate::No),
    on("DefaultTolerationSeconds", Mutate::Plain(pods::tolerations), Validate::No),
    optional("PodTolerationRestriction", Mutate::Plain(tolerations::complete), Validate::Plain(tolerations::check)),
    optional("EventRateLimit", Mutate::No, Validate::Plain(events::limit)),
    optional("ExtendedResourceToleration", Mutate::Plain(pods::extended_resources), Validate::No),
    on("DefaultStorageClass", Mutate::Plain(storage::default_class), Validate::No),
    on("StorageObjectInUseProtection", Mutate::Plain(storage::protect_in_use), Validate::No),
    on("PodGroupProtection", Mutate::Plain(groups::protect_in_use), Validate::No),
    optional("OwnerReferencesPermissionEnforcement", Mutate::No, Validate::Plain(owners::enforce)),
    on("PersistentVolumeClaimResize", Mutate::No, Validate::Plain(storage::check_resize)),
    on(
        "RuntimeClass",
        Mutate::Waits(|attributes, pod| pods::runtime_class(attributes, pod).boxed()),
        Validate::Waits(|attributes, pod, _| pods::runtime_class_check(attributes, pod).boxed()),
    ),
    on("CertificateApproval", Mutate::No, Validate::Plain(certificates::approval)),
    on("CertificateSigning", Mutate::No, Validate::Plain(certificates::signing)),
    on("ClusterTrustBundleAttest", Mutate::No, Validate::Plain(certificates::attest)),
    on("CertificateSubjectRestriction", Mutate::No, Validate::Plain(certificates::subject)),
    on("DefaultIngressClass", Mutate::Plain(services::default_ingress_class), Validate::No),
    optional("DenyServiceExternalIPs", Mutate::No, Validate::Plain(services::deny_external_ips)),
    // What it does is part of giving a Pod to a node.
    on("PodTopologyLabels", Mutate::No, Validate::No),
    on(
        "PodGroupWorkloadExists",
        Mutate::No,
        Validate::Waits(|attributes, group, _| groups::workload_check(attributes, group).boxed()),
    ),
    on("JobValidation", Mutate::No, Validate::Plain(groups::job_check)),
    on("MutatingAdmissionPolicy", Mutate::Asks(mutating_policies), Validate::No),
    on("MutatingAdmissionWebhook", Mutate::Asks(mutating_webhooks), Validate::No),
    on("ValidatingAdmissionPolicy", Mutate::No, Validate::Waits(validating_policies)),
    on("ValidatingAdmissionWebhook", Mutate::No, Validate::Waits(validating_webhooks)),
    on("ResourceQuota", Mutate::No, Validate::Waits(quota::charge)),
    optional("AlwaysDeny", Mutate::No, Validate::Plain(deny)),
];

fn deletable<'a>(
    attributes: &'a Attributes<'_>,
    _: Option<&'a Object>,
    _: Option<&'a Object>,
) -> BoxFuture<'a, Result<()>> {
    if attributes.operation == Operation::Delete {
        lifecycle::check(attributes).boxed()
    } else {
        std::future::ready(Ok(())).boxed()
    }
}

fn mutating_policies<'a>(
    attributes: &'a Attributes<'_>,
    object: &'a mut Object,
    old: Option<&'a Object>,
) -> BoxFuture<'a, Result<bool>> {
    async move {
        if !matching::is_any(attributes, "mutatingadmissionpolicies") {
            return Ok(false);
        }
        let namespace = matching::namespace_of(attributes).await?;
        policy::mutate(attributes, object, old, namespace.as_ref())
    }
    .boxed()
}

fn mutating_webhooks<'a>(
    attributes: &'a Attributes<'_>,
    object: &'a mut Object,
    old: Option<&'a Object>,
) -> BoxFuture<'a, Result<bool>> {
    async move {
        if !matching::is_any(attributes, "mutatingwebhookconfigurations") {
            return Ok(false);
        }
        let namespace = matching::namespace_of(attributes).await?;
        webhooks::mutate(attributes, object, old, namespace.as_ref()).await
    }
    .boxed()
}

/// ValidatingAdmissionPolicy.
pub fn validating_policies<'a>(
    attributes: &'a Attributes<'_>,
    object: Option<&'a Object>,
    old: Option<&'a Object>,
) -> BoxFuture<'a, Result<()>> {
    async move {
        if !matching::is_any(attributes, "validatingadmissionpolicies") {
            return Ok(());
        }
        let namespace = matching::namespace_of(attributes).await?;
        policy::validate(attributes, object, old, namespace.as_ref())
    }
    .boxed()
}

/// ValidatingAdmissionWebhook.
pub fn validating_webhooks<'a>(
    attributes: &'a Attributes<'_>,
    object: Option<&'a Object>,
    old: Option<&'a Object>,
) -> BoxFuture<'a, Result<()>> {
    async move {
        if !matching::is_any(attributes, "validatingwebhookconfigurations") {
            return Ok(());
        }
        let namespace = matching::namespace_of(attributes).await?;
        webhooks::validate(attributes, object, old, namespace.as_ref()).await
    }
    .boxed()
}

fn deny(attributes: &Attributes<'_>, _: Option<&Object>, _: Option<&Object>) -> Result<()> {
    Err(attributes.forbidden("admission control is denying all modifications"))
}

/// Plugins that upstream has and nothing here does what they do.
const NOT_BUILT: [&str; 2] = ["NamespaceAutoProvision", "NamespaceExists"];

/// An object that a plugin needs: from the cache, or from the store where it may be too new for the cache.
pub async fn find(attributes: &Attributes<'_>, group: &str, plural: &str, name: &str) -> Result<Option<Object>> {
    let Some(cache) = attributes.server.catalogue.cache(group, plural) else { return Ok(None) };
    let namespace = if cache.def.is_namespaced() { attributes.namespace } else { "" };
    if let Some(object) = cache.object(namespace, name)? {
        return Ok(Some(object));
    }
    let key = keys::object(&cache.prefix, namespace, name);
    let (_, found) = attributes.server.store().get(&key, None).await?;
    found.map(|pair| codec::decode_stored(&cache.def, &pair.value, pair.mod_revision)).transpose()
}

/// Which plugins are on: a bit for each of [`ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selection(u64);

impl Default for Selection {
    fn default() -> Self {
        Self(ALL.iter().enumerate().filter(|(_, plugin)| plugin.by_default).fold(0, |bits, (at, _)| bits | 1 << at))
    }
}

impl Selection {
    /// The usual ones with some switched on and some switched off.
    ///
    /// # Errors
    /// A name is not known, is not built, or is in both lists.
    pub fn new(enable: &[String], disable: &[String]) -> std::result::Result<Self, String> {
        let bit = |flag: &str, name: &String| -> std::result::Result<u64, String> {
            if NOT_BUILT.contains(&name.as_str()) {
                return Err(format!("{flag} plugin {name:?} is not built"));
            }
            let at = ALL.iter().position(|plugin| plugin.name == name);
            at.map(|at| 1 << at).ok_or_else(|| format!("{flag} plugin {name:?} is unknown"))
        };
        if let Some(both) = enable.iter().find(|name| disable.contains(name)) {
            return Err(format!("[{both}] in enable-admission-plugins and disable-admission-plugins overlapped"));
        }
        let mut bits = Self::default().0;
        for name in enable {
            bits |= bit("enable-admission-plugins", name)?;
        }
        for name in disable {
            bits &= !bit("disable-admission-plugins", name)?;
        }
        Ok(Self(bits))
    }

    /// Whether a plugin is on.
    pub fn has_named(self, name: &str) -> bool {
        ALL.iter().position(|plugin| plugin.name == name).is_some_and(|at| self.has(at))
    }

    fn has(self, at: usize) -> bool {
        self.0 & (1 << at) != 0
    }
}

/// The plugins of a server: what they were told at its start, and what they remember.
#[derive(Default)]
pub struct Plugins {
    /// What they were told.
    pub settings: Settings,
    quotas: quota::Desks,
    events: events::Buckets,
    images: Option<images::Judge>,
    classes: Kept<pods::Class>,
}

impl Plugins {
    /// Plugins that do as they are told.
    pub fn new(settings: Settings) -> Self {
        Self { images: settings.images.clone().map(images::Judge::new), settings, ..Self::default() }
    }

    /// Whether a plugin is on.
    pub fn is_on(&self, name: &str) -> bool {
        self.settings.selection.has_named(name)
    }

    /// Those that are on, in their order, each with its place in [`ALL`].
    pub fn active(&self) -> impl Iterator<Item = (usize, &'static Plugin)> + use<> {
        let selection = self.settings.selection;
        ALL.iter().enumerate().filter(move |(at, _)| selection.has(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_switched_by_name() {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let select = |on: &[&str], off: &[&str]| Selection::new(&names(on), &names(off));
        let at = |name: &str| ALL.iter().position(|plugin| plugin.name == name).expect("it is there");
        let usual = select(&[], &[]).expect("nothing is said");
        assert_eq!(usual, Selection::default());
        assert!(usual.has(at("PodSecurity")) && !usual.has(at("AlwaysPullImages")));
        let other = select(&["AlwaysPullImages"], &["PodSecurity"]).expect("both are known");
        assert!(!other.has(at("PodSecurity")) && other.has(at("AlwaysPullImages")));
        let refused = |on: &[&str], off: &[&str]| select(on, off).expect_err("it is refused");
        assert_eq!(refused(&["Nope"], &[]), "enable-admission-plugins plugin \"Nope\" is unknown");
        assert_eq!(
            refused(&[], &["NamespaceExists"]),
            "disable-admission-plugins plugin \"NamespaceExists\" is not built"
        );
        let both = "[Priority] in enable-admission-plugins and disable-admission-plugins overlapped";
        assert_eq!(refused(&["Priority"], &["Priority"]), both);
    }

    #[test]
    fn there_is_a_bit_for_each() {
        assert!(ALL.len() <= u64::BITS as usize);
        let mut names: Vec<_> = ALL.iter().map(|plugin| plugin.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
