use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn one(text: &str) -> Value {
    let parsed = parse(text);
    assert_eq!(parsed.errors, [], "{text}");
    assert_eq!(parsed.documents.len(), 1, "{text}");
    parsed.documents[0].root.to_value()
}

fn error(text: &str) -> String {
    let parsed = parse(text);
    assert_eq!(parsed.errors.len(), 1, "{text}: {:?}", parsed.documents);
    parsed.errors[0].to_string()
}

#[test]
fn values_know_where_they_stand() {
    let parsed = parse("a: 1\nb:\n  - x\n  - çà: [true, \"two words\"]\n");
    let root = &parsed.documents[0].root;
    assert_eq!(root.entry("b").unwrap().span, Span { line: 2, column: 1, width: 1 });
    let item = root.get("b").unwrap().item(1).unwrap();
    assert_eq!(item.entry("çà").unwrap().span, Span { line: 4, column: 5, width: 2 });
    assert_eq!(item.get("çà").unwrap().item(1).unwrap().span, Span { line: 4, column: 16, width: 11 });
}

#[test]
fn json_is_yaml() {
    assert_eq!(
        one("{\n\t\"a\": {\"b\": [1, -2.5, \"x\\u00e9\\n\", null, true]},\n\t\"c\": {}}"),
        json!({"a": {"b": [1, -2.5, "xé\n", null, true]}, "c": {}})
    );
}

#[test]
fn several_documents_and_one_of_them_broken() {
    let parsed = parse("a: 1\n---\nb: [1, 2\n---\n\n---\nc: 3\n");
    let roots: Vec<Value> = parsed.documents.iter().map(|d| d.root.to_value()).collect();
    assert_eq!(roots, [json!({"a": 1}), Value::Null, json!({"c": 3})]);
    assert_eq!(parsed.errors.len(), 1);
    assert_eq!(values("a: 1\n---\n# nothing\n---\nb: 2\n").unwrap(), [json!({"a": 1}), json!({"b": 2})]);
}

#[test]
fn keys_that_come_twice_are_told() {
    let parsed = parse("a: 1\nb: {c: 1, c: 2}\na: 3\n");
    let twice: Vec<_> =
        parsed.documents[0].duplicates.iter().map(|d| (d.key.as_str(), d.first.line, d.again.line)).collect();
    assert_eq!(twice, [("c", 2, 2), ("a", 1, 3)]);
    assert_eq!(parsed.documents[0].root.to_value(), json!({"a": 1, "b": {"c": 1}}));
    assert_eq!(values("a: 1\na: 2").unwrap_err().to_string(), "key a comes twice at line 2, column 1");
}

#[test]
fn aliases_merges_and_tags() {
    let text = "base: &base {x: 1, y: no}\none: *base\ntwo:\n  <<: *base\n  x: 2\nthree: {<<: [{z: 1}, *base], z: 0}\nfour: {\"<<\": 1}\n";
    let base = json!({"x": 1, "y": false});
    assert_eq!(
        one(text),
        json!({"base": base, "one": base, "two": {"x": 2, "y": false}, "three": {"z": 0, "x": 1, "y": false}, "four": {"<<": 1}})
    );
    assert_eq!(
        one("[!!str 1, !!int '2', !!null '', !!bool 'no', !!str {}]".replace(", !!str {}", "").as_str()),
        json!(["1", 2, null, false])
    );
    assert_eq!(one("&k a: 1\nb: {*k : 2}\n"), json!({"a": 1, "b": {"a": 2}}));
    assert!(error("a: !secret x").contains("tag"));
    assert!(error("a: !!int x").contains("does not fit its tag"));
    assert!(error("[1]: 2").contains("as a key"));
    assert!(error("a: &a [*a]").contains("stands for itself"));
    assert!(error("a: {<<: 3}").contains("merged"));
    assert!(error("a: *nowhere").contains("line 1, column 4"));
}

#[test]
fn bombs_are_refused_quickly() {
    let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for n in 1..30 {
        let alias = format!("*a{}", n - 1);
        text.push_str(&format!("a{n}: &a{n} [{}]\n", vec![alias; 10].join(",")));
    }
    assert!(error(&text).contains("more than 500000 values"));

    let mut deep = "a0: &a0 [x]\n".to_owned();
    for n in 1..200 {
        deep.push_str(&format!("a{n}: &a{n} [*a{}]\n", n - 1));
    }
    assert!(error(&deep).contains("levels of nesting"));

    let stairs: String = (0..200).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
    for deep in ["[".repeat(100_000), "- ".repeat(100_000), "{a: ".repeat(100_000), stairs] {
        assert!(!parse(&deep).errors.is_empty());
    }
    assert!(error(&" ".repeat(MAX_BYTES + 1)).contains("more than 8 MiB"));
}

#[test]
fn text_that_would_be_read_as_something_else_is_quoted() {
    for text in [
        "no",
        "yes",
        "on",
        "off",
        "y",
        "N",
        "true",
        "null",
        "~",
        "",
        "1e3",
        "0644",
        "0x1F",
        "1_000",
        "1.36",
        "12:30",
        "-",
        "- a",
        "a: b",
        "#x",
        "a #b",
        " a",
        "a ",
        "a\nb",
        "a\n",
        "\n",
        "a\tb",
        "*a",
        "&a",
        "!a",
        "%a",
        "@a",
        "`a",
        "|",
        ">",
        "{",
        "[",
        "'",
        "\"",
        "<<",
        "=",
        "2026-11-21",
        ".inf",
        "\u{feff}x",
        "é",
        "--- a",
        "...",
        "\u{85}",
        "\u{2028}",
        "\r\n",
        "?",
        "? a",
        "a\\b",
    ] {
        let value = json!({"k": text, "l": [text], text: 1});
        let written = to_string(&value).unwrap();
        assert_eq!(values(&written).unwrap(), [value], "{written}");
    }
    assert_eq!(
        to_string(&json!({"a": "no", "b": [{"c": 1}], "d": {}, "e": []})).unwrap(),
        "a: \"no\"\nb:\n- c: 1\nd: {}\ne: []\n"
    );
    assert_eq!(to_documents(&[json!({"a": 1}), json!({"b": 2})]).unwrap(), "a: 1\n---\nb: 2\n");
}

#[test]
fn typed_reading_wants_one_document() {
    assert_eq!(from_str::<BTreeMap<String, u8>>("a: 1").unwrap(), BTreeMap::from([("a".to_owned(), 1)]));
    assert!(from_str::<BTreeMap<String, u8>>("a: x").is_err());
    assert!(from_str::<Value>("").is_err());
    assert!(from_str::<Value>("a: 1\n---\nb: 1").is_err());
}

fn json_values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e15..1e15).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[-+.0-9eExXob_:~ynYN<=>|#&* \n]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..6).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_reads_back(value in json_values()) {
        let written = to_string(&json!({"root": value})).unwrap();
        prop_assert_eq!(values(&written).unwrap(), vec![json!({"root": value})], "{}", written);
    }

    #[test]
    fn any_text_is_read_without_a_panic(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn yaml_like_text_is_read_without_a_panic(text in "[-a:,\\[\\]{}&*!|>'\"#%? \n\t0-9<]{0,200}") {
        for error in parse(&text).errors {
            prop_assert!(error.span.line >= 1 && error.span.column >= 1);
        }
    }
}
