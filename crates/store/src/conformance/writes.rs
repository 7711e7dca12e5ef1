//! Writing, and what stops a write.

use std::sync::Arc;

use super::{Check, Checked};
use crate::{Op, Precondition, WriteError};

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("revisions have no gaps", |checked| Box::pin(revisions(checked))),
    ("a failed precondition changes nothing", |checked| Box::pin(preconditions(checked))),
    ("of many that create a key, one does", |checked| Box::pin(race(checked))),
    ("a future never polled writes nothing", |checked| Box::pin(lazy(checked))),
    ("values are opaque", |checked| Box::pin(opaque(checked))),
];

async fn revisions(checked: Checked) {
    let start = checked.store.revision();
    for step in 1..=3 {
        assert_eq!(checked.put("a", "").await, start + step);
        assert_eq!(checked.store.revision(), start + step);
    }
    assert_eq!(checked.delete("a").await, start + 4);
    let refused = checked.try_delete("a", Precondition::Any).await;
    assert!(matches!(refused, Err(WriteError::Conflict { .. })));
    assert_eq!(checked.put("a", "").await, start + 5);
}

async fn preconditions(checked: Checked) {
    use Precondition::{Absent, Any, Revision};
    let one = checked.put("a", "1").await;
    let before = checked.listed("", None);
    for when in [Absent, Revision(one + 1)] {
        for result in [checked.try_put("a", "2", when).await, checked.try_delete("a", when).await] {
            let Err(WriteError::Conflict { key, current }) = result else {
                panic!("{when:?} was met: {result:?}");
            };
            assert_eq!(key, "a");
            assert_eq!(current.map(|entry| entry.revision), Some(one));
        }
    }
    for when in [Absent, Revision(one), Any] {
        let result = checked.try_delete("b", when).await;
        let Err(WriteError::Conflict { current: None, .. }) = result else {
            panic!("deleted what does not exist ({when:?}): {result:?}");
        };
    }
    let missing = checked.try_put("b", "2", Revision(one)).await;
    assert!(matches!(missing, Err(WriteError::Conflict { current: None, .. })));
    assert_eq!(checked.store.revision(), one);
    assert_eq!(checked.listed("", None), before);

    let two = checked.try_put("a", "2", Revision(one)).await;
    let two = two.expect("the revision is right");
    checked.try_delete("a", Revision(two)).await.expect("the revision is right");
    checked.try_put("a", "3", Absent).await.expect("it does not exist");
}

async fn race(checked: Checked) {
    let start = checked.store.revision();
    let checked = Arc::new(checked);
    let mut writes = tokio::task::JoinSet::new();
    for writer in 0..64 {
        let write = checked.store.write(Op::Put {
            key: format!("key-{}", writer % 4),
            value: bytes::Bytes::from(writer.to_string()),
            when: Precondition::Absent,
        });
        writes.spawn(write);
    }
    let mut won = Vec::new();
    while let Some(result) = writes.join_next().await {
        match result.expect("no panic") {
            Ok(revision) => won.push(revision),
            Err(WriteError::Conflict { key, current }) => {
                let current = current.expect("another one was first");
                assert_eq!(checked.store.get(&key).0, Some(current));
            }
            Err(error) => panic!("{error}"),
        }
    }
    won.sort_unstable();
    assert_eq!(won, [start + 1, start + 2, start + 3, start + 4]);
}

async fn lazy(checked: Checked) {
    drop(checked.store.write(Op::Put { key: "a".to_owned(), value: bytes::Bytes::new(), when: Precondition::Any }));
    let revision = checked.put("b", "").await;
    assert_eq!(checked.store.get("a"), (None, revision));
}

async fn opaque(checked: Checked) {
    let all: Vec<u8> = (0..=255).collect();
    for value in [Vec::new(), vec![0], all.repeat(4000)] {
        checked
            .store
            .write(Op::Put { key: "a".to_owned(), value: value.clone().into(), when: Precondition::Any })
            .await
            .expect("a put");
        let entry = checked.store.get("a").0.expect("it was written");
        assert_eq!(entry.value, value);
    }
}
