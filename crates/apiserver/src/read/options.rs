//! What a list or a watch asks for beside its selectors: upstream's `ListOptions`, read from the query string by its rules.
//! See <https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions>.

use std::num::IntErrorKind;

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::{DecodeError, Engine};
use serde::{Deserialize, Serialize};
use skiff_object::{ErrorList, FieldError, FieldPath, GroupKind, GroupResource, Status};

use crate::failure::Result;
use crate::http::query::Query;

/// The version of continue tokens, which upstream's share.
const TOKEN_VERSION: &str = "meta.k8s.io/v1";

/// The opaque token that leads to a list's next page, laid out as upstream's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continue {
    v: String,
    /// The revision of the first page; negative where the rest is wanted as it is now.
    pub rv: i64,
    /// The first key that is wanted, behind the resource's prefix.
    pub start: String,
}

impl Continue {
    /// A token for what comes at or after `start`.
    pub fn new(rv: i64, start: impl Into<String>) -> Self {
        Self { v: TOKEN_VERSION.to_owned(), rv, start: start.into() }
    }

    /// As clients carry it.
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).expect("plain data can always be encoded"))
    }

    fn decode(text: &str) -> Result<Self, String> {
        let invalid = |why: String| format!("continue key is not valid: {why}");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|error| {
            let at = match error {
                DecodeError::InvalidByte(at, _) => at,
                DecodeError::InvalidLastSymbol { offset, .. } => offset,
                DecodeError::InvalidLength(at) => at,
                DecodeError::InvalidPadding => text.len(),
            };
            invalid(format!("illegal base64 data at input byte {at}"))
        })?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        if token.v != TOKEN_VERSION {
            return Err(invalid(format!("server does not recognize this encoded version {}", token.v)));
        }
        if token.rv == 0 {
            return Err(invalid(format!("incorrect encoded start resourceVersion (version {TOKEN_VERSION})")));
        }
        if token.start.is_empty() {
            return Err(invalid(format!("encoded start key empty (version {TOKEN_VERSION})")));
        }
        let path = token.start.strip_prefix('/').unwrap_or(&token.start);
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(invalid(token.start));
        }
        Ok(token)
    }
}

/// How a list's revision is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Match {
    /// As before there were rules: any state for 0, an exact one for a page, else one that is not older.
    #[default]
    Unset,
    /// That state and no other.
    Exact,
    /// That state or a newer one.
    NotOlderThan,
}

/// What a list or a watch asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListOptions {
    /// The revision as it was given; it is read by [`ListOptions::revision`] and its like.
    version: String,
    /// How the revision is meant.
    pub matching: Match,
    /// The most objects that are wanted; 0 for all.
    pub limit: usize,
    /// Where the page before this one ended, as it was given.
    token: String,
    /// Whether a watch begins with what is there; `None` where it does not say.
    pub initial_events: Option<bool>,
    /// Whether a watch wants bookmarks.
    pub bookmarks: bool,
    /// How long a watch lasts at most; 0 where it does not say.
    pub timeout_seconds: u64,
}

impl ListOptions {
    /// Reads the query of a list.
    pub fn of_list(query: &Query) -> Result<Self> {
        Self::read(query, false)
    }

    /// Reads the query of a watch.
    pub fn of_watch(query: &Query) -> Result<Self> {
        let mut options = Self::read(query, true)?;
        let is_legacy = options.initial_events.is_none() && options.matching == Match::Unset;
        if is_legacy && matches!(options.version.as_str(), "" | "0") {
            // A watch from nowhere in particular has always begun with what is there.
            options.initial_events = Some(true);
        }
        Ok(options)
    }

    fn read(query: &Query, watch: bool) -> Result<Self> {
        let limit = integer(query, "limit")?.unwrap_or(0);
        let timeout = integer(query, "timeoutSeconds")?.unwrap_or(0);
        let initial_events = query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents"));
        let errors = faults(query, watch, initial_events.is_some());
        if !errors.is_empty() {
            return Err(Status::invalid(&GroupKind::new("meta.k8s.io", "ListOptions"), "", &errors).into());
        }
        Ok(Self {
            version: query.text("resourceVersion").to_owned(),
            matching: match query.text("resourceVersionMatch") {
                "Exact" => Match::Exact,
                "NotOlderThan" => Match::NotOlderThan,
                _ => Match::Unset,
            },
            limit: usize::try_from(limit).unwrap_or(0),
            token: query.text("continue").to_owned(),
            initial_events,
            bookmarks: query.flag("allowWatchBookmarks"),
            timeout_seconds: u64::try_from(timeout).unwrap_or(0),
        })
    }

    /// The page that is asked for, where the list goes on; that excludes a revision of its own.
    pub fn next_page(&self) -> Result<Option<Continue>> {
        if self.token.is_empty() {
            return Ok(None);
        }
        let invalid = |error| Status::bad_request(format!("invalid continue token: {error}"));
        let token = Continue::decode(&self.token).map_err(invalid)?;
        if !matches!(self.version.as_str(), "" | "0") {
            let text = "specifying resource version is not allowed when using continue";
            return Err(Status::bad_request(text).into());
        }
        Ok(Some(token))
    }

    /// The revision that a list names; `None` where it names none.
    pub fn revision(&self) -> Result<Option<u64>> {
        revision_of(&self.version)
    }

    /// The revision that a watch names, which is refused in other words.
    pub fn watch_revision(&self, resource: &GroupResource) -> Result<Option<u64>> {
        parse(&self.version).map_err(|error| {
            let kind = GroupKind::new(resource.group.as_str(), resource.resource.as_str());
            Status::invalid(&kind, "", &vec![error]).into()
        })
    }

    /// Whether the state at one revision is wanted and no other; `revision` is the one that was named.
    pub fn is_exact(&self, revision: Option<u64>) -> bool {
        let is_page = self.limit > 0 && revision.is_some_and(|revision| revision > 0);
        self.matching == Match::Exact || (self.matching == Match::Unset && is_page)
    }
}

/// Reads the `resourceVersion` of a get or a list: `None` where it is absent.
pub fn revision_of(text: &str) -> Result<Option<u64>> {
    parse(text).map_err(|error| Status::bad_request(format!("invalid resource version: {error}")).into())
}

fn parse(text: &str) -> Result<Option<u64>, FieldError> {
    if text.is_empty() {
        return Ok(None);
    }
    // Go's parser takes no sign here.
    let digits = if text.starts_with('+') { "" } else { text };
    digits.parse().map(Some).map_err(|error: std::num::ParseIntError| {
        let words = format!("strconv.ParseUint: parsing {text:?}: {}", words_of(error.kind()));
        FieldError::invalid(&FieldPath::new("resourceVersion"), text, words)
    })
}

fn words_of(kind: &IntErrorKind) -> &'static str {
    match kind {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
        _ => "invalid syntax",
    }
}

fn integer(query: &Query, name: &str) -> Result<Option<i64>> {
    let Some(text) = query.get(name) else { return Ok(None) };
    text.parse().map(Some).map_err(|error: std::num::ParseIntError| {
        Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: {}", words_of(error.kind()))).into()
    })
}

/// What is wrong with the options together.
fn faults(query: &Query, watch: bool, initial_events: bool) -> ErrorList {
    let path = FieldPath::new("resourceVersionMatch");
    let (version, matching) = (query.text("resourceVersion"), query.text("resourceVersionMatch"));
    let mut faults = ErrorList::new();
    let forbid = |why: &str| FieldError::forbidden(&path, why);
    if watch && initial_events && matching != "NotOlderThan" {
        faults.push(forbid("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"));
    }
    if !matching.is_empty() {
        if watch && !initial_events {
            faults.push(forbid("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"));
        }
        if !watch && version.is_empty() {
            faults.push(forbid("resourceVersionMatch is forbidden unless resourceVersion is provided"));
        }
        if watch && matching != "NotOlderThan" {
            faults.push(FieldError::not_supported(&path, matching, &["NotOlderThan"]));
        }
        if !query.text("continue").is_empty() {
            faults.push(forbid("resourceVersionMatch is forbidden when continue is provided"));
        }
        if !watch && !matches!(matching, "Exact" | "NotOlderThan") {
            faults.push(FieldError::not_supported(&path, matching, &["Exact", "NotOlderThan", ""]));
        }
        if !watch && matching == "Exact" && version == "0" {
            faults.push(forbid("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""));
        }
    }
    if !watch && initial_events {
        let path = FieldPath::new("sendInitialEvents");
        faults.push(FieldError::forbidden(&path, "sendInitialEvents is forbidden for list"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(query: &str, expected: &str) {
        let read = ListOptions::of_list(&Query::parse(query)).and_then(|options| {
            let (next, revision) = (options.next_page()?, options.revision()?);
            let exact = options.is_exact(revision);
            Ok(format!("limit={} revision={revision:?} exact={exact} next={}", options.limit, next.is_some()))
        });
        let shown = read.unwrap_or_else(|failure| format!("{} {}", failure.0.code, failure.0.message));
        assert_eq!(shown, expected, "{query}");
    }

    fn watch(query: &str, expected: &str) {
        let read = ListOptions::of_watch(&Query::parse(query)).and_then(|options| {
            let revision = options.watch_revision(&GroupResource::new("", "pods"))?;
            Ok(format!("revision={revision:?} initial={:?}", options.initial_events))
        });
        let shown = read.unwrap_or_else(|failure| format!("{} {}", failure.0.code, failure.0.message));
        assert_eq!(shown, expected, "{query}");
    }

    #[test]
    fn lists() {
        list("", "limit=0 revision=None exact=false next=false");
        list("limit=5&resourceVersion=7", "limit=5 revision=Some(7) exact=true next=false");
        list("limit=5&resourceVersion=0", "limit=5 revision=Some(0) exact=false next=false");
        list(
            "limit=5&resourceVersion=7&resourceVersionMatch=NotOlderThan",
            "limit=5 revision=Some(7) exact=false next=false",
        );
        list("resourceVersion=7&resourceVersionMatch=Exact", "limit=0 revision=Some(7) exact=true next=false");
        list("limit=x", "400 strconv.ParseInt: parsing \"x\": invalid syntax");
        list(
            "resourceVersion=x",
            "400 invalid resource version: resourceVersion: Invalid value: \"x\": \
             strconv.ParseUint: parsing \"x\": invalid syntax",
        );
        list(
            "resourceVersionMatch=Exact",
            "422 ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: \
             resourceVersionMatch is forbidden unless resourceVersion is provided",
        );
        list(
            "resourceVersion=0&resourceVersionMatch=Exact",
            "422 ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: \
             resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        );
        list(
            "sendInitialEvents=true",
            "422 ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: \
             sendInitialEvents is forbidden for list",
        );
    }

    #[test]
    fn tokens() {
        let token = Continue::new(5, "default/a\0").encode();
        list(&format!("limit=5&continue={token}"), "limit=5 revision=None exact=false next=true");
        list(
            &format!("continue={token}&resourceVersion=3"),
            "400 specifying resource version is not allowed when using continue",
        );
        let prefix = "400 invalid continue token: continue key is not valid: ";
        list("continue=!", &format!("{prefix}illegal base64 data at input byte 0"));
        for (token, why) in [
            (Continue::new(0, "a"), "incorrect encoded start resourceVersion (version meta.k8s.io/v1)"),
            (Continue::new(1, ""), "encoded start key empty (version meta.k8s.io/v1)"),
            (Continue::new(1, "../a"), "../a"),
            (Continue { v: "v9".into(), ..Continue::new(1, "a") }, "server does not recognize this encoded version v9"),
        ] {
            list(&format!("continue={}", token.encode()), &format!("{prefix}{why}"));
        }
    }

    #[test]
    fn watches() {
        watch("", "revision=None initial=Some(true)");
        watch("resourceVersion=0", "revision=Some(0) initial=Some(true)");
        watch("resourceVersion=5", "revision=Some(5) initial=None");
        watch(
            "sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion=5",
            "revision=Some(5) initial=Some(false)",
        );
        watch(
            "resourceVersion=x",
            "422 pods \"\" is invalid: resourceVersion: Invalid value: \"x\": \
             strconv.ParseUint: parsing \"x\": invalid syntax",
        );
        watch(
            "sendInitialEvents=true",
            "422 ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: \
             sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        );
        watch(
            "resourceVersionMatch=Exact",
            "422 ListOptions.meta.k8s.io \"\" is invalid: [resourceVersionMatch: Forbidden: resourceVersionMatch is \
             forbidden for watch unless sendInitialEvents is provided, resourceVersionMatch: Unsupported value: \
             \"Exact\": supported values: \"NotOlderThan\"]",
        );
    }
}
