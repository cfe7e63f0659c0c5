//! The catalogue against the facts of upstream's discovery documents.

use std::collections::HashSet;
use std::fmt::Write;

use skiff_kinds::def::{Scope, Subresource, Text};
use skiff_kinds::{ResourceDef, builtin, by_kind, by_resource};
use skiff_object::{GroupVersion, GroupVersionResource};

const FACTS: &str = include_str!("facts/resources.txt");

fn joined(texts: &[Text]) -> String {
    if texts.is_empty() { "-".to_owned() } else { texts.join(",") }
}

fn describe(def: &ResourceDef) -> String {
    let scope = if def.scope == Scope::Cluster { "Cluster" } else { "Namespaced" };
    let mut out = format!(
        "{} {} {} {} {scope} {} {} {}\n",
        def.group_version(),
        def.plural,
        def.singular,
        def.kind,
        joined(&def.verbs),
        joined(&def.short_names),
        joined(&def.categories),
    );
    for subresource in def.subresources.iter() {
        let (version, kind, verbs) = match subresource {
            Subresource::Status => {
                (def.group_version().to_string(), def.kind.to_string(), "get,patch,update".to_owned())
            }
            Subresource::Scale { .. } => {
                ("autoscaling/v1".to_owned(), "Scale".to_owned(), "get,patch,update".to_owned())
            }
            Subresource::Special { kind: (group, version, kind), verbs, .. } => {
                (GroupVersion::new(group.as_ref(), version.as_ref()).to_string(), kind.to_string(), joined(verbs))
            }
        };
        writeln!(out, "  /{} {version} {kind} {verbs}", subresource.name()).expect("a String takes all text");
    }
    out
}

#[test]
fn the_catalogue_is_upstreams() {
    let ours: String = builtin().iter().map(|def| describe(def)).collect();
    for (ours, theirs) in ours.lines().zip(FACTS.lines()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.lines().count(), FACTS.lines().count());
}

#[test]
fn every_kind_is_found_by_resource_and_by_kind() {
    let mut seen = HashSet::new();
    for def in builtin() {
        assert!(seen.insert((def.group_version(), def.plural.clone())), "{} is registered twice", def.plural);
        let resource = GroupVersionResource::new(def.group.as_ref(), def.version.as_ref(), def.plural.as_ref());
        assert!(std::ptr::eq(by_resource(&resource).expect("registered"), *def));
        assert_eq!(by_kind(&def.gvk()).expect("registered").plural, def.plural);
    }
}
