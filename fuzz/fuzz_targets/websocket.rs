//! Bytes, as a client's, to the reader of WebSocket. The first says in pieces of which length they come, which changes nothing.

#![no_main]

use apiserver::fuzzing::messages;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some((piece, bytes)) = data.split_first() {
        assert_eq!(messages(bytes, bytes.len()), messages(bytes, usize::from(*piece)));
    }
});
