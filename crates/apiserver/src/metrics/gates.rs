//! Which of upstream's feature gates describe what this API server does. None of them can be switched: a gate that is told
//! as enabled is what the server always does, one that is not is what it never does. Gates of which neither is true, or
//! which speak of how upstream's server is made inside, are left out.
//! See <https://kubernetes.io/docs/reference/command-line-tools-reference/feature-gates/>.

use skiff_base::figures::Family;

use Stage::{Alpha, Beta, Deprecated, Stable};

static ENABLED: Family =
    Family::gauge("kubernetes_feature_enabled", "Features by stage: 1 where the server has it, 0 where it has not.");

/// How far a feature has come upstream, in v1.36.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Alpha,
    Beta,
    Stable,
    Deprecated,
}

impl Stage {
    /// As it is told: what is stable has no name.
    const fn name(self) -> &'static str {
        match self {
            Alpha => "ALPHA",
            Beta => "BETA",
            Stable => "",
            Deprecated => "DEPRECATED",
        }
    }
}

const GATES: &[(&str, Stage, bool)] = &[
    ("APIResponseCompression", Beta, true),
    ("APIServerIdentity", Beta, true),
    ("APIServerTracing", Stable, false),
    ("AllowParsingUserUIDFromCertAuth", Beta, false),
    ("AllowUnsafeMalformedObjectDeletion", Alpha, false),
    ("AnonymousAuthConfigurableEndpoints", Stable, true),
    ("AuthorizeWithSelectors", Stable, true),
    ("CBORServingAndStorage", Alpha, false),
    ("CRDObservedGenerationTracking", Beta, false),
    ("CRDValidationRatcheting", Stable, true),
    ("ConsistentListFromCache", Stable, true),
    ("ConstrainedImpersonation", Beta, false),
    ("CoordinatedLeaderElection", Beta, false),
    ("CustomResourceFieldSelectors", Stable, true),
    ("DetectCacheInconsistency", Beta, false),
    ("KMSv1", Deprecated, false),
    ("ManifestBasedAdmissionControlConfig", Alpha, false),
    ("MutatingAdmissionPolicy", Stable, true),
    ("OpenAPIEnums", Beta, true),
    ("RemoteRequestHeaderUID", Beta, true),
    ("RetryGenerateName", Stable, true),
    ("ShardedListAndWatch", Alpha, false),
    ("SizeBasedListCostEstimate", Beta, true),
    ("StorageVersionAPI", Alpha, false),
    ("StorageVersionHash", Beta, true),
    ("StreamingCollectionEncodingToJSON", Stable, true),
    ("StructuredAuthenticationConfiguration", Stable, true),
    ("StructuredAuthenticationConfigurationEgressSelector", Beta, false),
    ("StructuredAuthenticationConfigurationJWKSMetrics", Beta, false),
    ("TokenRequestServiceAccountUIDValidation", Beta, true),
    ("UnknownVersionInteroperabilityProxy", Beta, false),
    ("WatchList", Beta, true),
];

/// Writes them all.
pub fn write(text: &mut String) {
    ENABLED.write_head(text);
    for (name, stage, is_enabled) in GATES {
        let labels = format!("name={name:?},stage={:?}", stage.name());
        ENABLED.write_value(text, &labels, f64::from(u8::from(*is_enabled)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gate_is_told_once_in_order() {
        assert!(GATES.is_sorted_by(|(left, ..), (right, ..)| left < right));
        let mut text = String::new();
        write(&mut text);
        assert!(text.contains("\nkubernetes_feature_enabled{name=\"WatchList\",stage=\"BETA\"} 1\n"), "{text}");
        assert!(text.contains("\nkubernetes_feature_enabled{name=\"KMSv1\",stage=\"DEPRECATED\"} 0\n"), "{text}");
        assert!(text.contains("{name=\"RetryGenerateName\",stage=\"\"} 1\n"), "{text}");
    }
}
