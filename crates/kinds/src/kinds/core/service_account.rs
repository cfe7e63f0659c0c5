//! `v1` ServiceAccount: an identity for Pods.

use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, special, text, texts};
use crate::def::{Context, ResourceDef};
use crate::rules::check::{At, Faults};
use crate::rules::table;
use crate::rules::table::{AGE, NAME};

/// `serviceaccounts`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("serviceaccounts"),
    singular: text("serviceaccount"),
    kind: text("ServiceAccount"),
    list_kind: text("ServiceAccountList"),
    short_names: texts!["sa"],
    schema: text("io.k8s.api.core.v1.ServiceAccount"),
    subresources: list![special("token", ("authentication.k8s.io", "v1", "TokenRequest"), texts!["create"])],
    columns: list![NAME, AGE],
    row: table::name_and_age,
    validate,
    ..BASE
};

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    for secret in At::top(object, "imagePullSecrets").items() {
        faults.needs(&secret.get("name"));
    }
    faults.into_list()
}
