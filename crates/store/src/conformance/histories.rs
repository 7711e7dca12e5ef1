//! The past: older listings, and the end of the history.

use super::{Check, Checked, next, owned};
use crate::{Compacted, ListError};

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("an older revision lists as it was", |checked| Box::pin(older(checked))),
    ("pages at one revision are consistent", |checked| Box::pin(pages(checked))),
    ("the future cannot be listed", |checked| Box::pin(future(checked))),
    ("the history is bounded and says where it begins", |checked| Box::pin(compacted(checked))),
];

async fn older(checked: Checked) {
    let start = checked.store.revision();
    checked.put("/p/a", "1").await;
    checked.put("/p/b", "1").await;
    checked.put("/p/a", "2").await;
    checked.delete("/p/b").await;
    for (ago, expected) in [
        (0, &[][..]),
        (1, &[("/p/a", "1")]),
        (2, &[("/p/a", "1"), ("/p/b", "1")]),
        (3, &[("/p/a", "2"), ("/p/b", "1")]),
        (4, &[("/p/a", "2")]),
    ] {
        let at = start + ago;
        assert_eq!(checked.listed("/p/", Some(at)), owned(expected), "at {at}");
        let listing = checked.store.list("/p/", None, 0, Some(at));
        assert_eq!(listing.expect("a listing").revision, at);
    }
}

async fn pages(checked: Checked) {
    for key in ["a", "b", "d"] {
        checked.put(key, "1").await;
    }
    let first = checked.store.list("", None, 1, None).expect("a page");
    assert_eq!((first.remaining, first.more), (2, true));
    checked.delete("b").await;
    checked.put("c", "2").await;
    checked.put("d", "2").await;
    checked.put("e", "2").await;
    let rest = checked.store.list("", Some("a"), 0, Some(first.revision)).expect("a page");
    assert_eq!(super::pairs(&rest.entries), owned(&[("b", "1"), ("d", "1")]));
    assert_eq!((rest.remaining, rest.more), (0, false));
}

async fn future(checked: Checked) {
    let current = checked.put("a", "").await;
    let refused = checked.store.list("", None, 0, Some(current + 1));
    assert_eq!(refused, Err(ListError::Future { current }));
}

async fn compacted(checked: Checked) {
    let start = checked.store.revision();
    let mut slow = checked.store.watch("", start).expect("from now on");
    let writes = 2 * checked.history as u64;
    for write in 0..writes {
        checked.put(&format!("{}", write % 3), "v").await;
    }
    let Err(Compacted { oldest }) = checked.store.watch("", start).map(|_| ()) else {
        panic!("the history is larger than it says");
    };
    assert!(oldest > start && oldest <= start + writes);
    assert_eq!(slow.next().await, Err(Compacted { oldest }));
    assert_eq!(checked.store.list("", None, 0, Some(oldest - 1)), Err(ListError::Compacted(Compacted { oldest })));
    assert_eq!(checked.listed("", Some(oldest)).len(), 3);
    let mut watch = checked.store.watch("", oldest).expect("the oldest works");
    let first = next(&mut watch).await;
    assert!(first.starts_with(&format!("{} ", oldest + 1)), "{first}");
}
