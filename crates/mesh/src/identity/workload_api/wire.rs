//! The messages of the Workload API as protobuf, and gRPC's framing. Pure.
//!
//! Only what is sent is written here: lengths, strings and bytes. Field numbers are those of `workload.proto` (SPIFFE Workload API,
//! appendix A).

use bytes::{BufMut, Bytes, BytesMut};

use crate::identity::authority::Svid;
use crate::identity::bundle::{Bundle, Bundles};
use crate::identity::spiffe::TrustDomain;

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
}
