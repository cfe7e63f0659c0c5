//! What the plugins are told at the start: which are on, and an AdmissionConfiguration.
//! See <https://kubernetes.io/docs/reference/config-api/apiserver-config.v1/#apiserver-k8s-io-v1-AdmissionConfiguration>.

use std::collections::BTreeMap;

use serde_json::Value;
use skiff_object::meta::Meta;

use super::events::Limit;
use super::{Selection, images, pod_security, quota, tolerations};

/// What the plugins are told.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Which are on.
    pub selection: Selection,
    pub(super) pod_security: pod_security::Settings,
    pub(super) event_limits: Vec<Limit>,
    pub(super) images: Option<images::Settings>,
    /// Node selectors of namespaces, by the namespaces' names.
    pub(super) node_selectors: BTreeMap<String, String>,
    pub(super) tolerations: tolerations::Settings,
    /// What may be used only where a quota covers it.
    pub(super) limited: Vec<quota::Limited>,
}

impl Settings {
    /// Reads the lists of plugins and an AdmissionConfiguration, whose paths have been replaced by what is in them.
    ///
    /// # Errors
    /// A name or a configuration cannot be used.
    pub fn read(enable: &[String], disable: &[String], config: Option<&Value>) -> Result<Self, String> {
        let mut settings = Self { selection: Selection::new(enable, disable)?, ..Self::default() };
        let Some(config) = config else { return settings.complete() };
        if config.str_at(&["kind"]) != "AdmissionConfiguration" {
            return Err(format!("an AdmissionConfiguration is wanted, not {:?}", config.str_at(&["kind"])));
        }
        for plugin in config.list_at(&["plugins"]) {
            settings.configure(plugin.str_at(&["name"]), plugin.get("configuration").unwrap_or(&Value::Null))?;
        }
        settings.complete()
    }

    /// A plugin that cannot do without a configuration must have it.
    fn complete(self) -> Result<Self, String> {
        if self.selection.has_named("ImagePolicyWebhook") && self.images.is_none() {
            return Err("ImagePolicyWebhook is on, and no configuration names whom to ask".to_owned());
        }
        Ok(self)
    }

    fn configure(&mut self, plugin: &str, config: &Value) -> Result<(), String> {
        match plugin {
            "PodSecurity" => self.pod_security = pod_security::Settings::read(config)?,
            "ImagePolicyWebhook" => self.images = Some(images::Settings::read(config)?),
            "EventRateLimit" => self.event_limits = Limit::read(config)?,
            "ResourceQuota" => {
                self.limited = config.list_at(&["limitedResources"]).iter().map(quota::Limited::read).collect();
            }
            "PodTolerationRestriction" => self.tolerations = tolerations::Settings::read(config),
            "PodNodeSelector" => {
                let map = config.map_at(&["podNodeSelectorPluginConfig"]).into_iter().flatten();
                let text = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
                self.node_selectors = map.filter_map(text).collect();
            }
            other => return Err(format!("plugin {other:?} has no configuration here")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn configurations_are_read_or_refused() {
        let config = |plugins: Value| json!({"kind": "AdmissionConfiguration", "plugins": plugins});
        let read = |plugins: Value| Settings::read(&[], &[], Some(&config(plugins)));
        let settings = read(json!([
            {"name": "PodSecurity", "configuration": {"defaults": {"enforce": "baseline", "warn": "restricted", "warn-version": "v1.30"}, "exemptions": {"namespaces": ["kube-system"]}}},
            {"name": "PodNodeSelector", "configuration": {"podNodeSelectorPluginConfig": {"clusterDefaultNodeSelector": "a=b"}}},
        ]))
        .expect("both are known");
        assert_eq!(settings.pod_security.defaults.warn.to_string(), "restricted:v1.30");
        assert_eq!(settings.node_selectors["clusterDefaultNodeSelector"], "a=b");
        let bad = read(json!([{"name": "PodSecurity", "configuration": {"defaults": {"enforce": "strict"}}}]));
        let text =
            "PodSecurity: defaults.enforce: Invalid value: \"strict\": must be one of privileged, baseline, restricted";
        assert_eq!(bad.err().as_deref(), Some(text));
        assert!(read(json!([{"name": "Moon"}])).is_err());
    }
}
