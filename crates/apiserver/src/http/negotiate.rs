//! Content negotiation: in which form the client wants its answer, and in which form its body comes.
//! See <https://kubernetes.io/docs/reference/using-api/api-concepts/#alternate-representations-of-resources>.

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use skiff_object::Status;

use crate::failure::Result;
use crate::http::query::Query;

/// The media types that answers come in.
pub const MEDIA_TYPES: [&str; 2] = ["application/json", "application/yaml"];

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Media {
    /// `application/json`.
    #[default]
    Json,
    /// `application/yaml`.
    Yaml,
}

/// What of an object the client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shape {
    /// The object itself.
    #[default]
    Object,
    /// `PartialObjectMetadata`, or its list.
    Metadata,
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
    // A stable sort keeps the client's order among equals.
    clauses.sort_by(|a, b| b.0.total_cmp(&a.0));
    clauses.into_iter().map(|(_, clause)| clause).collect()
}

/// Reads what the client accepts; `shapes` says whether Tables and metadata may be had here.
pub fn accepted(headers: &HeaderMap, query: &Query, shapes: bool) -> Result<Accepted> {
    let header = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let gzip = accepts_gzip(headers);
    let base = Accepted { pretty: wants_pretty(headers, query), gzip, ..Accepted::default() };
    if header.is_empty() {
        return Ok(base);
    }
    for clause in clauses(header) {
        let Some(media) = media_of(clause.media) else { continue };
        let Some(shape) = shape_of(&clause, query, shapes)? else { continue };
        return Ok(Accepted { media, shape, ..base });
    }
    Err(Status::not_acceptable(&MEDIA_TYPES).into())
}

/// Whether the answer may be compressed with gzip.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    let value = headers.get(http::header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or("");
    value.split(',').any(|coding| coding.trim().starts_with("gzip"))
}

fn media_of(name: &str) -> Option<Media> {
    match name {
        "application/json" | "*/*" | "application/*" | "text/*" => Some(Media::Json),
        "application/yaml" => Some(Media::Yaml),
        _ => None,
    }
}

fn shape_of(clause: &Clause, query: &Query, shapes: bool) -> Result<Option<Shape>> {
    let target = clause.parameter("as");
    if target.is_empty() {
        return Ok(Some(Shape::Object));
    }
    let known = clause.parameter("g") == "meta.k8s.io" && matches!(clause.parameter("v"), "v1" | "v1beta1");
    if !shapes || !known {
        return Ok(None);
    }
    Ok(match target {
        "Table" => Some(Shape::Table(include_of(query)?)),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(Shape::Metadata),
        _ => None,
    })
}

fn include_of(query: &Query) -> Result<Include> {
    match query.text("includeObject") {
        "" | "Metadata" => Ok(Include::Metadata),
        "None" => Ok(Include::None),
        "Object" => Ok(Include::Object),
        other => Err(Status::bad_request(format!("unrecognized includeObject value: {other:?}")).into()),
    }
}

/// Browsers, curl and wget get indented JSON, as upstream gives it to them.
fn wants_pretty(headers: &HeaderMap, query: &Query) -> bool {
    if query.get("pretty").is_some() {
        return query.flag("pretty");
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

    fn check(accept: &'static str, query: &str) -> Result<(Media, Shape), u16> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        let accepted = accepted(&headers, &Query::parse(query), true).map_err(|failure| failure.0.code)?;
        Ok((accepted.media, accepted.shape))
    }

    #[test]
    fn the_first_clause_that_can_be_served_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(check(table, ""), Ok((Media::Json, Shape::Table(Include::Metadata))));
        assert_eq!(check(table, "includeObject=Object"), Ok((Media::Json, Shape::Table(Include::Object))));
        assert_eq!(check(table, "includeObject=x"), Err(400));
        assert_eq!(check("application/vnd.kubernetes.protobuf,application/json", ""), Ok((Media::Json, Shape::Object)));
        assert_eq!(check("application/vnd.kubernetes.protobuf", ""), Err(406));
        assert_eq!(check("application/json;q=0.5,application/yaml", ""), Ok((Media::Yaml, Shape::Object)));
        assert_eq!(check("*/*", ""), Ok((Media::Json, Shape::Object)));
        assert_eq!(
            check("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", ""),
            Ok((Media::Json, Shape::Metadata))
        );
    }
}
