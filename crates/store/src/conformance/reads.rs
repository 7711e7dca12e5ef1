//! Reading what is there now.

use super::{Check, Checked, owned, pairs};

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("an empty store has a revision", |checked| Box::pin(empty(checked))),
    ("a key reads as it was written", |checked| Box::pin(get(checked))),
    ("a listing has the prefix's keys in order", |checked| Box::pin(order(checked))),
    ("pages follow one another", |checked| Box::pin(pages(checked))),
];

async fn empty(checked: Checked) {
    let revision = checked.store.revision();
    assert!(revision >= 1);
    assert_eq!(checked.store.get("nothing"), (None, revision));
    let listing = checked.store.list("", None, 0, None).expect("a listing");
    assert_eq!((listing.entries.len(), listing.revision), (0, revision));
    assert!(!listing.more);
}

async fn get(checked: Checked) {
    let created = checked.put("a", "1").await;
    let updated = checked.put("a", "2").await;
    checked.put("b", "3").await;
    let (entry, revision) = checked.store.get("a");
    let entry = entry.expect("it was written");
    assert_eq!(&entry.value[..], b"2");
    assert_eq!((entry.created, entry.revision), (created, updated));
    assert_eq!(revision, updated + 1);
    let deleted = checked.delete("a").await;
    assert_eq!(checked.store.get("a"), (None, deleted));
    let again = checked.put("a", "4").await;
    let entry = checked.store.get("a").0.expect("it was written again");
    assert_eq!((entry.created, entry.revision), (again, again));
}

async fn order(checked: Checked) {
    for key in ["/p/b", "/pa", "/p/a/x", "/q", "/p/é", "/p/", "/o", "/p/a"] {
        checked.put(key, "").await;
    }
    let keys: Vec<String> = checked.listed("/p/", None).into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["/p/", "/p/a", "/p/a/x", "/p/b", "/p/é"]);
    assert_eq!(checked.listed("", None).len(), 8);
    assert_eq!(checked.listed("/z", None), []);
}

async fn pages(checked: Checked) {
    for key in ["/p/a", "/p/b", "/p/c", "/p/d", "/p/e", "/q"] {
        checked.put(key, "").await;
    }
    let mut after: Option<String> = None;
    let mut seen = Vec::new();
    for remaining in [3, 1, 0] {
        let page = checked.store.list("/p/", after.as_deref(), 2, None).expect("a page");
        assert_eq!((page.remaining, page.more), (remaining, remaining > 0));
        after = page.entries.last().map(|entry| entry.key.to_string());
        seen.extend(pairs(&page.entries));
    }
    let all = [("/p/a", ""), ("/p/b", ""), ("/p/c", ""), ("/p/d", ""), ("/p/e", "")];
    assert_eq!(seen, owned(&all));
    // The key to go on after need not exist, and may lie outside of the prefix.
    for (after, first) in [("/p/bb", Some("/p/c")), ("/a", Some("/p/a")), ("/z", None)] {
        let page = checked.store.list("/p/", Some(after), 1, None).expect("a page");
        assert_eq!(page.entries.first().map(|entry| &*entry.key), first);
    }
}
