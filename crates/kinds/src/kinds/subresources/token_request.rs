//! `authentication.k8s.io/v1` TokenRequest: asks for a service account's token.

use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, text, texts};
use crate::def::{Context, ResourceDef};
use crate::rules::check::{At, Faults};

/// `TokenRequest`, served below other resources only.
pub static DEF: ResourceDef = ResourceDef {
    group: text("authentication.k8s.io"),
    kind: text("TokenRequest"),
    verbs: texts![],
    schema: text("io.k8s.api.authentication.v1.TokenRequest"),
    stored: false,
    default: defaults,
    validate,
    ..BASE
};

const EXPIRATION_SECONDS: i64 = 60 * 60;

fn defaults(object: &mut Object) {
    object.default_at(&["spec", "expirationSeconds"], EXPIRATION_SECONDS);
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    let seconds = At::top(object, "spec").get("expirationSeconds");
    if seconds.int().is_some_and(|seconds| seconds < EXPIRATION_MIN_SECONDS) {
        faults.invalid(&seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds.int().is_some_and(|seconds| seconds > EXPIRATION_MAX_SECONDS) {
        faults.invalid(&seconds, "may not specify a duration larger than 2^32 seconds");
    }
    faults.into_list()
}

const EXPIRATION_MIN_SECONDS: i64 = 10 * 60;
const EXPIRATION_MAX_SECONDS: i64 = 1 << 32;
