//! Decides what becomes of an Event: a new one, a higher count on an old one, or nothing.
//!
//! Invariants:
//! - What is remembered is bounded; the oldest is forgotten first.
//! - The same said again within ten minutes is one Event with a count.
//! - More than ten different messages of one reason about one object within ten minutes become one combined Event.
//! - One component may say 25 things about one object at once, then one every five minutes.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use jiff::Timestamp;

const REMEMBERED: usize = 4096;
const WINDOW_SECONDS: i64 = 600;
const SIMILAR: usize = 10;
const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;

/// What tells one kind of Event from another, without its message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Topic {
    pub(crate) component: &'static str,
    /// The uid of the object, or what else identifies it.
    pub(crate) object: String,
    pub(crate) reason: String,
    pub(crate) warning: bool,
}

/// What to do about an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Make a new Event with this message.
    Create { message: String },
    /// Count the Event of that name once more.
    Count { name: String, count: i32, message: String },
    /// Say nothing: it was said too often.
    Drop,
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

struct Similar {
    messages: BTreeSet<String>,
    at: Timestamp,
}

struct Said {
    name: String,
    count: i32,
    at: Timestamp,
}

/// What was said lately.
#[derive(Default)]
pub(crate) struct Correlator {
    buckets: HashMap<(&'static str, String), Bucket>,
    similar: HashMap<Topic, Similar>,
    said: HashMap<(Topic, String), Said>,
}

fn seconds(from: Timestamp, to: Timestamp) -> i64 {
    to.as_second().saturating_sub(from.as_second())
}

fn forget_oldest<K: Eq + Hash + Clone, V>(map: &mut HashMap<K, V>, at: impl Fn(&V) -> Timestamp) {
    if map.len() <= REMEMBERED {
        return;
    }
    let mut times: Vec<Timestamp> = map.values().map(&at).collect();
    times.sort_unstable();
    let middle = times[times.len() / 2];
    map.retain(|_, value| at(value) > middle);
}

impl Correlator {
    /// What to do about `message` on `topic`. The caller makes the Event and reports it with [`Correlator::made`].
    pub(crate) fn observe(&mut self, topic: &Topic, message: &str, now: Timestamp) -> Verdict {
        if !self.within_budget(topic, now) {
            return Verdict::Drop;
        }
        let message = self.aggregated(topic, message, now);
        let key = (topic.clone(), self.local(topic, &message));
        let verdict = match self.said.get_mut(&key) {
            Some(said) if seconds(said.at, now) < WINDOW_SECONDS => {
                said.count = said.count.saturating_add(1);
                said.at = now;
                Verdict::Count { name: said.name.clone(), count: said.count, message }
            }
            _ => Verdict::Create { message },
        };
        forget_oldest(&mut self.said, |said| said.at);
        verdict
    }

    /// An Event was made.
    pub(crate) fn made(&mut self, topic: &Topic, message: &str, name: String, now: Timestamp) {
        let key = (topic.clone(), self.local(topic, message));
        self.said.insert(key, Said { name, count: 1, at: now });
    }

    /// The Event of that name is gone: the next of its kind is a new one.
    pub(crate) fn lost(&mut self, name: &str) {
        self.said.retain(|_, said| said.name != name);
    }

    fn combined(&self, topic: &Topic) -> bool {
        self.similar.get(topic).is_some_and(|similar| similar.messages.len() > SIMILAR)
    }

    /// Combined Events are one whatever their message.
    fn local(&self, topic: &Topic, message: &str) -> String {
        if self.combined(topic) { String::new() } else { message.to_owned() }
    }

    fn within_budget(&mut self, topic: &Topic, now: Timestamp) -> bool {
        forget_oldest(&mut self.buckets, |bucket| bucket.at);
        let bucket =
            self.buckets.entry((topic.component, topic.object.clone())).or_insert(Bucket { tokens: BURST, at: now });
        let elapsed = seconds(bucket.at, now).max(0);
        // Whole seconds below 2^53 are exact.
        #[allow(clippy::cast_precision_loss)]
        let refill = elapsed as f64 * REFILL_PER_SECOND;
        bucket.tokens = (bucket.tokens + refill).min(BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    fn aggregated(&mut self, topic: &Topic, message: &str, now: Timestamp) -> String {
        forget_oldest(&mut self.similar, |similar| similar.at);
        let similar = self.similar.entry(topic.clone()).or_insert(Similar { messages: BTreeSet::new(), at: now });
        if seconds(similar.at, now) >= WINDOW_SECONDS {
            similar.messages.clear();
        }
        similar.at = now;
        if similar.messages.len() <= SIMILAR {
            similar.messages.insert(message.to_owned());
        }
        if similar.messages.len() > SIMILAR {
            format!("(combined from similar events): {message}")
        } else {
            message.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(object: &str) -> Topic {
        Topic { component: "test", object: object.into(), reason: "Tested".into(), warning: false }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).expect("a time in range")
    }

    #[test]
    fn the_same_again_is_counted_until_the_window_ends() {
        let mut correlator = Correlator::default();
        let topic = topic("a");
        assert_eq!(correlator.observe(&topic, "m", at(0)), Verdict::Create { message: "m".into() });
        correlator.made(&topic, "m", "e1".into(), at(0));
        let counted = |count| Verdict::Count { name: "e1".into(), count, message: "m".into() };
        assert_eq!(correlator.observe(&topic, "m", at(1)), counted(2));
        assert_eq!(correlator.observe(&topic, "m", at(500)), counted(3));
        assert_eq!(correlator.observe(&topic, "m", at(1200)), Verdict::Create { message: "m".into() });
        correlator.lost("e1");
        assert_eq!(correlator.observe(&topic, "m", at(1201)), Verdict::Create { message: "m".into() });
    }

    #[test]
    fn many_messages_of_one_reason_are_combined() {
        let mut correlator = Correlator::default();
        let topic = topic("a");
        let mut created = Vec::new();
        for index in 0..20 {
            match correlator.observe(&topic, &format!("m{index}"), at(index)) {
                Verdict::Create { message } => {
                    correlator.made(&topic, &message, format!("e{index}"), at(index));
                    created.push(message);
                }
                Verdict::Count { name, .. } => assert_eq!(name, "e10"),
                Verdict::Drop => panic!("twenty are within the budget"),
            }
        }
        assert_eq!(created.len(), 11);
        assert_eq!(created[10], "(combined from similar events): m10");
    }

    #[test]
    fn too_much_about_one_object_is_dropped_and_others_are_not() {
        let mut correlator = Correlator::default();
        let dropped = (0..40)
            .filter(|index| correlator.observe(&topic("a"), &format!("m{index}"), at(0)) == Verdict::Drop)
            .count();
        assert_eq!(dropped, 15);
        assert_ne!(correlator.observe(&topic("b"), "m", at(0)), Verdict::Drop);
        assert_ne!(correlator.observe(&topic("a"), "m", at(300)), Verdict::Drop);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut correlator = Correlator::default();
        for index in 0..i64::try_from(REMEMBERED * 3).expect("small") {
            let topic = topic(&index.to_string());
            correlator.observe(&topic, "m", at(index));
            correlator.made(&topic, "m", format!("e{index}"), at(index));
        }
        assert!(correlator.said.len() <= REMEMBERED + 1);
        assert!(correlator.similar.len() <= REMEMBERED + 1);
        assert!(correlator.buckets.len() <= REMEMBERED + 1);
    }
}
