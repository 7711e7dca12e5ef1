//! Writes the table of list types that `rules::schema` reads, from the merge code in k8s-openapi's sources.
//!
//! Usage: `cargo run -p rules --example gen-facts -- <k8s-openapi source>/src/v1_33 > crates/rules/src/schema/facts.txt`
//!
//! A line is `definition field map key,key`, `definition field set` or `definition field atomic` (an atomic map);
//! a list that is not mentioned is atomic, a map that is not mentioned is granular.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::env::args()
        .nth(1)
        .ok_or("give the path of k8s-openapi's sources, e.g. .../k8s-openapi-0.28.0/src/v1_33")?;
    let mut files = Vec::new();
    collect(Path::new(&root), &mut files)?;
    files.sort();
    let sources = files.iter().map(std::fs::read_to_string).collect::<Result<Vec<_>, _>>()?;
    let everywhere: BTreeMap<String, String> = sources.iter().flat_map(|s| names(s)).collect();
    for source in &sources {
        if let Some(definition) = source.lines().next().and_then(|l| l.strip_prefix("// Generated from definition ")) {
            facts(definition, source, &everywhere);
        }
    }
    Ok(())
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, into)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

/// Rust field name to JSON field name, as the deserializer in `source` spells them.
fn names(source: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in source.lines() {
        if let Some((json, rust)) = line.trim().split_once(" => Field::Key_") {
            let rust = rust.trim_end_matches(',');
            found.insert(rust.to_owned(), json.trim_matches('"').to_owned());
        }
    }
    found
}

fn facts(definition: &str, source: &str, everywhere: &BTreeMap<String, String>) {
    let own = names(source);
    let json = |rust: &str| {
        own.get(rust)
            .or_else(|| everywhere.get(rust))
            .cloned()
            .unwrap_or_else(|| panic!("{definition}: no JSON name is known for {rust}"))
    };
    let mut pending: Option<String> = None;
    for line in source.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("crate::merge_strategies::list::set(&mut self.") {
            println!("{definition} {} set", json(until_comma(rest)));
        } else if let Some(rest) = line.strip_prefix("crate::merge_strategies::map::atomic(&mut self.") {
            println!("{definition} {} atomic", json(until_comma(rest)));
        } else if line == "crate::merge_strategies::list::map(" {
            pending = Some(String::new());
        } else if let Some(field) = &mut pending {
            if let Some(rest) = line.strip_prefix("&mut self.") {
                *field = until_comma(rest).to_owned();
            } else if let Some(rest) = line.strip_prefix("&[|lhs, rhs| ") {
                let keys: Vec<String> = rest
                    .trim_end_matches("],")
                    .split(", |lhs, rhs| ")
                    .filter_map(|c| c.strip_prefix("lhs.")?.split_once(" == "))
                    .filter(|(key, _)| !key.contains(['.', '(']))
                    .map(|(key, _)| json(key))
                    .collect();
                if !keys.is_empty() {
                    println!("{definition} {} map {}", json(field), keys.join(","));
                }
                pending = None;
            }
        }
    }
}

fn until_comma(text: &str) -> &str {
    text.split(',').next().unwrap_or(text)
}
