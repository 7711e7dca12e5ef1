use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair,
};
use serde_json::json;

use super::*;

/// The public half of a key that is kept nowhere, and what it has signed: `{"iss":"https://idp.test","sub":"ann","aud":"shop",
/// "exp":4102444800}` with the key id `rsa`. There is nothing here that makes RSA keys.
const MODULUS: &str = "6JF9xzt1ui_se5DWHqIuGbzNMwx48N1oohWfzwEoLr8Q8T22ufOZ8JgV7fWY4of18qWLFVTN3o0VpGxSQGV-cLgLxGTVG361IA0O\
    Urd1V74t6or8pSp8TXpTzj9dpqi84rRwbYVOTU4p1QOyEZ1B4VH1bYkyIzLC128emPy9xhIww8sI28-qstAGb_2IdiQZ_x_vdYTy\
    cTlBLx4Aq4ejBDiKTkLLdJkclb7hX3eYmY3Rty-JfbxUD3nyuhstOxkPUhZifdb9mi7btY4Q86g3NnRvmtLCOzPgJdHgA-5xKKK3\
    UImNGNlqCwCSX4x2BUUNULNuyMy5S-8sCwtMwndnHQ";
const RSA_CLAIMS: &str = "eyJpc3MiOiJodHRwczovL2lkcC50ZXN0Iiwic3ViIjoiYW5uIiwiYXVkIjoic2hvcCIsImV4cCI6NDEwMjQ0NDgwMH0";
const BY_RS256: &str = "nxiD7VkzJnK3vGfECOBvjvrdfnJTl_xpy7-Z-NpCau1nfJf69GbC48Sc7l9a6ZtUO4fQ9KFt7zS4b_PFoYNazKGczBn-AM9XoEnp\
    opBxvWMl0D6E9Nf8t4XFXq7r1L8QBXsSOYBN-RykaGDaGlCZsw0AiUoRg2Lol291q3xRW4MM3S14br1QPHqyTbW0ZLraGt-1CGJl\
    S1L3NJMKuvtb3JfIbSCfYpJBCVhXR9MC4YOrlcM090bZquoJakJh4RXv_U7_R29GtPWT9Lqw552hHYlwmtODQT7Zxg7fabTF5Ou2\
    RXlWootBVPmBp5Y7VODvtonryXPiJm0LxZHx1UMLug";
const BY_PS384: &str = "rdKBVOyXwkHOPDB0iH3aSYhVGpg_ISr6rSmriE0WetlKJOOdb0ipPydPTaMHXw_pC1_kZ2xnWX599rRsLub3tB713yCILiXJNSN1\
    4tg12FcStdgURxhPRdYlgTJkhiY-ZeWvqKWf8NvgDFc-x02wcAO2zK31OQpDuTdrMYTRtwG7bw-oentSG-FEWNjzcPDb_yk-F8mO\
    j_UbEaBDjta-RitsE1wDTm5bIwm_Ga4tMAuO6J5CvL3YN_ql6OuQ8Uy-F-wLm4zZA9soZS5c3V2dtaFysz45LG6YQIIUtRIFxez3\
    JykVwEG1uCX9nw_7ni810xKad1GwY89bkaQFzVtX6A";

const ISSUER: &str = "https://idp.test";
const NOW: u64 = 1_800_000_000;

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// Something that signs.
enum Signer {
    Ec(EcdsaKeyPair, &'static str),
    Ed(Ed25519KeyPair),
}

impl Signer {
    fn ec(algorithm: &'static EcdsaSigningAlgorithm, name: &'static str) -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
        Self::Ec(EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).expect("the same key"), name)
    }

    fn es256() -> Self {
        Self::ec(&ECDSA_P256_SHA256_FIXED_SIGNING, "ES256")
    }

    fn eddsa() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        Self::Ed(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("the same key"))
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Ec(_, name) => name,
            Self::Ed(_) => "EdDSA",
        }
    }

    fn key(&self, id: &str) -> Value {
        match self {
            Self::Ec(pair, name) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if *name == "ES256" { "P-256" } else { "P-384" };
                json!({"kty": "EC", "crv": curve, "kid": id, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
            }
            Self::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": URL_SAFE_NO_PAD.encode(pair.public_key())})
            }
        }
    }

    fn sign_as(&self, head: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(head), encode(claims));
        let signature = match self {
            Self::Ec(pair, _) => {
                pair.sign(&SystemRandom::new(), message.as_bytes()).expect("a signature").as_ref().to_vec()
            }
            Self::Ed(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_as(&json!({"alg": self.algorithm(), "kid": "k"}), claims)
    }
}

fn set(keys: &[Value]) -> KeySet {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).expect("a good set")
}

fn verified(token: &str, keys: &KeySet) -> Result<Claims, Flaw> {
    let audiences = ["shop".into()];
    let (leeway, now) = (Duration::from_secs(60), Duration::from_secs(NOW));
    Unverified::read(token)?
        .verify(keys, &Expected { issuer: Some(ISSUER), subjects: None, audiences: &audiences, leeway, now })
}

fn good() -> Value {
    json!({"iss": ISSUER, "aud": "shop", "sub": "ann", "exp": NOW + 100})
}

#[test]
fn every_kind_of_signature_is_verified_by_its_own_key_alone() {
    let signers = [Signer::es256(), Signer::ec(&ECDSA_P384_SHA384_FIXED_SIGNING, "ES384"), Signer::eddsa()];
    for (position, signer) in signers.iter().enumerate() {
        let token = signer.sign(&good());
        assert_eq!(verified(&token, &set(&[signer.key("k")])).expect("it is good")["sub"], "ann");
        for other in signers.iter().enumerate().filter(|(other, _)| *other != position).map(|(_, other)| other) {
            assert_eq!(verified(&token, &set(&[other.key("k")])), Err(Flaw::Signature), "{}", other.algorithm());
        }
    }
    let rsa = set(&[json!({"kty": "RSA", "kid": "rsa", "n": MODULUS, "e": "AQAB"})]);
    for (algorithm, signature) in [("RS256", BY_RS256), ("PS384", BY_PS384)] {
        let head = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{algorithm}","kid":"rsa"}}"#));
        let token = format!("{head}.{RSA_CLAIMS}.{signature}");
        assert_eq!(verified(&token, &rsa).expect("it is good")["sub"], "ann", "{algorithm}");
        let only = set(&[json!({"kty": "RSA", "kid": "rsa", "n": MODULUS, "e": "AQAB", "alg": "RS512"})]);
        assert_eq!(verified(&token, &only), Err(Flaw::Signature), "{algorithm}");
    }
}

#[test]
fn nothing_is_believed_without_a_signature_or_with_a_public_key_as_a_secret() {
    let signer = Signer::es256();
    let keys = set(&[signer.key("k")]);
    for algorithm in ["none", "None", "HS256", "HS512", "ES512", "dir", ""] {
        let head = json!({"alg": algorithm, "kid": "k"});
        let unsigned = format!("{}.{}.", encode(&head), encode(&good()));
        assert!(matches!(verified(&unsigned, &keys), Err(Flaw::Algorithm(_))), "{algorithm}");
        // The classic: the public key, as everybody can have it, as the secret of an HMAC.
        let message = format!("{}.{}", encode(&head), encode(&good()));
        let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, signer.key("k").to_string().as_bytes());
        let tag = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&secret, message.as_bytes()));
        assert!(matches!(verified(&format!("{message}.{tag}"), &keys), Err(Flaw::Algorithm(_))), "{algorithm}");
    }
    // An algorithm of another kind of key, with a signature that is good for this one.
    for algorithm in ["RS256", "PS256", "EdDSA", "ES384"] {
        let token = signer.sign_as(&json!({"alg": algorithm, "kid": "k"}), &good());
        assert_eq!(verified(&token, &keys), Err(Flaw::Signature), "{algorithm}");
    }
}

#[test]
fn every_changed_letter_is_noticed() {
    let signer = Signer::eddsa();
    let keys = set(&[signer.key("k")]);
    let token = signer.sign(&good());
    for position in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).expect("letters");
        assert!(verified(&changed, &keys).is_err(), "{position}");
    }
}

#[test]
fn claims_are_held_to_issuer_audience_and_time() {
    let signer = Signer::eddsa();
    let keys = set(&[signer.key("k")]);
    let with = |name: &str, value: Value| {
        let mut claims = good();
        claims[name] = value;
        claims
    };
    let without = |name: &str| {
        let mut claims = good();
        claims.as_object_mut().expect("an object").remove(name);
        claims
    };
    for (claims, expected) in [
        (good(), Ok(())),
        (with("aud", json!(["x", "shop"])), Ok(())),
        (with("aud", json!("other")), Err(Flaw::Audience)),
        (with("aud", json!([])), Err(Flaw::Audience)),
        (with("aud", json!({"shop": true})), Err(Flaw::Audience)),
        (without("aud"), Err(Flaw::Audience)),
        (with("iss", json!("https://idp.test/")), Err(Flaw::Issuer)),
        (without("iss"), Err(Flaw::Issuer)),
        // A minute of leeway, both ways.
        (with("exp", json!(NOW - 59)), Ok(())),
        (with("exp", json!(NOW - 60)), Err(Flaw::Expired)),
        (with("exp", json!(NOW as f64 + 0.5)), Ok(())),
        (with("exp", json!("tomorrow")), Err(Flaw::Malformed("its exp is no number"))),
        (without("exp"), Err(Flaw::Endless)),
        (with("nbf", json!(NOW + 60)), Ok(())),
        (with("nbf", json!(NOW + 61)), Err(Flaw::NotYet)),
        (with("nbf", json!(null)), Err(Flaw::Malformed("its nbf is no number"))),
    ] {
        assert_eq!(verified(&signer.sign(&claims), &keys).map(drop), expected, "{claims}");
    }
}

#[test]
fn keys_are_found_by_their_id_or_tried() {
    let (one, two) = (Signer::eddsa(), Signer::eddsa());
    let both = set(&[one.key("1"), two.key("2")]);
    let as_id = |id: &str| two.sign_as(&json!({"alg": "EdDSA", "kid": id}), &good());
    assert!(verified(&as_id("2"), &both).is_ok());
    assert_eq!(verified(&as_id("1"), &both), Err(Flaw::Signature));
    assert_eq!(verified(&as_id("3"), &both), Err(Flaw::UnknownKey));
    assert!(verified(&two.sign_as(&json!({"alg": "EdDSA"}), &good()), &both).is_ok());
    let mut nameless = two.key("2");
    nameless.as_object_mut().expect("an object").remove("kid");
    assert!(verified(&as_id("2"), &set(&[nameless])).is_ok());
}

#[test]
fn sets_without_a_usable_key_are_refused() {
    let key = Signer::es256().key("k");
    let with = |name: &str, value: Value| {
        let mut key = key.clone();
        key[name] = value;
        key
    };
    for bad in [
        json!({"kty": "oct", "k": "c2VjcmV0"}),
        json!({"kty": "RSA", "n": &MODULUS[..100], "e": "AQAB"}),
        with("use", json!("enc")),
        with("key_ops", json!(["sign"])),
        with("alg", json!("HS256")),
        with("x", json!("AAAA")),
        with("crv", json!("P-521")),
    ] {
        let text = json!({"keys": [bad]}).to_string();
        assert!(KeySet::parse(text.as_bytes()).is_err(), "{text}");
    }
    for text in ["", "[]", "{}", r#"{"keys": {}}"#, r#"{"keys": []}"#] {
        assert!(KeySet::parse(text.as_bytes()).is_err(), "{text}");
    }
    assert!(KeySet::parse(&vec![b' '; MOST_BYTES + 1]).expect_err("too large").contains("larger"));
}

#[test]
fn what_is_no_token_is_refused() {
    let keys = set(&[Signer::eddsa().key("k")]);
    let long = "a".repeat(LONGEST + 1);
    for token in ["", ".", "..", "a.b.c", "a.b.c.d.e", "e30.e30.e30", long.as_str(), "\u{1F600}.a.b"] {
        assert!(matches!(verified(token, &keys), Err(Flaw::Malformed(_))), "{token:.20}");
    }
    let signer = Signer::eddsa();
    let critical = signer.sign_as(&json!({"alg": "EdDSA", "kid": "k", "crit": ["b64"], "b64": false}), &good());
    assert!(matches!(verified(&critical, &set(&[signer.key("k")])), Err(Flaw::Malformed(_))));
}

#[test]
fn conditions_on_claims() {
    let claims = json!({
        "sub": "ann", "age": 7, "admin": true, "groups": ["ops", "dev"], "scope": "read write", "null": null,
        "realm_access": {"roles": ["a"]}, "https://x.test/role": "r",
    });
    let claims = claims.as_object().expect("an object");
    let of = |text: &str| -> std::sync::Arc<str> { text.into() };
    for (name, condition, expected) in [
        ("sub", Condition::Equals(of("ann")), true),
        ("sub", Condition::Equals(of("an")), false),
        ("age", Condition::Equals(of("7")), true),
        ("admin", Condition::Equals(of("true")), true),
        ("groups", Condition::Equals(of("ops")), false),
        ("groups", Condition::Contains(of("ops")), true),
        ("groups", Condition::Contains(of("op")), false),
        ("scope", Condition::Contains(of("write")), true),
        ("scope", Condition::Contains(of("writ")), false),
        ("sub", Condition::AnyOf(vec![of("bob"), of("ann")]), true),
        ("groups", Condition::AnyOf(vec![of("x"), of("dev")]), true),
        ("groups", Condition::AnyOf(vec![of("x")]), false),
        ("realm_access.roles", Condition::Contains(of("a")), true),
        ("realm_access.other", Condition::Present, false),
        ("https://x.test/role", Condition::Equals(of("r")), true),
        ("null", Condition::Equals(of("null")), false),
        ("gone", Condition::Present, false),
    ] {
        let holds = lookup(claims, name).is_some_and(|value| condition.holds(value));
        assert_eq!(holds, expected, "{name} {condition:?}");
    }
    let header = |name: &str| header_value(&claims[name]);
    assert_eq!(header("groups").expect("a value"), "ops,dev");
    assert_eq!(header("age").expect("a value"), "7");
    assert!(header("realm_access").is_none() && header("null").is_none());
    assert!(header_value(&json!("a\r\nx-forged: 1")).is_none());
}
