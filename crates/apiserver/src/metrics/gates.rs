//! Which of upstream's features this API server has, as metrics.

use skiff_base::figures::Family;
use skiff_base::gates::{self, Gates};

static ENABLED: Family =
    Family::gauge("kubernetes_feature_enabled", "Features by stage: 1 where the server has it, 0 where it has not.");

/// Writes them all.
pub fn write(text: &mut String, switched: &Gates) {
    ENABLED.write_head(text);
    for gate in gates::ALL {
        let labels = format!("name={:?},stage={:?}", gate.name, gate.stage.name());
        ENABLED.write_value(text, &labels, f64::from(u8::from(switched.enabled(gate.name))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gate_is_told_with_its_stage() {
        let mut text = String::new();
        write(&mut text, &Gates::of([(gates::CLUSTER_TRUST_BUNDLE, true)]).expect("it can be so"));
        for line in [
            "name=\"WatchList\",stage=\"BETA\"} 1",
            "name=\"KMSv1\",stage=\"DEPRECATED\"} 0",
            "name=\"RetryGenerateName\",stage=\"\"} 1",
            "name=\"ClusterTrustBundle\",stage=\"BETA\"} 1",
            "name=\"ClusterTrustBundleProjection\",stage=\"BETA\"} 0",
        ] {
            assert!(text.contains(&format!("\nkubernetes_feature_enabled{{{line}\n")), "{line}: {text}");
        }
    }
}
