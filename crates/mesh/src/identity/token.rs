//! JWT-SVIDs: the keys that sign them, and the tokens (JWT-SVID, sections 2 and 3).
//!
//! Invariants: a key is in the bundle for a day before it signs, and stays there until nothing that it signed is valid; a token
//! has one subject, at least one audience, and ends within minutes, so that none has to be taken back.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use rcgen::KeyPair;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::plan::{Policy, roots_plan};
use super::spiffe::SpiffeId;

/// How long a token is good.
const LIFE: SignedDuration = SignedDuration::from_mins(5);

/// How long keys last: those of a week, each told of a day before it signs.
fn policy() -> Policy {
    Policy {
        life: SignedDuration::from_hours(1),
        grace: SignedDuration::ZERO,
        root_life: SignedDuration::from_hours(24 * 7),
        root_overlap: SignedDuration::from_hours(24),
        check: SignedDuration::from_mins(5),
    }
}

/// A key of tokens as it is kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TokenKey {
    signs_from: Timestamp,
    ends: Timestamp,
    /// Its name in tokens and bundles.
    id: String,
    x: String,
    y: String,
    /// PKCS#8, base64.
    key: String,
}

impl TokenKey {
    fn new(now: Timestamp, later: bool) -> Result<Self, String> {
        let policy = policy();
        let pair = KeyPair::generate().map_err(|error| error.to_string())?;
        // An uncompressed point of P-256 (SEC 1, section 2.3.3).
        let point = pair.public_key_raw();
        let (Some(x), Some(y)) = (point.get(1..33), point.get(33..65)) else { return Err("it is no P-256 key".into()) };
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        Ok(Self {
            signs_from: if later { now + policy.root_overlap } else { now },
            ends: now + policy.root_life,
            id: URL_SAFE_NO_PAD.encode(&Sha256::digest(point)[..12]),
            x: URL_SAFE_NO_PAD.encode(x),
            y: URL_SAFE_NO_PAD.encode(y),
            key: URL_SAFE_NO_PAD.encode(pair.serialize_der()),
        })
    }

    /// The public half as a JWK.
    pub(super) fn public(&self) -> Value {
        json!({ "kid": self.id, "kty": "EC", "alg": "ES256", "crv": "P-256", "x": self.x, "y": self.y })
    }
}

fn times(keys: &[TokenKey]) -> Vec<(Timestamp, Timestamp)> {
    keys.iter().map(|key| (key.signs_from, key.ends)).collect()
}

/// The keys that there are to be now.
pub(super) fn turned(keys: &[TokenKey], now: Timestamp) -> Result<Vec<TokenKey>, String> {
    let plan = roots_plan(now, &times(keys), &policy());
    let mut all: Vec<TokenKey> = plan.keep.iter().map(|place| keys[*place].clone()).collect();
    if plan.make {
        all.push(TokenKey::new(now, plan.signs.is_some())?);
    }
    Ok(all)
}

/// Signs a token.
pub(super) fn sign(keys: &[TokenKey], id: &SpiffeId, audiences: &[String], now: Timestamp) -> Result<String, String> {
    let key = roots_plan(now, &times(keys), &policy()).signs.map(|place| &keys[place]);
    let key = key.ok_or("there is no key that is valid now")?;
    let der = URL_SAFE_NO_PAD.decode(&key.key).map_err(|error| error.to_string())?;
    let random = SystemRandom::new();
    let pair =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random).map_err(|error| error.to_string())?;
    let head = json!({ "alg": "ES256", "kid": key.id, "typ": "JWT" });
    let claims = json!({
        "iss": format!("spiffe://{}", id.domain()), "sub": id.as_str(), "aud": audiences,
        "iat": now.as_second(), "exp": (now + LIFE).as_second(),
    });
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let message = format!("{}.{}", encode(&head), encode(&claims));
    let signature = pair.sign(&random, message.as_bytes()).map_err(|_| "the key does not sign".to_owned())?;
    Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_of_before_they_sign_and_stay_while_their_tokens_are_good() {
        let start = Timestamp::from_second(1_800_000_000).unwrap();
        let id: SpiffeId = "spiffe://a.test/ns/shop/sa/web".parse().unwrap();
        let mut keys = turned(&[], start).unwrap();
        assert_eq!((keys.len(), turned(&keys, start).unwrap() == keys), (1, true));
        let mut last: Option<(String, Timestamp)> = None;
        let mut used = std::collections::BTreeSet::new();
        for hour in 0..24 * 30 {
            let now = start + SignedDuration::from_hours(hour);
            let before = keys.clone();
            keys = turned(&keys, now).unwrap();
            let token = sign(&keys, &id, &["x".into()], now).unwrap();
            let set = |keys: &[TokenKey]| {
                json!({ "keys": keys.iter().map(TokenKey::public).collect::<Vec<_>>() }).to_string()
            };
            let check = |token: &str, keys: &[TokenKey], at: Timestamp| {
                let at = std::time::Duration::from_secs(at.as_second().unsigned_abs());
                proxy::access::verify_token(token, set(keys).as_bytes(), "spiffe://a.test/", "x", at)
            };
            let claims = check(&token, &keys, now).expect("good");
            assert_eq!((&claims["sub"], &claims["iss"]), (&id.as_str().into(), &"spiffe://a.test".into()));
            if hour > 0 {
                check(&token, &before, now).expect("whoever has the bundle of an hour ago believes it");
            }
            if let Some((token, at)) = last.replace((token.clone(), now)) {
                check(&token, &keys, at + LIFE).expect("it is good to its end, whatever came after");
            }
            assert!(check(&token, &keys, now + SignedDuration::from_mins(6)).is_err(), "it ends");
            assert!(keys.len() <= 2);
            used.insert(token.split('.').next().unwrap().to_owned());
        }
        assert!(used.len() > 4, "{}", used.len());
    }
}
