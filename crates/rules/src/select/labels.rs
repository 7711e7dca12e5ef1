//! Label selectors: `a=b,c!=d,e in (f,g),h notin (i),j,!k` and the object form with matchLabels and matchExpressions.

use super::SelectError;
use crate::validate::names;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Anything that labels can be looked up in.
pub trait Labels {
    /// The value of a label, if it is set.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

/// A map of labels (not the whole object), or null for none.
impl Labels for Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }
}

impl<L: Labels> Labels for Option<L> {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_ref()?.label(key)
    }
}

impl<L: Labels + ?Sized> Labels for &L {
    fn label(&self, key: &str) -> Option<&str> {
        (**self).label(key)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Greater(i64),
    Less(i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

/// Which labels are wanted: all requirements must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelSelector {
    /// None: matches nothing (an object selector that is null).
    requirements: Option<Vec<Requirement>>,
}

impl Requirement {
    fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        let value = labels.label(&self.key);
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.test {
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::In(wanted) => value.is_some_and(|value| wanted.contains(value)),
            Test::NotIn(unwanted) => value.is_none_or(|value| !unwanted.contains(value)),
            Test::Greater(than) => number().is_some_and(|number| number > *than),
            Test::Less(than) => number().is_some_and(|number| number < *than),
        }
    }
}

impl LabelSelector {
    /// Matches every object.
    pub fn everything() -> LabelSelector {
        LabelSelector { requirements: Some(Vec::new()) }
    }

    /// Matches no object.
    pub fn nothing() -> LabelSelector {
        LabelSelector { requirements: None }
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        self.requirements.as_ref().is_some_and(Vec::is_empty)
    }

    /// Reads the text form.
    pub fn parse(text: &str) -> Result<LabelSelector, SelectError> {
        let mut parser = Parser { tokens: lex(text), at: 0 };
        let mut requirements = Vec::new();
        if parser.peek() == &Token::End {
            return Ok(LabelSelector::everything());
        }
        loop {
            requirements.push(parser.requirement()?);
            match parser.next() {
                Token::End => break,
                Token::Comma => {
                    if !matches!(parser.peek(), Token::Word(_) | Token::Not) {
                        return Err(parser.fail("identifier after ','"));
                    }
                }
                other => {
                    return Err(SelectError::Label(format!(
                        "found '{}', expected: ',' or 'end of string'",
                        other.text()
                    )));
                }
            }
        }
        Ok(LabelSelector { requirements: Some(requirements) })
    }

    /// Reads a `metav1.LabelSelector`. Null matches nothing, `{}` everything.
    pub fn from_object(selector: &Value) -> Result<LabelSelector, SelectError> {
        if selector.is_null() {
            return Ok(LabelSelector::nothing());
        }
        let Some(object) = selector.as_object() else {
            return Err(SelectError::Object(format!("{selector} is not a label selector: it must be an object")));
        };
        let mut requirements = Vec::new();
        for (key, value) in object.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().unwrap_or_default();
            requirements.push(checked(key, Test::In(BTreeSet::from([value.to_owned()])))?);
        }
        for expression in object.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            requirements.push(from_expression(expression)?);
        }
        Ok(LabelSelector { requirements: Some(requirements) })
    }

    /// The selector of a plain map of labels, as a Service has.
    pub fn from_map(labels: &Value) -> LabelSelector {
        let requirements = labels
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| Requirement {
                key: key.clone(),
                test: Test::In(BTreeSet::from([value.as_str().unwrap_or_default().to_owned()])),
            })
            .collect();
        LabelSelector { requirements: Some(requirements) }
    }

    /// Whether these labels (a `BTreeMap`, a JSON map of labels, or none) are selected.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        self.requirements.as_ref().is_some_and(|all| all.iter().all(|one| one.matches(labels)))
    }

    /// Whether an object's `metadata.labels` are selected.
    pub fn matches_object(&self, object: &Value) -> bool {
        self.matches(&object.pointer("/metadata/labels"))
    }
}

impl std::fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, requirement) in self.requirements.iter().flatten().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            let key = &requirement.key;
            let list = |all: &BTreeSet<String>| all.iter().cloned().collect::<Vec<_>>().join(",");
            match &requirement.test {
                Test::Exists => write!(f, "{key}")?,
                Test::Absent => write!(f, "!{key}")?,
                Test::In(all) if all.len() == 1 => write!(f, "{key}={}", list(all))?,
                Test::In(all) => write!(f, "{key} in ({})", list(all))?,
                Test::NotIn(all) if all.len() == 1 => write!(f, "{key}!={}", list(all))?,
                Test::NotIn(all) => write!(f, "{key} notin ({})", list(all))?,
                Test::Greater(than) => write!(f, "{key}>{than}")?,
                Test::Less(than) => write!(f, "{key}<{than}")?,
            }
        }
        Ok(())
    }
}

fn from_expression(expression: &Value) -> Result<Requirement, SelectError> {
    let key = expression["key"].as_str().unwrap_or_default();
    let operator = expression["operator"].as_str().unwrap_or_default();
    let values: BTreeSet<String> =
        expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    let test = match operator {
        "In" | "NotIn" if values.is_empty() => {
            return Err(SelectError::Object(
                "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty".to_owned(),
            ));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            return Err(SelectError::Object(
                "values: Invalid value: values set must be empty for exists and does not exist".to_owned(),
            ));
        }
        "In" => Test::In(values),
        "NotIn" => Test::NotIn(values),
        "Exists" => Test::Exists,
        "DoesNotExist" => Test::Absent,
        other => return Err(SelectError::Object(format!("\"{other}\" is not a valid label selector operator"))),
    };
    checked(key, test)
}

fn checked(key: &str, test: Test) -> Result<Requirement, SelectError> {
    if let Some(why) = names::qualified_name(key).into_iter().next() {
        return Err(SelectError::Label(format!("<nil>: Invalid value: \"{key}\": {why}")));
    }
    if let Test::In(values) | Test::NotIn(values) = &test {
        for value in values {
            if let Some(why) = names::label_value(value).into_iter().next() {
                return Err(SelectError::Label(format!("values[0][{key}]: Invalid value: \"{value}\": {why}")));
            }
        }
    }
    Ok(Requirement { key: key.to_owned(), test })
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Not,
    Equal,
    NotEqual,
    Greater,
    Less,
    Open,
    Close,
    Comma,
    End,
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Token::Word(word) => word,
            Token::Not => "!",
            Token::Equal => "=",
            Token::NotEqual => "!=",
            Token::Greater => ">",
            Token::Less => "<",
            Token::Open => "(",
            Token::Close => ")",
            Token::Comma => ",",
            Token::End => "",
        }
    }
}

fn lex(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(one) = chars.next() {
        let token = match one {
            ' ' | '\t' | '\r' | '\n' => continue,
            '(' => Token::Open,
            ')' => Token::Close,
            ',' => Token::Comma,
            '>' => Token::Greater,
            '<' => Token::Less,
            '=' => {
                chars.next_if_eq(&'=');
                Token::Equal
            }
            '!' => match chars.next_if_eq(&'=') {
                Some(_) => Token::NotEqual,
                None => Token::Not,
            },
            other => {
                let mut word = String::from(other);
                while let Some(more) = chars.next_if(|more| !" \t\r\n(),><=!".contains(*more)) {
                    word.push(more);
                }
                Token::Word(word)
            }
        };
        tokens.push(token);
    }
    tokens.push(Token::End);
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).unwrap_or(&Token::End)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn fail(&self, expected: &str) -> SelectError {
        SelectError::Label(format!("found '{}', expected: {expected}", self.peek().text()))
    }

    fn requirement(&mut self) -> Result<Requirement, SelectError> {
        let absent = self.peek() == &Token::Not;
        if absent {
            self.next();
        }
        let Token::Word(key) = self.peek().clone() else { return Err(self.fail("identifier")) };
        self.next();
        if absent {
            return checked(&key, Test::Absent);
        }
        let test = match self.peek().clone() {
            Token::End | Token::Comma => Test::Exists,
            Token::Equal => Test::In(self.exact_value()),
            Token::NotEqual => Test::NotIn(self.exact_value()),
            Token::Greater => Test::Greater(self.number()?),
            Token::Less => Test::Less(self.number()?),
            Token::Word(word) if word == "in" => Test::In(self.values()?),
            Token::Word(word) if word == "notin" => Test::NotIn(self.values()?),
            _ => return Err(self.fail("in, notin, =, ==, !=, gt, lt")),
        };
        checked(&key, test)
    }

    /// The value after an operator; nothing there means the empty value.
    fn exact_value(&mut self) -> BTreeSet<String> {
        self.next();
        let value = match self.peek().clone() {
            Token::Word(word) => {
                self.next();
                word
            }
            _ => String::new(),
        };
        BTreeSet::from([value])
    }

    fn number(&mut self) -> Result<i64, SelectError> {
        self.next();
        let Token::Word(word) = self.peek().clone() else { return Err(self.fail("integer")) };
        self.next();
        word.parse().map_err(|_| {
            SelectError::Label(format!(
                "values[0]: Invalid value: \"{word}\": for 'Gt', 'Lt' operators, the value must be an integer"
            ))
        })
    }

    fn values(&mut self) -> Result<BTreeSet<String>, SelectError> {
        self.next();
        if self.peek() != &Token::Open {
            return Err(self.fail("'('"));
        }
        self.next();
        let mut values = BTreeSet::new();
        loop {
            match self.next() {
                Token::Word(word) => {
                    values.insert(word);
                    match self.next() {
                        Token::Comma if self.peek() == &Token::Close => {
                            self.next();
                            values.insert(String::new());
                            return Ok(values);
                        }
                        Token::Comma => {}
                        Token::Close => return Ok(values),
                        other => {
                            return Err(SelectError::Label(format!("found '{}', expected: ',' or ')'", other.text())));
                        }
                    }
                }
                Token::Comma => {
                    values.insert(String::new());
                }
                Token::Close => {
                    values.insert(String::new());
                    return Ok(values);
                }
                other => {
                    return Err(SelectError::Label(format!(
                        "found '{}', expected: ',', ')' or identifier",
                        other.text()
                    )));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn text_form() {
        for (text, labels, wanted) in [
            ("", json!({}), true),
            ("x=y", json!({"x": "y"}), true),
            ("x==y", json!({"x": "y"}), true),
            ("x=y", json!({"x": "z"}), false),
            ("x=y,z=w", json!({"x": "y", "z": "w"}), true),
            ("x=y,z=w", json!({"x": "y"}), false),
            ("x!=y", json!({"x": "z"}), true),
            ("x!=y", json!({}), true),
            ("x!=y", json!({"x": "y"}), false),
            ("x", json!({"x": ""}), true),
            ("x", json!({}), false),
            ("!x", json!({}), true),
            ("!x", json!({"x": "a"}), false),
            ("x in (a,b)", json!({"x": "b"}), true),
            ("x in (a, b)", json!({"x": "c"}), false),
            ("x in (a,,c)", json!({"x": ""}), true),
            ("x in (a,)", json!({"x": ""}), true),
            ("x in ()", json!({"x": ""}), true),
            ("x in ()", json!({}), false),
            ("x notin (a,b)", json!({"x": "c"}), true),
            ("x notin (a,b)", json!({}), true),
            ("x notin (a,b)", json!({"x": "a"}), false),
            ("x notin (a),y", json!({"y": "1"}), true),
            ("x=", json!({"x": ""}), true),
            ("x= ,z= ", json!({"x": "", "z": ""}), true),
            ("x>1", json!({"x": "2"}), true),
            ("x>1", json!({"x": "1"}), false),
            ("x<5", json!({"x": "a"}), false),
            ("in in (in)", json!({"in": "in"}), true),
            ("app.kubernetes.io/name=shop", json!({"app.kubernetes.io/name": "shop"}), true),
        ] {
            let selector = LabelSelector::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(selector.matches(&labels), wanted, "{text} on {labels}");
            let again = LabelSelector::parse(&selector.to_string()).expect("what is printed can be read");
            assert_eq!(again.matches(&labels), wanted, "{text} printed as {selector}");
        }
    }

    #[test]
    fn refused_texts() {
        for text in
            ["x=a||y=b", "x==a==b", "!x=a", "x<a", "x=,", ",x", "x in a", "x in (a", "-x=1", "x=a/b", "(x)", "x y"]
        {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn object_form() {
        let labels = BTreeMap::from([("app".to_owned(), "a".to_owned())]);
        for (selector, wanted) in [
            (json!(null), false),
            (json!({}), true),
            (json!({"matchLabels": {"app": "a"}}), true),
            (json!({"matchLabels": {"app": "b"}}), false),
            (json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "b"]}]}), true),
            (json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a"]}]}), false),
            (
                json!({"matchExpressions": [{"key": "app", "operator": "Exists"}, {"key": "x", "operator": "DoesNotExist"}]}),
                true,
            ),
        ] {
            assert_eq!(LabelSelector::from_object(&selector).expect("valid").matches(&labels), wanted, "{selector}");
        }
        for selector in [
            json!({"matchExpressions": [{"key": "app", "operator": "In"}]}),
            json!({"matchExpressions": [{"key": "app", "operator": "Exists", "values": ["a"]}]}),
            json!({"matchExpressions": [{"key": "app", "operator": "Sings"}]}),
            json!({"matchLabels": {"-": "a"}}),
            json!([]),
        ] {
            assert!(LabelSelector::from_object(&selector).is_err(), "{selector}");
        }
        assert!(
            LabelSelector::from_map(&json!({"app": "a"}))
                .matches_object(&json!({"metadata": {"labels": {"app": "a"}}}))
        );
        assert!(!LabelSelector::nothing().matches_object(&json!({})));
        assert!(LabelSelector::everything().is_everything());
    }
}
