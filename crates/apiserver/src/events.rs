//! Events have two APIs, `v1` and `events.k8s.io/v1`, over the same objects. They are stored as `v1`. Pure.

use serde_json::{Map, Value};

/// Field names: `v1` to `events.k8s.io/v1`. The others have the same name in both.
const NAMES: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// From `v1` as it is stored.
pub(crate) fn from_core(event: &mut Value) {
    rename(event, |pair| (pair.0, pair.1));
    event["apiVersion"] = "events.k8s.io/v1".into();
}

/// To `v1` to be stored.
pub(crate) fn to_core(event: &mut Value) {
    rename(event, |pair| (pair.1, pair.0));
    event["apiVersion"] = "v1".into();
}

fn rename(event: &mut Value, direction: impl Fn(&(&'static str, &'static str)) -> (&'static str, &'static str)) {
    let Some(fields) = event.as_object_mut() else { return };
    let mut moved = Map::new();
    for pair in NAMES {
        let (from, to) = direction(pair);
        if let Some(value) = fields.remove(from) {
            moved.insert(to.to_owned(), value);
        }
    }
    fields.append(&mut moved);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn there_and_back() {
        let stored = json!({ "apiVersion": "v1", "kind": "Event", "message": "m", "involvedObject": { "name": "a" }, "count": 3,
            "reportingComponent": "c", "reason": "r" });
        let mut event = stored.clone();
        from_core(&mut event);
        assert_eq!(event["note"], "m");
        assert_eq!(event["regarding"]["name"], "a");
        assert_eq!(event["apiVersion"], "events.k8s.io/v1");
        assert_eq!(event.get("message"), None);
        to_core(&mut event);
        assert_eq!(event, stored);
    }
}
