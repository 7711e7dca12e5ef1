//! The messages of the Workload API as protobuf, and gRPC's framing. Pure.
//!
//! Answers are made of lengths, strings and bytes, and of `google.protobuf.Struct`; questions are texts. Field numbers are those of `workload.proto` (SPIFFE Workload API,
//! appendix A).

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Map, Value};

use crate::identity::authority::Svid;
use crate::identity::bundle::{Bundle, Bundles};
use crate::identity::spiffe::{SpiffeId, TrustDomain};

fn varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A field of bytes, text or a message.
fn field(out: &mut Vec<u8>, number: usize, content: &[u8]) {
    const LENGTH_DELIMITED: usize = 2;
    varint(out, number << 3 | LENGTH_DELIMITED);
    varint(out, content.len());
    out.extend_from_slice(content);
}

/// An entry of a map from trust domains to bundles.
fn entry(out: &mut Vec<u8>, number: usize, domain: &TrustDomain, bundle: &Bundle) {
    let mut pair = Vec::new();
    field(&mut pair, 1, format!("spiffe://{domain}").as_bytes());
    field(&mut pair, 2, &bundle.to_der());
    field(out, number, &pair);
}

/// `X509SVIDResponse`: one SVID, the bundle of its trust domain, and those of the others.
pub(super) fn svid_response(svid: &Svid, bundles: &Bundles) -> Vec<u8> {
    let own = bundles.get(svid.id.domain()).map(Bundle::to_der).unwrap_or_default();
    let chain: Vec<u8> = svid.chain.iter().flat_map(|der| der.iter().copied()).collect();
    let mut message = Vec::new();
    field(&mut message, 1, svid.id.as_str().as_bytes());
    field(&mut message, 2, &chain);
    field(&mut message, 3, &svid.key);
    field(&mut message, 4, &own);
    let mut response = Vec::new();
    field(&mut response, 1, &message);
    for (domain, bundle) in bundles.iter().filter(|(domain, _)| *domain != svid.id.domain()) {
        entry(&mut response, 3, domain, bundle);
    }
    response
}

/// `X509BundlesResponse`: the bundles of all trust domains.
pub(super) fn bundles_response(bundles: &Bundles) -> Vec<u8> {
    let mut response = Vec::new();
    for (domain, bundle) in bundles {
        entry(&mut response, 2, domain, bundle);
    }
    response
}

/// `JWTSVIDResponse` with one token.
pub(super) fn token_response(id: &SpiffeId, token: &str) -> Vec<u8> {
    let mut svid = Vec::new();
    field(&mut svid, 1, id.as_str().as_bytes());
    field(&mut svid, 2, token.as_bytes());
    let mut response = Vec::new();
    field(&mut response, 1, &svid);
    response
}

/// `JWTBundlesResponse`: the keys of all trust domains that have some.
pub(super) fn token_bundles_response(bundles: &Bundles) -> Vec<u8> {
    let mut response = Vec::new();
    for (domain, bundle) in bundles {
        if let Some(keys) = bundle.token_keys() {
            let mut pair = Vec::new();
            field(&mut pair, 1, format!("spiffe://{domain}").as_bytes());
            field(&mut pair, 2, keys.as_bytes());
            field(&mut response, 1, &pair);
        }
    }
    response
}

/// `ValidateJWTSVIDResponse`: whose a token is, and its claims.
pub(super) fn validated_response(id: &SpiffeId, claims: &Map<String, Value>) -> Vec<u8> {
    let mut response = Vec::new();
    field(&mut response, 1, id.as_str().as_bytes());
    field(&mut response, 2, &structure(claims));
    response
}

/// A `google.protobuf.Struct`.
fn structure(object: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, content) in object {
        let mut pair = Vec::new();
        field(&mut pair, 1, name.as_bytes());
        field(&mut pair, 2, &value(content));
        field(&mut out, 1, &pair);
    }
    out
}

/// A `google.protobuf.Value`. JSON as it was read is nested no deeper than its reader lets it.
fn value(content: &Value) -> Vec<u8> {
    const VARINT: u8 = 0;
    const FIXED64: u8 = 1;
    let mut out = Vec::new();
    match content {
        Value::Null => out.extend([1 << 3 | VARINT, 0]),
        Value::Number(number) => {
            out.push(2 << 3 | FIXED64);
            out.extend(number.as_f64().unwrap_or_default().to_le_bytes());
        }
        Value::String(text) => field(&mut out, 3, text.as_bytes()),
        Value::Bool(so) => out.extend([4 << 3 | VARINT, u8::from(*so)]),
        Value::Object(object) => field(&mut out, 5, &structure(object)),
        Value::Array(items) => {
            let mut list = Vec::new();
            items.iter().for_each(|item| field(&mut list, 1, &value(item)));
            field(&mut out, 6, &list);
        }
    }
    out
}

/// The fields of a question that are texts, by their numbers; others are passed over. None where it is no message.
pub(super) fn texts(mut message: &[u8]) -> Option<Vec<(u64, String)>> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let key = read_varint(&mut message)?;
        let skipped = match key & 7 {
            0 => {
                read_varint(&mut message)?;
                0
            }
            1 => 8,
            2 => {
                let length = usize::try_from(read_varint(&mut message)?).ok()?;
                let content = message.get(..length)?;
                found.push((key >> 3, String::from_utf8(content.to_vec()).ok()?));
                length
            }
            5 => 4,
            _ => return None,
        };
        message = message.get(skipped..)?;
    }
    Some(found)
}

fn read_varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for place in 0..10 {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f).checked_shl(7 * place)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The message of a body with exactly one, which is not compressed.
pub(super) fn unframed(body: &[u8]) -> Option<&[u8]> {
    let (head, message) = body.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?);
    (head[0] == 0 && usize::try_from(length) == Ok(message.len())).then_some(message)
}

/// A message as gRPC sends it: not compressed, its length before it.
pub(super) fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_in_groups_of_seven_bits() {
        for (value, expected) in [(0, &[0][..]), (127, &[127]), (128, &[0x80, 1]), (300, &[0xac, 2])] {
            let mut out = Vec::new();
            varint(&mut out, value);
            assert_eq!(out, expected, "{value}");
        }
        let mut out = Vec::new();
        field(&mut out, 3, b"ab");
        assert_eq!(out, [0x1a, 2, b'a', b'b']);
        assert_eq!(&framed(b"abc")[..], [0, 0, 0, 0, 3, b'a', b'b', b'c']);
    }

    #[test]
    fn questions_are_read_whole_or_not_at_all() {
        let mut question = Vec::new();
        field(&mut question, 1, b"shop");
        question.extend([3 << 3, 0x96, 1]);
        field(&mut question, 2, b"id");
        let texts = |bytes: &[u8]| super::texts(bytes);
        assert_eq!(texts(&question), Some(vec![(1, "shop".into()), (2, "id".into())]));
        assert_eq!(unframed(&framed(&question)), Some(&question[..]));
        for cut in [1, 3, question.len() - 1] {
            assert_eq!(texts(&question[..cut]), None, "{cut}");
        }
        for bad in [&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f][..], &[0x0b], &[0x0a, 1, 0xff]]
        {
            assert_eq!(texts(bad), None, "{bad:?}");
        }
        for bad in [&b""[..], &[0, 0, 0, 0, 2, 1], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(unframed(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn claims_are_a_struct() {
        let claims = serde_json::json!({ "a": [true, null], "n": 1 });
        let out = structure(claims.as_object().unwrap());
        let number = [&[0x0a, 14, 0x0a, 1, b'n', 0x12, 9, 0x11][..], &1_f64.to_le_bytes()].concat();
        let list = [0x0a, 15, 0x0a, 1, b'a', 0x12, 10, 0x32, 8, 0x0a, 2, 0x20, 1, 0x0a, 2, 8, 0];
        assert_eq!(out, [&list[..], &number].concat());
    }
}
