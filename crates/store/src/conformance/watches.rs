//! Watching.

use std::sync::Arc;

use super::{Check, Checked, next, silent};
use crate::WatchItem;

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("a watch gives what comes after its revision", |checked| Box::pin(after(checked))),
    ("a watch gives only its prefix", |checked| Box::pin(prefix(checked))),
    ("an event knows what was before it", |checked| Box::pin(previous(checked))),
    ("a waiting watch wakes up", |checked| Box::pin(wakes(checked))),
    ("a watch may begin in the future", |checked| Box::pin(future(checked))),
    ("a dropped wait loses nothing", |checked| Box::pin(cancelled(checked))),
    ("progress never passes an event", |checked| Box::pin(progress(checked))),
    ("every watcher sees every event in order", |checked| Box::pin(concurrent(checked))),
];

async fn after(checked: Checked) {
    let one = checked.put("a", "1").await;
    checked.put("a", "2").await;
    checked.delete("a").await;
    let mut watch = checked.store.watch("", one).expect("within the history");
    assert_eq!(next(&mut watch).await, format!("{} a=2", one + 1));
    assert_eq!(next(&mut watch).await, format!("{} a deleted", one + 2));
    assert!(silent(&mut watch).await);
    let mut all = checked.store.watch("", one - 1).expect("within the history");
    assert_eq!(next(&mut all).await, format!("{one} a=1"));
}

async fn prefix(checked: Checked) {
    let start = checked.store.revision();
    let mut watch = checked.store.watch("/p/", start).expect("from now on");
    for key in ["/o", "/p/a", "/p", "/pp/a", "/p/b"] {
        checked.put(key, "").await;
    }
    assert_eq!(next(&mut watch).await, format!("{} /p/a=", start + 2));
    assert_eq!(next(&mut watch).await, format!("{} /p/b=", start + 5));
    assert!(silent(&mut watch).await);
}

async fn previous(checked: Checked) {
    let start = checked.store.revision();
    let mut watch = checked.store.watch("", start).expect("from now on");
    checked.put("a", "1").await;
    let first = checked.store.get("a").0;
    checked.put("a", "2").await;
    let second = checked.store.get("a").0;
    checked.delete("a").await;
    let mut events = Vec::new();
    for _ in 0..3 {
        let Ok(WatchItem::Event(event)) = watch.next().await else {
            panic!("three events");
        };
        events.push(event);
    }
    assert_eq!(events[0].previous, None);
    assert_eq!((&events[1].previous, &events[0].entry()), (&first, &first));
    assert_eq!((&events[2].previous, &events[1].entry()), (&second, &second));
    assert_eq!(events[2].entry(), None);
}

async fn wakes(checked: Checked) {
    let start = checked.store.revision();
    let mut watch = checked.store.watch("a", start).expect("from now on");
    let waiting = tokio::spawn(async move { next(&mut watch).await });
    checked.put("b", "").await;
    checked.put("a", "1").await;
    assert_eq!(waiting.await.expect("no panic"), format!("{} a=1", start + 2));
}

async fn future(checked: Checked) {
    let start = checked.store.revision();
    let mut watch = checked.store.watch("", start + 2).expect("the future is allowed");
    for value in ["1", "2"] {
        checked.put("a", value).await;
        assert!(silent(&mut watch).await);
    }
    assert_eq!(watch.progress(), start + 2);
    checked.put("a", "3").await;
    assert_eq!(next(&mut watch).await, format!("{} a=3", start + 3));
}

async fn cancelled(checked: Checked) {
    let start = checked.store.revision();
    let mut watch = checked.store.watch("", start).expect("from now on");
    assert!(silent(&mut watch).await);
    checked.put("a", "1").await;
    // A wait that is dropped before it is polled, and one that had been polled, both took nothing.
    drop(watch.next());
    assert_eq!(next(&mut watch).await, format!("{} a=1", start + 1));
}

async fn progress(checked: Checked) {
    let start = checked.store.revision();
    let mut watch = checked.store.watch("a", start).expect("from now on");
    assert_eq!(watch.progress(), start);
    checked.put("b", "").await;
    assert_eq!(watch.progress(), start + 1);
    checked.put("a", "1").await;
    checked.put("b", "").await;
    assert_eq!(watch.progress(), start + 1);
    assert_eq!(next(&mut watch).await, format!("{} a=1", start + 2));
    assert_eq!(watch.progress(), start + 3);

    watch.report_progress(true);
    assert_eq!(next(&mut watch).await, format!("progress {}", start + 3));
    assert!(silent(&mut watch).await);
    checked.put("a", "2").await;
    assert_eq!(next(&mut watch).await, format!("{} a=2", start + 4));
    assert!(silent(&mut watch).await);
    checked.put("b", "").await;
    assert_eq!(next(&mut watch).await, format!("progress {}", start + 5));
}

async fn concurrent(checked: Checked) {
    let start = checked.store.revision();
    let checked = Arc::new(checked);
    let writes = checked.history as u64 / 2;
    let mut watchers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut watch = checked.store.watch("", start).expect("from now on");
        watchers.spawn(async move {
            for revision in start + 1..=start + writes {
                match watch.next().await {
                    Ok(WatchItem::Event(event)) => assert_eq!(event.revision, revision),
                    other => panic!("instead of event {revision}: {other:?}"),
                }
            }
        });
    }
    let mut writers = tokio::task::JoinSet::new();
    for write in 0..writes {
        let checked = Arc::clone(&checked);
        writers.spawn(async move {
            let revision = checked.put(&format!("{}", write % 7), "v").await;
            assert!(checked.store.revision() >= revision);
        });
    }
    while let Some(result) = writers.join_next().await {
        result.expect("no panic");
    }
    while let Some(result) = watchers.join_next().await {
        result.expect("no panic");
    }
}
