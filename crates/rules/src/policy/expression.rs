//! One expression of a policy: reading it, and what it says of a write.
//!
//! It must not know what becomes of the answer.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use cel::common::types::{self, CelList, CelString};
use cel::common::value::{CowVal, Val};
use cel::objects::{Key, Map};
use cel::{Context, Env, ExecutionError, Program, Value as Cel, extensions};
use regex::Regex;
use serde_json::{Value, json};

use super::matching::Attributes;

/// How long an expression may be.
const LONGEST: usize = 16 * 1024;

/// What an expression may speak of.
const VARIABLES: &[&str] = &["object", "oldObject", "request", "params", "namespaceObject", "variables"];

/// Functions of upstream's environment that are not here. An expression that uses one is refused, as one that can never be evaluated
/// would refuse every write, or none.
const MISSING: &[&str] = &[
    "quantity",
    "isQuantity",
    "url",
    "isURL",
    "ip",
    "isIP",
    "cidr",
    "isCIDR",
    "semver",
    "isSemver",
    "timestamp",
    "duration",
    "authorizer",
    "sets",
];

static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    for extension in [extensions::strings, extensions::lists, extensions::math] {
        // Names that are there twice would be a mistake of the library's; the first one then stands.
        let _ = env.add_extension(extension);
    }
    let text = || types::STRING_TYPE;
    let _ = env.add_member_overload("find", "string_find_string", text(), vec![text()], find);
    let _ = env.add_member_overload("findAll", "string_find_all_string", text(), vec![text()], find_all);
    Arc::new(env)
});

/// A policy's expression that has been read.
pub(super) struct Expression {
    source: String,
    program: Program,
}

impl Expression {
    /// Reads an expression; the error says what is wrong with it.
    pub(super) fn compile(source: &str) -> Result<Self, String> {
        let source = source.trim();
        if source.is_empty() {
            return Err("an expression is expected".to_owned());
        }
        if source.len() > LONGEST {
            return Err(format!("an expression may have {LONGEST} bytes at most"));
        }
        let program = ENVIRONMENT.compile(source).map_err(|errors| format!("compilation failed: {errors}"))?;
        let references = program.references();
        for name in references.functions() {
            if MISSING.contains(&name) {
                return Err(format!("compilation failed: {name}() is not provided in this version"));
            }
        }
        for name in references.variables() {
            if MISSING.contains(&name) {
                return Err(format!("compilation failed: {name} is not provided in this version"));
            }
        }
        Ok(Self { source: source.to_owned(), program })
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// The value in a scope; the error is in upstream's words.
    pub(super) fn evaluate(&self, scope: &Scope) -> Result<Cel, String> {
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        for (name, value) in VARIABLES.iter().zip(scope.values()) {
            context.add_variable_from_value(*name, value);
        }
        self.program
            .execute(&context)
            .map_err(|error| format!("expression '{}' resulted in error: {error}", self.source))
    }

    /// Whether it is true.
    pub(super) fn holds(&self, scope: &Scope) -> Result<bool, String> {
        match self.evaluate(scope)? {
            Cel::Bool(holds) => Ok(holds),
            _ => Err(format!("expression '{}' resulted in error: it is neither true nor false", self.source)),
        }
    }

    /// The text that it makes, where it makes one line of text that is worth saying.
    pub(super) fn text(&self, scope: &Scope) -> Option<String> {
        match self.evaluate(scope).ok()? {
            Cel::String(text) if !text.trim().is_empty() && !text.contains('\n') => Some(text.trim().to_owned()),
            _ => None,
        }
    }
}

/// What expressions see of a write.
pub(super) struct Scope {
    object: Cel,
    old: Cel,
    request: Cel,
    params: Cel,
    namespace: Cel,
    variables: HashMap<Key, Cel>,
}

impl Scope {
    pub(super) fn new(write: &Attributes<'_>, params: Option<&Value>) -> Self {
        let or_null = |value: Option<&Value>| value.map_or(Cel::Null, to_cel);
        let kind = json!({ "group": write.group, "version": write.version, "kind": write.kind });
        let resource = json!({ "group": write.group, "version": write.version, "resource": write.resource });
        let request = json!({
            "kind": kind, "resource": resource, "subResource": write.subresource,
            "requestKind": kind, "requestResource": resource, "requestSubResource": write.subresource,
            "name": write.name, "namespace": write.namespace.unwrap_or_default(),
            "operation": write.operation.name(), "dryRun": write.dry_run,
            "userInfo": { "username": write.user, "groups": write.groups },
        });
        Self {
            object: or_null(write.object),
            old: or_null(write.old),
            request: to_cel(&request),
            params: or_null(params),
            namespace: or_null(write.namespace_object),
            variables: HashMap::new(),
        }
    }

    /// Gives a name to a value, as `variables.NAME`.
    pub(super) fn define(&mut self, name: &str, value: Cel) {
        self.variables.insert(key(name), value);
    }

    /// In the order of [`VARIABLES`].
    fn values(&self) -> [Cel; 6] {
        let variables = Cel::Map(Map { map: Arc::new(self.variables.clone()) });
        [
            self.object.clone(),
            self.old.clone(),
            self.request.clone(),
            self.params.clone(),
            self.namespace.clone(),
            variables,
        ]
    }
}

fn key(name: &str) -> Key {
    Key::String(Arc::new(name.to_owned()))
}

/// JSON as expressions see it: whole numbers are `int`, as upstream has them.
fn to_cel(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(value) => Cel::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => Cel::Int(whole),
            None => Cel::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(list) => Cel::List(Arc::new(list.iter().map(to_cel).collect())),
        Value::Object(map) => {
            Cel::Map(Map { map: Arc::new(map.iter().map(|(name, value)| (key(name), to_cel(value))).collect()) })
        }
    }
}

fn pattern(function: &str, args: &[CowVal<'_, '_>]) -> Result<(String, Regex), ExecutionError> {
    let text = |at: usize| {
        let argument = args.get(at).and_then(|value| value.downcast_ref::<CelString>());
        argument.map(|text| text.inner().to_owned()).ok_or_else(ExecutionError::missing_argument_or_target)
    };
    let pattern = Regex::new(&text(1)?).map_err(|error| ExecutionError::function_error(function, error))?;
    Ok((text(0)?, pattern))
}

/// `STRING.find(PATTERN)`: what matches first, or the empty string.
fn find<'a, 'v>(args: Vec<CowVal<'a, 'v>>) -> Result<CowVal<'a, 'v>, ExecutionError> {
    let (text, pattern) = pattern("find", &args)?;
    let found = pattern.find(&text).map_or("", |found| found.as_str());
    Ok(CowVal::owned(CelString::from(found.to_owned())))
}

/// `STRING.findAll(PATTERN)`: everything that matches.
fn find_all<'a, 'v>(args: Vec<CowVal<'a, 'v>>) -> Result<CowVal<'a, 'v>, ExecutionError> {
    let (text, pattern) = pattern("findAll", &args)?;
    let found =
        pattern.find_iter(&text).map(|found| Box::new(CelString::from(found.as_str().to_owned())) as Box<dyn Val>);
    Ok(CowVal::owned(CelList::from(found.collect::<Vec<_>>())))
}
