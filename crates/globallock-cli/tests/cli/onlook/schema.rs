//! What programs read is what docs/operations.md says: every field, its type, and no other.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Store;

const DOCUMENT: &str = include_str!("../../../../../docs/operations.md");

/// The fields that the document gives an object, each with the types that it may have.
fn documented(object: &str) -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let (_, rest) = DOCUMENT.split_once(&format!("\n### {object}\n")).unwrap();
    let section = rest.split("\n#").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let fields = rows.map(|row| {
        let (field, rest) = row.split_once("` | ").unwrap();
        (field, rest.split(" | ").next().unwrap().split(" or ").collect())
    });
    fields.collect()
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The objects have exactly the documented fields, of the documented types, and each of them is known in one.
fn are_documented(object: &str, values: &[Value]) {
    let documented = documented(object);
    assert!(documented.len() >= 4, "{documented:?}");
    let mut seen: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for value in values {
        let fields = value.as_object().unwrap();
        assert_eq!(
            fields.keys().map(String::as_str).collect::<BTreeSet<_>>(),
            documented.keys().copied().collect(),
            "{object}"
        );
        for (field, value) in fields {
            seen.entry(field).or_default().insert(type_of(value));
        }
    }
    for (field, types) in &documented {
        let known = types.iter().find(|known| **known != "null").unwrap();
        assert!(seen[field].is_subset(types) && seen[field].contains(known), "{object} {field}: {seen:?}");
    }
}

#[test]
fn objects_have_the_documented_fields_and_no_others() {
    let store = Store::redis();
    let Store::Redis(server) = &store else { unreachable!() };
    let held = store.hold(&["--label", "report"], "a");
    let waits = store.queue(&[], "a");
    let _permits = store.hold(&["--permits", "2/3"], "b");
    // Another program, of which nothing is known, and which keeps its lock for ever.
    server.cli(&["SET", "_glocks:foreign", "x"]);
    let stuck = store.hold(&["--lease", "60s"], "stuck");
    let watch = store.start(&["ls", "-w", "--interval", "100ms", "-o", "json"]);
    let next = || -> Value { serde_json::from_str(&watch.first().unwrap()).unwrap() };
    let mut changes: Vec<Value> = (0..4).map(|_| next()).collect();
    let mut locks = store.json(&["ls"]);
    assert_eq!(locks.len(), 4);
    // Its processes stop, and the store is told that most of the lease has passed.
    stuck.signal("STOP");
    server.cli(&["PEXPIRE", "_glocks:stuck", "20000"]);
    while changes.last().is_none_or(|change| change["lock"]["stale"] != true) {
        changes.push(next());
    }
    locks.push(changes.last().unwrap()["lock"].clone());
    stuck.signal("CONT");
    let mut queues: Vec<Value> =
        ["a", "b", "foreign"].iter().flat_map(|name| store.json(&["inspect", name])).collect();
    waits.end();
    held.end();
    while changes.last().is_none_or(|change| change["change"] != "removed") {
        changes.push(next());
    }
    queues.extend(store.json(&["inspect", "a"]));
    let inner = |field: &str| -> Vec<Value> {
        queues.iter().flat_map(|queue| queue[field].as_array().unwrap().clone()).collect()
    };
    let holders = locks.iter().map(|lock| lock["holder"].clone()).filter(Value::is_object);
    are_documented("A lock", &locks);
    are_documented("A claim", &holders.chain(inner("claims")).collect::<Vec<_>>());
    are_documented("A change", &changes);
    are_documented("A queue", &queues);
    are_documented("A wait", &inner("waits"));
    assert!(changes.iter().all(|change| change["lock"].is_null() == (change["change"] == "removed")));
}
