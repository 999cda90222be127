//! `docs/events.md` says what events are: its schema is checked against the types, and against what an engine sends.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::sync::Arc;

use kprov::engine::{Engine, Stop};
use kprov::journal::Journal;
use kprov::plan::Plan;
use kprov_providers::event::{Event, Events, State, Type};
use kprov_providers::machine::fake::FakeMachine;
use kprov_providers::steps::{Label, WriteFile};
use serde_json::Value;

fn schema() -> Value {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/events.md")).unwrap();
    let (_, after) = text.split_once("```json\n").unwrap();
    serde_json::from_str(after.split_once("```").unwrap().0).unwrap()
}

fn words(values: &Value) -> BTreeSet<String> {
    values.as_array().unwrap().iter().map(|value| value.as_str().unwrap().to_owned()).collect()
}

fn word<T: serde::Serialize>(value: T) -> String {
    serde_json::to_value(value).unwrap().as_str().unwrap().to_owned()
}

/// All types; a new one does not compile until it is in the list, too.
fn types() -> Vec<Type> {
    let all = vec![Type::Step, Type::Progress, Type::Warning, Type::Note, Type::Error, Type::Result];
    for one in &all {
        match one {
            Type::Step | Type::Progress | Type::Warning | Type::Note | Type::Error | Type::Result => {}
        }
    }
    all
}

fn states() -> Vec<State> {
    use State::{Differs, Done, Failed, Missing, Ready, Skipped, Start, Undone};
    let all = vec![Start, Done, Ready, Missing, Differs, Failed, Skipped, Undone];
    for one in &all {
        match one {
            Start | Done | Ready | Missing | Differs | Failed | Skipped | Undone => {}
        }
    }
    all
}

/// What the schema says, as far as it says anything.
fn check(schema: &Value, event: &Value) {
    let object = event.as_object().unwrap();
    for name in words(&schema["required"]) {
        assert!(object.contains_key(&name), "{name} is missing in {event}");
    }
    for (name, value) in object {
        let rule = &schema["properties"][name];
        assert!(rule.is_object(), "{name} is not in the schema");
        if let Some(all) = rule["enum"].as_array() {
            assert!(all.contains(value), "{name}: {value}");
        }
        match rule["type"].as_str() {
            Some("string") => assert!(value.is_string(), "{name}: {value}"),
            Some("integer") => assert_eq!(value, &rule["const"]),
            Some("number") => assert!(value.as_f64().unwrap() >= 0.0),
            _ => {}
        }
    }
    let time = object["time"].as_str().unwrap();
    assert!(time.len() == 24 && time.ends_with('Z') && time.as_bytes()[10] == b'T' && time.as_bytes()[19] == b'.');
}

#[test]
fn the_schema_names_every_type_state_and_field() {
    let schema = schema();
    let properties = &schema["properties"];
    assert_eq!(words(&properties["type"]["enum"]), types().into_iter().map(word).collect());
    assert_eq!(words(&properties["state"]["enum"]), states().into_iter().map(word).collect());
    let full = Event::new(Type::Step, "write a file").about("a", "b").state(State::Done).seconds(0.5);
    let full = serde_json::to_value(full).unwrap();
    let fields: BTreeSet<&String> = full.as_object().unwrap().keys().collect();
    assert_eq!(fields, properties.as_object().unwrap().keys().collect());
    let least = serde_json::to_value(Event::new(Type::Note, "")).unwrap();
    let fields: BTreeSet<String> = least.as_object().unwrap().keys().cloned().collect();
    assert_eq!(fields, words(&schema["required"]));
    check(&schema, &full);
    check(&schema, &least);
}

#[tokio::test]
async fn what_an_engine_sends_follows_the_schema() {
    let dir = tempfile::tempdir().unwrap();
    let machine = FakeMachine::new();
    machine.put("/etc/there", "as wanted");
    let mut plan = Plan::new();
    let this = || Arc::new(machine.clone());
    plan.add(WriteFile::new(Label::new("a", "test"), this(), "/etc/a", "x"));
    plan.add(WriteFile::new(Label::new("there", "test"), this(), "/etc/there", "as wanted"));
    plan.add(WriteFile::new(Label::new("dir", "test"), this(), "/etc", "no file can be here"));
    plan.add(WriteFile::new(Label::new("b", "test").needs(["dir"]), this(), "/etc/b", "x"));
    let (events, mut heard) = Events::channel();
    let journal = Arc::new(Journal::open(dir.path().join("journal.jsonl")).unwrap());
    Engine::new(events.clone(), Stop::new()).run("init", &plan, &journal).await.unwrap();
    kprov::engine::preview(&plan, kprov_providers::Outputs::none(), &events).await.unwrap();
    kprov::engine::undo(&journal, &machine, &events, &Stop::new()).await.unwrap();
    events.warn("something to know");
    drop(events);
    let schema = schema();
    let mut states = BTreeSet::new();
    while let Some(event) = heard.recv().await {
        let event = serde_json::to_value(event).unwrap();
        check(&schema, &event);
        states.extend(event["state"].as_str().map(str::to_owned));
    }
    assert_eq!(states.len(), 7, "{states:?}");
}
