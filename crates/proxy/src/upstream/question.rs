//! Whether an endpoint that went without a word speaks HTTP/1.1: asked by one for all who want to know.
//!
//! Invariants: while a question is open nobody asks another; what was answered holds for a while and is asked again then; a question whose asker is gone without
//! an answer is none. It must not know how an endpoint is asked.

use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::BELIEVED_OF_CALLS;

/// What was answered, and when; nothing yet.
type Answer = Option<(Instant, bool)>;

/// The last question to an endpoint.
#[derive(Default)]
pub(crate) struct Question(Mutex<Option<watch::Receiver<Answer>>>);

/// Who has to find the answer. Who drops this has none.
pub(crate) struct Asker(watch::Sender<Answer>);

impl Asker {
    pub(crate) fn tell(self, speaks: bool) {
        self.0.send_replace(Some((Instant::now(), speaks)));
    }
}

impl Question {
    /// Waits for the answer to the question that is open, or was answered lately. Where there is none, `ask` is to have somebody ask, who does not
    /// end with whoever waits: a caller may leave at any time, and others wait for the same.
    pub(crate) async fn answer(&self, ask: impl FnOnce(Asker)) -> bool {
        let mut told = self.open_or(ask, Instant::now());
        // It has no answer where the proxy ends.
        told.wait_for(Option::is_some).await.is_ok_and(|told| told.is_some_and(|(_, speaks)| speaks))
    }

    fn open_or(&self, ask: impl FnOnce(Asker), now: Instant) -> watch::Receiver<Answer> {
        let mut last = self.0.lock();
        if let Some(told) = last.as_ref().filter(|told| stands(told, now)) {
            return told.clone();
        }
        let (tell, told) = watch::channel(None);
        *last = Some(told.clone());
        drop(last);
        ask(Asker(tell));
        told
    }
}

fn stands(told: &watch::Receiver<Answer>, now: Instant) -> bool {
    // Before it is looked at: whoever answers does so once, and is gone then.
    let open = told.has_changed().is_ok();
    match *told.borrow() {
        Some((at, _)) => now.saturating_duration_since(at) < BELIEVED_OF_CALLS,
        None => open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_asks_for_all_until_the_answer_is_old_or_the_asker_gone() {
        let question = Question::default();
        let asked = Mutex::new(Vec::new());
        let open = |now| question.open_or(|asker| asked.lock().push(asker), now);
        let now = Instant::now();
        let (first, second) = (open(now), open(now + BELIEVED_OF_CALLS * 100));
        assert_eq!(asked.lock().len(), 1, "the question is open for as long as somebody asks");
        asked.lock().pop().expect("an asker").tell(true);
        let answered = Instant::now();
        assert!([&first, &second].into_iter().all(|told| told.borrow().is_some_and(|(_, speaks)| speaks)));
        assert!(open(now).borrow().is_some());
        assert_eq!(asked.lock().len(), 0, "it was answered lately");
        assert!(open(answered + BELIEVED_OF_CALLS).borrow().is_none());
        assert_eq!(asked.lock().len(), 1, "what was answered is old");
        drop(asked.lock().pop());
        assert!(open(now).borrow().is_none());
        assert_eq!(asked.lock().len(), 1, "nobody asked any more");
    }
}
