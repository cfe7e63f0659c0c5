//! Where an autoscaler's figures come from: the resource metrics API, and the custom and external ones where somebody
//! serves them. Reading only; nothing is decided here.

use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, MetricIdentifier, MetricSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as RawSelector;
use serde_json::Value;
use skiff_base::{Quantity, Timestamp};
use skiff_client::{Client, Resource};

use super::calculate::{Figure, Figures};
use super::decide::Reading;

const RESOURCE_METRICS: &str = "/apis/metrics.k8s.io/v1beta1";
const CUSTOM_METRICS: &str = "/apis/custom.metrics.k8s.io";
const EXTERNAL_METRICS: &str = "/apis/external.metrics.k8s.io/v1beta1";
/// What custom metrics are observed over where they do not say.
const DEFAULT_WINDOW: Duration = Duration::from_secs(60);

/// What figures are asked for.
pub struct Sources<'a> {
    /// Who asks.
    pub client: &'a Client,
    /// The namespace of the autoscaler.
    pub namespace: &'a str,
    /// The target's pods.
    pub selector: &'a str,
    /// All resources, for finding that of a kind.
    pub resources: Vec<Resource>,
}

/// The resource of the kind that is referred to.
pub fn resource_of(all: &[Resource], target: &CrossVersionObjectReference) -> Result<Resource, String> {
    let version = target.api_version.as_deref().unwrap_or_default();
    let (group, bare) = version.split_once('/').unwrap_or(("", version));
    let found = all.iter().find(|resource| resource.kind == target.kind && resource.group == group);
    found.cloned().ok_or_else(|| {
        let place = if group.is_empty() { bare.to_owned() } else { format!("{group}/{bare}") };
        format!(
            "unable to determine resource for scale target reference: no matches for kind {:?} in version {place:?}",
            target.kind
        )
    })
}

impl Sources<'_> {
    /// What a metric says.
    pub async fn read(&self, spec: &MetricSpec) -> Result<Reading, String> {
        if let Some(source) = &spec.resource {
            return self.resource(&source.name, None).await;
        }
        if let Some(source) = &spec.container_resource {
            return self.resource(&source.name, Some(&source.container)).await;
        }
        if let Some(source) = &spec.pods {
            let metric = &source.metric.name;
            let path = format!("namespaces/{}/pods/*/{metric}", self.namespace);
            let items = self.custom(&path, &source.metric, Some(self.selector)).await;
            let items = items.map_err(|error| format!("unable to get metric {metric}: {error}"))?;
            return Ok(Reading::OfPods(items.iter().filter_map(custom_figure).collect()));
        }
        if let Some(source) = &spec.object {
            return self.object(&source.described_object, &source.metric).await;
        }
        match &spec.external {
            Some(source) => self.external(&source.metric).await,
            None => Err(format!("unknown metric source type {:?}", spec.type_)),
        }
    }

    async fn resource(&self, resource: &str, container: Option<&str>) -> Result<Reading, String> {
        let failed = |error: String| format!("unable to get metrics for resource {resource}: {error}");
        let selector = encoded(self.selector);
        let path = format!("{RESOURCE_METRICS}/namespaces/{}/pods?labelSelector={selector}", self.namespace);
        let list = self.client.get_path::<Value>(&path).await;
        let list =
            list.map_err(|error| failed(format!("unable to fetch metrics from resource metrics API: {error}")))?;
        let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        if items.is_empty() {
            return Err(failed("no metrics returned from resource metrics API".to_owned()));
        }
        let mut figures = Figures::new();
        for item in items {
            let name = item["metadata"]["name"].as_str().unwrap_or_default();
            match use_of(item, resource, container) {
                Ok(Some(figure)) => drop(figures.insert(name.to_owned(), figure)),
                Ok(None) => {}
                Err(missing) => {
                    let text = format!("container {missing} not present in metrics for pod {}/{name}", self.namespace);
                    return Err(failed(format!("failed to get container metrics: {text}")));
                }
            }
        }
        Ok(Reading::OfPods(figures))
    }

    async fn object(&self, of: &CrossVersionObjectReference, metric: &MetricIdentifier) -> Result<Reading, String> {
        let path = if of.kind == "Namespace" {
            format!("namespaces/{}/metrics/{}", of.name, metric.name)
        } else {
            let resource = resource_of(&self.resources, of)?;
            let plural = if resource.group.is_empty() {
                resource.plural.to_string()
            } else {
                format!("{}.{}", resource.plural, resource.group)
            };
            format!("namespaces/{}/{plural}/{}/{}", self.namespace, of.name, metric.name)
        };
        let failed = |error: String| {
            let (kind, namespace, name) = (&of.kind, self.namespace, &of.name);
            format!("unable to get metric {}: {kind} on {namespace} {name}/{error}", metric.name)
        };
        let items = self.custom(&path, metric, None).await.map_err(failed)?;
        let value = items.first().and_then(|item| millis(&item["value"]));
        value.map(Reading::Value).ok_or_else(|| failed("no value returned from custom metrics API".to_owned()))
    }

    /// Items of the custom metrics API, in the version that its server prefers.
    async fn custom(&self, path: &str, metric: &MetricIdentifier, pods: Option<&str>) -> Result<Vec<Value>, String> {
        let failed = |error: skiff_client::Error| format!("unable to fetch metrics from custom metrics API: {error}");
        let group = self.client.get_path::<Value>(CUSTOM_METRICS).await.map_err(failed)?;
        let version = group["preferredVersion"]["version"].as_str().unwrap_or("v1beta1");
        let mut query = Vec::new();
        query.extend(pods.map(|pods| format!("labelSelector={}", encoded(pods))));
        query.extend(metric.selector.as_ref().map(|raw| format!("metricLabelSelector={}", encoded(&written(raw)))));
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        let path = format!("{CUSTOM_METRICS}/{version}/{path}{query}");
        let list = self.client.get_path::<Value>(&path).await.map_err(failed)?;
        match list["items"].as_array() {
            Some(items) if !items.is_empty() => Ok(items.clone()),
            _ => Err("no metrics returned from custom metrics API".to_owned()),
        }
    }

    async fn external(&self, metric: &MetricIdentifier) -> Result<Reading, String> {
        let (namespace, name) = (self.namespace, &metric.name);
        let labels = metric.selector.as_ref().map(written).unwrap_or_default();
        let failed = |error: String| format!("unable to get external metric {namespace}/{name}/{labels}: {error}");
        let query = if labels.is_empty() { String::new() } else { format!("?labelSelector={}", encoded(&labels)) };
        let path = format!("{EXTERNAL_METRICS}/namespaces/{namespace}/{name}{query}");
        let list = self.client.get_path::<Value>(&path).await;
        let list =
            list.map_err(|error| failed(format!("unable to fetch metrics from external metrics API: {error}")))?;
        let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        if items.is_empty() {
            return Err(failed("no metrics returned from external metrics API".to_owned()));
        }
        Ok(Reading::Value(items.iter().filter_map(|item| millis(&item["value"])).sum()))
    }
}

fn millis(value: &Value) -> Option<i64> {
    value.as_str()?.parse::<Quantity>().ok().map(|quantity| quantity.milli_value())
}

/// What a pod, or one container of it, uses of a resource; nothing where not all containers tell.
fn use_of(item: &Value, resource: &str, container: Option<&str>) -> Result<Option<Figure>, String> {
    let all = item["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let meant: Vec<_> = all.iter().filter(|c| container.is_none_or(|only| c["name"] == only)).collect();
    if let (Some(only), true) = (container, meant.is_empty()) {
        return Err(only.to_owned());
    }
    let used: Option<Vec<i64>> = meant.iter().map(|container| millis(&container["usage"][resource])).collect();
    let at = item["timestamp"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    let window = item["window"].as_str().and_then(seconds).unwrap_or(DEFAULT_WINDOW);
    Ok(used.map(|used| Figure { milli: used.iter().sum(), at: at.unwrap_or(Timestamp::UNIX_EPOCH), window }))
}

fn custom_figure(item: &Value) -> Option<(String, Figure)> {
    let name = item["describedObject"]["name"].as_str()?.to_owned();
    let at = item["timestamp"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    let window = item["windowSeconds"].as_u64().map_or(DEFAULT_WINDOW, Duration::from_secs);
    let figure = Figure { milli: millis(&item["value"])?, at: at.unwrap_or(Timestamp::UNIX_EPOCH), window };
    Some((name, figure))
}

/// A duration as Go writes it, `1m2.5s`.
fn seconds(text: &str) -> Option<Duration> {
    let (minutes, rest) = text.split_once('m').filter(|(_, rest)| !rest.starts_with('s')).unwrap_or(("0", text));
    let rest = rest.strip_suffix('s').unwrap_or(rest);
    let seconds = if rest.is_empty() { 0.0 } else { rest.parse::<f64>().ok()? };
    Duration::try_from_secs_f64(minutes.parse::<f64>().ok()? * 60.0 + seconds).ok()
}

/// A selector as it stands in a query.
fn written(raw: &RawSelector) -> String {
    let equal = raw.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    let others = raw.match_expressions.iter().flatten().map(|expression| {
        let values = expression.values.as_deref().unwrap_or_default().join(",");
        match expression.operator.as_str() {
            "In" => format!("{} in ({values})", expression.key),
            "NotIn" => format!("{} notin ({values})", expression.key),
            "DoesNotExist" => format!("!{}", expression.key),
            _ => expression.key.clone(),
        }
    });
    equal.chain(others).collect::<Vec<_>>().join(",")
}

fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::object;

    #[test]
    fn figures_are_read_as_they_are_told() {
        let item = json!({"timestamp": "2026-01-31T12:00:00Z", "window": "1m2.5s", "containers": [
            {"name": "a", "usage": {"cpu": "1500000n"}}, {"name": "b", "usage": {"cpu": "2m"}}]});
        let figure = use_of(&item, "cpu", None).expect("told").expect("complete");
        assert_eq!((figure.milli, figure.window), (4, Duration::from_millis(62_500)));
        assert_eq!(use_of(&item, "cpu", Some("b")).expect("told").expect("complete").milli, 2);
        assert_eq!(use_of(&item, "memory", None), Ok(None));
        assert_eq!(use_of(&item, "cpu", Some("z")), Err("z".to_owned()));
        assert_eq!(seconds("15s"), Some(Duration::from_secs(15)));
    }

    #[test]
    fn selectors_stand_in_queries() {
        let raw = object(
            "{matchLabels: {a: b}, matchExpressions: [{key: c, operator: NotIn, values: [d, e]}, {key: f, operator: Exists}]}",
        );
        assert_eq!(encoded(&written(&raw)), "a%3Db%2Cc%20notin%20%28d%2Ce%29%2Cf");
    }
}
