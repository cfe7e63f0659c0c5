//! DefaultIngressClass and DenyServiceExternalIPs.
//! See <https://kubernetes.io/docs/concepts/services-networking/ingress/#default-ingress-class>.

use skiff_kinds::rules::default_choice;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::admission::{Attributes, Operation};
use crate::failure::Result;
use crate::storage::filter::Filter;

const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";
/// The older way to name the class.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// The class of Ingresses that name none.
pub fn default_ingress_class(attributes: &Attributes<'_>, ingress: &mut Object, _: Option<&Object>) -> Result<()> {
    if attributes.operation != Operation::Create || !attributes.is("networking.k8s.io", "ingresses") {
        return Ok(());
    }
    let named = ingress.at(&["spec", "ingressClassName"]).is_some_and(|class| !class.is_null());
    if named || ingress.annotation(CLASS_ANNOTATION).is_some() {
        return Ok(());
    }
    let Some(cache) = attributes.server.catalogue.cache("networking.k8s.io", "ingressclasses") else { return Ok(()) };
    let classes = cache.objects(&Filter::default())?;
    if let Some(class) = default_choice::default_class(&classes, DEFAULT_CLASS) {
        ingress.set_at(&["spec", "ingressClassName"], class.name());
    }
    Ok(())
}

/// Nobody takes addresses that are not the cluster's; those that a Service has it keeps.
pub fn deny_external_ips(attributes: &Attributes<'_>, new: Option<&Object>, old: Option<&Object>) -> Result<()> {
    let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
    let Some(new) = new.filter(|_| writes && attributes.is("", "services")) else { return Ok(()) };
    let had = old.map(|old| old.list_at(&["spec", "externalIPs"])).unwrap_or_default();
    if new.list_at(&["spec", "externalIPs"]).iter().all(|address| had.contains(address)) {
        return Ok(());
    }
    Err(attributes.forbidden("Use of external IPs is denied by admission control."))
}
