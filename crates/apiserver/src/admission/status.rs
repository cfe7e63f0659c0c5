//! The status of validating policies: their expressions, checked against the types of the resources that they name.
//! What does not fit is told as a warning; the policy is in force all the same.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/#type-checking>.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use skiff_cel::schema::{Schema, escape};
use skiff_cel::types::{ObjectType, any, string};
use skiff_cel::{Decl, Env, Type, compile};
use skiff_kinds::schema::{Definition, Shape, Type as FieldType, definition};
use skiff_object::Object;
use skiff_object::meta::Meta;

use super::policy::{base_env, with_variables};
use crate::custom::keeper::send;
use crate::failure::Result;
use crate::server::ApiServer;
use crate::storage::cache::Start;
use crate::storage::catalogue::Served;
use crate::storage::filter::Filter;

const GROUP: &str = "admissionregistration.k8s.io";
const PLURAL: &str = "validatingadmissionpolicies";
/// Against how many kinds a policy is checked, as upstream.
const KIND_LIMIT: usize = 10;
/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Follows the policies for as long as the server lives.
pub async fn run(server: Weak<ApiServer>) {
    loop {
        let Some(mut watch) = server.upgrade().and_then(|server| {
            let cache = server.catalogue.cache(GROUP, PLURAL)?;
            cache.subscribe(Start::Everything, Filter::default(), false, server.hub.reached()).ok()
        }) else {
            return;
        };
        let initial: Vec<String> =
            std::mem::take(&mut watch.initial).iter().map(|event| event.entry.name().to_owned()).collect();
        for name in initial {
            look_at(&server, &name).await;
        }
        while let Some(message) = watch.queue.next().await {
            for event in message.events() {
                look_at(&server, event.entry.name()).await;
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn look_at(server: &Weak<ApiServer>, name: &str) {
    let Some(server) = server.upgrade() else { return };
    if let Err(failure) = settle(&server, name).await {
        tracing::debug!(policy = name, error = %failure, "checking a policy's types");
    }
}

async fn settle(server: &Arc<ApiServer>, name: &str) -> Result<()> {
    let Some(policy) = server.catalogue.cache(GROUP, PLURAL).map(|cache| cache.object("", name)).transpose()?.flatten()
    else {
        return Ok(());
    };
    let generation = policy.generation();
    if policy.int_at(&["status", "observedGeneration"]) == Some(generation) {
        return Ok(());
    }
    let warnings = check(server, &policy);
    let checked = if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
    let status = json!({"status": {"observedGeneration": generation, "typeChecking": checked}});
    let path = format!("/apis/{GROUP}/v1/{PLURAL}/{name}/status");
    send(server, Method::PATCH, &path, &status).await?;
    Ok(())
}

/// The warnings about a policy's expressions.
fn check(server: &ApiServer, policy: &Object) -> Vec<Value> {
    let kinds = kinds_of(server, policy);
    let mut warnings: BTreeMap<(usize, &str), Vec<String>> = BTreeMap::new();
    for served in &kinds {
        let Some(decl) = decl_of(served) else { continue };
        let env = base_env(policy).with("object", decl.clone()).with("oldObject", decl);
        let env = with_variables(env, policy, |text, env: &Env, _| {
            compile(env, text).ok().map(|program| program.result.clone())
        });
        for (index, validation) in policy.list_at(&["spec", "validations"]).iter().enumerate() {
            for field in ["expression", "messageExpression"] {
                let text = validation.str_at(&[field]);
                if !text.is_empty()
                    && let Err(error) = compile(&env, text)
                {
                    let gvk = served.def.gvk();
                    warnings.entry((index, field)).or_default().push(format!("{gvk}: {error}"));
                }
            }
        }
    }
    let shown = warnings.into_iter().map(|((index, field), texts)| {
        json!({"fieldRef": format!("spec.validations[{index}].{field}"), "warning": texts.join("\n")})
    });
    shown.collect()
}

/// The kinds that a policy's rules name; those with a wildcard name none.
fn kinds_of(server: &ApiServer, policy: &Object) -> Vec<Arc<Served>> {
    let snapshot = server.catalogue.snapshot();
    let mut kinds = Vec::new();
    for rule in policy.list_at(&["spec", "matchConstraints", "resourceRules"]) {
        let names = |field: &str| -> Vec<&str> { rule.list_at(&[field]).iter().filter_map(Value::as_str).collect() };
        for group in names("apiGroups") {
            for version in names("apiVersions") {
                for resource in names("resources") {
                    if let Some(served) = snapshot.get(group, version, resource) {
                        kinds.push(served.clone());
                    }
                }
            }
        }
    }
    kinds.truncate(KIND_LIMIT);
    kinds
}

fn decl_of(served: &Served) -> Option<Arc<Decl>> {
    match &served.def.inline_schema {
        Some(schema) => Schema::read(schema, true, &served.def.kind).decl.clone(),
        None => definition(&served.def.schema).map(|definition| object(definition, &mut Vec::new())),
    }
}

/// `above` are the types within which this one stands: one that stands in itself is not followed.
fn object(definition: &'static Definition, above: &mut Vec<&'static str>) -> Arc<Decl> {
    match definition.shape {
        Shape::Time | Shape::MicroTime => Decl::of(Type::Timestamp),
        Shape::Struct if !above.contains(&definition.name) => {
            above.push(definition.name);
            let fields = definition.fields.iter();
            let fields = fields.filter_map(|field| Some((escape(field.name)?, of(&field.ty, above)))).collect();
            above.pop();
            let name = definition.name.rsplit('.').next().unwrap_or(definition.name).to_owned();
            Decl::of(Type::Object(Arc::new(ObjectType { name, fields, open: false })))
        }
        _ => any(),
    }
}

fn of(ty: &'static FieldType, above: &mut Vec<&'static str>) -> Arc<Decl> {
    match ty {
        FieldType::String => string(),
        FieldType::Bytes => Decl::of(Type::Bytes),
        FieldType::Int32 | FieldType::Int64 => Decl::of(Type::Int),
        FieldType::Bool => Decl::of(Type::Bool),
        FieldType::Double => Decl::of(Type::Double),
        FieldType::List(item) => Decl::list(of(item, above)),
        FieldType::Map(value) => Decl::map(of(value, above)),
        FieldType::Ref(_) => ty.definition().map_or_else(any, |definition| object(definition, above)),
    }
}
