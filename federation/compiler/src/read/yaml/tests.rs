use super::*;
use serde_json::json;

fn good(text: &str) -> Vec<Value> {
    let (nodes, faults) = documents(text);
    assert_eq!(faults, []);
    nodes.iter().map(Node::to_value).collect()
}

fn faults(text: &str) -> Vec<Fault> {
    documents(text).1
}

#[test]
fn scalars_follow_the_core_schema() {
    let text =
        "[a, 1, -2, +3, 0x10, 0o17, 1.5, '1', \"true\", true, ~, , yes, .inf, 1.2.3, !!str 80]";
    assert_eq!(
        good(&text.replace(" ,", "")),
        [json!([
            "a", 1, -2, 3, 16, 15, 1.5, "1", "true", true, null, "yes", ".inf", "1.2.3", "80"
        ])]
    );
}

#[test]
fn documents_are_told_apart_and_json_is_yaml() {
    assert_eq!(
        good("---\na: 1\n---\n{\"b\": [1, {\"c\": null}]}\n...\n"),
        [json!({"a": 1}), json!({"b": [1, {"c": null}]})]
    );
    assert_eq!(good("# nothing\n"), Vec::<Value>::new());
}

#[test]
fn anchors_and_merge_keys_are_resolved() {
    assert_eq!(
        good("base: &b {x: 1, y: 2}\nother:\n  <<: *b\n  y: 3\nagain: *b\n"),
        [json!({"base": {"x": 1, "y": 2}, "other": {"x": 1, "y": 3}, "again": {"x": 1, "y": 2}})]
    );
}

#[test]
fn a_broken_document_hides_no_other() {
    let (nodes, faults) = documents("a: [1\n---\nb: 2\n---\nc: : :\n---\nd: 4\n");
    assert_eq!(faults.len(), 2, "{faults:?}");
    let values: Vec<_> = nodes.iter().map(Node::to_value).collect();
    assert_eq!(values, [json!({"b": 2}), json!({"d": 4})]);
    assert_eq!(faults[1].mark.line, 5);
}

#[test]
fn duplicate_fields_are_named_with_both_places() {
    let faults = faults("a: 1\nb: 2\na: 3\n");
    assert_eq!(faults[0].mark, Mark { line: 3, column: 1 });
    assert!(faults[0].message.contains("line 1"));
}

#[test]
fn hostile_text_is_bounded() {
    let mut laughs = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for level in 1..12 {
        let list = vec![format!("*a{}", level - 1); 8].join(", ");
        laughs.push_str(&format!("a{level}: &a{level} [{list}]\n"));
    }
    assert!(faults(&laughs)[0].message.contains("values"));
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    assert_eq!(faults(&deep).len(), 1);
    assert!(
        faults(&"a".repeat(TEXT_MAX + 1))[0]
            .message
            .contains("bytes")
    );
    let many = "--- 1\n".repeat(DOCUMENTS_MAX + 5);
    let (nodes, faults) = documents(&many);
    assert_eq!((nodes.len(), faults.len()), (DOCUMENTS_MAX, 1));
    assert_eq!(documents("a: &a [*a]").1.len(), 1);
}
