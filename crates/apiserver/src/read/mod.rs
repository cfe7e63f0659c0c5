//! Reading: get, list and watch, and the shapes in which objects are shown.

pub mod list;
pub mod options;
pub mod present;
pub mod socket;
pub mod watch;

use skiff_object::Status;

use crate::call::Call;
use crate::custom::convert;
use crate::failure::Result;
use crate::http::answer::Answer;
use crate::server::ApiServer;
use crate::storage::keys;

/// Answers a get.
pub async fn get(server: &ApiServer, call: &Call) -> Result<Answer> {
    if let Some(revision @ 1..) = options::revision_of(call.query.text("resourceVersion"))? {
        server.hub.wait_for(revision).await?;
    }
    let key = keys::object(&call.served.cache.prefix, call.info.namespace_of(&call.served.def), &call.info.name);
    let (_, found) = server.store().get(&key, None).await?;
    let pair = found.ok_or_else(|| Status::not_found(&call.served.def.group_resource(), &call.info.name))?;
    let pair = convert::pair(server, &call.served, pair).await?;
    present::stored(call, 200, &pair.value, pair.mod_revision)
}
