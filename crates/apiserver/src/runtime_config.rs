//! Which versions of the built-in kinds are served: those that are stable, and others where `--runtime-config` asks for
//! them and their feature gate is on. See <https://kubernetes.io/docs/reference/using-api/#enabling-or-disabling>.

use std::collections::{BTreeMap, BTreeSet};

use skiff_base::gates::{Gates, parse_bool};
use skiff_kinds::ResourceDef;

use crate::ApiServer;

const EVERY_VERSION: &str = "api/all";
/// Keys that stand for all versions of a stage, in the order in which they are looked at, and a word in such versions.
const STAGES: [(&str, &str); 4] = [(EVERY_VERSION, ""), ("api/ga", ""), ("api/beta", "beta"), ("api/alpha", "alpha")];

/// The kinds to be served; `told` are `group/version=true`, `group/version/resource=true` and `api/beta=true`.
///
/// # Errors
/// Something told makes no sense, in upstream's words; or it would take away what is stable.
pub fn kinds(told: &[String], gates: &Gates) -> Result<Vec<&'static ResourceDef>, String> {
    let told: BTreeMap<&str, &str> = told.iter().map(|one| one.split_once('=').unwrap_or((one, ""))).collect();
    if told.len() == 1 && told.get(EVERY_VERSION) == Some(&"false") {
        return Err(format!("invalid key with only {EVERY_VERSION}=false"));
    }
    check_groups(&told)?;
    let mut choice = Choice(skiff_kinds::known().iter().map(|def| (*def, def.is_default())).collect());
    for (key, word) in STAGES {
        let Some(value) = told.get(key) else { continue };
        let is_on = match *value {
            "true" => true,
            "false" => false,
            _ => return Err(format!("invalid value {key}={value}")),
        };
        choice.set(is_on, |def| match key {
            EVERY_VERSION => true,
            "api/ga" => def.is_default(),
            _ => def.version.contains(word),
        });
    }
    // What is said of one resource goes before what is said of its version.
    for parts in [2, 3] {
        for (key, value) in &told {
            choice.tell(key, value, parts)?;
        }
    }
    choice.taken(gates)
}

/// Each kind, and whether it is to be served.
struct Choice(Vec<(&'static ResourceDef, bool)>);

impl Choice {
    fn set(&mut self, is_on: bool, concerns: impl Fn(&ResourceDef) -> bool) {
        self.0.iter_mut().filter(|(def, _)| concerns(def)).for_each(|(_, served)| *served = is_on);
    }

    fn tell(&mut self, key: &str, value: &str, parts: usize) -> Result<(), String> {
        let words: Vec<&str> = key.split('/').collect();
        if is_stage(key) || words.len() != parts {
            return Ok(());
        }
        let (group, version, plural) = (words[0], words[1], words.get(2));
        if !self.0.iter().any(|(def, _)| def.group == group && def.version == version) {
            return Err(format!("group version {group}/{version} that has not been registered"));
        }
        if let Some(plural) = plural.filter(|plural| plural.to_lowercase() != **plural) {
            let words = "group/version/resource and resource is always lowercase plural, not";
            return Err(format!("invalid key {key}: {words} {plural:?}"));
        }
        let is_on = match value {
            "" => true,
            value => parse_bool(value).map_err(|error| format!("invalid value of {key}: {value}, err: {error}"))?,
        };
        let of_version = |def: &ResourceDef| def.group == group && def.version == version;
        self.set(is_on, |def| of_version(def) && plural.is_none_or(|plural| def.plural == *plural));
        Ok(())
    }

    fn taken(self, gates: &Gates) -> Result<Vec<&'static ResourceDef>, String> {
        if let Some((def, _)) = self.0.iter().find(|(def, served)| !served && def.is_default()) {
            return Err(format!("{} {} is stable and cannot be switched off here", def.group_version(), def.plural));
        }
        let is_on = |def: &ResourceDef| def.gate.is_empty() || gates.enabled(&def.gate);
        Ok(self.0.into_iter().filter(|(def, served)| *served && is_on(def)).map(|(def, _)| def).collect())
    }
}

fn is_stage(key: &str) -> bool {
    STAGES.iter().any(|(stage, _)| *stage == key)
}

fn check_groups(told: &BTreeMap<&str, &str>) -> Result<(), String> {
    let known: BTreeSet<&str> = skiff_kinds::known().iter().map(|def| def.group.as_ref()).collect();
    let mut unknown = Vec::new();
    for key in told.keys().filter(|key| !is_stage(key)) {
        let words: Vec<&str> = key.split('/').collect();
        if !matches!(words.len(), 2 | 3) {
            return Err(format!("runtime-config invalid key {key}"));
        }
        if !known.contains(words[0]) {
            unknown.push(words[0]);
        }
    }
    if unknown.is_empty() { Ok(()) } else { Err(format!("unknown api groups {}", unknown.join(","))) }
}

impl ApiServer {
    /// The kinds that are served because they were asked for.
    pub fn asked_for(&self) -> Vec<&'static ResourceDef> {
        self.config.kinds.iter().copied().filter(|def| !def.is_default()).collect()
    }
}

#[cfg(test)]
mod tests {
    use skiff_base::gates::CLUSTER_TRUST_BUNDLE;

    use super::*;

    fn asked(told: &str, gates: &Gates) -> Result<String, String> {
        let told: Vec<String> = told.split(',').filter(|one| !one.is_empty()).map(str::to_owned).collect();
        let served = kinds(&told, gates)?;
        assert!(skiff_kinds::builtin().iter().all(|def| served.iter().any(|other| std::ptr::eq(*def, *other))));
        let asked = served.iter().filter(|def| !def.is_default());
        Ok(asked.map(|def| format!("{}/{}", def.version, def.plural)).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn versions_are_asked_for_by_themselves_or_by_stage() {
        let on = Gates::of([(CLUSTER_TRUST_BUNDLE, true)]).expect("it can be so");
        let check = |told: &str, expected: &str| assert_eq!(asked(told, &on).as_deref(), Ok(expected), "{told}");
        check("", "");
        check("certificates.k8s.io/v1beta1=true", "v1beta1/clustertrustbundles");
        check("certificates.k8s.io/v1beta1", "v1beta1/clustertrustbundles");
        check("certificates.k8s.io/v1beta1/clustertrustbundles=true", "v1beta1/clustertrustbundles");
        check("certificates.k8s.io/v1beta1/podcertificaterequests=true", "");
        check("certificates.k8s.io/v1alpha1=1", "v1alpha1/clustertrustbundles");
        check("api/beta=true", "v1beta1/clustertrustbundles");
        check("api/all=true", "v1beta1/clustertrustbundles v1alpha1/clustertrustbundles");
        check("api/all=true,certificates.k8s.io/v1alpha1=false", "v1beta1/clustertrustbundles");
        let told = "certificates.k8s.io/v1beta1=true,certificates.k8s.io/v1beta1/clustertrustbundles=false";
        check(told, "");
        assert_eq!(asked("api/all=true", &Gates::default()).as_deref(), Ok(""), "the gate is off");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let check = |told: &str, expected: &str| {
            assert_eq!(asked(told, &Gates::default()).expect_err(told), expected);
        };
        check("api/all=false", "invalid key with only api/all=false");
        check("api/beta=yes", "invalid value api/beta=yes");
        check("foo", "runtime-config invalid key foo");
        check("foo/v1,bar.io/v2=true", "unknown api groups bar.io,foo");
        check("batch/v2alpha1=true", "group version batch/v2alpha1 that has not been registered");
        let words = "invalid value of batch/v1: yes, err: strconv.ParseBool: parsing \"yes\": invalid syntax";
        check("batch/v1=yes", words);
        let words = "group/version/resource and resource is always lowercase plural, not \"Jobs\"";
        check("batch/v1/Jobs=true", &format!("invalid key batch/v1/Jobs: {words}"));
        check("batch/v1/jobs=false", "batch/v1 jobs is stable and cannot be switched off here");
    }
}
