//! The comparison itself: it tells what differs, and nothing else.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::allowed::{Allowed, unexpected, unused};
use super::compare::differences;
use super::findings::Findings;

/// All trials, by name; each passes by returning.
pub(crate) const TRIALS: &[(&str, fn())] = &[
    ("equal_values_do_not_differ", equal),
    ("a_changed_value_is_told_with_its_place", changed),
    ("what_only_one_side_has_is_told", missing),
    ("things_with_names_are_compared_by_name", by_name),
    ("of_things_with_the_same_name_each_is_compared", repeated),
    ("of_things_with_the_same_name_a_surplus_one_is_told", surplus),
    ("another_order_is_told", order),
    ("a_wanted_difference_passes", wanted),
    ("an_unwanted_difference_is_told", unwanted),
    ("an_allowance_that_nothing_needs_is_told", left_over),
];

/// All differences of two values that are found under the name `it`.
fn told(theirs: Value, ours: Value) -> Vec<String> {
    let found = |value: Value| Findings::from([("it".to_owned(), value)]);
    differences(&found(theirs), &found(ours))
}

/// A list of things with such names and values.
fn list(items: &[(&str, &str)]) -> Value {
    items.iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
}

fn equal() {
    let value = json!({"a": [1, null], "b": list(&[("x", "1"), ("x", "2"), ("y", "1")]), "c": "text"});
    assert!(told(value.clone(), value).is_empty());
}

fn changed() {
    assert_eq!(told(json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": "1", "c": 2}})), ["it.a.b: 1 => \"1\""]);
    assert_eq!(told(json!([{"a": 1}, {"a": 2}]), json!([{"a": 1}, {"a": 3}])), ["it[1].a: 2 => 3"]);
}

fn missing() {
    let (less, more) = (json!({"a": 1}), json!({"a": 1, "b": null}));
    assert_eq!(told(more.clone(), less.clone()), ["it.b: null => nothing"]);
    assert_eq!(told(less, more), ["it.b: nothing => null"]);
    assert_eq!(told(json!(["x", "y"]), json!(["y", "z"])), ["it: \"x\" => nothing", "it: nothing => \"z\""]);
    let found = Findings::from([("it".to_owned(), json!(1))]);
    assert_eq!(differences(&found, &Findings::new()), ["it: 1 => nothing"]);
    assert_eq!(differences(&Findings::new(), &found), ["it: nothing => 1"]);
}

fn by_name() {
    let (theirs, ours) = (list(&[("a", "1"), ("b", "1")]), list(&[("c", "1"), ("a", "2")]));
    let lines = [
        "it[a].value: \"1\" => \"2\"",
        "it[b]: {\"name\":\"b\",\"value\":\"1\"} => nothing",
        "it[c]: nothing => {\"name\":\"c\",\"value\":\"1\"}",
    ];
    assert_eq!(told(theirs, ours), lines);
}

fn repeated() {
    let theirs = list(&[("issuer", "a"), ("issuer", "b"), ("v", "1")]);
    let second = list(&[("issuer", "a"), ("issuer", "c"), ("v", "1")]);
    assert_eq!(told(theirs.clone(), second), ["it[issuer#2].value: \"b\" => \"c\""]);
    // The first of several issuers is the one that tokens get: which comes first counts.
    let swapped = list(&[("issuer", "b"), ("issuer", "a"), ("v", "2")]);
    let lines = [
        "it[issuer#1].value: \"a\" => \"b\"",
        "it[issuer#2].value: \"b\" => \"a\"",
        // A name that stands there once has no number.
        "it[v].value: \"1\" => \"2\"",
    ];
    assert_eq!(told(theirs, swapped), lines);
}

fn surplus() {
    let one = list(&[("issuer", "a"), ("v", "1")]);
    let two = list(&[("issuer", "a"), ("issuer", "a"), ("v", "1")]);
    let item = "{\"name\":\"issuer\",\"value\":\"a\"}";
    assert_eq!(told(two.clone(), one.clone()), [format!("it[issuer#2]: {item} => nothing")]);
    assert_eq!(told(one, two), [format!("it[issuer#2]: nothing => {item}")]);
}

fn order() {
    assert_eq!(told(json!(["x", "y"]), json!(["y", "x"])), ["it: order [\"x\",\"y\"] => [\"y\",\"x\"]"]);
    let beside = ["it: nothing => \"z\"", "it: order [\"x\",\"y\"] => [\"y\",\"x\"]"];
    assert_eq!(told(json!(["x", "y"]), json!(["y", "z", "x"])), beside, "a wanted surplus hides no order");
    let (a, b) = (list(&[("a", "1"), ("b", "1")]), list(&[("b", "1"), ("a", "1")]));
    assert_eq!(told(a, b), ["it: order a b => b a"]);
    let theirs = list(&[("a", "1"), ("b", "1"), ("a", "2")]);
    let ours = list(&[("a", "1"), ("a", "2"), ("b", "1")]);
    assert_eq!(told(theirs, ours), ["it: order a#1 b a#2 => a#1 a#2 b"]);
}

const ALLOWED: &[Allowed] = &[
    Allowed { cases: &[], line: "it.a: 1 => 2", why: "anywhere" },
    Allowed { cases: &["one", "two"], line: "it.*.b: * => 3", why: "in two" },
];

/// Which entries were met, and where.
type Used = BTreeSet<(usize, String)>;

/// What is not allowed of such lines.
fn left(case: &str, lines: &[&str], used: &mut Used) -> Vec<String> {
    unexpected(ALLOWED, case, lines.iter().map(|line| (*line).to_owned()).collect(), used)
}

fn wanted() {
    let mut used = Used::new();
    let left = left("one", &["it.a: 1 => 2", "it.x.y.b: {\"z\":1} => 3"], &mut used);
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(used, Used::from([(0, "one".to_owned()), (1, "one".to_owned())]));
}

fn unwanted() {
    let mut used = Used::new();
    let lines = ["it.a: 1 => 22", "it.a.b: 1 => 2", "that.it.a: 1 => 2", "it.x.b: 1 => 4", "it.x.c: 1 => 3"];
    assert_eq!(left("one", &lines, &mut used), lines);
    // In this configuration nobody expects it.
    assert_eq!(left("three", &["it.x.b: 1 => 3"], &mut used), ["it.x.b: 1 => 3"]);
    assert!(used.is_empty(), "{used:?}");
}

fn left_over() {
    let mut used = Used::new();
    left("one", &["it.x.b: 1 => 3"], &mut used);
    assert_eq!(unused(ALLOWED, &used), ["it.a: 1 => 2 (anywhere)", "two: it.*.b: * => 3 (in two)"]);
    left("two", &["it.x.b: 1 => 3"], &mut used);
    left("three", &["it.a: 1 => 2"], &mut used);
    let still = unused(ALLOWED, &used);
    assert!(still.is_empty(), "{still:?}");
}
