//! Custom objects in the versions that the owners of their fields wrote through, where only the definition's webhook
//! can tell how they look there. Who owns what is decided without waiting: what the decision would have to see and is
//! not known yet is noted, asked of the webhook, and the decision made anew.

use parking_lot::Mutex;
use skiff_object::Object;
use skiff_object::apply::{Custom, InVersion, Schema, Versions};

use super::managed;
use crate::custom::{convert, schema};
use crate::failure::Result;
use crate::server::ApiServer;
use crate::storage::catalogue::Served;

/// An object, and the version in which it is wanted.
type Wanted = (Object, String);

/// What is known of objects in other versions.
pub struct Converted<'a> {
    served: &'a Served,
    /// The other versions that are served, with how they merge.
    others: Vec<(String, Custom)>,
    known: Mutex<Vec<(Wanted, Object)>>,
    missing: Mutex<Vec<Wanted>>,
}

impl<'a> Converted<'a> {
    /// The versions of a kind; none where no webhook is asked for them.
    pub fn of(server: &ApiServer, served: &'a Served) -> Option<Self> {
        let facts = served.def.custom.as_ref().filter(|facts| facts.conversion.is_some())?;
        let (def, snapshot) = (&served.def, server.catalogue.snapshot());
        let others = facts.versions.iter().filter(|version| **version != *def.version).filter_map(|version| {
            let other = snapshot.get(&def.group, version, &def.plural)?;
            Some((other.def.group_version().to_string(), managed::custom(other)?))
        });
        Some(Self { served, others: others.collect(), known: Mutex::default(), missing: Mutex::default() })
    }

    /// Whether something would have to be asked of the webhook.
    pub fn is_lacking(&self) -> bool {
        !self.missing.lock().is_empty()
    }

    /// Asks the webhook for what was missing; tells whether anything was.
    ///
    /// # Errors
    /// The webhook does not answer as it should.
    pub async fn learn(&self, server: &ApiServer) -> Result<bool> {
        let missing = std::mem::take(&mut *self.missing.lock());
        let was_missing = !missing.is_empty();
        for (object, wanted) in missing {
            let version = wanted.rsplit('/').next().unwrap_or_default();
            let mut shown = convert::between(server, self.served, object.clone(), version).await?;
            if let Some(other) = self.served_as(&wanted) {
                schema::prune(&other.schema, &mut shown);
            }
            self.known.lock().push(((object, wanted), shown));
        }
        Ok(was_missing)
    }

    fn served_as(&self, api_version: &str) -> Option<&Custom> {
        self.others.iter().find(|(version, _)| version == api_version).map(|(_, custom)| custom)
    }
}

impl Versions for Converted<'_> {
    fn in_version(&self, object: &Object, from: &str, to: &str) -> InVersion<'_> {
        match self.served.def.in_version(object, from, to) {
            InVersion::Same => {}
            other => return other,
        }
        let mut object = object.clone();
        object["apiVersion"] = from.into();
        let wanted = (object, to.to_owned());
        let known = self.known.lock().iter().find(|(asked, _)| *asked == wanted).map(|(_, shown)| shown.clone());
        match known {
            // A version that is served no longer has no schema here.
            Some(shown) => InVersion::Other(Box::new(shown), self.schema(to).unwrap_or(Schema::Deduced)),
            None => {
                let mut missing = self.missing.lock();
                if !missing.contains(&wanted) {
                    missing.push(wanted);
                }
                InVersion::Unknown
            }
        }
    }

    fn schema(&self, api_version: &str) -> Option<Schema<'_>> {
        self.served_as(api_version).map(|custom| Schema::Map(custom))
    }
}
