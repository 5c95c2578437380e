//! `ServiceExport`.

use std::collections::BTreeSet;

use portolan_model::ClusterName;
use portolan_model::declared::{ExportSpec, ExportTo};
use serde_json::Value;

use super::super::finding::Findings;
use super::super::path::field;
use super::{EXPORT_TO, text};

pub(super) fn read(metadata: &Value, spec: &Value, findings: &mut Findings) -> Option<ExportSpec> {
    for name in ["exportedLabels", "exportedAnnotations"] {
        if spec.get(name).is_some() {
            let remedy = "leave it out";
            let message = "it is accepted but not passed on to other clusters";
            findings.warning(field("spec", name), message, remedy);
        }
    }
    let Some(words) = text(&metadata["annotations"], EXPORT_TO) else {
        return Some(ExportSpec {
            to: ExportTo::Everyone,
        });
    };
    let path = field("metadata.annotations", EXPORT_TO);
    if words.trim() == "*" {
        return Some(ExportSpec {
            to: ExportTo::Everyone,
        });
    }
    let mut peers = BTreeSet::new();
    let mut all_good = true;
    for word in words
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
    {
        match findings.name::<ClusterName>(word, &path) {
            Some(name) => {
                peers.insert(name);
            }
            None => all_good = false,
        }
    }
    if peers.is_empty() && all_good {
        let remedy = "name peers, separated by `,`; leave the annotation out to export to everyone; or delete the ServiceExport";
        findings.error(path, "it names no peer", remedy);
        return None;
    }
    all_good.then_some(ExportSpec {
        to: ExportTo::Peers(peers),
    })
}
