//! ValidatingAdmissionPolicy (admissionregistration.k8s.io/v1): which writes a policy looks at, and what it says of them.
//!
//! Expressions are CEL. What upstream's environment has beyond CEL's own library and cannot be had here (quantities, URLs, addresses,
//! the authorizer) is refused when a policy is written, so that no policy silently lets everything pass.
//!
//! Invariants: pure; a policy that was compiled never panics, whatever the object; an expression that cannot be evaluated counts as
//! `failurePolicy` says. There is no cost budget as upstream has: the length of expressions is bounded, and so are the objects.

mod expression;
mod matching;
#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::field::FieldError;
use expression::{Expression, Scope};
pub use matching::{Attributes, Operation};

/// What is to happen where a policy cannot be evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failing {
    Refuse,
    Ignore,
}

struct Validation {
    expression: Expression,
    message: Option<String>,
    message_expression: Option<Expression>,
    reason: Option<String>,
}

/// A policy whose expressions have been read.
pub struct Policy {
    name: String,
    constraints: Value,
    conditions: Vec<(String, Expression)>,
    variables: Vec<(String, Expression)>,
    validations: Vec<Validation>,
    failing: Failing,
}

/// Why a policy does not let a write pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// In upstream's words, with policy and binding.
    pub message: String,
    /// A reason of metav1.Status: `Invalid` unless the policy says another.
    pub reason: String,
}

/// What a policy with one of its bindings says of a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Refusals, where the binding says `Deny`.
    pub denials: Vec<Denial>,
    /// Texts for the client, where it says `Warn`.
    pub warnings: Vec<String>,
    /// Texts for the audit log, where it says `Audit`.
    pub audits: Vec<String>,
}

impl Judgement {
    /// Takes in what another one says.
    pub fn add(&mut self, other: Judgement) {
        self.denials.extend(other.denials);
        self.warnings.extend(other.warnings);
        self.audits.extend(other.audits);
    }
}

impl Policy {
    /// Reads a ValidatingAdmissionPolicy.
    ///
    /// # Errors
    ///
    /// Every expression that cannot be read or asks for something that is not there, with its field.
    pub fn compile(policy: &Value) -> Result<Policy, Vec<FieldError>> {
        let spec = &policy["spec"];
        let mut errors = Vec::new();
        let named = |field: &str, errors: &mut Vec<FieldError>| {
            let list = spec[field].as_array().into_iter().flatten().enumerate();
            list.filter_map(|(at, one)| {
                let name = one["name"].as_str().unwrap_or_default().to_owned();
                let path = format!("spec.{field}[{at}].expression");
                Some((name, read(&one["expression"], &path, errors)?))
            })
            .collect::<Vec<_>>()
        };
        let conditions = named("matchConditions", &mut errors);
        let variables = named("variables", &mut errors);
        let mut validations = Vec::new();
        for (at, one) in spec["validations"].as_array().into_iter().flatten().enumerate() {
            let path = format!("spec.validations[{at}]");
            let text = |field: &str| one[field].as_str().map(str::to_owned);
            let message_expression = match one["messageExpression"].is_string() {
                true => read(&one["messageExpression"], &format!("{path}.messageExpression"), &mut errors),
                false => None,
            };
            if let Some(expression) = read(&one["expression"], &format!("{path}.expression"), &mut errors) {
                let (message, reason) = (text("message"), text("reason"));
                validations.push(Validation { expression, message, message_expression, reason });
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Policy {
            name: policy["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            constraints: spec["matchConstraints"].clone(),
            conditions,
            variables,
            validations,
            failing: if spec["failurePolicy"] == "Ignore" { Failing::Ignore } else { Failing::Refuse },
        })
    }

    /// Whether the policy, as bound, looks at a write at all. Match conditions are not looked at yet.
    #[must_use]
    pub fn applies(&self, binding: &Value, write: &Attributes<'_>) -> bool {
        let narrowed = &binding["spec"]["matchResources"];
        matching::matches(&self.constraints, write) && (narrowed.is_null() || matching::matches(narrowed, write))
    }

    /// What the policy says of a write that it applies to. `params` is what the binding's `paramRef` names.
    #[must_use]
    pub fn judge(&self, binding: &Value, params: Option<&Value>, write: &Attributes<'_>) -> Judgement {
        let mut scope = Scope::new(write, params);
        match self.concerned(&scope) {
            Ok(true) => {}
            Ok(false) => return Judgement::default(),
            Err(why) => return self.failed(binding, why),
        }
        // One that cannot be evaluated is missed by whoever uses it, and only then.
        for (name, expression) in &self.variables {
            if let Ok(value) = expression.evaluate(&scope) {
                scope.define(name, value);
            }
        }
        let mut judgement = Judgement::default();
        for validation in &self.validations {
            match validation.expression.holds(&scope) {
                Ok(true) => {}
                Ok(false) => judgement.add(self.decided(binding, validation, &scope)),
                Err(why) => judgement.add(self.failed(binding, why)),
            }
        }
        judgement
    }

    /// What is said where the parameters that a binding names are not there.
    #[must_use]
    pub fn without_params(&self, binding: &Value) -> Judgement {
        if binding["spec"]["paramRef"]["parameterNotFoundAction"] == "Allow" {
            return Judgement::default();
        }
        self.failed(binding, "no params found for policy binding with `Deny` parameterNotFoundAction".to_owned())
    }

    fn concerned(&self, scope: &Scope) -> Result<bool, String> {
        let mut failed = None;
        for (name, condition) in &self.conditions {
            match condition.holds(scope) {
                Ok(true) => {}
                // One that is false is enough, whatever became of the others.
                Ok(false) => return Ok(false),
                Err(why) => failed = Some(format!("match condition {name}: {why}")),
            }
        }
        failed.map_or(Ok(true), Err)
    }

    fn decided(&self, binding: &Value, validation: &Validation, scope: &Scope) -> Judgement {
        let said = validation.message_expression.as_ref().and_then(|expression| expression.text(scope));
        let message = said
            .or_else(|| validation.message.clone())
            .unwrap_or_else(|| format!("failed expression: {}", validation.expression.source()));
        self.verdict(binding, &message, validation.reason.as_deref().unwrap_or("Invalid"))
    }

    fn failed(&self, binding: &Value, why: String) -> Judgement {
        match self.failing {
            Failing::Ignore => Judgement::default(),
            Failing::Refuse => self.verdict(binding, &why, "Invalid"),
        }
    }

    fn verdict(&self, binding: &Value, message: &str, reason: &str) -> Judgement {
        let bound = binding["metadata"]["name"].as_str().unwrap_or_default();
        let actions = binding["spec"]["validationActions"].as_array();
        let asked = |action: &str| actions.is_some_and(|list| list.iter().any(|one| one == action));
        let name = &self.name;
        let mut judgement = Judgement::default();
        if asked("Deny") {
            let message =
                format!("ValidatingAdmissionPolicy '{name}' with binding '{bound}' denied request: {message}");
            judgement.denials.push(Denial { message, reason: reason.to_owned() });
        }
        if asked("Warn") {
            judgement.warnings.push(format!(
                "Validation failed for ValidatingAdmissionPolicy '{name}' with binding '{bound}': {message}"
            ));
        }
        if asked("Audit") {
            judgement.audits.push(format!("policy {name}, binding {bound}: {message}"));
        }
        judgement
    }
}

fn read(source: &Value, path: &str, errors: &mut Vec<FieldError>) -> Option<Expression> {
    match Expression::compile(source.as_str().unwrap_or_default()) {
        Ok(expression) => Some(expression),
        Err(why) => {
            errors.push(FieldError::invalid(path, source.clone(), why));
            None
        }
    }
}
