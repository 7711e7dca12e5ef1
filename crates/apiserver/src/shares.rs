//! A bounded number of something, of which nobody has more than a share.
//!
//! Invariant: what is held is counted for who holds it from [`Shares::take`] until the [`Share`] is dropped, and nobody who holds nothing is
//! remembered.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// What there is, and who has how much of it.
#[derive(Debug)]
pub(crate) struct Shares {
    all: usize,
    each: usize,
    held: Mutex<HashMap<String, usize>>,
}

/// Why there is none to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// Everything is held, by several.
    Everywhere,
    /// Who asks has their share, which is this many.
    Yours(usize),
}

/// One of them, until this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Arc<Shares>,
    who: String,
}

impl Shares {
    /// `all` of them, of which nobody gets more than half (but one in any case).
    pub(crate) fn halves(all: usize) -> Arc<Self> {
        Arc::new(Self { all, each: (all / 2).max(1), held: Mutex::default() })
    }

    /// One for somebody.
    pub(crate) fn take(self: &Arc<Self>, who: &str) -> Result<Share, Full> {
        let mut held = self.held.lock();
        let own = held.get(who).copied().unwrap_or_default();
        if own >= self.each {
            return Err(Full::Yours(self.each));
        }
        // Few hold something: there are no more of them than of what is held.
        if held.values().sum::<usize>() >= self.all {
            return Err(Full::Everywhere);
        }
        held.insert(who.to_owned(), own + 1);
        drop(held);
        Ok(Share { shares: Arc::clone(self), who: who.to_owned() })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.shares.held.lock();
        if let Some(own) = held.get_mut(&self.who) {
            *own -= 1;
            if *own == 0 {
                held.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_all() {
        let shares = Shares::halves(5);
        let take = |who| shares.take(who);
        let (first, _second) = (take("ann").expect("free"), take("ann").expect("free"));
        assert_eq!(take("ann").expect_err("her share"), Full::Yours(2));
        let _bobs = (take("bob").expect("free"), take("bob").expect("free"));
        let eves = take("eve").expect("free");
        assert_eq!(take("eve").expect_err("none is left"), Full::Everywhere);
        drop(first);
        assert!(take("ann").is_ok(), "what is given back is there again");
        drop(eves);
        assert!(!shares.held.lock().contains_key("eve"));
        assert!(Shares::halves(1).take("ann").is_ok(), "one at least");
    }
}
