//! Bytes, as a client's, to the reader of SPDY/3.1. The first says in pieces of which length they come, which changes nothing.

#![no_main]

use apiserver::fuzzing::frames;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some((piece, bytes)) = data.split_first() {
        assert_eq!(frames(bytes, bytes.len()), frames(bytes, usize::from(*piece)));
    }
});
