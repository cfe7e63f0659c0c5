//! EventRateLimit: how many Events the server takes, in all, from a namespace, from a user, or about an object.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#eventratelimit>.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use skiff_base::bucket::Bucket;
use skiff_object::meta::Meta;
use skiff_object::{Object, Status};

use crate::admission::{Attributes, Operation};
use crate::failure::Result;

/// How many buckets of a limit are remembered where nothing is said.
const CACHE_SIZE: usize = 4096;
/// When a client that was refused may try again.
const RETRY_SECONDS: u32 = 1;

/// What a limit counts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Server,
    Namespace,
    User,
    SourceAndObject,
}

/// One limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Limit {
    by: By,
    per_second: f64,
    burst: f64,
    cache_size: usize,
}

impl Limit {
    /// Reads the `limits` of a configuration.
    ///
    /// # Errors
    /// A limit is none.
    pub fn read(config: &Value) -> std::result::Result<Vec<Self>, String> {
        let one = |(index, limit): (usize, &Value)| {
            let field = |name: &str| format!("EventRateLimit: limits[{index}].{name}: Invalid value");
            let number = |name: &str| {
                let number = limit.int_at(&[name]).filter(|number| *number > 0);
                number.ok_or_else(|| format!("{}: must be positive", field(name)))
            };
            let by = match limit.str_at(&["type"]) {
                "Server" => By::Server,
                "Namespace" => By::Namespace,
                "User" => By::User,
                "SourceAndObject" => By::SourceAndObject,
                other => return Err(format!("{}: {other:?} is no type of limits", field("type"))),
            };
            let size = limit.int_at(&["cacheSize"]).and_then(|size| usize::try_from(size).ok());
            Ok(Self {
                by,
                per_second: number("qps")? as f64,
                burst: number("burst")? as f64,
                cache_size: size.filter(|size| *size > 0).unwrap_or(CACHE_SIZE),
            })
        };
        config.list_at(&["limits"]).iter().enumerate().map(one).collect()
    }
}

/// The buckets of all limits.
#[derive(Default)]
pub struct Buckets {
    all: Mutex<HashMap<(usize, String), Bucket>>,
}

impl Buckets {
    /// Takes one from the bucket of the limit at `index`; false where it is empty.
    fn take(&self, index: usize, limit: &Limit, key: &str, now: Duration) -> bool {
        let mut all = self.all.lock();
        let key = (index, key.to_owned());
        if !all.contains_key(&key) && all.keys().filter(|(of, _)| *of == index).count() >= limit.cache_size {
            let oldest = all.iter().filter(|((of, _), _)| *of == index).min_by_key(|(_, bucket)| bucket.last());
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                all.remove(&oldest);
            }
        }
        let bucket = all.entry(key).or_insert_with(|| Bucket::full(limit.burst, now));
        bucket.take(limit.per_second, limit.burst, now).is_ok()
    }
}

fn key(by: By, attributes: &Attributes<'_>, event: &Object) -> String {
    match by {
        By::Server => String::new(),
        By::Namespace => attributes.namespace.to_owned(),
        By::User => attributes.call.user.name.clone(),
        By::SourceAndObject => {
            let about = if event.get("regarding").is_some() { "regarding" } else { "involvedObject" };
            let about = ["kind", "namespace", "name", "uid", "apiVersion"].map(|field| event.str_at(&[about, field]));
            let source = ["component", "host"].map(|field| event.str_at(&["source", field]));
            [source.as_slice(), &about].concat().concat()
        }
    }
}

/// Refuses Events beyond the limits.
pub fn limit(attributes: &Attributes<'_>, event: Option<&Object>, _: Option<&Object>) -> Result<()> {
    let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
    let is_event = attributes.def.kind == "Event" && matches!(attributes.def.group.as_ref(), "" | "events.k8s.io");
    let Some(event) = event.filter(|_| writes && is_event && !attributes.dry_run) else { return Ok(()) };
    let (plugins, now) = (&attributes.server.plugins, attributes.server.clock().monotonic());
    for (index, limit) in plugins.settings.event_limits.iter().enumerate() {
        let key = key(limit.by, attributes, event);
        if !plugins.events.take(index, limit, &key, now) {
            let text = format!("limit reached on type {:?} for key {key}", limit.by);
            return Err(Status::too_many_requests(text, RETRY_SECONDS).into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn buckets_empty_and_fill_again() {
        let limits = json!({"limits": [{"type": "Namespace", "qps": 2, "burst": 3, "cacheSize": 2}]});
        let limit = Limit::read(&limits).expect("it is one").remove(0);
        let (buckets, at) = (Buckets::default(), Duration::from_millis);
        let take = |key: &str, now: u64| buckets.take(0, &limit, key, at(now));
        assert_eq!(
            [0, 0, 0, 0, 400, 500, 600].map(|now| take("a", now)),
            [true, true, true, false, false, true, false]
        );
        assert!(take("b", 650), "each namespace has its own");
        assert!(take("c", 700) && take("a", 700), "the longest unused is forgotten");
    }

    #[test]
    fn what_is_no_limit_is_refused() {
        let refused = |limit: Value| Limit::read(&json!({"limits": [limit]})).expect_err("it is refused");
        assert_eq!(
            refused(json!({"type": "Server", "qps": 0, "burst": 1})),
            "EventRateLimit: limits[0].qps: Invalid value: must be positive"
        );
        assert_eq!(
            refused(json!({"type": "Moon"})),
            "EventRateLimit: limits[0].type: Invalid value: \"Moon\" is no type of limits"
        );
    }
}
