//! `networking.k8s.io/v1` IngressClass: who implements an Ingress.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, FieldError, GroupKind, Object};

use crate::base::{BASE, list, text};
use crate::def::{Context, ResourceDef, Scope};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{table, tree};

/// `ingressclasses`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("networking.k8s.io"),
    plural: text("ingressclasses"),
    singular: text("ingressclass"),
    kind: text("IngressClass"),
    list_kind: text("IngressClassList"),
    scope: Scope::Cluster,
    schema: text("io.k8s.api.networking.v1.IngressClass"),
    has_generation: true,
    columns: list![
        NAME,
        column("Controller", "string", "What serves the class."),
        column("Parameters", "string", "The object with the controller's settings."),
        AGE,
    ],
    default: defaults,
    row,
    validate,
    validate_update,
    ..BASE
};

fn defaults(object: &mut Object) {
    if let Some(parameters) = tree::node_mut(object, &["spec", "parameters"]).filter(|node| node.is_object()) {
        tree::default_text(parameters, &["scope"], "Cluster");
    }
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let parameters = object.at(&["spec", "parameters"]).map(|parameters| {
        let kind = GroupKind::new(parameters.str_at(&["apiGroup"]), parameters.str_at(&["kind"]));
        format!("{kind}/{}", parameters.str_at(&["name"]))
    });
    let parameters = parameters.unwrap_or_else(|| table::NONE.to_owned());
    cells![object.name(), object.str_at(&["spec", "controller"]), parameters, table::age(object, now)]
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    let spec = At::top(object, "spec");
    let controller = spec.get("controller");
    if faults.needs(&controller) && controller.text().len() > CONTROLLER_LIMIT_BYTES {
        faults.extend([FieldError::too_long(controller.path(), CONTROLLER_LIMIT_BYTES)]);
    }
    let parameters = spec.get("parameters");
    if parameters.is_set() {
        faults.needs(&parameters.get("kind"));
        faults.needs(&parameters.get("name"));
        faults.needs_choice(&parameters.get("scope"), &["Cluster", "Namespace"]);
        match (parameters.get("scope").text(), parameters.get("namespace").is_set()) {
            ("Namespace", false) => {
                faults.required(&parameters.get("namespace"), "`parameters.scope` is set to 'Namespace'");
            }
            ("Cluster", true) => {
                faults.forbidden(&parameters.get("namespace"), "`parameters.scope` is set to 'Cluster'");
            }
            _ => {}
        }
    }
    faults.into_list()
}

/// The longest name of a controller.
const CONTROLLER_LIMIT_BYTES: usize = 250;

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    let controller = |object| At::top(object, "spec").get("controller");
    faults.immutable(&controller(new), &controller(old));
    faults.into_list()
}
