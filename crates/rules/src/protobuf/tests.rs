use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::decode::{check_fields, drop_nulls};
use crate::schema::Schema;

/// What kubectl 1.32 sent for a `kubectl create`, beside what it printed for the same command with
/// `--dry-run=client -o json`.
macro_rules! recorded {
    ($($name:literal),* $(,)?) => {
        &[$((
            $name,
            include_bytes!(concat!("recorded/", $name, ".bin")),
            include_str!(concat!("recorded/", $name, ".json")),
        )),*]
    };
}

const RECORDED: &[(&str, &[u8], &str)] = recorded!(
    "clusterrole",
    "configmap",
    "cronjob",
    "deployment",
    "ingress",
    "job",
    "namespace",
    "poddisruptionbudget",
    "priorityclass",
    "resourcequota",
    "rolebinding",
    "secret",
    "service",
    "service-nodeport",
    "serviceaccount",
);

#[test]
fn what_kubectl_sends_is_what_it_prints() {
    for (name, body, printed) in RECORDED {
        let decoded = decode(body).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut expected: Value = serde_json::from_str(printed).expect("kubectl prints JSON");
        let text = |field: &str| decoded[field].as_str().unwrap_or_default().to_owned();
        let schema = Schema::builtin(&text("apiVersion"), &text("kind")).expect("a served kind");
        drop_nulls(&mut expected, &schema);
        assert_eq!(decoded, expected, "{name}");
        let report = check_fields(&decoded, &schema);
        assert_eq!(report, crate::decode::FieldReport::default(), "{name}");
    }
}

#[test]
fn reviews_and_token_requests_decode() {
    let review = decode(include_bytes!("recorded/selfsubjectaccessreview.bin")).expect("decodes");
    assert_eq!(review["kind"], "SelfSubjectAccessReview");
    assert_eq!(review["spec"]["resourceAttributes"]["verb"], "create");
    assert_eq!(review["spec"]["resourceAttributes"]["resource"], "pods");
    let token = decode(include_bytes!("recorded/tokenrequest.bin")).expect("decodes");
    assert_eq!(token["kind"], "TokenRequest");
    assert_eq!(token["spec"]["expirationSeconds"], 600);
    let me = decode(include_bytes!("recorded/selfsubjectreview.bin")).expect("decodes");
    assert_eq!(me["kind"], "SelfSubjectReview");
}

#[test]
fn every_message_field_is_in_the_schema() {
    let table = Table::get();
    let mut judged = 0;
    for message in table.messages() {
        let Some(schema) = Schema::definition(&format!("io.k8s.{}", message.name)) else {
            continue;
        };
        if schema.fields().next().is_none() {
            continue;
        }
        for field in message.fields.iter().filter(|f| f.card != Card::Inline) {
            let known = schema.field(field.name);
            let known = known.unwrap_or_else(|| panic!("{}.{} is unknown", message.name, field.name));
            let list = known.shape() == crate::schema::Shape::List;
            let repeated = field.card == Card::Repeated;
            assert_eq!(list, repeated, "{}.{}", message.name, field.name);
            judged += 1;
        }
    }
    assert!(judged > 1_000, "only {judged} fields");
}

/// Fields JSON has and protobuf has not: `apiVersion` and `kind` travel in the envelope.
#[test]
fn every_schema_field_of_a_kind_is_in_the_table() {
    let table = Table::get();
    for kind in kinds::all() {
        let name = kind.schema.trim_start_matches("io.k8s.");
        let message = table.message(table.find(name).unwrap_or_else(|| panic!("{name}")));
        let schema = Schema::definition(kind.schema).expect("served");
        for (field, _) in schema.fields() {
            let there = message.fields.iter().any(|f| f.name == field);
            assert!(there || matches!(field, "apiVersion" | "kind"), "{name}.{field}");
        }
    }
}

#[test]
fn pointers_name_fields_of_the_table() {
    let table = Table::get();
    assert!(pointers::POINTERS.is_sorted_by_key(|(message, _)| message), "looked up by bisection");
    for (message, fields) in pointers::POINTERS {
        let at = table.find(message).unwrap_or_else(|| panic!("{message} is not in the table"));
        for field in *fields {
            let there = table.message(at).fields.iter().any(|f| f.name == *field);
            assert!(there, "{message}.{field}");
        }
    }
}

/// Writes one length-delimited field.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length > 0x7f {
        out.push(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).expect("seven bits"));
    out.extend_from_slice(bytes);
    out
}

fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let types = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), field(1, &types), field(2, raw)].concat()
}

#[test]
fn delete_options_keep_a_grace_period_of_zero() {
    let raw = [vec![0x08, 0x00], field(4, b"Foreground")].concat();
    let decoded = decode(&envelope("apps/v1", "DeleteOptions", &raw)).expect("decodes");
    assert_eq!(
        decoded,
        json!({"apiVersion":"apps/v1","kind":"DeleteOptions","gracePeriodSeconds":0,"propagationPolicy":"Foreground"})
    );
}

#[test]
fn volumes_are_inlined_and_empty_objects_kept() {
    // PodSpec.volumes[0] = {name: "tmp", volumeSource: {emptyDir: {}}}
    let volume = [field(1, b"tmp"), field(2, &field(2, b""))].concat();
    let raw = field(2, &field(1, &volume));
    let decoded = decode(&envelope("v1", "Pod", &raw)).expect("decodes");
    assert_eq!(decoded["spec"]["volumes"], json!([{"name":"tmp","emptyDir":{}}]));
}

#[test]
fn times_and_raw_json_decode() {
    // Lease.spec.renewTime (4) is a MicroTime; metadata.creationTimestamp (8) a Time.
    let stamp = [vec![0x08, 0x80, 0xe2, 0xcf, 0xaa, 0x06, 0x10], vec![0xe8, 0x07]].concat();
    let raw = [field(1, &field(8, &stamp)), field(2, &field(4, &stamp))].concat();
    let lease = decode(&envelope("coordination.k8s.io/v1", "Lease", &raw)).expect("decodes");
    assert_eq!(lease["metadata"]["creationTimestamp"], "2023-11-14T22:13:20Z");
    assert_eq!(lease["spec"]["renewTime"], "2023-11-14T22:13:20.000001Z");
    let raw = field(2, &field(1, br#"{"a":[1]}"#));
    let revision = decode(&envelope("apps/v1", "ControllerRevision", &raw)).expect("decodes");
    assert_eq!(revision["data"], json!({"a":[1]}));
}

#[test]
fn hostile_bodies_are_refused() {
    let cases = [
        (b"{}".to_vec(), "does not start with"),
        (envelope("v1", "Nonsense", b""), "not known for v1 Nonsense"),
        (envelope("v1", "Pod", &[0x12, 0xff]), "cut off"),
        (envelope("v1", "Pod", &[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]), "cut off"),
        (envelope("v1", "Pod", &[0x0b]), "groups"),
        (envelope("v1", "Pod", &[0x08, 0x01]), "text or a message"),
        (envelope("v1", "Pod", &[0x80; 11]), "longer than ten bytes"),
    ];
    for (body, expected) in cases {
        let error = decode(&body).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn nesting_is_bounded() {
    let unknown = (0..2_000).fold(Vec::new(), |inner: Vec<u8>, _| field(15, &inner));
    assert!(decode(&envelope("v1", "Pod", &unknown)).is_ok(), "unknown fields are skipped whole");
    // spec(2).versions(7).schema(4).openAPIV3Schema(1).not(27).not...; the tag of 27 needs two bytes.
    let mut nested = Vec::new();
    for _ in 0..2_000 {
        let mut outer = vec![0xda, 0x01];
        outer.extend_from_slice(&field(1, &nested)[1..]);
        nested = outer;
    }
    let definition = field(2, &field(7, &field(4, &field(1, &nested))));
    let kind = "CustomResourceDefinition";
    let refused = decode(&envelope("apiextensions.k8s.io/v1", kind, &definition));
    assert!(matches!(refused, Err(ProtobufError::TooDeep { .. })), "{refused:?}");
}

proptest! {
    #[test]
    fn no_bytes_panic(kind in 0..kinds::all().len(), raw in proptest::collection::vec(any::<u8>(), 0..300)) {
        let kind = &kinds::all()[kind];
        let _ = decode(&envelope(&kind.api_version(), kind.kind, &raw));
        let _ = decode(&raw);
    }

    #[test]
    fn no_damage_to_a_real_body_panics(which in 0..RECORDED.len(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut body = RECORDED[which].1.to_vec();
        let position = at.index(body.len());
        body[position] = byte;
        body.truncate(cut.index(body.len()) + 1);
        let _ = decode(&body);
    }
}
