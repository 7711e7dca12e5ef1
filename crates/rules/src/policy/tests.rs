use serde_json::{Value, json};

use super::*;

fn write<'a>(object: Option<&'a Value>, old: Option<&'a Value>) -> Attributes<'a> {
    Attributes {
        operation: match (object, old) {
            (None, _) => Operation::Delete,
            (_, None) => Operation::Create,
            _ => Operation::Update,
        },
        group: "apps",
        version: "v1",
        resource: "deployments",
        subresource: "",
        kind: "Deployment",
        name: "web",
        namespace: Some("shop"),
        namespace_object: None,
        object,
        old,
        user: "ann",
        groups: &[],
        dry_run: false,
    }
}

fn policy(spec: Value) -> Policy {
    Policy::compile(&json!({ "metadata": { "name": "p" }, "spec": spec })).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn binding(actions: &[&str]) -> Value {
    json!({ "metadata": { "name": "b" }, "spec": { "policyName": "p", "validationActions": actions } })
}

/// The messages of what is refused, without the words that are always there.
fn refused(spec: Value, object: &Value) -> Vec<String> {
    let judgement = policy(spec).judge(&binding(&["Deny"]), None, &write(Some(object), None));
    let prefix = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: ";
    let short = |denial: Denial| denial.message.strip_prefix(prefix).expect("upstream's words").to_owned();
    judgement.denials.into_iter().map(short).collect()
}

#[test]
fn expressions_decide_and_say_why() {
    let object = json!({ "spec": { "replicas": 7, "template": { "spec": { "containers": [{ "image": "a:latest" }] } } },
        "metadata": { "labels": { "app.kubernetes.io/name": "web" } } });
    let small = "object.spec.replicas <= 5";
    for (validation, said) in [
        (json!({ "expression": small }), vec!["failed expression: object.spec.replicas <= 5"]),
        (json!({ "expression": small, "message": "too many" }), vec!["too many"]),
        (
            json!({ "expression": small, "message": "too many", "messageExpression": "'not ' + string(object.spec.replicas)" }),
            vec!["not 7"],
        ),
        (
            json!({ "expression": small, "message": "too many", "messageExpression": "object.nothing" }),
            vec!["too many"],
        ),
        (json!({ "expression": "object.spec.replicas == 7 && request.name == 'web'" }), vec![]),
        (json!({ "expression": "object.metadata.labels['app.kubernetes.io/name'] == 'web'" }), vec![]),
        (json!({ "expression": "!has(object.metadata.annotations)" }), vec![]),
        (json!({ "expression": "request.namespace == 'shop' && request.userInfo.username == 'ann'" }), vec![]),
        (json!({ "expression": "oldObject == null && params == null" }), vec![]),
        (json!({ "expression": "'web-01'.find('[0-9]+') == '01' && size('a1b22'.findAll('[0-9]+')) == 2" }), vec![]),
        (
            json!({ "expression": "object.spec.template.spec.containers.all(c, !c.image.endsWith(':latest'))", "message": "mutable" }),
            vec!["mutable"],
        ),
    ] {
        assert_eq!(refused(json!({ "validations": [validation] }), &object), said, "{validation}");
    }
}

#[test]
fn what_cannot_be_evaluated_counts_as_the_policy_says() {
    let object = json!({ "spec": {} });
    let spec = |failing: &str| json!({ "failurePolicy": failing, "validations": [{ "expression": "object.spec.replicas <= 5" }] });
    let said = refused(spec("Fail"), &object);
    assert!(
        said.len() == 1 && said[0].starts_with("expression 'object.spec.replicas <= 5' resulted in error:"),
        "{said:?}"
    );
    assert_eq!(refused(spec("Ignore"), &object), Vec::<String>::new());
    let odd = refused(json!({ "validations": [{ "expression": "1 + 1" }] }), &object);
    assert!(odd[0].contains("neither true nor false"), "{odd:?}");
}

#[test]
fn variables_and_conditions() {
    let object = json!({ "spec": { "replicas": 3 } });
    let spec = |conditions: Value| {
        json!({
            "matchConditions": conditions,
            "variables": [
                { "name": "count", "expression": "object.spec.replicas" },
                { "name": "double", "expression": "variables.count * 2" },
                { "name": "broken", "expression": "object.nothing" },
            ],
            "validations": [{ "expression": "variables.double == 7" }],
        })
    };
    assert_eq!(refused(spec(json!([])), &object), ["failed expression: variables.double == 7"]);
    let never = json!([{ "name": "broken", "expression": "object.nothing" }, { "name": "no", "expression": "false" }]);
    assert!(refused(spec(never), &object).is_empty(), "one that is false is enough");
    let broken = json!([{ "name": "broken", "expression": "object.nothing" }]);
    assert!(refused(spec(broken), &object)[0].starts_with("match condition broken:"));
}

#[test]
fn bindings_say_what_comes_of_it() {
    let policy = policy(json!({ "validations": [{ "expression": "false", "message": "no", "reason": "Forbidden" }] }));
    let object = json!({});
    let judged = |actions: &[&str]| policy.judge(&binding(actions), None, &write(Some(&object), None));
    assert_eq!(judged(&["Deny"]).denials[0].reason, "Forbidden");
    let soft = judged(&["Warn", "Audit"]);
    assert!(soft.denials.is_empty());
    assert_eq!(soft.warnings, ["Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': no"]);
    assert_eq!(soft.audits.len(), 1);
}

#[test]
fn parameters() {
    let policy = policy(
        json!({ "paramKind": {}, "validations": [{ "expression": "object.spec.replicas <= int(params.data.most)" }] }),
    );
    let object = json!({ "spec": { "replicas": 3 } });
    let judged = |most: &str| {
        let params = json!({ "data": { "most": most } });
        policy.judge(&binding(&["Deny"]), Some(&params), &write(Some(&object), None)).denials.len()
    };
    assert_eq!((judged("2"), judged("3")), (1, 0));
    assert_eq!(policy.without_params(&binding(&["Deny"])).denials.len(), 1);
    let mut lenient = binding(&["Deny"]);
    lenient["spec"]["paramRef"] = json!({ "parameterNotFoundAction": "Allow" });
    assert!(policy.without_params(&lenient).denials.is_empty());
}

#[test]
fn which_writes_are_looked_at() {
    let object = json!({ "metadata": { "labels": { "tier": "web" } } });
    let space = json!({ "metadata": { "name": "shop", "labels": { "env": "prod" } } });
    let rule = |resources: &[&str]| json!({ "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": resources });
    for (constraints, expected) in [
        (json!({ "resourceRules": [rule(&["deployments"])] }), true),
        (json!({ "resourceRules": [rule(&["*"])] }), true),
        (json!({ "resourceRules": [rule(&["statefulsets"])] }), false),
        (json!({ "resourceRules": [rule(&["deployments/status"])] }), false),
        (json!({ "resourceRules": [rule(&["deployments"])], "excludeResourceRules": [rule(&["*/*"])] }), false),
        (
            json!({ "resourceRules": [{ "apiGroups": ["*"], "apiVersions": ["*"], "operations": ["DELETE"], "resources": ["*"] }] }),
            false,
        ),
        (
            json!({ "resourceRules": [rule(&["deployments"])], "namespaceSelector": { "matchLabels": { "env": "prod" } } }),
            true,
        ),
        (
            json!({ "resourceRules": [rule(&["deployments"])], "namespaceSelector": { "matchLabels": { "env": "dev" } } }),
            false,
        ),
        (
            json!({ "resourceRules": [rule(&["deployments"])], "objectSelector": { "matchLabels": { "tier": "web" } } }),
            true,
        ),
        (
            json!({ "resourceRules": [rule(&["deployments"])], "objectSelector": { "matchExpressions": [{ "key": "tier", "operator": "NotIn", "values": ["web"] }] } }),
            false,
        ),
    ] {
        let mut write = write(Some(&object), None);
        write.namespace_object = Some(&space);
        let policy = policy(json!({ "matchConstraints": constraints, "validations": [] }));
        assert_eq!(policy.applies(&binding(&["Deny"]), &write), expected, "{constraints}");
        let mut narrowed = binding(&["Deny"]);
        narrowed["spec"]["matchResources"] = json!({ "namespaceSelector": { "matchLabels": { "env": "dev" } } });
        assert!(!policy.applies(&narrowed, &write), "{constraints}");
    }
}

#[test]
fn what_cannot_be_read_or_is_missing_is_refused_when_written() {
    for (expression, part) in [
        ("object.spec.", "compilation failed"),
        ("", "expected"),
        ("quantity(object.spec.x) > quantity('1')", "quantity() is not provided"),
        ("authorizer.group('').resource('pods').check('get').allowed()", "authorizer is not provided"),
        ("sets.contains([1], [1])", "sets is not provided"),
    ] {
        let policy = json!({ "metadata": { "name": "p" }, "spec": { "validations": [{ "expression": expression }] } });
        let errors = Policy::compile(&policy).err().unwrap_or_default();
        assert_eq!(errors.len(), 1, "{expression}");
        assert_eq!(errors[0].path, "spec.validations[0].expression");
        assert!(errors[0].detail.contains(part), "{expression}: {}", errors[0].detail);
    }
}

#[test]
fn deletions_are_seen_as_what_was() {
    let old = json!({ "metadata": { "annotations": { "keep": "yes" } } });
    let policy = policy(
        json!({ "validations": [{ "expression": "object == null && oldObject.metadata.annotations['keep'] != 'yes'" }] }),
    );
    assert_eq!(policy.judge(&binding(&["Deny"]), None, &write(None, Some(&old))).denials.len(), 1);
}
