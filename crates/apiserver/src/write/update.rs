//! Changing an object that is there: the loop that updates, patches and subresources share.

use skiff_kinds::gated;
use skiff_object::apply;
use skiff_object::meta::Meta;
use skiff_object::{FieldError, FieldPath, Object, Status};
use skiff_store::KeyValue;

use crate::admission::{self, Operation};
use crate::alloc::{self, Claims};
use crate::call::Call;
use crate::custom::convert;
use crate::failure::Result;
use crate::http::answer::Answer;
use crate::read::present;
use crate::server::ApiServer;
use crate::storage::parts::Wanted;
use crate::write::{CLAIM_TRIES, Committed, Target, Written, create, decode, metadata};

/// How often a change without a resourceVersion of its own is tried against a moving object.
const TRIES: usize = 5;

/// Answers an update.
pub async fn update(server: &ApiServer, call: &Call, body: &[u8]) -> Result<Answer> {
    let target = Target::of(server, call)?;
    let mut object = decode::checked(&target, body)?;
    metadata::settle_namespace(&call.served.def, &mut object, &target.namespace)?;
    check_name(&object, &target.name)?;
    let may_create = call.served.def.create_on_update && call.info.subresource.is_empty();
    if may_create && target.stored().await?.is_none() {
        return create_instead(target, object).await;
    }
    let unconditional = call.served.def.unconditional_update;
    let must_have_revision = object.resource_version().is_empty() && !unconditional;
    if must_have_revision {
        let error =
            FieldError::invalid(&FieldPath::new("metadata.resourceVersion"), 0, "must be specified for an update");
        return Err(Status::invalid(&call.served.def.group_kind(), &target.name, &vec![error]).into());
    }
    change(&target, |_| Ok(object.clone())).await?.answer(call)
}

/// Some kinds may be created by an update, and all by an apply; that asks for the right to create.
pub async fn create_instead(target: Target<'_>, mut object: Object) -> Result<Answer> {
    let (call, server) = (target.call, target.server);
    let mut info = call.info.clone();
    info.verb = "create".into();
    server.authorize(&call.user, &info).await?;
    if !object.uid().is_empty() {
        return Err(target.not_found().into());
    }
    object.remove_at(&["metadata", "resourceVersion"]);
    create::object_of(target, object).await?.answer(call)
}

/// The name in the object must be the one in the path.
pub fn check_name(object: &Object, name: &str) -> Result<()> {
    let own = object.name();
    if own.is_empty() {
        let text = format!("the name of the object ({name} based on URL) was undeterminable: name must be provided");
        return Err(Status::bad_request(text).into());
    }
    if own != name {
        let text = format!("the name of the object ({own}) does not match the name on the URL ({name})");
        return Err(Status::bad_request(text).into());
    }
    Ok(())
}

/// Changes the target: `make` gives the object as it is wanted from the one that is there.
/// Where somebody else was faster, it is asked again, unless the wanted object names its resourceVersion.
pub async fn change(target: &Target<'_>, mut make: impl FnMut(&Object) -> Result<Object>) -> Result<Written> {
    for attempt in 1.. {
        let stored = target.stored().await?.ok_or_else(|| target.not_found())?;
        let raw = stored.value.clone();
        let current = convert::pair(target.server, target.served, stored).await?;
        let is_outdated = convert::is_outdated(target.served, &raw, &current.value)?;
        let old = present::decode(target.served, &current.value, current.mod_revision)?;
        let new = make(&old)?;
        let named_revision = revision_named(target, &new, &old)?;
        match attempt_change(target, new, &old, (&current, is_outdated)).await? {
            Some(written) => return Ok(written),
            None if named_revision || attempt >= TRIES => break,
            None => {}
        }
    }
    Err(Status::modified(&target.served.def.group_resource(), &target.name).into())
}

/// What the server itself changes at some paths of the target, and what it looks at there, `make` sees and gives alone: the
/// rest is neither read nor written anew, unless somebody has to see all of it.
pub async fn change_part(
    target: &Target<'_>,
    paths: &[&str],
    mut make: impl FnMut(&Object) -> Result<Object>,
) -> Result<Written> {
    let is_as_stored = target.served.conversion.is_none() && target.served.mark.is_empty();
    if !is_as_stored || alloc::concerns(target) || admission::must_see(&target.attributes(Operation::Update)) {
        return change(target, make).await;
    }
    for _ in 0..TRIES {
        match attempt_part(target, paths, &mut make).await? {
            Part::Written(written) => return Ok(written),
            Part::Moved => {}
            Part::Unfit => return change(target, make).await,
        }
    }
    Err(Status::modified(&target.served.def.group_resource(), &target.name).into())
}

/// What became of a change of a part.
enum Part {
    /// It is done.
    Written(Written),
    /// The object moved meanwhile.
    Moved,
    /// The object has to be looked at as a whole.
    Unfit,
}

/// One round of steps 9 to 12 for what the server itself changes.
async fn attempt_part(
    target: &Target<'_>,
    paths: &[&str],
    make: &mut impl FnMut(&Object) -> Result<Object>,
) -> Result<Part> {
    let current = target.stored().await?.ok_or_else(|| target.not_found())?;
    let wanted = Wanted::new(paths.iter().copied().chain(["metadata.deletionTimestamp"]));
    let old = wanted.scanned(&current.value).filter(|old| !old.is_deleting());
    let Some(old) = old else { return Ok(Part::Unfit) };
    let new = make(&old)?;
    target.admit(Operation::Update, Some(&new), Some(&old)).await?;
    let Some(stored) = wanted.replaced(&current.value, &new) else { return Ok(Part::Unfit) };
    let revision = current.mod_revision;
    let is_same = stored == current.value;
    if target.options.dry_run || (is_same && !target.is_stale().await?) {
        return Ok(Part::Written(Written { stored, revision, created: false }));
    }
    Ok(match target.commit(revision, Some(stored.clone()), &Claims::default()).await? {
        Committed::At(revision) => Part::Written(Written { stored, revision, created: false }),
        Committed::Moved | Committed::Outclaimed => Part::Moved,
    })
}

/// Checks optimistic concurrency; tells whether the wanted object insists on the revision that it was made from.
fn revision_named(target: &Target<'_>, new: &Object, old: &Object) -> Result<bool> {
    let resource = target.served.def.group_resource();
    let wanted = new.resource_version();
    if !wanted.is_empty() && wanted != "0" && wanted != old.resource_version() {
        return Err(Status::modified(&resource, &target.name).into());
    }
    if !new.uid().is_empty() && new.uid() != old.uid() {
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: \
             Precondition failed: UID in precondition: {}, UID in object meta: {}",
            String::from_utf8_lossy(&target.key()),
            new.uid(),
            old.uid()
        );
        return Err(Status::conflict(&resource, &target.name, why).into());
    }
    Ok(!wanted.is_empty() && !target.is_patch())
}

/// One round of steps 5 to 12; `None` where the object moved meanwhile. What is outdated in the store is written even
/// where nothing changes: that is how objects are moved to another version.
async fn attempt_change(
    target: &Target<'_>,
    mut new: Object,
    old: &Object,
    (current, is_outdated): (&KeyValue, bool),
) -> Result<Option<Written>> {
    let def = &target.served.def;
    metadata::settle_namespace(def, &mut new, &target.namespace)?;
    if target.own {
        new.set_at(&["metadata", "resourceVersion"], old.resource_version());
    } else {
        apply_rules(target, &mut new, old).await?;
    }
    target.admit(Operation::Update, Some(&new), Some(old)).await?;
    // Of what the server writes by itself nobody can do anything about a warning.
    if !target.own {
        target.warn(&new, Some(old));
    }
    let revision = current.mod_revision;
    let unclaimed = alloc::concerns(target).then(|| new.clone());
    for _ in 0..CLAIM_TRIES {
        if let Some(unclaimed) = &unclaimed {
            new.clone_from(unclaimed);
        }
        let claims = target.server.allocators.begin(target, &mut new, Some(old)).await?;
        let stored = target.encode(&new);
        let is_same = stored == current.value && !is_outdated;
        if target.options.dry_run || (is_same && !target.is_stale().await?) {
            return Ok(Some(Written { stored, revision, created: false }));
        }
        let gone = is_released(def, &new, old);
        let claims = if gone { target.server.allocators.end(target, old) } else { claims };
        let value = (!gone).then(|| stored.clone());
        match target.commit(revision, value, &claims).await? {
            Committed::At(revision) => return Ok(Some(Written { stored, revision, created: false })),
            Committed::Moved => return Ok(None),
            Committed::Outclaimed => {}
        }
    }
    Ok(None)
}

/// Steps 5 to 8: the kind's rules for what clients write.
async fn apply_rules(target: &Target<'_>, new: &mut Object, old: &Object) -> Result<()> {
    let def = &target.served.def;
    target.default(new, Some(old)).await;
    target.mutate(Operation::Update, new, Some(old)).await?;
    apply::keep_times(old, new);
    metadata::prepare_update(new, old);
    (def.prepare_update)(&target.context(), new, old);
    gated::drop_fields(def, new, Some(old), &target.server.config.gates);
    new.set_at(&["metadata", "resourceVersion"], old.resource_version());
    target.server.allocators.settle(target, new, Some(old))?;
    let mut errors = metadata::validate(def, new);
    errors.extend(skiff_object::validate::metadata_update(new, old));
    errors.extend(def.check_update(&target.context(), new, old));
    let of_rules = target.expressions(new, Some(old), &errors);
    errors.extend(of_rules);
    target.refuse(new, errors)
}

/// Whether a change took the last finalizer from an object that waits to be deleted.
fn is_released(def: &skiff_kinds::ResourceDef, new: &Object, old: &Object) -> bool {
    let grace = old.int_at(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0);
    let held_by_spec =
        def.deletion == skiff_kinds::def::Deletion::Namespace && !new.list_at(&["spec", "finalizers"]).is_empty();
    old.is_deleting() && grace == 0 && new.finalizers().is_empty() && !held_by_spec
}
