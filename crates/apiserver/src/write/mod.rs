//! The one write pipeline, the same for every kind:
//!
//! 1. authenticate and 2. authorize (the server does both before it comes here);
//! 3. decode the body and check its fields; 4. apply the patch, where it is one;
//! 5. default; 6. mutate (admission); 7. prepare, and allocate where the kind needs it; 8. validate;
//! 9. validate (admission); 10. quota; 11. stop here on a dry run; 12. compare and swap, again for patches; 13. encode.

pub mod create;
pub mod decode;
pub mod delete;
pub mod managed;
pub mod metadata;
pub mod patch;
pub mod update;
mod versions;

use std::time::Duration;

use bytes::Bytes;
use skiff_kinds::decode::FieldValidation;
use skiff_kinds::def::Context;
use skiff_object::meta::Meta;
use skiff_object::{FieldError, FieldPath, GroupKind, Object, Status};
use skiff_store::{Change, Compare, Durability, KeyValue, Outcome, Transaction};

use crate::admission::{self, Attributes, Operation};
use crate::alloc::Claims;
use crate::call::Call;
use crate::codec;
use crate::custom;
use crate::failure::Result;
use crate::http::answer::Answer;
use crate::metrics::Asked;
use crate::read::present;
use crate::server::ApiServer;
use crate::storage::catalogue::Served;

/// What a write's query string asks for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Nothing is stored.
    pub dry_run: bool,
    /// What becomes of unknown fields.
    pub field_validation: FieldValidation,
    /// Who manages the fields that are written.
    pub field_manager: String,
    /// Whether an apply takes fields from other managers.
    pub force: bool,
}

impl Options {
    /// Reads a write's query string.
    pub fn of(call: &Call) -> Result<Self> {
        let (query, mut errors) = (&call.query, Vec::new());
        let dry_run = query.all("dryRun").any(|value| !value.is_empty());
        if let Some(other) = query.all("dryRun").find(|value| !matches!(*value, "All" | "")) {
            errors.push(FieldError::not_supported(&FieldPath::new("dryRun"), other, &["All"]));
        }
        let given = query.text("fieldValidation");
        let field_validation = FieldValidation::parse(given).unwrap_or_else(|| {
            let path = FieldPath::new("fieldValidation");
            errors.push(FieldError::not_supported(&path, given, &["Ignore", "Strict", "Warn"]));
            FieldValidation::default()
        });
        if !errors.is_empty() {
            let kind = match call.info.verb.as_str() {
                "create" => "CreateOptions",
                "patch" => "PatchOptions",
                "delete" | "deletecollection" => "DeleteOptions",
                _ => "UpdateOptions",
            };
            return Err(Status::invalid(&GroupKind::new("meta.k8s.io", kind), "", &errors).into());
        }
        let field_manager = query.text("fieldManager").to_owned();
        Ok(Self { dry_run, field_validation, field_manager, force: query.flag("force") })
    }
}

/// The revision of what a dry run would have created.
const NOT_STORED: u64 = 0;

/// What became of a write.
pub struct Written {
    /// The object as it is stored now (or would be).
    pub stored: Bytes,
    /// The revision of its last change.
    pub revision: u64,
    /// Whether the write made the object.
    pub created: bool,
}

impl Written {
    /// The answer to the client.
    pub fn answer(&self, call: &Call) -> Result<Answer> {
        let code = if self.created { 201 } else { 200 };
        if self.revision == NOT_STORED {
            return present::object_answer(call, code, &self.object(&call.served)?);
        }
        present::stored(call, code, &self.stored, self.revision)
    }

    /// The object as clients of the kind know it.
    pub fn object(&self, served: &Served) -> Result<Object> {
        let mut object = present::decode(served, &self.stored, self.revision)?;
        if self.revision == NOT_STORED {
            object.remove_at(&["metadata", "resourceVersion"]);
        }
        Ok(object)
    }
}

/// What became of step 12.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// Written at this revision.
    At(u64),
    /// The object is not what it was.
    Moved,
    /// The object is, but what was claimed for it was taken meanwhile: other claims may do.
    Outclaimed,
}

/// How often other claims are made where they were taken meanwhile.
const CLAIM_TRIES: usize = 8;

/// One object that is written, and through which door.
#[derive(Clone)]
pub struct Target<'a> {
    /// The server.
    pub server: &'a ApiServer,
    /// The request.
    pub call: &'a Call,
    /// The kind.
    pub served: &'a Served,
    /// The namespace; empty for what is cluster-wide.
    pub namespace: String,
    /// The name; empty while it is yet to be generated.
    pub name: String,
    /// The subresource, or empty.
    pub subresource: String,
    /// What the query asks for.
    pub options: Options,
    /// The change is one that the server itself has worked out: the kind's rules for clients do not apply.
    pub own: bool,
    /// The object comes from a server-side apply, which has written its managed fields already.
    pub applied: bool,
}

impl<'a> Target<'a> {
    /// The object that the request's path names.
    pub fn of(server: &'a ApiServer, call: &'a Call) -> Result<Self> {
        Ok(Self {
            server,
            call,
            served: &call.served,
            namespace: call.info.namespace_of(&call.served.def).to_owned(),
            name: call.info.name.clone(),
            subresource: call.info.subresource.clone(),
            options: Options::of(call)?,
            own: false,
            applied: false,
        })
    }

    /// What the kind's rules are told.
    pub fn context(&self) -> Context<'_> {
        Context { def: &self.served.def, subresource: &self.subresource, now: self.call.now }
    }

    /// The object's key in the store.
    pub fn key(&self) -> Bytes {
        crate::storage::keys::object(&self.served.cache.prefix, &self.namespace, &self.name)
    }

    /// Whether the change comes as a patch, which is made anew when the object moved.
    pub fn is_patch(&self) -> bool {
        self.call.info.verb == "patch"
    }

    /// 404.
    pub fn not_found(&self) -> Status {
        Status::not_found(&self.served.def.group_resource(), &self.name)
    }

    fn attributes(&self, operation: Operation) -> Attributes<'_> {
        Attributes {
            server: self.server,
            call: self.call,
            def: &self.served.def,
            operation,
            namespace: &self.namespace,
            name: &self.name,
            subresource: &self.subresource,
            dry_run: self.options.dry_run,
        }
    }

    /// Step 5: sets what the client left out, and writes down what it owns.
    async fn default(&self, object: &mut Object, old: Option<&Object>) {
        (self.served.def.default)(object);
        if let Some(schema) = &self.served.def.inline_schema {
            custom::schema::default(schema, object);
        }
        if !self.applied {
            managed::track(self, old, object).await;
        }
    }

    /// Step 6.
    async fn mutate(&self, operation: Operation, object: &mut Object, old: Option<&Object>) -> Result<()> {
        let changed = admission::mutate(&self.attributes(operation), object, old).await?;
        // What the user's own programs have changed counts as written by whoever made the request.
        if changed && !self.applied {
            managed::track(self, old, object).await;
        }
        Ok(())
    }

    /// Step 9.
    async fn admit(&self, operation: Operation, object: Option<&Object>, old: Option<&Object>) -> Result<()> {
        admission::validate(&self.attributes(operation), object, old).await
    }

    /// Encodes for the store, in the shape of the kind that is stored.
    fn encode(&self, object: &Object) -> Bytes {
        let Some(conversion) = self.served.conversion else {
            return codec::encode_marked(object, &self.served.mark);
        };
        let mut object = object.clone();
        (conversion.to_storage)(&mut object);
        codec::encode_stored(&object)
    }

    /// Step 12: writes (or removes, where `value` is `None`) if the key is still as it was at `expected`, and with it what
    /// is claimed for the object.
    async fn commit(&self, expected: u64, value: Option<Bytes>, claims: &Claims) -> Result<Committed> {
        let key = self.key();
        let change = match value {
            Some(value) => {
                let value = custom::convert::storable(self.server, self.served, value).await?;
                Change::Put { key: key.clone(), value }
            }
            None => Change::Delete { key: key.clone() },
        };
        let relaxed = self.served.cache.def.relaxed_durability;
        let mut transaction = Transaction {
            compares: vec![Compare { key, mod_revision: expected }],
            changes: vec![change],
            durability: if relaxed { Durability::Relaxed } else { Durability::Durable },
        };
        claims.add_to(&self.server.allocators, &self.namespace, &self.name, &mut transaction);
        let asked = match &transaction.changes[0] {
            Change::Put { .. } if expected == 0 => Asked::Create,
            Change::Put { .. } => Asked::Update,
            Change::Delete { .. } => Asked::Delete,
        };
        let began = self.server.clock().monotonic();
        let outcome = self.server.store().commit(transaction).await;
        self.timed(asked, began, outcome.is_err());
        Ok(match outcome? {
            Outcome::Committed(revision) => Committed::At(revision),
            Outcome::Failed { current, .. } => {
                let present = current.first().and_then(Option::as_ref).map_or(0, |pair| pair.mod_revision);
                if present == expected { Committed::Outclaimed } else { Committed::Moved }
            }
        })
    }

    /// What the store holds under the target's key.
    async fn stored(&self) -> Result<Option<KeyValue>> {
        let began = self.server.clock().monotonic();
        let found = self.server.store().get(&self.key(), None).await;
        self.timed(Asked::Get, began, found.is_err());
        Ok(found?.1)
    }

    /// Whether even what has not changed is to be written, because it would be encrypted otherwise today.
    async fn is_stale(&self) -> Result<bool> {
        let Some(encryption) = &self.server.encryption else { return Ok(false) };
        Ok(encryption.is_stale(&self.key()).await?)
    }

    fn timed(&self, asked: Asked, began: Duration, has_failed: bool) {
        let took = self.server.clock().monotonic().saturating_sub(began);
        self.server.metrics.stored(&self.served.cache, asked, took, has_failed);
    }

    /// The kind's own warnings about what was written.
    fn warn(&self, object: &Object, old: Option<&Object>) {
        let def = &self.served.def;
        let warnings = match old {
            Some(old) => def.update_warnings(&self.subresource, object, old),
            None => (def.warnings)(object),
        };
        warnings.into_iter().for_each(|warning| self.call.warn(warning));
    }

    /// Step 8, the part of expressions: what the rules of a custom kind find wrong, where its schema found nothing that
    /// makes it another shape, and what is wrong with the expressions that an object itself carries.
    fn expressions(&self, new: &Object, old: Option<&Object>, found: &[FieldError]) -> Vec<FieldError> {
        let def = &self.served.def;
        if (def.group.as_ref(), def.kind.as_ref()) == ("apiextensions.k8s.io", "CustomResourceDefinition") {
            return if self.subresource.is_empty() { custom::definition::check(new, old) } else { Vec::new() };
        }
        if def.group == "admissionregistration.k8s.io" && self.subresource.is_empty() {
            return admission::definition::check(&def.kind, new, old);
        }
        let Some(rules) = self.served.rules().filter(|_| self.subresource != "scale") else { return Vec::new() };
        if let Some(unchecked) = custom::rules::unchecked(found) {
            return vec![unchecked];
        }
        let mut warnings = Vec::new();
        let errors = rules.check(new, old, &mut warnings);
        warnings.into_iter().for_each(|warning| self.call.warn(warning));
        errors
    }

    /// 422 where anything is wrong.
    fn refuse(&self, object: &Object, errors: Vec<FieldError>) -> Result<()> {
        if errors.is_empty() {
            return Ok(());
        }
        let name = if object.name().is_empty() { object.str_at(&["metadata", "generateName"]) } else { object.name() };
        Err(Status::invalid(&self.served.def.group_kind(), name, &errors).into())
    }
}
