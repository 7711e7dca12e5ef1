//! Where a list in pieces goes on: the `continue` token. Pure.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::status::{Answer, Failure};

/// A place in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    /// The revision that the list is of; `None` goes on at the newest (an inconsistent list).
    pub(crate) revision: Option<u64>,
    /// The key after which to go on, without the resource's prefix.
    pub(crate) after: String,
}

impl Position {
    pub(crate) fn encode(&self) -> String {
        let revision = self.revision.map_or(json!(-1), |revision| json!(revision));
        URL_SAFE_NO_PAD.encode(json!({ "v": "meta.k8s.io/v1", "rv": revision, "start": self.after }).to_string())
    }

    pub(crate) fn decode(token: &str) -> Answer<Self> {
        let bad = |why: &str| Failure::bad_request(format!("invalid continue token: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).map_err(|_| bad("it is not base64url"))?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| bad("it was not made by this server"))?;
        let after = value["start"].as_str().ok_or_else(|| bad("it names no start"))?;
        if value["v"] != "meta.k8s.io/v1" || after.split('/').any(|part| part == "..") {
            return Err(bad("it was not made by this server"));
        }
        let revision = match value["rv"].as_i64() {
            Some(-1) => None,
            Some(revision) if revision > 0 => u64::try_from(revision).ok(),
            _ => return Err(bad("it names no resourceVersion")),
        };
        Ok(Self { revision, after: after.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        for position in
            [Position { revision: Some(7), after: "ns/a".into() }, Position { revision: None, after: "b".into() }]
        {
            assert_eq!(Position::decode(&position.encode()), Ok(position));
        }
        for wrong in ["", "x", "e30", "!!!"] {
            assert_eq!(Position::decode(wrong).map_err(|failure| failure.code), Err(400), "{wrong}");
        }
    }
}
