//! Creating an object.

use skiff_kinds::gated;
use skiff_object::meta::Meta;
use skiff_object::{Object, Status};

use crate::admission::Operation;
use crate::alloc;
use crate::call::Call;
use crate::failure::{Result, plain};
use crate::http::answer::Answer;
use crate::server::ApiServer;
use crate::write::{CLAIM_TRIES, Committed, NOT_STORED, Target, Written, decode, metadata};

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
    target.default(&mut object, None).await;
    target.mutate(Operation::Create, &mut object, None).await?;
    metadata::prepare_create(&def, &mut object, target.call.now, ids);
    (def.prepare_create)(&target.context(), &mut object);
    gated::drop_fields(&def, &mut object, None, &target.server.config.gates);
    target.server.allocators.settle(&target, &mut object, None)?;
    let unclaimed = alloc::concerns(&target).then(|| object.clone());
    let mut claims = target.server.allocators.begin(&target, &mut object, None).await?;
    let mut errors = metadata::validate(&def, &object);
    errors.extend((def.validate)(&target.context(), &object));
    let of_rules = target.expressions(&object, None, &errors);
    errors.extend(of_rules);
    target.refuse(&object, errors)?;
    target.admit(Operation::Create, Some(&object), None).await?;
    target.warn(&object, None);
    if target.options.dry_run {
        if !generated && target.stored().await?.is_some() {
            return Err(Status::already_exists(&def.group_resource(), &target.name).into());
        }
        return Ok(Written { stored: target.encode(&object), revision: NOT_STORED, created: true });
    }
    let (mut names, mut tries) = (1, 1);
    loop {
        let stored = target.encode(&object);
        match target.commit(0, Some(stored.clone()), &claims).await? {
            Committed::At(revision) => return Ok(Written { stored, revision, created: true }),
            Committed::Moved if generated && names < NAME_TRIES => {
                names += 1;
                target.name = metadata::generate_name(&object, ids);
                object.set_at(&["metadata", "name"], target.name.as_str());
            }
            Committed::Outclaimed if tries < CLAIM_TRIES => {
                tries += 1;
                if let Some(unclaimed) = &unclaimed {
                    object.clone_from(unclaimed);
                }
                object.set_at(&["metadata", "name"], target.name.as_str());
                claims = target.server.allocators.begin(&target, &mut object, None).await?;
            }
            Committed::Moved | Committed::Outclaimed => break,
        }
    }
    Err(Status::already_exists(&def.group_resource(), &target.name).into())
}
