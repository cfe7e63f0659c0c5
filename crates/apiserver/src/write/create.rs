//! Creating an object.

use skiff_object::meta::Meta;
use skiff_object::{Object, Status};
use skiff_store::Outcome;

use crate::admission::Operation;
use crate::call::Call;
use crate::failure::{Result, plain};
use crate::http::answer::Answer;
use crate::server::ApiServer;
use crate::write::{Target, Written, decode, metadata};

/// How often another name is generated where one is taken, as upstream does.
const NAME_TRIES: usize = 8;

/// Answers a create.
pub async fn create(server: &ApiServer, call: &Call, body: &[u8]) -> Result<Answer> {
    let target = Target::of(server, call)?;
    let object = decode::checked(&target, body)?;
    object_of(target, object).await?.answer(call)
}

/// Creates an object: steps 5 to 12 of the pipeline.
pub async fn object_of(mut target: Target<'_>, mut object: Object) -> Result<Written> {
    let (def, ids) = (target.served.def.clone(), target.server.ids());
    metadata::settle_namespace(&def, &mut object, &target.namespace)?;
    if !object.resource_version().is_empty() {
        return Err(plain(500, "resourceVersion should not be set on objects to be created"));
    }
    let generated = object.name().is_empty() && !object.str_at(&["metadata", "generateName"]).is_empty();
    if !target.name.is_empty() && object.name().is_empty() {
        object.set_at(&["metadata", "name"], target.name.as_str());
    }
    if generated {
        object.set_at(&["metadata", "name"], metadata::generate_name(&object, ids));
    }
    target.name = object.name().to_owned();
    target.default(&mut object, None);
    target.mutate(Operation::Create, &mut object, None).await?;
    metadata::prepare_create(&def, &mut object, target.call.now, ids);
    (def.prepare_create)(&target.context(), &mut object);
    let reservation = target.server.allocators.begin(&target, &mut object, None)?;
    let mut errors = metadata::validate(&def, &object);
    errors.extend((def.validate)(&target.context(), &object));
    target.refuse(&object, errors)?;
    target.admit(Operation::Create, Some(&object), None).await?;
    target.warn(&object, None);
    if target.options.dry_run {
        return Ok(Written { stored: target.encode(&object), revision: 0, created: true });
    }
    for attempt in 1.. {
        let stored = target.encode(&object);
        match target.commit(0, Some(stored.clone())).await? {
            Outcome::Committed(revision) => {
                reservation.commit();
                return Ok(Written { stored, revision, created: true });
            }
            Outcome::Failed { .. } if generated && attempt < NAME_TRIES => {
                target.name = metadata::generate_name(&object, ids);
                object.set_at(&["metadata", "name"], target.name.as_str());
            }
            Outcome::Failed { .. } => break,
        }
    }
    Err(Status::already_exists(&def.group_resource(), &target.name).into())
}
