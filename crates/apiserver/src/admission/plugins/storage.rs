//! What the cluster adds to claims and volumes, and how far claims may grow: the plugins DefaultStorageClass,
//! StorageObjectInUseProtection and PersistentVolumeClaimResize.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/>.

use serde_json::{Value, json};
use skiff_base::Quantity;
use skiff_kinds::rules::{default_choice, storage_rules};
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::admission::{Attributes, Operation};
use crate::failure::Result;
use crate::storage::filter::Filter;

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// StorageObjectInUseProtection: what is in use stays.
pub fn protect_in_use(attributes: &Attributes<'_>, object: &mut Object, _: Option<&Object>) -> Result<()> {
    if attributes.operation != Operation::Create {
        return Ok(());
    }
    if attributes.is("", "persistentvolumes") {
        protect(object, "kubernetes.io/pv-protection");
    } else if attributes.is("", "persistentvolumeclaims") {
        protect(object, "kubernetes.io/pvc-protection");
    }
    Ok(())
}

/// Gives an object a finalizer.
pub fn protect(object: &mut Object, finalizer: &str) {
    let mut finalizers = object.list_at(&["metadata", "finalizers"]).to_vec();
    if !finalizers.iter().any(|held| held == finalizer) {
        finalizers.push(json!(finalizer));
        object.set_at(&["metadata", "finalizers"], finalizers);
    }
}

/// DefaultStorageClass: the class of claims that name none.
pub fn default_class(attributes: &Attributes<'_>, claim: &mut Object, _: Option<&Object>) -> Result<()> {
    if attributes.operation != Operation::Create || !attributes.is("", "persistentvolumeclaims") {
        return Ok(());
    }
    let named = claim.at(&["spec", "storageClassName"]).is_some_and(|class| !class.is_null());
    if named || claim.annotation(CLASS_ANNOTATION).is_some() {
        return Ok(());
    }
    let Some(cache) = attributes.server.catalogue.cache("storage.k8s.io", "storageclasses") else { return Ok(()) };
    let classes = cache.objects(&Filter::default())?;
    if let Some(class) = default_choice::default_class(&classes, DEFAULT_CLASS) {
        claim.set_at(&["spec", "storageClassName"], class.name());
    }
    Ok(())
}

/// PersistentVolumeClaimResize: a claim grows only where its class says that its volumes can.
pub fn check_resize(attributes: &Attributes<'_>, object: Option<&Object>, old: Option<&Object>) -> Result<()> {
    let (Some(claim), Some(old)) = (object, old) else { return Ok(()) };
    if attributes.operation != Operation::Update || !attributes.is("", "persistentvolumeclaims") {
        return Ok(());
    }
    if requested(claim) <= requested(old) {
        return Ok(());
    }
    let refuse = |why: &str| Err(attributes.forbidden(why));
    if old.str_at(&["status", "phase"]) != "Bound" {
        return refuse("Only bound persistent volume claims can be expanded");
    }
    let cache = attributes.server.catalogue.cache("storage.k8s.io", "storageclasses");
    let class = cache.map(|cache| cache.object("", storage_rules::class_name(claim))).transpose()?.flatten();
    if class.is_some_and(|class| class.at(&["allowVolumeExpansion"]).and_then(Value::as_bool) == Some(true)) {
        return Ok(());
    }
    refuse(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
    )
}

fn requested(claim: &Object) -> Option<Quantity> {
    claim.str_at(&["spec", "resources", "requests", "storage"]).parse().ok()
}
