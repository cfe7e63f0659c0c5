//! `authentication.k8s.io/v1` TokenRequest: asks for a service account's token.

use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, text, texts};
use crate::def::ResourceDef;

/// `TokenRequest`, served below other resources only.
pub static DEF: ResourceDef = ResourceDef {
    group: text("authentication.k8s.io"),
    kind: text("TokenRequest"),
    verbs: texts![],
    schema: text("io.k8s.api.authentication.v1.TokenRequest"),
    stored: false,
    default: defaults,
    ..BASE
};

const EXPIRATION_SECONDS: i64 = 60 * 60;

fn defaults(object: &mut Object) {
    object.default_at(&["spec", "expirationSeconds"], EXPIRATION_SECONDS);
}
