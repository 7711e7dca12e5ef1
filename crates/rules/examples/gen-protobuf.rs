//! Writes the table of protobuf fields that `rules::protobuf` reads, from the `#[prost(...)]` attributes in k8s-pb's
//! sources and the JSON names in `rules::schema`.
//!
//! Usage: `cargo run -p rules --example gen-protobuf -- <k8s-pb source>/src > crates/rules/src/protobuf/fields.txt`
//!
//! A line without a leading number names a message (without the common prefix `io.k8s.`); the lines after it are its
//! fields: `number json-name type [message]`, where the type is `s`tring, `i`nteger, `b`ool, `d`ouble, b`y`tes or
//! `m`essage, after it `*` when repeated, `%` for a map with string keys, `~` when the message's fields belong to the
//! message itself, `!` when the schema requires the field. `#` lines list what the schema does not know.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rules::kinds;
use rules::schema::Schema;

/// Roots that are no resource of their own.
const BODIES: &[&str] = &[
    "io.k8s.api.authentication.v1.TokenRequest",
    "io.k8s.api.autoscaling.v1.Scale",
    "io.k8s.api.policy.v1.Eviction",
    "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
];

#[derive(Clone, Debug)]
struct Field {
    number: u32,
    rust: String,
    code: char,
    suffix: String,
    message: Option<String>,
}

type Messages = BTreeMap<String, Vec<Field>>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root =
        PathBuf::from(std::env::args().nth(1).ok_or("give the path of k8s-pb's sources, e.g. .../k8s-pb-0.9.0/src")?);
    let mut messages = Messages::new();
    collect(&root, &mut Vec::new(), &mut messages)?;
    let mut todo: VecDeque<(String, Option<String>)> = kinds::all()
        .iter()
        .map(|k| k.schema)
        .chain(BODIES.iter().copied())
        .map(|name| (name.to_owned(), None))
        .collect();
    let mut output: BTreeMap<String, BTreeMap<u32, String>> = BTreeMap::new();
    let mut skipped = BTreeSet::new();
    let mut seen = BTreeSet::new();
    while let Some((name, owner)) = todo.pop_front() {
        if !seen.insert((name.clone(), owner.clone())) {
            continue;
        }
        let fields = messages.get(&name).ok_or_else(|| format!("{name} is not among the sources"))?;
        // An inlined message has the JSON names of the message it is part of.
        let schema = Schema::definition(owner.as_deref().unwrap_or(&name));
        let lines = output.entry(name.clone()).or_default();
        for field in fields {
            let found = describe(field, schema.as_ref(), &messages);
            let Some((json, suffix)) = found else {
                skipped.insert(format!("{}.{}", short(&name), field.rust));
                continue;
            };
            let inlined = suffix.contains('~');
            let mut line = format!("{} {json} {}{suffix}", field.number, field.code);
            if let Some(message) = &field.message {
                line.push_str(&format!(" {}", short(message)));
                let below = inlined.then(|| owner.clone().unwrap_or_else(|| name.clone()));
                todo.push_back((message.clone(), below));
            }
            lines.insert(field.number, line);
        }
    }
    for (name, fields) in output {
        println!("{}", short(&name));
        for line in fields.values() {
            println!("{line}");
        }
    }
    for name in skipped {
        println!("# {name}");
    }
    Ok(())
}

fn short(name: &str) -> &str {
    name.strip_prefix("io.k8s.").unwrap_or(name)
}

/// The JSON name and the final suffix of a field; `None` when the schema does not know it.
fn describe(field: &Field, schema: Option<&Schema>, messages: &Messages) -> Option<(String, String)> {
    let plain = (camel(&field.rust), field.suffix.clone());
    let Some(schema) = schema.filter(|s| s.fields().next().is_some()) else {
        return Some(plain);
    };
    if let Some(name) = json_name(&field.rust, schema) {
        let required = if schema.required().contains(&name) { "!" } else { "" };
        return Some((name, format!("{}{required}", field.suffix)));
    }
    let inner = messages.get(field.message.as_ref()?)?;
    let known = |inner: &[Field]| inner.iter().any(|f| json_name(&f.rust, schema).is_some());
    let below = |f: &Field| f.message.as_ref().and_then(|m| messages.get(m)).is_some_and(|m| known(m));
    (field.suffix.is_empty() && (known(inner) || inner.iter().any(below))).then(|| ("-".to_owned(), "~".to_owned()))
}

fn json_name(rust: &str, schema: &Schema) -> Option<String> {
    let wanted = normal(rust);
    schema.fields().map(|(name, _)| name.to_owned()).find(|name| normal(name) == wanted)
}

/// Both spellings without what differs between them.
fn normal(name: &str) -> String {
    name.trim_start_matches("r#").chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

fn camel(rust: &str) -> String {
    let mut upper = false;
    let mut out = String::new();
    for c in rust.trim_start_matches("r#").chars() {
        if c == '_' {
            upper = true;
        } else if upper {
            out.extend(c.to_uppercase());
            upper = false;
        } else {
            out.push(c);
        }
    }
    out
}

fn collect(dir: &Path, module: &mut Vec<String>, into: &mut Messages) -> std::io::Result<()> {
    let file = dir.join("mod.rs");
    if file.exists() {
        parse(&std::fs::read_to_string(&file)?, module, into);
    }
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if let (true, Some(name)) = (path.is_dir(), path.file_name().and_then(|n| n.to_str())) {
            module.push(name.to_owned());
            collect(&path, module, into)?;
            module.pop();
        }
    }
    Ok(())
}

fn parse(source: &str, module: &[String], into: &mut Messages) {
    for part in source.split("\npub struct ").skip(1) {
        let Some((name, body)) = part.split_once('{') else { continue };
        let body = body.split("\n}").next().unwrap_or_default();
        let uncommented: String =
            body.lines().filter(|l| !l.trim_start().starts_with("///")).collect::<Vec<_>>().join(" ");
        let fields = uncommented.split("#[prost(").skip(1).map(|text| field(text, module)).collect();
        into.insert(full(module, name.trim()), fields);
    }
}

fn full(module: &[String], name: &str) -> String {
    let path = module.join(".").replace("apiextensions_apiserver", "apiextensions-apiserver");
    let name = format!("io.k8s.{path}.{name}");
    // The sources spell initials as words (`HttpHeader`); the definitions have the true names.
    static TRUE: OnceLock<BTreeMap<String, &'static str>> = OnceLock::new();
    let names = TRUE.get_or_init(|| Schema::definitions().map(|n| (n.to_lowercase(), n)).collect());
    match names.get(&name.to_lowercase()) {
        Some(found) => (*found).to_owned(),
        None => name,
    }
}

fn field(text: &str, module: &[String]) -> Field {
    let (attribute, rest) = text.split_once(")]").expect("an attribute ends");
    let tag = attribute.split("tag = \"").nth(1).expect("every field has a tag");
    let number = tag.split('"').next().and_then(|t| t.parse().ok()).expect("a tag is a number");
    let (rust, typed) = rest.trim().trim_start_matches("pub ").split_once(':').expect("a field has a type");
    let map = attribute.trim().strip_prefix("btree_map = \"string, ");
    let scalar = map.unwrap_or(attribute.trim());
    let scalar: String = scalar.chars().take_while(char::is_ascii_alphanumeric).collect();
    let code = match scalar.as_str() {
        "string" => 's',
        "int32" | "int64" => 'i',
        "bool" => 'b',
        "double" => 'd',
        "bytes" => 'y',
        "message" => 'm',
        other => panic!("{rust}: the type {other} is not known"),
    };
    let suffix = match (map.is_some(), attribute.contains("repeated")) {
        (true, _) => "%",
        (_, true) => "*",
        _ => "",
    };
    Field {
        number,
        rust: rust.trim().to_owned(),
        code,
        suffix: suffix.to_owned(),
        message: (code == 'm').then(|| message(typed, module)),
    }
}

/// The full name of the message inside a field's Rust type.
fn message(typed: &str, module: &[String]) -> String {
    let typed: String = typed.chars().filter(|c| !c.is_whitespace()).collect();
    let inner = typed
        .rsplit(['<', ','])
        .find(|part| !part.trim_matches('>').is_empty())
        .expect("a message field names a type")
        .trim_end_matches('>');
    let mut path = module.to_vec();
    let mut steps = inner.split("::").peekable();
    while steps.next_if_eq(&"super").is_some() {
        path.pop();
    }
    let mut rest: Vec<String> = steps.map(str::to_owned).collect();
    let name = rest.pop().expect("a type has a name");
    path.extend(rest);
    full(&path, &name)
}
