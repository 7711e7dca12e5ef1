//! Secrets of the server: the administrator's bearer token and the key that signs service account tokens.
//!
//! Invariants: files are mode 0600 and written whole; comparisons take the same time whatever differs.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::BuildError;
use crate::files;

/// The server's secrets.
pub(crate) struct Credentials {
    admin: String,
    key: Vec<u8>,
}

/// What a service account token says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) namespace: String,
    pub(crate) account: String,
    pub(crate) uid: String,
    pub(crate) audiences: Vec<String>,
    pub(crate) ends: jiff::Timestamp,
}

/// The audience of a token that asks for none.
pub(crate) const AUDIENCE: &str = "https://kubernetes.default.svc.cluster.local";

impl Credentials {
    /// Reads the secrets from the key folder, or makes them.
    pub(crate) fn open(folder: &Path) -> Result<Self, BuildError> {
        let admin = secret(&folder.join("admin.token"))?;
        let key = secret(&folder.join("service-accounts.key"))?;
        Ok(Self { admin, key: key.into_bytes() })
    }

    pub(crate) fn admin_token(&self) -> &str {
        &self.admin
    }

    /// A token for a service account and the time it ends.
    pub(crate) fn issue(
        &self,
        namespace: &str,
        account: &str,
        uid: &str,
        audiences: &[String],
        now: jiff::Timestamp,
        seconds: i64,
    ) -> (String, jiff::Timestamp) {
        let ends = now.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(jiff::Timestamp::MAX);
        let audiences = if audiences.is_empty() { vec![AUDIENCE.to_owned()] } else { audiences.to_vec() };
        let claims = json!({
            "aud": audiences, "iss": AUDIENCE, "iat": now.as_second(), "nbf": now.as_second(), "exp": ends.as_second(),
            "jti": uuid::Uuid::new_v4().to_string(),
            "sub": format!("system:serviceaccount:{namespace}:{account}"),
            "kubernetes.io": { "namespace": namespace, "serviceaccount": { "name": account, "uid": uid } },
        });
        let head = URL_SAFE_NO_PAD.encode(json!({ "alg": "HS256", "typ": "JWT" }).to_string());
        let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = URL_SAFE_NO_PAD.encode(hmac(&self.key, signed.as_bytes()));
        (format!("{signed}.{signature}"), ends)
    }

    /// What a token says, when this server signed it and it has not ended.
    pub(crate) fn verify(&self, token: &str, now: jiff::Timestamp) -> Option<Claims> {
        let (signed, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        if !same(&signature, &hmac(&self.key, signed.as_bytes())) {
            return None;
        }
        let (_, claims) = signed.split_once('.')?;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let ends = claims["exp"].as_i64()?;
        if ends <= now.as_second() {
            return None;
        }
        let ends = jiff::Timestamp::from_second(ends).ok()?;
        let account = &claims["kubernetes.io"]["serviceaccount"];
        Some(Claims {
            ends,
            namespace: claims["kubernetes.io"]["namespace"].as_str()?.to_owned(),
            account: account["name"].as_str()?.to_owned(),
            uid: account["uid"].as_str()?.to_owned(),
            audiences: claims["aud"].as_array()?.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect(),
        })
    }
}

/// Whether two byte strings are equal, in a time that depends on their lengths alone.
pub(crate) fn same(left: &[u8], right: &[u8]) -> bool {
    // Comparing digests hides the position of the first difference and needs no equal lengths.
    let (left, right) = (Sha256::digest(left), Sha256::digest(right));
    left.iter().zip(right.iter()).fold(0u8, |difference, (l, r)| difference | (l ^ r)) == 0
}

/// HMAC-SHA256 (RFC 2104).
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    const BLOCK: usize = 64;
    let mut block = [0u8; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let pad = |byte: u8| block.map(|b| b ^ byte);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

fn secret(path: &Path) -> Result<String, BuildError> {
    if let Some(text) = files::read(path)? {
        let text = text.trim().to_owned();
        if text.len() < 32 {
            return Err(BuildError::Damaged { path: path.into(), reason: "the secret in it is too short".into() });
        }
        return Ok(text);
    }
    // 3 x 122 random bits from the operating system, folded into 256.
    let mut digest = Sha256::new();
    for _ in 0..3 {
        digest.update(uuid::Uuid::new_v4().as_bytes());
    }
    let text = URL_SAFE_NO_PAD.encode(digest.finalize());
    files::write_private(path, text.as_bytes())?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_of_rfc_4231() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(
            hex(&hmac(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex(&hmac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First")),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn secrets_survive_and_are_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let first = Credentials::open(folder.path()).expect("credentials");
        let second = Credentials::open(folder.path()).expect("credentials");
        assert_eq!(first.admin_token(), second.admin_token());
        assert!(first.admin_token().len() >= 32);
        for name in ["admin.token", "service-accounts.key"] {
            let mode = std::fs::metadata(folder.path().join(name)).expect("the file").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_changed_token_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let credentials = Credentials::open(folder.path()).expect("credentials");
        let now = jiff::Timestamp::now();
        let (token, _) = credentials.issue("a", "b", "c", &[], now, 60);
        assert!(credentials.verify(&token, now).is_some());
        let parts: Vec<&str> = token.split('.').collect();
        let claims = URL_SAFE_NO_PAD.decode(parts[1]).expect("claims");
        let forged = String::from_utf8(claims).expect("text").replace(":a:b", ":a:x");
        let forged = format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(forged), parts[2]);
        assert_eq!(credentials.verify(&forged, now), None);
    }
}
