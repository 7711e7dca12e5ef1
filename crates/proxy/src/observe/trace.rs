//! W3C Trace Context (level 1): reading `traceparent`, writing the next one, and which traces are recorded.
//!
//! Invariants: what a client sends is either wholly valid or not looked at; a decision to record that came with a
//! request is kept; new traces are recorded by a share of their ids, so that everyone with the same share decides alike,
//! and only so many a second. No IO.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::headers::PAIRS;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// A request's place in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The trace's id; not zero.
    pub trace: u128,
    /// The id of the proxy's own span; not zero.
    pub span: u64,
    /// The span of whoever called, where it said so.
    pub parent: Option<u64>,
    /// Whether the trace is recorded.
    pub sampled: bool,
}

/// What a client says about the trace it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Incoming {
    trace: u128,
    parent: u64,
    sampled: bool,
}

/// Which new traces are recorded.
#[derive(Debug)]
pub(crate) struct Sampler {
    /// Trace ids whose last 63 bits are below this.
    below: u64,
    per_second: u32,
    began: Instant,
    /// The second, and above 32 bits less how many traces were begun in it.
    window: AtomicU64,
}

impl Sampler {
    /// A share between 0 and 1, and how many a second at most.
    pub(crate) fn new(ratio: f64, per_second: u32) -> Self {
        // A share is a number of 53 bits at best, which is fine enough.
        let below = (ratio.clamp(0.0, 1.0) * (1_u64 << 63) as f64) as u64;
        Self { below, per_second, began: Instant::now(), window: AtomicU64::new(0) }
    }

    fn samples(&self, trace: u128, now: Instant) -> bool {
        if (trace as u64) >> 1 >= self.below {
            return false;
        }
        let second = now.saturating_duration_since(self.began).as_secs() << 32;
        let counted = |window: u64| if window >> 32 == second >> 32 { window + 1 } else { second + 1 };
        let before = self.window.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |window| {
            let next = counted(window);
            (next as u32 <= self.per_second).then_some(next)
        });
        before.is_ok()
    }
}

/// What a request says of its trace, if it says so once.
pub(super) fn said(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    values.next().filter(|_| values.next().is_none()).map(HeaderValue::as_bytes)
}

/// The place of a request that says this of its trace and has this id.
pub(crate) fn place(said: Option<&[u8]>, id: &HeaderValue, sampler: &Sampler, now: Instant) -> Place {
    let span = random(|| fastrand::u64(..));
    match said.and_then(incoming) {
        Some(Incoming { trace, parent, sampled }) => Place { trace, span, parent: Some(parent), sampled },
        None => {
            // The proxy's own request ids are fit to be ids of traces. So a program that passes on the request's id
            // alone still keeps what it causes together.
            let trace = hexadecimal(id.as_bytes(), 32).filter(|id| *id != 0);
            let trace = trace.unwrap_or_else(|| random(|| fastrand::u128(..)));
            Place { trace, span, parent: None, sampled: sampler.samples(trace, now) }
        }
    }
}

/// Any number but zero.
fn random<N: PartialEq + Default>(draw: impl Fn() -> N) -> N {
    loop {
        let drawn = draw();
        if drawn != N::default() {
            return drawn;
        }
    }
}

fn incoming(value: &[u8]) -> Option<Incoming> {
    // A later version may have more to say, after a dash.
    let known_form = match value.get(..2)? {
        b"ff" => false,
        b"00" => value.len() == 55,
        _ => value.len() == 55 || value.get(55) == Some(&b'-'),
    };
    if !known_form || [2, 35, 52].iter().any(|dash| value.get(*dash) != Some(&b'-')) {
        return None;
    }
    hexadecimal(&value[..2], 2)?;
    let trace = hexadecimal(&value[3..35], 32).filter(|trace| *trace != 0)?;
    let parent = hexadecimal(&value[36..52], 16).and_then(|parent| u64::try_from(parent).ok());
    let flags = hexadecimal(&value[53..55], 2)?;
    Some(Incoming { trace, parent: parent.filter(|parent| *parent != 0)?, sampled: flags & 1 == 1 })
}

/// What each byte is as a digit; those that are none are 255.
const VALUES: [u8; 256] = {
    let (mut values, mut value) = ([255; 256], 0);
    while value < 16 {
        values[b"0123456789abcdef"[value as usize] as usize] = value;
        value += 1;
    }
    values
};

/// Lower-case digits, exactly so many.
fn hexadecimal(text: &[u8], digits: usize) -> Option<u128> {
    if text.len() != digits {
        return None;
    }
    // In halves, as numbers of this length are two to the processor.
    text.chunks(16).try_fold(0, |number, half| {
        let (mut value, mut all) = (0_u64, true);
        for digit in half {
            let of = VALUES[usize::from(*digit)];
            all &= of < 16;
            value = value << 4 | u64::from(of);
        }
        all.then(|| number << (4 * half.len()) | u128::from(value))
    })
}

/// Tells the next hop. The vendors' `tracestate` goes on with the trace that it came with, and not with a new one.
pub(crate) fn carry(place: &Place, headers: &mut HeaderMap) {
    if let Ok(value) = HeaderValue::from_bytes(&written(place)) {
        headers.insert(TRACEPARENT, value);
    }
    if place.parent.is_none() && headers.contains_key(TRACESTATE) {
        headers.remove(TRACESTATE);
    }
}

/// How many bytes that takes.
pub(super) const LENGTH: usize = 55;

/// A place as the next hop is told of it.
pub(super) fn written(place: &Place) -> [u8; LENGTH] {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    write(&mut text[3..35], &place.trace.to_be_bytes());
    write(&mut text[36..52], &place.span.to_be_bytes());
    text[54] = b'0' + u8::from(place.sampled);
    text
}

fn write(digits: &mut [u8], number: &[u8]) {
    for (pair, byte) in digits.chunks_exact_mut(2).zip(number) {
        pair.copy_from_slice(&PAIRS[usize::from(*byte)]);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (TRACEPARENT, HeaderValue::from_str(value).expect("a value"))).collect()
    }

    #[test]
    fn what_is_valid_is_read_and_nothing_else() {
        let found =
            Incoming { trace: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, parent: 0xb7ad_6b71_6920_3331, sampled: true };
        assert_eq!(incoming(GOOD.as_bytes()), Some(found));
        let later = GOOD.replacen("00", "cc", 1);
        for (value, expected) in [
            (GOOD.replace("-01", "-00"), Some(false)),
            (GOOD.replace("-01", "-03"), Some(true)),
            (later.clone(), Some(true)),
            (format!("{later}-what-the-future-will-be-like"), Some(true)),
            (format!("{later}.what-the-future-will-be-like"), None),
            (format!("{GOOD}-x"), None),
            (GOOD.replacen("00", "ff", 1), None),
            (GOOD.to_uppercase(), None),
            (GOOD.replace("b7ad6b7169203331", "0000000000000000"), None),
            (GOOD.replace("0af7651916cd43dd8448eb211c80319c", "00000000000000000000000000000000"), None),
            (GOOD.replace('-', "_"), None),
            (GOOD[..54].to_owned(), None),
            (GOOD.replace("-01", "-0g"), None),
            (String::new(), None),
            ("00".to_owned(), None),
        ] {
            assert_eq!(incoming(value.as_bytes()).map(|found| found.sampled), expected, "{value}");
        }
        assert_eq!(said(&headers(&[GOOD])), Some(GOOD.as_bytes()));
        assert_eq!(said(&headers(&[GOOD, GOOD])), None, "two of them");
    }

    #[test]
    fn the_next_hop_is_told_of_this_one() {
        let sampler = Sampler::new(0.0, 0);
        let mut with_parent = headers(&[GOOD]);
        with_parent.insert(TRACESTATE, HeaderValue::from_static("a=1"));
        let place = place(said(&with_parent), &HeaderValue::from_static("id"), &sampler, Instant::now());
        assert!(place.sampled, "the caller has decided");
        carry(&place, &mut with_parent);
        let told = said(&with_parent).and_then(incoming).expect("valid");
        assert_eq!((told.trace, told.parent, told.sampled), (place.trace, place.span, true));
        assert_eq!(with_parent[TRACESTATE], "a=1");
        let mut alone = HeaderMap::from_iter([(TRACESTATE, HeaderValue::from_static("a=1"))]);
        let new = super::place(said(&alone), &HeaderValue::from_static("id"), &sampler, Instant::now());
        assert!(!new.sampled && new.parent.is_none());
        carry(&new, &mut alone);
        assert!(!alone.contains_key(TRACESTATE), "of which trace, nobody knows");
        assert_eq!(said(&alone).and_then(incoming).map(|told| told.trace), Some(new.trace));
    }

    #[test]
    fn a_request_id_of_the_proxys_is_the_trace() {
        let sampler = Sampler::new(1.0, 1);
        let id = HeaderValue::from_static("0af7651916cd43dd8448eb211c80319c");
        let place = place(None, &id, &sampler, Instant::now());
        assert_eq!(place.trace, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
    }

    #[test]
    fn new_traces_are_sampled_by_share_and_second() {
        let now = Instant::now();
        let count =
            |sampler: &Sampler, at: Instant| (0..1_000).filter(|_| sampler.samples(fastrand::u128(..), at)).count();
        assert_eq!(count(&Sampler::new(0.0, 10_000), now), 0);
        assert_eq!(count(&Sampler::new(1.0, 10_000), now), 1_000);
        // Ten standard deviations around a half.
        assert!((340..=660).contains(&count(&Sampler::new(0.5, 10_000), now)));
        let few = Sampler::new(1.0, 7);
        assert_eq!(count(&few, now), 7);
        assert_eq!(count(&few, now + Duration::from_secs(2)), 7);
        assert!((0..100).all(|id| Sampler::new(0.25, 100).samples(id << 64, now)), "the last bits decide");
    }
}
