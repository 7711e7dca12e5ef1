//! Random operations, restarts among them, against a model that keeps every state it ever had.

use std::collections::BTreeMap;

use proptest::prelude::*;
use store::{Entry, ListError, Op, Precondition, Settings, SqliteStore, Store, WatchItem, WriteError};
use tempfile::TempDir;

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8, When),
    Delete(u8, When),
    /// Lists this many revisions ago, after a key, at most so many.
    List(u8, Option<u8>, u8, u8),
    /// Begins a watch this many revisions ago and reads it to the end.
    Watch(u8, u8),
    Restart,
}

#[derive(Debug, Clone)]
enum When {
    Any,
    Absent,
    Current,
    Stale,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let when = prop_oneof![
        3 => Just(When::Any),
        1 => Just(When::Absent),
        2 => Just(When::Current),
        1 => Just(When::Stale),
    ];
    let key = 0u8..6;
    let step = prop_oneof![
        8 => (key.clone(), any::<u8>(), when.clone()).prop_map(|(key, value, when)| Step::Put(key, value, when)),
        4 => (key.clone(), when).prop_map(|(key, when)| Step::Delete(key, when)),
        4 => (0u8..25, proptest::option::of(key.clone()), 0u8..4, 0u8..3)
            .prop_map(|(ago, after, limit, prefix)| Step::List(ago, after, limit, prefix)),
        2 => (0u8..25, 0u8..3).prop_map(|(ago, prefix)| Step::Watch(ago, prefix)),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..80)
}

/// Keys `/a/0`, `/b/1`, `/a/2`, ...
fn name(key: u8) -> String {
    format!("/{}/{key}", if key.is_multiple_of(2) { 'a' } else { 'b' })
}

fn prefix(number: u8) -> &'static str {
    ["/", "/a/", "/b/"][usize::from(number)]
}

const HISTORY: usize = 12;

fn open(directory: &TempDir) -> (SqliteStore, store::StoreTask) {
    let settings = Settings { history: HISTORY, trim_step: 2, ..Settings::new(directory.path().join("store.db")) };
    SqliteStore::open(settings).unwrap()
}

/// The state after each revision; the first one is revision 1.
type States = Vec<BTreeMap<String, Entry>>;

/// Does a write on both, and compares what comes of it.
async fn write(store: &SqliteStore, states: &mut States, key: u8, value: Option<u8>, when: &When) {
    let key = name(key);
    let mut state = states.last().unwrap().clone();
    let current = state.get(&key).cloned();
    let condition = match when {
        When::Any => Precondition::Any,
        When::Absent => Precondition::Absent,
        When::Current => Precondition::Revision(current.as_ref().map_or(0, |entry| entry.revision)),
        When::Stale => Precondition::Revision(current.as_ref().map_or(7, |entry| entry.revision - 1)),
    };
    let goes = match when {
        When::Any => value.is_some() || current.is_some(),
        When::Absent => value.is_some() && current.is_none(),
        When::Current => current.is_some(),
        When::Stale => false,
    };
    let op = match value {
        Some(value) => {
            Op::Put { key: key.clone(), value: vec![value; usize::from(value) * 30].into(), when: condition }
        }
        None => Op::Delete { key: key.clone(), when: condition },
    };
    let revision = states.len() as u64 + 1;
    match store.write(op).await {
        Ok(written) => {
            assert!(goes, "{key} was written, {condition:?} with {current:?}");
            assert_eq!(written, revision);
            match value {
                Some(value) => {
                    let entry = Entry {
                        key: key.as_str().into(),
                        value: vec![value; usize::from(value) * 30].into(),
                        revision,
                        created: current.map_or(revision, |entry| entry.created),
                    };
                    state.insert(key, entry);
                }
                None => {
                    state.remove(&key);
                }
            }
            states.push(state);
        }
        Err(WriteError::Conflict { current: found, .. }) => {
            assert!(!goes, "{key} was refused, {condition:?} with {current:?}");
            assert_eq!(found, current);
        }
        Err(error) => panic!("{error}"),
    }
}

fn list(store: &SqliteStore, states: &States, ago: u8, after: Option<u8>, limit: u8, within: &str) {
    let at = (states.len() as u64).saturating_sub(u64::from(ago));
    let after = after.map(name);
    let oldest = store.watch("", 0).map(|_| 0).unwrap_or_else(|compacted| compacted.oldest);
    let found = store.list(within, after.as_deref(), usize::from(limit), Some(at));
    if at < oldest {
        assert!(matches!(found, Err(ListError::Compacted(compacted)) if compacted.oldest == oldest));
        return;
    }
    let found = found.unwrap();
    let expected: Vec<&Entry> = states[at as usize - 1]
        .iter()
        .filter(|(key, _)| key.starts_with(within) && after.as_ref().is_none_or(|after| *key > after))
        .map(|(_, entry)| entry)
        .collect();
    let length = if limit == 0 { expected.len() } else { expected.len().min(usize::from(limit)) };
    assert_eq!(found.entries.iter().collect::<Vec<_>>(), expected[..length]);
    assert_eq!(found.remaining as usize, expected.len() - length);
    assert_eq!((found.more, found.revision), (found.remaining > 0, at));
}

async fn watch(store: &SqliteStore, states: &States, ago: u8, within: &str) {
    let current = states.len() as u64;
    let from = current.saturating_sub(u64::from(ago));
    let Ok(mut watch) = store.watch(within, from) else {
        assert!(u64::from(ago) > HISTORY as u64 || from < 1, "compacted too early");
        return;
    };
    let mut last = from;
    while watch.progress() < current {
        let Ok(WatchItem::Event(event)) = watch.next().await else {
            panic!("an event is due");
        };
        assert!(event.revision > last && event.key.starts_with(within));
        last = event.revision;
        let (before, after) = (&states[last as usize - 2], &states[last as usize - 1]);
        assert_eq!(event.previous.as_ref(), before.get(&*event.key));
        assert_eq!(event.entry().as_ref(), after.get(&*event.key));
        assert_ne!(before.get(&*event.key), after.get(&*event.key));
    }
}

async fn run(steps: Vec<Step>) {
    let directory = TempDir::new().unwrap();
    let mut states: States = vec![BTreeMap::new()];
    let mut opened = open(&directory);
    for step in steps {
        let store = &opened.0;
        match step {
            Step::Put(key, value, when) => write(store, &mut states, key, Some(value), &when).await,
            Step::Delete(key, when) => write(store, &mut states, key, None, &when).await,
            Step::List(ago, after, limit, within) => {
                list(store, &states, ago, after, limit, prefix(within));
            }
            Step::Watch(ago, within) => watch(store, &states, ago, prefix(within)).await,
            Step::Restart => {
                opened.1.close().await.unwrap();
                opened = open(&directory);
            }
        }
        assert_eq!(opened.0.revision(), states.len() as u64);
    }
    list(&opened.0, &states, 0, None, 0, "/");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn does_what_the_model_does(steps in steps()) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(run(steps));
    }
}
