//! Reference pages and examples that say what the code says.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use portolan_compiler::{read, schema};
use portolan_model::declared::ResourceKind;
use portolan_model::{Hop, Namespace, Reason};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn text(path: &str) -> String {
    std::fs::read_to_string(super::root().join(path)).unwrap()
}

/// The part of a page under a heading of the second level.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let from = page
        .find(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("no section `{heading}`"));
    let rest = &page[from + 4..];
    rest.split("\n## ").next().unwrap_or(rest)
}

/// What stands in backticks in the first column of the page's tables.
fn first_column(page: &str) -> BTreeSet<String> {
    let rows = page
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split('|').next());
    rows.flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect()
}

/// `cargo run` in the root needs one binary to mean.
#[test]
fn the_first_command_of_the_readme_means_the_product() {
    assert!(text("README.md").contains("\ncargo run --release -- demo\n"));
    let metadata = super::metadata();
    let packages = metadata.workspace_default_packages().into_iter();
    let binaries: Vec<_> = packages
        .flat_map(|package| &package.targets)
        .filter(|target| target.is_bin())
        .map(|target| target.name.as_str())
        .collect();
    assert_eq!(binaries, ["portolan"]);
}

#[test]
fn every_exit_code_is_explained() {
    let source = text("cli/src/exit.rs");
    let page = text("docs/reference/exit-codes.md");
    let codes: Vec<(&str, &str)> = source
        .lines()
        .filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = "))
        .filter(|(_, number)| number.parse::<u8>().is_ok())
        .collect();
    assert!(codes.len() > 5, "the codes are found: {codes:?}");
    for (name, number) in codes {
        assert!(
            page.contains(&format!("| {number} | `{name}` |")),
            "exit-codes.md does not explain {name} = {number}"
        );
    }
}

#[test]
fn every_refusal_is_explained() {
    let page = text("docs/reference/errors.md");
    let reasons = first_column(section(&page, "Reasons"));
    let known: BTreeSet<String> = Reason::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(reasons, known);
    let hops = first_column(section(&page, "Hops"));
    let known = [Hop::Outbound, Hop::Egress, Hop::Ingress, Hop::Inbound].map(|hop| hop.to_string());
    assert_eq!(hops, BTreeSet::from(known));
}

#[test]
fn every_configuration_field_is_explained_and_no_other() {
    let page = text("docs/reference/configuration.md");
    let mut shared = BTreeSet::new();
    for (heading, fields) in [
        (
            "portolan control",
            fields::<portolan_control::ControlConfig>(),
        ),
        (
            "portolan gateway",
            fields::<portolan_gateway::GatewayConfig>(),
        ),
        (
            "portolan sidecar",
            fields::<portolan_sidecar::SidecarConfig>(),
        ),
    ] {
        let is_shared = |field: &String| {
            ["dns.", "join.", "log."]
                .iter()
                .any(|section| field.starts_with(section))
        };
        let (in_common, own): (BTreeSet<String>, BTreeSet<String>) =
            fields.into_iter().partition(is_shared);
        assert_eq!(first_column(section(&page, heading)), own, "{heading}");
        shared.extend(in_common);
    }
    assert_eq!(first_column(section(&page, "Shared sections")), shared);
}

/// A name that no configuration has.
const UNKNOWN: &str = "zzz";

/// Every field of a configuration, as `section.field`: asked of its parser, which names those it knows
/// whenever it meets another.
fn fields<T: DeserializeOwned>() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut sections = vec![String::new()];
    while let Some(section) = sections.pop() {
        for name in known_fields::<T>(&section) {
            let path = if section.is_empty() {
                name
            } else {
                format!("{section}.{name}")
            };
            sections.push(path.clone());
            found.insert(path);
        }
    }
    assert!(found.len() > 10, "the fields are found: {found:?}");
    found
}

/// The fields that the parser knows in a section; none if it is no section.
fn known_fields<T: DeserializeOwned>(section: &str) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    // A section may be a map, one of several kinds of map, or a list of maps. A list only where it is no
    // map: structs can be read from lists too, where the items are their fields.
    let maps = [
        json!({ UNKNOWN: 1 }),
        kind("embedded"),
        kind("etcd"),
        kind("memory"),
    ];
    for inner in maps.into_iter().chain([json!([{ UNKNOWN: 1 }])]) {
        if inner.is_array() && !known.is_empty() {
            continue;
        }
        let document = section
            .rsplit('.')
            .filter(|name| !name.is_empty())
            .fold(inner, |inner, name| json!({ name: inner }));
        let Err(error) = serde_json::from_value::<T>(document) else {
            continue;
        };
        let error = error.to_string();
        if let Some((_, expected)) =
            error.split_once(&format!("unknown field `{UNKNOWN}`, expected "))
        {
            known.extend(expected.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    if section == "registry" {
        // What tells the kinds apart is no field of any of them.
        known.insert("kind".to_owned());
    }
    known
}

fn kind(kind: &str) -> Value {
    json!({ "kind": kind, UNKNOWN: 1 })
}

#[test]
fn every_field_of_a_declaration_is_explained() {
    let page = text("docs/reference/declarations.md");
    for kind in ResourceKind::ALL {
        let explained = section(&page, kind.as_str());
        let schema = schema(*kind);
        // Of a Service, the page explains what Portolan reads, which is not all that Kubernetes has.
        let fields = schema["properties"]["spec"]["properties"]
            .as_object()
            .unwrap();
        for field in fields.keys().filter(|_| *kind != ResourceKind::Service) {
            assert!(
                explained.contains(&format!("spec.{field}`")),
                "declarations.md does not explain {kind} spec.{field}"
            );
        }
        for field in first_column(explained)
            .iter()
            .filter_map(|field| field.strip_prefix("spec."))
        {
            let name = field.split(['.', '[']).next().unwrap_or(field);
            assert!(
                fields.contains_key(name),
                "declarations.md explains {kind} spec.{field}, which is not there"
            );
        }
    }
}

#[test]
fn every_declaration_that_is_shown_is_right() {
    let namespace = Namespace::parse("default").unwrap();
    let mut shown: Vec<(String, String)> = Vec::new();
    for path in files("deploy/examples", "yaml") {
        shown.push((
            path.display().to_string(),
            std::fs::read_to_string(&path).unwrap(),
        ));
    }
    assert!(shown.len() > 5, "the examples are found");
    let page = text("docs/reference/declarations.md");
    let blocks = page
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    shown.extend(blocks.map(|block| (format!("declarations.md: {block}"), block.to_owned())));
    for (file, text) in shown {
        let found = read(&file, &text, &namespace);
        assert!(found.problems.is_empty(), "{:?}", found.problems);
        assert!(!found.declared.is_empty(), "{file} declares nothing");
    }
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut pages = files("docs", "md");
    pages.extend(files(".", "md"));
    assert!(pages.len() > 8, "the pages are found");
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            if link.contains("://") {
                continue;
            }
            let target = if file.is_empty() {
                page.clone()
            } else {
                page.parent().unwrap().join(file)
            };
            assert!(target.exists(), "{}: {link} leads nowhere", page.display());
            assert!(
                anchor.is_empty() || anchors(&target).contains(anchor),
                "{}: {link}: no such heading",
                page.display()
            );
        }
    }
}

/// The anchors of a page's headings.
fn anchors(page: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(page).unwrap();
    let headings = text
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#').trim().to_lowercase());
    headings
        .map(|heading| {
            heading
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-'))
                .collect::<String>()
                .replace(' ', "-")
        })
        .collect()
}

/// Files with this ending: all below a folder, or those of the root itself.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![super::root().join(folder)];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && folder != "." {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
