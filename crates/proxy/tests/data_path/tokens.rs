//! Tokens and keys over real connections: who is let in, what services see, and key sets that are fetched and rotate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use parking_lot::Mutex;
use proxy::access::{
    AccessRule, ApiKeys, Condition, Effect, Issuer, Jwt, Keys, Origin, Policy, RemoteKeys, TokenFrom, TokenMatch,
};
use proxy::snapshot::*;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use crate::access::{NOBODY, at_backend, call, guarded, rule_for};
use crate::harness::*;

const ISSUER: &str = "https://idp.test";

/// Somebody who issues tokens.
struct Idp(Ed25519KeyPair, &'static str);

impl Idp {
    fn new(id: &'static str) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        Self(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("the same key"), id)
    }

    fn keys(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.0.public_key());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": self.1, "x": x}]}).to_string()
    }

    fn token(&self, more: Value) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
        let mut claims = json!({"iss": ISSUER, "aud": "shop", "sub": "ann", "exp": now + 600});
        claims.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(&json!({"alg": "EdDSA", "kid": self.1})), encode(&claims));
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(self.0.sign(message.as_bytes())))
    }
}

fn issuer(keys: Keys) -> Issuer {
    Issuer {
        subjects: None,
        name: ISSUER.into(),
        audiences: vec!["shop".into()],
        keys,
        from: Vec::new(),
        leeway: Duration::from_secs(60),
        forward: true,
        told: vec![("sub".into(), HeaderName::from_static("x-user"))],
    }
}

fn with_token(claims: Vec<(Arc<str>, Condition)>) -> AccessRule {
    AccessRule { token: Some(TokenMatch { issuer: None, claims }), ..rule_for(Effect::Allow, None) }
}

fn policy(issuer: Issuer, rules: Vec<AccessRule>) -> Policy {
    Policy { jwt: Some(Jwt { issuers: vec![issuer] }), rules, ..Policy::default() }
}

fn bearing(token: &str) -> Request<ServedBody> {
    let mut request = get("/");
    let value = HeaderValue::try_from(format!("Bearer {token}")).expect("a value");
    request.headers_mut().insert("authorization", value);
    request
}

fn line<'b>(body: &'b str, name: &str) -> Vec<&'b str> {
    body.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect()
}

/// Scenario 47, without its limit: no token, 401; with one, in; with the wrong one, told what is wrong.
#[tokio::test]
async fn a_token_is_needed_and_must_be_right() {
    let (upstream, idp) = (Upstream::echo().await, Idp::new("1"));
    let snapshot = all_to(&[upstream.address]);
    let policy = policy(issuer(Keys::Here(idp.keys().into())), vec![with_token(Vec::new())]);
    let (running, at) = guarded(at_backend(snapshot, vec![("p", policy)])).await;
    let answer = call(NOBODY, at, get("/")).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(answer.headers["www-authenticate"], "Bearer");
    assert!(answer.body.contains("token_missing"), "{}", answer.body);

    let answer = call(NOBODY, at, bearing(&idp.token(json!({})))).await;
    assert_eq!((answer.status, line(&answer.body, "x-user")), (StatusCode::OK, vec!["ann"]));

    for (claims, wrong) in [
        (json!({"exp": 1}), "expired"),
        (json!({"aud": "other"}), "somebody else"),
        (json!({"iss": "https://other.test"}), "issuer"),
        (json!({"nbf": 4_102_444_800_u64}), "not valid yet"),
    ] {
        let answer = call(NOBODY, at, bearing(&idp.token(claims))).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        let challenge = answer.headers["www-authenticate"].to_str().expect("text");
        assert!(challenge.starts_with("Bearer error=\"invalid_token\"") && challenge.contains(wrong), "{challenge}");
    }
    let forged = Idp::new("1").token(json!({}));
    assert_eq!(call(NOBODY, at, bearing(&forged)).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(call(NOBODY, at, bearing("nonsense")).await.status, StatusCode::UNAUTHORIZED);
    let mut two = bearing(&idp.token(json!({})));
    two.headers_mut().append("authorization", HeaderValue::from_static("Bearer other"));
    assert_eq!(call(NOBODY, at, two).await.status, StatusCode::UNAUTHORIZED);

    let mut grpc = get("/x.Y/Z");
    *grpc.method_mut() = Method::POST;
    grpc.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let answer = call(NOBODY, at, grpc).await;
    assert_eq!(answer.headers["grpc-status"], "16");
    let refusals = running.handle.stats().refusals;
    let count = |reason| refusals.iter().find(|refusals| refusals.reason == reason).map(|refusals| refusals.count);
    assert_eq!((count("token_missing"), count("token_invalid")), (Some(2), Some(7)));
}

#[tokio::test]
async fn claims_decide_and_clients_cannot_say_what_they_would() {
    let (upstream, idp) = (Upstream::echo().await, Idp::new("1"));
    let admin = with_token(vec![("role".into(), Condition::Equals("admin".into()))]);
    let open = AccessRule { paths: vec![PathMatch::Prefix("/open".into())], ..rule_for(Effect::Allow, None) };
    let policy = policy(issuer(Keys::Here(idp.keys().into())), vec![admin, open]);
    let (_running, at) = guarded(at_backend(all_to(&[upstream.address]), vec![("p", policy)])).await;
    let forged = |mut request: Request<ServedBody>| {
        request.headers_mut().insert("x-user", HeaderValue::from_static("root"));
        request
    };
    let answer = call(NOBODY, at, forged(bearing(&idp.token(json!({"role": "admin"}))))).await;
    assert_eq!(line(&answer.body, "x-user"), ["ann"]);
    // A token that is right but not enough: known, and not allowed.
    assert_eq!(call(NOBODY, at, bearing(&idp.token(json!({"role": "user"})))).await.status, StatusCode::FORBIDDEN);
    let answer = call(NOBODY, at, forged(get("/open"))).await;
    assert_eq!((answer.status, line(&answer.body, "x-user")), (StatusCode::OK, Vec::new()));
}

#[tokio::test]
async fn a_token_goes_no_further_where_it_is_not_to() {
    let (upstream, idp) = (Upstream::echo().await, Idp::new("1"));
    let from =
        vec![TokenFrom::Header(HeaderName::from_static("x-token"), "".into()), TokenFrom::Query("access_token".into())];
    let issuer = Issuer { forward: false, from, ..issuer(Keys::Here(idp.keys().into())) };
    let policy = policy(issuer, vec![with_token(Vec::new())]);
    let (_running, at) = guarded(at_backend(all_to(&[upstream.address]), vec![("p", policy)])).await;
    let token = idp.token(json!({}));
    let answer = call(NOBODY, at, get(&format!("/a?x=1&access_token={token}&y=2"))).await;
    assert!(answer.body.starts_with("GET /a?x=1&y=2\n"), "{}", answer.body);
    let mut request = get("/a");
    request.headers_mut().insert("x-token", HeaderValue::try_from(&token).expect("a value"));
    let answer = call(NOBODY, at, request).await;
    assert_eq!((answer.status, line(&answer.body, "x-token").len()), (StatusCode::OK, 0));
    // The usual place is not one where this issuer's tokens are looked for.
    assert_eq!(call(NOBODY, at, bearing(&token)).await.status, StatusCode::UNAUTHORIZED);
}

/// A server of key sets.
#[derive(Clone)]
struct KeyServer {
    keys: Arc<Mutex<String>>,
    away: Arc<AtomicBool>,
    asked: Count,
}

impl KeyServer {
    async fn start(idp: &Idp) -> (Self, Upstream) {
        let this = Self { keys: Arc::new(Mutex::new(idp.keys())), away: Arc::default(), asked: Count::default() };
        let server = this.clone();
        let upstream = Upstream::http(move |_| {
            let server = server.clone();
            async move {
                server.asked.add();
                let mut response = Response::new(text(server.keys.lock().clone()));
                if server.away.load(Ordering::SeqCst) {
                    *response.status_mut() = StatusCode::BAD_GATEWAY;
                }
                response
            }
        })
        .await;
        (this, upstream)
    }
}

fn remote(pause: Duration) -> Keys {
    let (timeout, refresh) = (LIMIT, Duration::from_secs(600));
    Keys::There(RemoteKeys { at: Origin::Backend("idp".into()), path: "/keys".into(), timeout, refresh, pause })
}

fn remote_snapshot(upstream: &Upstream, keys: &Upstream, pause: Duration) -> Snapshot {
    let snapshot = routes(vec![rule(&[("b", 1)])], &[("b", vec![upstream.address]), ("idp", vec![keys.address])]);
    at_backend(snapshot, vec![("p", policy(issuer(remote(pause)), vec![with_token(Vec::new())]))])
}

#[tokio::test]
async fn keys_are_fetched_kept_and_rotated() {
    let (upstream, old) = (Upstream::named("served").await, Idp::new("old"));
    let (server, keys) = KeyServer::start(&old).await;
    let snapshot = remote_snapshot(&upstream, &keys, Duration::ZERO);
    let (running, at) = guarded(snapshot.clone()).await;
    // The first request may come before the keys have: it waits for them.
    assert_eq!(call(NOBODY, at, bearing(&old.token(json!({})))).await.body, "served");
    assert_eq!(call(NOBODY, at, bearing(&old.token(json!({})))).await.body, "served");
    assert_eq!(server.asked.get(), 1);

    // A new key is fetched when a token of it comes.
    let new = Idp::new("new");
    *server.keys.lock() = new.keys();
    assert_eq!(call(NOBODY, at, bearing(&new.token(json!({})))).await.body, "served");
    assert_eq!(server.asked.get(), 2);
    assert_eq!(call(NOBODY, at, bearing(&old.token(json!({})))).await.status, StatusCode::UNAUTHORIZED);

    // The last good set serves while its owner is away, or says nonsense, and across other changes.
    server.away.store(true, Ordering::SeqCst);
    assert_eq!(call(NOBODY, at, bearing(&Idp::new("x").token(json!({})))).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(call(NOBODY, at, bearing(&new.token(json!({})))).await.body, "served");
    let mut changed = snapshot;
    changed.listeners[0].forwarded = Forwarded::Append;
    changed.policies.insert("another".into(), Policy::default());
    running.handle.apply(changed).await.expect("a good snapshot");
    assert_eq!(call(NOBODY, at, bearing(&new.token(json!({})))).await.body, "served");
}

#[tokio::test]
async fn unknown_keys_are_asked_for_no_more_often_than_allowed() {
    let (upstream, idp) = (Upstream::named("served").await, Idp::new("1"));
    let (server, keys) = KeyServer::start(&idp).await;
    let (_running, at) = guarded(remote_snapshot(&upstream, &keys, Duration::from_secs(3600))).await;
    assert_eq!(call(NOBODY, at, bearing(&idp.token(json!({})))).await.body, "served");
    for _ in 0..20 {
        let unknown = Idp::new("unknown").token(json!({}));
        assert_eq!(call(NOBODY, at, bearing(&unknown)).await.status, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(server.asked.get(), 1);
}

#[tokio::test]
async fn without_keys_nobody_is_let_in_and_nobody_waits_for_ever() {
    let (upstream, idp) = (Upstream::named("served").await, Idp::new("1"));
    let (server, keys) = KeyServer::start(&idp).await;
    server.away.store(true, Ordering::SeqCst);
    let (running, at) = guarded(remote_snapshot(&upstream, &keys, Duration::from_secs(3600))).await;
    let answer = call(NOBODY, at, bearing(&idp.token(json!({})))).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.body.contains("token_keys_unavailable"), "{}", answer.body);
    // Without a token there is nothing to be verified.
    assert_eq!(call(NOBODY, at, get("/")).await.status, StatusCode::UNAUTHORIZED);
    // It comes back by itself.
    server.away.store(false, Ordering::SeqCst);
    soon(async {
        while call(NOBODY, at, bearing(&idp.token(json!({})))).await.status != StatusCode::OK {
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await;
    running.shutdown.cancel();
    soon(running.task).await.expect("no panic").expect("it ends well, and its fetching too");
}

fn digest(key: &str) -> [u8; 32] {
    ring::digest::digest(&ring::digest::SHA256, key.as_bytes()).as_ref().try_into().expect("32 bytes")
}

#[tokio::test]
async fn clients_are_known_by_their_keys_which_rotate_without_a_drop() {
    let upstream = Upstream::echo().await;
    let with = |keys: Vec<(&str, &str)>| {
        let keys = ApiKeys {
            header: Some(HeaderName::from_static("x-api-key")),
            query: Some("key".into()),
            forward: false,
            told: Some(HeaderName::from_static("x-client")),
            keys: keys.into_iter().map(|(client, key)| (client.into(), digest(key))).collect(),
        };
        let any = AccessRule { clients: Some(Vec::new()), ..rule_for(Effect::Allow, None) };
        let not_mobile = AccessRule {
            clients: Some(vec!["mobile".into()]),
            methods: vec![Method::DELETE],
            ..rule_for(Effect::Deny, None)
        };
        let policy = Policy { keys: Some(keys), rules: vec![any, not_mobile], ..Policy::default() };
        at_backend(all_to(&[upstream.address]), vec![("p", policy)])
    };
    let (running, at) = guarded(with(vec![("mobile", "one"), ("web", "two")])).await;
    let keyed = |key: &str| {
        let mut request = get("/a?x=1");
        request.headers_mut().insert("x-api-key", HeaderValue::try_from(key).expect("a value"));
        request.headers_mut().insert("x-client", HeaderValue::from_static("forged"));
        request
    };
    let answer = call(NOBODY, at, keyed("one")).await;
    assert_eq!((line(&answer.body, "x-client"), line(&answer.body, "x-api-key").len()), (vec!["mobile"], 0));
    let answer = call(NOBODY, at, get("/a?key=two&x=1")).await;
    assert!(answer.body.starts_with("GET /a?x=1\n"), "{}", answer.body);
    assert_eq!(line(&answer.body, "x-client"), ["web"]);
    for (request, reason) in
        [(get("/"), "api_key_missing"), (keyed("three"), "api_key_invalid"), (keyed(""), "api_key_invalid")]
    {
        let answer = call(NOBODY, at, request).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert!(answer.body.contains(reason), "{}", answer.body);
        assert_eq!(answer.headers["www-authenticate"], "ApiKey");
    }
    let mut delete = keyed("one");
    *delete.method_mut() = Method::DELETE;
    assert_eq!(call(NOBODY, at, delete).await.status, StatusCode::FORBIDDEN);

    // Both keys hold while clients change over.
    let mut both = with(vec![("mobile", "one"), ("mobile", "new")]);
    both.listeners[0].forwarded = Forwarded::Append;
    running.handle.apply(both).await.expect("a good snapshot");
    for key in ["one", "new"] {
        assert_eq!(call(NOBODY, at, keyed(key)).await.status, StatusCode::OK);
    }
    let mut new = with(vec![("mobile", "new")]);
    new.listeners[0].forwarded = Forwarded::Append;
    running.handle.apply(new).await.expect("a good snapshot");
    assert_eq!(call(NOBODY, at, keyed("one")).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_snapshot_with_keys_that_cannot_be_read_or_reached_is_refused() {
    let running = start(proxy::Settings::default());
    let bad = at_backend(all_to(&[]), vec![("p", policy(issuer(Keys::Here("{}".into())), Vec::new()))]);
    let error = running.handle.apply(bad).await.expect_err("there are no keys");
    assert!(matches!(&error, proxy::Refused::BadPolicy { reason, .. } if reason.contains(ISSUER)), "{error}");
    let nowhere = at_backend(all_to(&[]), vec![("p", policy(issuer(remote(Duration::ZERO)), Vec::new()))]);
    let error = running.handle.apply(nowhere).await.expect_err("there is no such backend");
    assert!(matches!(error, proxy::Refused::UnknownBackend { .. }), "{error}");
}
