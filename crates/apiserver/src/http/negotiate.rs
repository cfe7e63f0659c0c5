//! Content negotiation: in which form the client wants its answer, and in which form its body comes.
//! See <https://kubernetes.io/docs/reference/using-api/api-concepts/#alternate-representations-of-resources>.

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE, IF_NONE_MATCH, USER_AGENT};
use skiff_kinds::protobuf;
use skiff_object::Status;

use crate::failure::{Failure, Result};
use crate::http::query::Query;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Media {
    /// `application/json`.
    #[default]
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

impl Media {
    /// In the order in which upstream prefers them.
    const ALL: [Self; 3] = [Self::Json, Self::Yaml, Self::Protobuf];

    /// The media type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => protobuf::MEDIA_TYPE,
        }
    }

    /// The media type of a watch; there is none in YAML.
    pub fn stream_name(self) -> Option<&'static str> {
        match self {
            Self::Json => Some("application/json"),
            Self::Yaml => None,
            Self::Protobuf => Some(protobuf::STREAM_MEDIA_TYPE),
        }
    }
}

/// What a path has to offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// Objects of a built-in kind, also as Tables and as metadata.
    Builtin,
    /// The same of a custom kind, whose objects protobuf does not know; it does know their metadata.
    Custom,
    /// What is answered and never stored: there are no Tables of it.
    Review,
    /// What is no object of a kind: failures, discovery.
    Plain,
}

/// What of an object the client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shape {
    /// The object itself.
    #[default]
    Object,
    /// `PartialObjectMetadata`, or its list.
    Metadata {
        /// Whether the list was named.
        list: bool,
    },
    /// `Table`, with the rows' objects as asked.
    Table(Include),
}

/// What a Table's rows carry beside their cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Include {
    /// Nothing.
    None,
    /// The object's metadata.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

/// What the client accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accepted {
    /// The encoding.
    pub media: Media,
    /// The shape.
    pub shape: Shape,
    /// Whether Tables and metadata are of `meta.k8s.io/v1beta1`.
    pub is_beta: bool,
    /// Whether JSON is indented for people.
    pub pretty: bool,
    /// Whether the answer may be compressed with gzip.
    pub gzip: bool,
}

/// One clause of an Accept header.
struct Clause<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl Clause<'_> {
    fn parameter(&self, key: &str) -> &str {
        self.parameters.iter().find(|(name, _)| *name == key).map_or("", |(_, value)| value)
    }
}

/// The clauses in the order of the client's preference; among equals a named type comes before a range of them.
fn clauses(header: &str) -> Vec<Clause<'_>> {
    let mut clauses: Vec<(f32, Clause)> = Vec::new();
    for part in header.split(',') {
        let mut pieces = part.split(';').map(str::trim);
        let media = pieces.next().unwrap_or("");
        let parameters: Vec<_> = pieces.filter_map(|piece| piece.split_once('=')).collect();
        let clause = Clause { media, parameters };
        let quality = clause.parameter("q").parse().unwrap_or(1.0);
        clauses.push((quality, clause));
    }
    let vagueness = |clause: &Clause| clause.media.matches('*').count();
    clauses.sort_by(|a, b| b.0.total_cmp(&a.0).then(vagueness(&a.1).cmp(&vagueness(&b.1))));
    clauses.into_iter().map(|(_, clause)| clause).collect()
}

/// Reads what the client accepts of what a path offers.
pub fn accepted(headers: &HeaderMap, query: &Query, offer: Offer) -> Result<Accepted> {
    let header = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let gzip = accepts_gzip(headers);
    let base = Accepted { pretty: wants_pretty(headers, query), gzip, ..Accepted::default() };
    if header.is_empty() {
        return Ok(base);
    }
    for clause in clauses(header) {
        for media in Media::ALL.into_iter().filter(|media| matches(clause.media, *media)) {
            let Some(shape) = shape_of(&clause, media, query, offer)? else { continue };
            let is_beta = clause.parameter("v") == "v1beta1";
            let pretty = base.pretty || clause.parameter("pretty") == "1";
            return Ok(Accepted { media, shape, is_beta, pretty, ..base });
        }
    }
    Err(not_acceptable(offer))
}

/// 406, with the media types that would do.
fn not_acceptable(offer: Offer) -> Failure {
    let known = Media::ALL.into_iter().filter(|media| offer != Offer::Custom || *media != Media::Protobuf);
    Status::not_acceptable(&known.map(Media::name).collect::<Vec<_>>()).into()
}

/// The media type of a watch; 406 where what is accepted cannot be streamed.
pub fn stream_type(accepted: &Accepted) -> Result<&'static str> {
    accepted.media.stream_name().ok_or_else(|| {
        let streamed = Media::ALL.into_iter().filter(|media| media.stream_name().is_some());
        let names: Vec<String> = streamed.map(|media| format!("{};stream=watch", media.name())).collect();
        Status::not_acceptable(&names.iter().map(String::as_str).collect::<Vec<_>>()).into()
    })
}

fn matches(range: &str, media: Media) -> bool {
    matches!(range, "*/*" | "application/*") || range == media.name()
}

/// Whether the answer may be compressed with gzip.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    let value = headers.get(http::header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or("");
    value.split(',').any(|coding| coding.trim().starts_with("gzip"))
}

/// The media type among `offers` that the client likes best; the first one where it does not say.
pub fn first_of<'a>(headers: &HeaderMap, offers: &[&'a str]) -> Option<&'a str> {
    let header = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let header = if header.is_empty() { "*/*" } else { header };
    let fits = |range: &str, offer: &str| {
        range == "*/*" || range == offer || range.strip_suffix('*').is_some_and(|prefix| offer.starts_with(prefix))
    };
    clauses(header).iter().find_map(|clause| offers.iter().copied().find(|offer| fits(clause.media, offer)))
}

/// Whether the client asks for discovery in one document, and in which media type it wants that.
pub fn aggregated(headers: &HeaderMap) -> Option<Media> {
    let header = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    for clause in clauses(header) {
        let Some(media) = Media::ALL.into_iter().find(|media| matches(clause.media, *media)) else { continue };
        let wanted = ["as", "g", "v"].map(|key| clause.parameter(key));
        match wanted {
            ["APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2"] => return Some(media),
            ["", _, _] => return None,
            _ => {}
        }
    }
    None
}

/// Whether the client says that it has what bears this ETag.
pub fn has_etag(headers: &HeaderMap, etag: &str) -> bool {
    let value = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()).unwrap_or("");
    value.split(',').map(str::trim).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == etag)
}

/// The shape that a clause asks for; `None` where the path does not offer it in that media type.
fn shape_of(clause: &Clause, media: Media, query: &Query, offer: Offer) -> Result<Option<Shape>> {
    let stream = clause.parameter("stream");
    if !matches!(stream, "" | "watch") || (!stream.is_empty() && media.stream_name().is_none()) {
        return Ok(None);
    }
    if !matches!(clause.parameter("sv"), "" | "v1") {
        return Ok(None);
    }
    let target = clause.parameter("as");
    if target.is_empty() {
        let known = offer != Offer::Custom || media != Media::Protobuf;
        return Ok(known.then_some(Shape::Object));
    }
    let known = clause.parameter("g") == "meta.k8s.io" && matches!(clause.parameter("v"), "v1" | "v1beta1");
    if offer == Offer::Plain || !known {
        return Ok(None);
    }
    Ok(match target {
        "Table" if media != Media::Protobuf && offer != Offer::Review => Some(Shape::Table(include_of(query)?)),
        "PartialObjectMetadata" => Some(Shape::Metadata { list: false }),
        "PartialObjectMetadataList" => Some(Shape::Metadata { list: true }),
        _ => None,
    })
}

fn include_of(query: &Query) -> Result<Include> {
    match query.text("includeObject") {
        "" | "Metadata" => Ok(Include::Metadata),
        "None" => Ok(Include::None),
        "Object" => Ok(Include::Object),
        other => Err(Status::bad_request(format!(
            "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: \
             must be 'Metadata', 'Object', 'None', or empty"
        ))
        .into()),
    }
}

/// Browsers, curl and wget get indented JSON, as upstream gives it to them.
fn wants_pretty(headers: &HeaderMap, query: &Query) -> bool {
    if !query.text("pretty").is_empty() {
        return matches!(query.text("pretty"), "1" | "t" | "T" | "true" | "TRUE" | "True");
    }
    let agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("");
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|prefix| agent.starts_with(prefix))
}

/// The media type of a request's body, without its parameters; empty where there is none.
pub fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn check_offer(accept: &'static str, query: &str, offer: Offer) -> Result<(Media, Shape), String> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        let accepted = accepted(&headers, &Query::parse(query), offer);
        let accepted = accepted.map_err(|failure| format!("{} {}", failure.0.code, failure.0.message))?;
        Ok((accepted.media, accepted.shape))
    }

    fn check(accept: &'static str, query: &str) -> Result<(Media, Shape), String> {
        check_offer(accept, query, Offer::Builtin)
    }

    const NOT_ACCEPTABLE: &str = "406 only the following media types are accepted: application/json, application/yaml, \
        application/vnd.kubernetes.protobuf";

    #[test]
    fn the_first_clause_that_can_be_served_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(check(table, ""), Ok((Media::Json, Shape::Table(Include::Metadata))));
        assert_eq!(check(table, "includeObject=Object"), Ok((Media::Json, Shape::Table(Include::Object))));
        assert!(check(table, "includeObject=x").is_err_and(|error| error.starts_with("400 Unable to convert")));
        assert_eq!(
            check("application/vnd.kubernetes.protobuf,application/json", ""),
            Ok((Media::Protobuf, Shape::Object))
        );
        assert_eq!(check("application/json;q=0.5,application/yaml", ""), Ok((Media::Yaml, Shape::Object)));
        assert_eq!(check("*/*", ""), Ok((Media::Json, Shape::Object)));
        assert_eq!(check("*/*, application/yaml", ""), Ok((Media::Yaml, Shape::Object)));
        assert_eq!(
            check("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", ""),
            Ok((Media::Json, Shape::Metadata { list: true }))
        );
    }

    #[test]
    fn what_is_not_served_is_refused() {
        for accept in [
            "text/html",
            "application/cbor",
            "application/yaml;stream=watch",
            "application/json;stream=x",
            "application/json;as=Table;v=v2;g=meta.k8s.io",
            "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io",
        ] {
            assert_eq!(check(accept, ""), Err(NOT_ACCEPTABLE.to_owned()), "{accept}");
        }
    }

    #[test]
    fn custom_kinds_are_in_protobuf_only_as_metadata() {
        let both = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(check_offer(both, "", Offer::Custom), Ok((Media::Json, Shape::Object)));
        let alone = check_offer("application/vnd.kubernetes.protobuf", "", Offer::Custom);
        let text = "406 only the following media types are accepted: application/json, application/yaml";
        assert_eq!(alone, Err(text.to_owned()));
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        assert_eq!(check_offer(metadata, "", Offer::Custom), Ok((Media::Protobuf, Shape::Metadata { list: false })));
        assert_eq!(check_offer(metadata, "", Offer::Plain), Err(NOT_ACCEPTABLE.to_owned()));
    }
}
