use serde_json::json;

use super::*;

fn widget() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]},
            "versions": [
                {"name": "v1", "served": true, "storage": true,
                 "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": {"replicas": {"type": "integer", "default": 1}}},
                    "status": {"type": "object", "properties": {"replicas": {"type": "integer"}}}}}},
                 "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
                 "additionalPrinterColumns": [{"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"}],
                 "selectableFields": [{"jsonPath": ".spec.replicas"}]},
                {"name": "v1beta1", "served": true, "storage": false, "deprecated": true,
                 "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}},
                {"name": "v1alpha1", "served": false, "storage": false,
                 "schema": {"openAPIV3Schema": {"type": "object"}}}
            ]
        }
    })
}

fn completed() -> Value {
    let mut definition = widget();
    complete(&mut definition);
    definition
}

#[test]
fn a_definition_is_completed_and_read() {
    let definition = completed();
    assert_eq!(validate(&definition), []);
    assert_eq!(definition["spec"]["conversion"]["strategy"], "None");
    let served = served(&definition).expect("the schemas can be used");
    let names: Vec<&str> = served.iter().map(|r| r.version.as_str()).collect();
    assert_eq!(names, ["v1", "v1beta1"]);
    let v1 = &served[0];
    assert_eq!((v1.list_kind.as_str(), v1.singular.as_str()), ("WidgetList", "widget"));
    assert!(v1.storage && v1.status && v1.namespaced);
    assert_eq!(
        v1.scale,
        Some(CustomScale { spec: "spec.replicas".into(), status: "status.replicas".into(), selector: None })
    );
    assert_eq!(v1.selectable, ["spec.replicas"]);
    assert_eq!(v1.schema_name, "com.example.v1.Widget");
    assert_eq!(served[1].deprecation.as_deref(), Some("example.com/v1beta1 Widget is deprecated"));
    assert_eq!(storage_version(&definition), Some("v1"));
}

#[test]
fn mistakes_are_found_where_they_are() {
    let schema = "/spec/versions/0/schema/openAPIV3Schema";
    let cases = [
        ("/metadata/name".to_owned(), json!("x"), "metadata.name"),
        ("/spec/group".to_owned(), json!("example"), "spec.group"),
        ("/spec/scope".to_owned(), json!("Galaxy"), "spec.scope"),
        ("/spec/names/kind".to_owned(), json!(""), "spec.names.kind"),
        ("/spec/names/plural".to_owned(), json!("Widgets"), "spec.names.plural"),
        ("/spec/names/shortNames/0".to_owned(), json!("W D"), "spec.names.shortNames[0]"),
        ("/spec/conversion/strategy".to_owned(), json!("Magic"), "spec.conversion.strategy"),
        ("/spec/versions/0/storage".to_owned(), json!(false), "spec.versions"),
        ("/spec/versions/1/name".to_owned(), json!("v1"), "spec.versions[1].name"),
        (schema.to_owned(), Value::Null, "spec.versions[0].schema.openAPIV3Schema"),
        (format!("{schema}/type"), json!("string"), "spec.versions[0].schema.openAPIV3Schema.type"),
        (
            format!("{schema}/properties/spec/type"),
            Value::Null,
            "spec.versions[0].schema.openAPIV3Schema.properties[spec].type",
        ),
        (
            format!("{schema}/properties/spec/properties/replicas/default"),
            json!("one"),
            "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[replicas].default",
        ),
        (
            "/spec/versions/0/subresources/scale/specReplicasPath".to_owned(),
            json!(".status.x"),
            "spec.versions[0].subresources.scale.specReplicasPath",
        ),
    ];
    for (pointer, value, path) in cases {
        let mut wrong = completed();
        *wrong.pointer_mut(&pointer).expect("the field is there") = value;
        let found = validate(&wrong);
        assert!(found.iter().any(|e| e.path == path), "{pointer}: {found:?}");
    }
}

#[test]
fn what_may_not_change_is_refused() {
    let mut old = completed();
    establish(&mut old, &Taken::default(), "2026-01-01T00:00:00Z");
    let mut new = old.clone();
    new["spec"]["scope"] = json!("Cluster");
    new["spec"]["names"]["kind"] = json!("Gadget");
    new["spec"]["versions"][0]["name"] = json!("v2");
    let found = validate_update(&old, &new);
    let paths: Vec<&str> = found.iter().map(|e| e.path.as_str()).collect();
    assert_eq!(paths, ["spec.scope", "spec.names.kind", "status.storedVersions[0]"]);
    assert_eq!(validate_update(&old, &old), []);
}

#[test]
fn conditions_say_whether_it_is_served() {
    let mut definition = completed();
    establish(&mut definition, &Taken::default(), "t1");
    establish(&mut definition, &Taken::default(), "t2");
    assert!(condition(&definition, "Established") && condition(&definition, "NamesAccepted"));
    let times: Vec<&Value> =
        list(&definition["status"]["conditions"]).iter().map(|c| &c["lastTransitionTime"]).collect();
    assert_eq!(times, ["t1", "t1"]);
    assert_eq!(definition["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(definition["status"]["acceptedNames"]["plural"], "widgets");

    let mut second = completed();
    let taken = Taken { resources: vec!["wd".into()], kinds: vec![] };
    establish(&mut second, &taken, "t1");
    assert!(!condition(&second, "Established"));
    assert_eq!(second["status"]["conditions"][0]["reason"], "ShortNamesConflict");
    assert_eq!(second["status"]["conditions"][0]["message"], "\"wd\" is already in use");
}
