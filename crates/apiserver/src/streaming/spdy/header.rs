//! The headers of SPDY/3.1's streams: blocks of one zlib stream that begins with a dictionary both sides know. Pure.
//!
//! Invariants: what a block unpacks to is bounded, as are its headers; a block that can't be read ends the connection, because the state of
//! the compression is lost with it.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};

use super::frame::Violation;

/// The most that a block unpacks to.
const LONGEST: usize = 16 * 1024;
/// The most headers in a block.
const MOST: u32 = 64;
/// How far back the compression looks.
const WINDOW: usize = 32 * 1024;
/// What the standard says the dictionary's checksum is.
const DICTIONARY: u32 = 0xe3c6_a7c2;
const HEAD: usize = 6;

/// The words of the standard's dictionary, each of which has its length in front of it there.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow \
    authorization cache-control connection content-base content-encoding content-language content-length content-location content-md5 \
    content-range content-type date etag expect expires from host if-match if-modified-since if-none-match if-range \
    if-unmodified-since last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after \
    server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get status 200_OK version \
    HTTP/1.1 url public set-cookie keep-alive origin";

/// The rest of it.
const REST: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative \
    Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server \
    Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, \
    Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,\
    publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS.split(' ') {
        let word = word.replace('_', " ");
        bytes.extend_from_slice(&u32::try_from(word.len()).unwrap_or_default().to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(REST.as_bytes());
    bytes
}

/// Unpacks the blocks of one connection, in order.
pub(crate) struct Unpacker {
    state: Box<DecompressorOxide>,
    window: Vec<u8>,
    at: usize,
    begun: bool,
}

impl Unpacker {
    pub(crate) fn new() -> Self {
        let mut window = vec![0; WINDOW];
        let dictionary = dictionary();
        window[..dictionary.len()].copy_from_slice(&dictionary);
        Self { state: Box::default(), window, at: dictionary.len(), begun: false }
    }

    /// The headers of the next block. Names are in small letters; a name with several values has them with zeroes between.
    pub(crate) fn headers(&mut self, mut block: &[u8]) -> Result<Vec<(String, String)>, Violation> {
        if !std::mem::replace(&mut self.begun, true) {
            block = begin(block)?;
        }
        parse(&self.unpack(block)?)
    }

    fn unpack(&mut self, mut block: &[u8]) -> Result<Vec<u8>, Violation> {
        let mut out = Vec::new();
        loop {
            let flags = inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
            let (status, read, written) = decompress(&mut self.state, block, &mut self.window, self.at, flags);
            block = &block[read..];
            out.extend_from_slice(&self.window[self.at..self.at + written]);
            self.at = (self.at + written) % WINDOW;
            if out.len() > LONGEST {
                return Err(Violation("headers that are too long"));
            }
            match status {
                TINFLStatus::HasMoreOutput => {}
                TINFLStatus::NeedsMoreInput if block.is_empty() => return Ok(out),
                _ => return Err(Violation("headers that can't be unpacked")),
            }
        }
    }
}

/// Takes the head of the zlib stream off.
fn begin(block: &[u8]) -> Result<&[u8], Violation> {
    let Some((&[method, flags, a, b, c, d], rest)) = block.split_first_chunk::<HEAD>() else {
        return Err(Violation("headers that can't be unpacked"));
    };
    let checked = u16::from_be_bytes([method, flags]).is_multiple_of(31);
    if method & 0x0f != 8 || !checked {
        return Err(Violation("headers that can't be unpacked"));
    }
    if flags & 0x20 == 0 || u32::from_be_bytes([a, b, c, d]) != DICTIONARY {
        return Err(Violation("headers with another dictionary"));
    }
    Ok(rest)
}

fn parse(mut bytes: &[u8]) -> Result<Vec<(String, String)>, Violation> {
    const WRONG: Violation = Violation("headers that can't be read");
    fn number(bytes: &mut &[u8]) -> Result<u32, Violation> {
        let (number, rest) = bytes.split_first_chunk::<4>().ok_or(WRONG)?;
        *bytes = rest;
        Ok(u32::from_be_bytes(*number))
    }
    fn text(bytes: &mut &[u8]) -> Result<String, Violation> {
        let length = number(bytes)? as usize;
        let (text, rest) = bytes.split_at_checked(length).ok_or(WRONG)?;
        *bytes = rest;
        String::from_utf8(text.to_vec()).map_err(|_| WRONG)
    }
    let count = number(&mut bytes)?;
    if count > MOST {
        return Err(Violation("too many headers"));
    }
    (0..count).map(|_| Ok((text(&mut bytes)?.to_ascii_lowercase(), text(&mut bytes)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adler(bytes: &[u8]) -> u32 {
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in bytes {
            a = (a + u32::from(*byte)) % 65_521;
            b = (b + a) % 65_521;
        }
        b << 16 | a
    }

    #[test]
    fn the_dictionary_is_the_standards() {
        let dictionary = dictionary();
        assert_eq!((dictionary.len(), adler(&dictionary)), (1423, DICTIONARY));
    }

    fn bytes(hex: &str) -> Vec<u8> {
        hex.as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("text"), 16).expect("hex"))
            .collect()
    }

    /// Two blocks of one stream, made by zlib: the second refers to the first, both to the dictionary.
    const FIRST: &str =
        "78f9e3c6a7c202253a703a2b294a4dcc851625aca9a0808614cb45e01c6061606100a4398b20d198094ade8c0600000000ffff";
    const SECOND: &str = "02c920348720caa144a2f46229a3192b00000000ffff";

    #[test]
    fn blocks_that_zlib_packed() {
        let mut unpacker = Unpacker::new();
        let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let first = unpacker.headers(&bytes(FIRST)).expect("headers");
        assert_eq!(first, pairs(&[("streamtype", "error"), ("port", "8080"), ("requestid", "0")]));
        let second = unpacker.headers(&bytes(SECOND)).expect("headers");
        assert_eq!(
            second,
            pairs(&[("streamtype", "data"), ("port", "8080"), ("requestid", "0"), ("accept-language", "x")])
        );
        // It is lost with what can't be unpacked.
        assert!(unpacker.headers(&[0xff; 20]).is_err());
    }

    #[test]
    fn what_is_no_block() {
        for block in [&b""[..], b"\x78\x9c\0\0\0\0", b"\x78\xbb\0\0\0\0", b"\x79\xbb\xe3\xc6\xa7\xc2"] {
            assert!(Unpacker::new().headers(block).is_err(), "{block:?}");
        }
        for block in [&b"\0\0\0\x41"[..], b"\0\0\0\x01\0\0\0\x05ab", b"\0\0"] {
            assert!(parse(block).is_err(), "{block:?}");
        }
        assert_eq!(parse(b"\0\0\0\0"), Ok(Vec::new()));
    }

    #[test]
    fn a_block_that_unpacks_to_much_is_refused() {
        let mut unpacker = Unpacker::new();
        assert_eq!(unpacker.headers(&bytes("78f9e3c6a7c2ecc13101000000c220fba75e0d0f60000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000c0ad000000ffff")), Err(Violation("headers that are too long")));
    }
}
