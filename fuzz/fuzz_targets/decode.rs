//! Bytes that claim to be objects.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rules::decode::{self, Format};

fuzz_target!(|data: &[u8]| {
    let _ = rules::protobuf::decode(data);
    for format in [Format::Json, Format::Yaml] {
        if let Ok(decoded) = decode::decode(data, format) {
            let _ = rules::policy::Policy::compile(&decoded.value);
            let _ = rules::crd::validate(&decoded.value);
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = decode::documents(text);
    }
});
