//! JSON Web Tokens (RFC 7519, RFC 7515): who issued one, for whom, until when; never without a signature.
//!
//! Invariants: nothing that a token says is used before its signature is verified, but its key id and its issuer, which only
//! choose what to verify it with; a token without an end is not taken; lengths are bounded.

mod claims;
mod keys;
#[cfg(test)]
mod tests;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};

pub use claims::Condition;
pub(crate) use claims::{header_value, lookup};
pub(crate) use keys::{KeySet, MOST_BYTES};

use keys::Algorithm;

/// The longest token that is read.
const LONGEST: usize = 16 * 1024;

/// What a token says.
pub(crate) type Claims = Map<String, Value>;

/// Why a token is not believed. The words are for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// It cannot be read.
    Malformed(&'static str),
    /// It is signed in a way that is not verified.
    Algorithm(String),
    /// It names a key that the issuer does not have, as far as is known.
    UnknownKey,
    /// The signature is not one of the issuer's.
    Signature,
    /// Another issuer, or none.
    Issuer,
    /// About somebody of whom the issuer cannot speak.
    Subject,
    /// For somebody else.
    Audience,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYet,
    /// It has no end.
    Endless,
}

impl std::fmt::Display for Flaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed(what) => write!(f, "the token cannot be read: {what}"),
            // What a client wrote goes into no answer and no log unbounded.
            Self::Algorithm(name) => {
                write!(f, "the token is signed with {:.16}, which is not accepted", name.escape_debug().to_string())
            }
            Self::UnknownKey => f.write_str("the token is signed with a key that its issuer does not have"),
            Self::Signature => f.write_str("the token's signature is wrong"),
            Self::Issuer => f.write_str("the token is of an issuer that is not accepted"),
            Self::Subject => f.write_str("the token is about somebody of whom its issuer cannot speak"),
            Self::Audience => f.write_str("the token is meant for somebody else"),
            Self::Expired => f.write_str("the token has expired"),
            Self::NotYet => f.write_str("the token is not valid yet"),
            Self::Endless => f.write_str("the token has no end (exp)"),
        }
    }
}

/// The head of a token.
#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

/// A token that has been read, and not been verified.
pub(crate) struct Unverified<'t> {
    algorithm: Algorithm,
    key_id: Option<String>,
    message: &'t [u8],
    signature: Vec<u8>,
    claims: Claims,
}

/// What a token must be.
pub(crate) struct Expected<'e> {
    /// Its `iss`; not looked at where there is none.
    pub(crate) issuer: Option<&'e str>,
    /// How its `sub` must begin.
    pub(crate) subjects: Option<&'e str>,
    /// Any of these; everyone where there is none.
    pub(crate) audiences: &'e [std::sync::Arc<str>],
    /// How far clocks may be apart.
    pub(crate) leeway: Duration,
    /// Since 1970.
    pub(crate) now: Duration,
}

impl<'t> Unverified<'t> {
    /// Takes a token apart.
    pub(crate) fn read(token: &'t str) -> Result<Self, Flaw> {
        if token.len() > LONGEST {
            return Err(Flaw::Malformed("it is too long"));
        }
        let (message, signature) = token.rsplit_once('.').ok_or(Flaw::Malformed("it has no parts"))?;
        let (head, body) = message.split_once('.').ok_or(Flaw::Malformed("it has too few parts"))?;
        if body.contains('.') {
            return Err(Flaw::Malformed("it has too many parts"));
        }
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Flaw::Malformed("a part is no base64url"));
        let head: Head = serde_json::from_slice(&decode(head)?)
            .map_err(|_| Flaw::Malformed("its head is no JSON object with an alg"))?;
        let algorithm = Algorithm::parse(&head.alg).ok_or(Flaw::Algorithm(head.alg))?;
        if head.crit.is_some() {
            // RFC 7515, section 4.1.11: extensions that are critical and not understood.
            return Err(Flaw::Malformed("it has extensions that are not known"));
        }
        let claims =
            serde_json::from_slice(&decode(body)?).map_err(|_| Flaw::Malformed("its claims are no JSON object"))?;
        let signature = decode(signature)?;
        Ok(Self { algorithm, key_id: head.kid, message: message.as_bytes(), signature, claims })
    }

    /// Who says to have issued it. Good for choosing keys only.
    pub(crate) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    /// What it says, if it is to be believed.
    pub(crate) fn verify(self, keys: &KeySet, expected: &Expected<'_>) -> Result<Claims, Flaw> {
        let (known, mut candidates) = keys.candidates(self.key_id.as_deref());
        let signed = candidates.any(|key| key.verifies(self.algorithm, self.message, &self.signature));
        if !signed {
            return Err(if known { Flaw::Signature } else { Flaw::UnknownKey });
        }
        check(&self.claims, expected)?;
        Ok(self.claims)
    }
}

/// What a token says that one of these keys (a JSON Web Key Set) has signed about a subject that begins so, for this audience.
///
/// # Errors
///
/// Why it is not believed, for people.
pub fn verify_token(
    token: &str,
    keys: &[u8],
    subjects: &str,
    audience: &str,
    now: Duration,
) -> Result<Map<String, Value>, String> {
    let keys = KeySet::parse(keys)?;
    let audiences = [audience.into()];
    let expected = Expected {
        issuer: None,
        subjects: Some(subjects),
        audiences: &audiences,
        leeway: Duration::from_secs(30),
        now,
    };
    Unverified::read(token).and_then(|token| token.verify(&keys, &expected)).map_err(|flaw| flaw.to_string())
}

/// What a token says of its subject, which nobody has verified: good for choosing keys only.
#[must_use]
pub fn claimed_subject(token: &str) -> Option<String> {
    Unverified::read(token).ok()?.claims.get("sub")?.as_str().map(str::to_owned)
}

/// Checks the registered claims (RFC 7519, section 4.1).
fn check(claims: &Claims, expected: &Expected<'_>) -> Result<(), Flaw> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if expected.issuer.is_some_and(|issuer| text("iss") != Some(issuer)) {
        return Err(Flaw::Issuer);
    }
    if expected.subjects.is_some_and(|start| !text("sub").is_some_and(|subject| subject.starts_with(start))) {
        return Err(Flaw::Subject);
    }
    let for_us =
        |audience: &Value| audience.as_str().is_some_and(|one| expected.audiences.iter().any(|us| **us == *one));
    let meant = match claims.get("aud") {
        _ if expected.audiences.is_empty() => true,
        Some(Value::Array(audiences)) => audiences.iter().any(for_us),
        Some(audience) => for_us(audience),
        None => false,
    };
    if !meant {
        return Err(Flaw::Audience);
    }
    let (now, leeway) = (expected.now.as_secs_f64(), expected.leeway.as_secs_f64());
    match claims.get("exp").map(Value::as_f64) {
        None => return Err(Flaw::Endless),
        Some(None) => return Err(Flaw::Malformed("its exp is no number")),
        Some(Some(end)) if now >= end + leeway => return Err(Flaw::Expired),
        Some(Some(_)) => {}
    }
    match claims.get("nbf").map(Value::as_f64) {
        Some(None) => Err(Flaw::Malformed("its nbf is no number")),
        Some(Some(begin)) if now + leeway < begin => Err(Flaw::NotYet),
        _ => Ok(()),
    }
}
