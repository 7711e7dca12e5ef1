//! What is to be done about an application: a pure function from what is known to one action.
//!
//! Invariants: content that failed is not tried again by itself, however often one asks; a newer commit replaces an older one
//! that is under way; what is bad or half done, and cannot be replaced by what the repository says, is taken back; nothing is deleted to
//! the last object unless told; while suspended nothing is done; the same picture is never acted on for ever.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::sync::application::{Automated, Retry};

/// How long after a sync another one may undo what others change, so that two who disagree do not race.
pub const HEAL_PAUSE: Duration = Duration::from_secs(5);

/// One content: the commits of all sources, and a digest of how they are built and applied.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Content {
    /// The commits, one for each source.
    pub revisions: Vec<String>,
    /// A digest of everything else that decides what is applied.
    pub parameters: String,
}

impl Content {
    /// The commits as text, each cut to 12 digits.
    #[must_use]
    pub fn short(&self) -> String {
        let short = |one: &String| one.chars().take(12).collect::<String>();
        self.revisions.iter().map(short).collect::<Vec<_>>().join(", ")
    }
}

/// How the last sync ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Last {
    /// What it brought.
    pub content: Content,
    /// Whether all was applied.
    pub succeeded: bool,
    /// How often that content has been tried.
    pub attempts: u32,
    /// When it ended.
    pub at: Timestamp,
}

/// What the comparison found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Difference {
    /// Objects to create or change.
    pub changed: usize,
    /// Objects that a sync with pruning deletes. What is kept all the same does not count.
    pub extra: usize,
    /// Objects that are wanted.
    pub wanted: usize,
}

/// Everything that counts.
#[derive(Debug, Clone)]
pub struct Picture<'a> {
    /// The time.
    pub now: Timestamp,
    /// Why nothing is to be done for now.
    pub suspended: bool,
    /// What the repository says.
    pub target: Option<&'a Content>,
    /// How that differs from what is there; none while it is not known.
    pub difference: Option<Difference>,
    /// Whether it is known that what the repository says cannot be brought: it is wrong, or the rehearsal refuses it.
    pub refused: bool,
    /// How the last good content differs from what is there, where it was put back; none while that is not known.
    pub kept: Option<Difference>,
    /// How it is synced.
    pub automated: Option<Automated>,
    /// How often it is tried again.
    pub retry: &'a Retry,
    /// The last sync, of whatever content.
    pub last: Option<&'a Last>,
    /// Contents that turned out bad.
    pub failed: &'a [Content],
    /// The last content that was healthy.
    pub good: Option<&'a Content>,
    /// What is being brought now.
    pub running: Option<&'a Content>,
    /// An earlier life was ended in the middle of a sync. What it left may look whole, and its hooks have not run.
    pub cut: bool,
    /// Somebody asks for a sync.
    pub asked: bool,
    /// Whether the project's windows let a sync begin: by itself, and where somebody asks.
    pub open: (bool, bool),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing, until something changes.
    Rest,
    /// Nothing before that time.
    Wait(Timestamp),
    /// Bring what the repository says.
    Sync(Why),
    /// Put back the last content that was healthy.
    PutBack,
    /// Say that everything would be deleted, and do nothing.
    RefuseEmpty,
}

/// Why a sync begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// There is new content.
    New,
    /// It failed and is tried again.
    Again,
    /// Others changed something.
    Heal,
    /// Somebody asked.
    Asked,
}

/// Decides. See the module's header.
#[must_use]
pub fn decide(picture: &Picture<'_>) -> Action {
    if let (true, true, Some(_)) = (picture.asked, picture.open.1, picture.target) {
        // One at a time; the next begins when this one ends.
        return if picture.running.is_some() { Action::Rest } else { Action::Sync(Why::Asked) };
    }
    let Some(automated) = picture.automated.filter(|_| !picture.suspended) else { return Action::Rest };
    match picture.target {
        Some(target) if picture.failed.contains(target) => back_from(picture, automated, target),
        Some(target) => bring(picture, automated, target).unwrap_or_else(|kept| take_back(picture, automated, kept)),
        None if picture.refused => take_back(picture, automated, Action::Rest),
        None => Action::Rest,
    }
}

/// What is to be done to have what the repository says. Where that is kept away, what is done about it instead is the error.
fn bring(picture: &Picture<'_>, automated: Automated, target: &Content) -> Result<Action, Action> {
    if picture.running == Some(target) {
        return Ok(Action::Rest);
    }
    if !picture.open.0 {
        return Err(Action::Rest);
    }
    let Some(difference) = picture.difference else { return Ok(Action::Rest) };
    let open = difference.open(automated);
    if picture.empties() {
        return Err(Action::RefuseEmpty);
    }
    let last = picture.last.filter(|last| last.content == *target);
    // What was begun may have changed anything, and was not ended.
    let disturbed = picture.running.is_some() || picture.cut;
    let failing = last.is_some_and(|last| !last.succeeded);
    // What failed midway, or was cut short, is tried as often as any: in the end it is marked, and taken back.
    if picture.refused && !failing && !picture.cut {
        return Err(Action::Rest);
    }
    match last {
        None if open > 0 || disturbed => Ok(Action::Sync(Why::New)),
        None => Ok(Action::Rest),
        Some(last) if !last.succeeded => match picture.retry.pause(last.attempts) {
            Some(_) if picture.running.is_some() => Ok(Action::Sync(Why::Again)),
            Some(pause) => Ok(after(last.at, pause, picture.now, Action::Sync(Why::Again))),
            None => Ok(back_from(picture, automated, target)),
        },
        Some(_) if disturbed => Ok(Action::Sync(Why::Again)),
        // All was applied once, so what differs now others have done.
        Some(last) if open > 0 && automated.self_heal => {
            Ok(after(last.at, HEAL_PAUSE, picture.now, Action::Sync(Why::Heal)))
        }
        Some(_) => Ok(Action::Rest),
    }
}

/// What the repository says is kept away. What was brought before stays, unless it is bad or half done.
fn take_back(picture: &Picture<'_>, automated: Automated, otherwise: Action) -> Action {
    let Some(last) = picture.last.filter(|_| picture.running.is_none()) else { return otherwise };
    let good = picture.good == Some(&last.content);
    let bad = picture.cut || !last.succeeded || picture.failed.contains(&last.content);
    match put_back(picture, automated) {
        back if (bad || good) && back != Action::Rest => back,
        _ => otherwise,
    }
}

/// What the repository says is bad. Where it is what was good before, there is nothing better.
fn back_from(picture: &Picture<'_>, automated: Automated, target: &Content) -> Action {
    if picture.good == Some(target) { Action::Rest } else { put_back(picture, automated) }
}

/// The bad content stays away; the good one comes back, once, and is kept as what the repository says would be.
fn put_back(picture: &Picture<'_>, automated: Automated) -> Action {
    let Some(good) = picture.good.filter(|good| picture.running != Some(*good)) else { return Action::Rest };
    match picture.last.filter(|last| last.content == *good) {
        None => Action::PutBack,
        Some(last) if !last.succeeded => match picture.retry.pause(last.attempts) {
            Some(_) if picture.running.is_some() => Action::PutBack,
            Some(pause) => after(last.at, pause, picture.now, Action::PutBack),
            None => Action::Rest,
        },
        Some(_) if picture.cut || picture.running.is_some() => Action::PutBack,
        Some(last) => {
            let open = picture.kept.map_or(0, |kept| kept.open(automated));
            let heals = open > 0 && automated.self_heal && picture.open.0;
            if heals { after(last.at, HEAL_PAUSE, picture.now, Action::PutBack) } else { Action::Rest }
        }
    }
}

impl Picture<'_> {
    /// Whether what the repository says would delete everything, though nobody allowed that.
    #[must_use]
    pub fn empties(&self) -> bool {
        let (Some(automated), Some(difference), Some(_)) = (self.automated, self.difference, self.target) else {
            return false;
        };
        difference.wanted == 0 && difference.open(automated) > difference.changed && !automated.allow_empty
    }
}

impl Difference {
    /// How many objects an automated sync would change.
    #[must_use]
    pub fn open(&self, automated: Automated) -> usize {
        self.changed + if automated.prune { self.extra } else { 0 }
    }
}

fn due(at: Timestamp, pause: Duration) -> Timestamp {
    let pause = SignedDuration::try_from(pause).unwrap_or(SignedDuration::MAX);
    at.checked_add(pause).unwrap_or(Timestamp::MAX)
}

fn after(at: Timestamp, pause: Duration, now: Timestamp, action: Action) -> Action {
    let due = due(at, pause);
    if due <= now { action } else { Action::Wait(due) }
}

/// Whether a content that failed so often is given up, so that it is marked and the good one put back.
#[must_use]
pub fn given_up(retry: &Retry, attempts: u32) -> bool {
    retry.pause(attempts).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::LazyLock;

    fn content(name: &str) -> Content {
        Content { revisions: vec![name.to_owned()], parameters: "p".to_owned() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("a time")
    }

    fn last(name: &str, succeeded: bool, attempts: u32) -> Last {
        Last { content: content(name), succeeded, attempts, at: at(0) }
    }

    const ALL: Automated = Automated { prune: true, self_heal: true, allow_empty: false };
    const CHANGED: Difference = Difference { changed: 1, extra: 0, wanted: 3 };
    const EXTRA: Difference = Difference { changed: 0, extra: 1, wanted: 3 };
    const NONE: Difference = Difference { changed: 0, extra: 0, wanted: 3 };

    static TARGET: LazyLock<Content> = LazyLock::new(|| content("new"));
    static RETRY: LazyLock<Retry> = LazyLock::new(|| Retry { limit: 2, ..Retry::default() });

    /// What is decided about content `new` at second 60, with changes to this picture.
    fn with<'a>(change: impl FnOnce(&mut Picture<'a>)) -> Action {
        let mut picture = Picture {
            now: at(60),
            suspended: false,
            target: Some(&TARGET),
            difference: Some(CHANGED),
            refused: false,
            kept: None,
            automated: Some(ALL),
            retry: &RETRY,
            last: None,
            failed: &[],
            good: None,
            running: None,
            cut: false,
            asked: false,
            open: (true, true),
        };
        change(&mut picture);
        decide(&picture)
    }

    static GOOD: LazyLock<Content> = LazyLock::new(|| content("good"));
    static FAILED: LazyLock<[Content; 1]> = LazyLock::new(|| [content("new")]);
    static BACK: LazyLock<Last> = LazyLock::new(|| last("good", true, 1));

    /// As [`with`], where the rehearsal refuses what is new.
    fn refused<'a>(change: impl FnOnce(&mut Picture<'a>)) -> Action {
        with(|p| {
            (p.refused, p.kept) = (true, Some(NONE));
            change(p);
        })
    }

    /// As [`with`], where what is new is bad, and what was good is back in its place.
    fn kept<'a>(change: impl FnOnce(&mut Picture<'a>)) -> Action {
        with(|p| {
            (p.failed, p.good, p.last, p.kept) = (&*FAILED, Some(&*GOOD), Some(&*BACK), Some(CHANGED));
            change(p);
        })
    }

    #[test]
    fn new_content_is_brought_unless_something_says_no() {
        let old = content("old");
        assert_eq!(with(|_| {}), Action::Sync(Why::New));
        assert_eq!(with(|p| p.target = None), Action::Rest);
        assert_eq!(with(|p| p.difference = None), Action::Rest);
        assert_eq!(with(|p| p.difference = Some(NONE)), Action::Rest);
        assert_eq!(with(|p| p.automated = None), Action::Rest);
        assert_eq!(with(|p| p.suspended = true), Action::Rest);
        // A newer commit does not wait for an older one.
        assert_eq!(with(|p| p.running = Some(&old)), Action::Sync(Why::New));
        // Even where it is what was there before: what is under way must be undone.
        assert_eq!(with(|p| (p.running, p.difference) = (Some(&old), Some(NONE))), Action::Sync(Why::New));
        let new = content("new");
        assert_eq!(with(|p| p.running = Some(&new)), Action::Rest);
    }

    #[test]
    fn asking_counts_more_than_being_suspended_or_failed() {
        let (new, failed) = (content("new"), [content("new")]);
        assert_eq!(with(|p| (p.asked, p.suspended) = (true, true)), Action::Sync(Why::Asked));
        assert_eq!(with(|p| (p.asked, p.failed) = (true, &failed)), Action::Sync(Why::Asked));
        assert_eq!(with(|p| (p.asked, p.automated) = (true, None)), Action::Sync(Why::Asked));
        assert_eq!(with(|p| (p.asked, p.running) = (true, Some(&new))), Action::Rest);
    }

    #[test]
    fn windows_keep_syncs_from_beginning_and_nothing_from_being_put_back() {
        let (failed, good) = ([content("new")], content("good"));
        assert_eq!(with(|p| p.open = (false, false)), Action::Rest);
        assert_eq!(with(|p| (p.open, p.asked) = ((false, false), true)), Action::Rest);
        assert_eq!(with(|p| (p.open, p.asked) = ((false, true), true)), Action::Sync(Why::Asked));
        assert_eq!(with(|p| (p.open, p.asked) = ((true, false), true)), Action::Sync(Why::New));
        let put_back = with(|p| (p.open, p.failed, p.good) = ((false, false), &failed, Some(&good)));
        assert_eq!(put_back, Action::PutBack);
    }

    #[test]
    fn what_was_cut_short_is_done_again_though_it_looks_whole() {
        let (old, done) = (last("old", true, 1), last("new", true, 1));
        assert_eq!(with(|p| (p.cut, p.difference, p.last) = (true, Some(NONE), Some(&old))), Action::Sync(Why::New));
        assert_eq!(with(|p| (p.cut, p.difference, p.last) = (true, Some(NONE), Some(&done))), Action::Sync(Why::Again));
        assert_eq!(with(|p| (p.cut, p.automated) = (true, None)), Action::Rest);
    }

    #[test]
    fn nothing_is_emptied_by_a_slip() {
        let empty = Difference { changed: 0, extra: 3, wanted: 0 };
        assert_eq!(with(|p| p.difference = Some(empty)), Action::RefuseEmpty);
        let allowed = Automated { allow_empty: true, ..ALL };
        assert_eq!(with(|p| (p.difference, p.automated) = (Some(empty), Some(allowed))), Action::Sync(Why::New));
        let keeps = Automated { prune: false, ..ALL };
        assert_eq!(with(|p| (p.difference, p.automated) = (Some(empty), Some(keeps))), Action::Rest);
        assert_eq!(with(|p| (p.difference, p.automated) = (Some(EXTRA), Some(keeps))), Action::Rest);
        assert_eq!(with(|p| p.difference = Some(EXTRA)), Action::Sync(Why::New));
    }

    #[test]
    fn failures_are_tried_again_after_growing_pauses_and_given_up() {
        let (first, second, third) = (last("new", false, 1), last("new", false, 2), last("new", false, 3));
        assert_eq!(with(|p| p.last = Some(&first)), Action::Sync(Why::Again));
        assert_eq!(with(|p| (p.last, p.now) = (Some(&first), at(1))), Action::Wait(at(5)));
        assert_eq!(with(|p| (p.last, p.now) = (Some(&second), at(6))), Action::Wait(at(10)));
        assert_eq!(with(|p| p.last = Some(&third)), Action::Rest);
        assert!(given_up(&Retry { limit: 2, ..Retry::default() }, 3) && !given_up(&Retry::default(), 3));
        // Another content begins anew.
        let other = last("old", false, 9);
        assert_eq!(with(|p| p.last = Some(&other)), Action::Sync(Why::New));
    }

    #[test]
    fn going_back_to_what_was_brought_before_stops_what_is_under_way() {
        let (old, done) = (content("old"), last("new", true, 1));
        let held = Automated { self_heal: false, ..ALL };
        for difference in [NONE, CHANGED] {
            let action = with(|p| {
                (p.last, p.running, p.automated) = (Some(&done), Some(&old), Some(held));
                (p.difference, p.now) = (Some(difference), at(1));
            });
            assert_eq!(action, Action::Sync(Why::Again), "{difference:?}");
        }
    }

    #[test]
    fn what_is_refused_keeps_away_what_is_new_and_takes_back_what_is_bad() {
        let (good, bad) = (content("good"), [content("bad")]);
        let (brought, broken, worse) = (last("good", true, 1), last("bad", false, 1), last("bad", true, 1));
        let mine = last("new", false, 1);
        assert_eq!(refused(|p| (p.last, p.good) = (Some(&brought), Some(&good))), Action::Rest);
        // Half of it is there, or it was not healthy: it goes, though what is to come cannot.
        assert_eq!(refused(|p| (p.last, p.good) = (Some(&broken), Some(&good))), Action::PutBack);
        assert_eq!(refused(|p| (p.last, p.good, p.failed) = (Some(&worse), Some(&good), &bad)), Action::PutBack);
        assert_eq!(refused(|p| (p.last, p.good) = (Some(&worse), Some(&good))), Action::Rest, "it is not judged yet");
        assert_eq!(refused(|p| (p.last, p.good, p.target) = (Some(&broken), Some(&good), None)), Action::PutBack);
        let unknown = refused(|p| (p.last, p.good, p.target, p.refused) = (Some(&broken), Some(&good), None, false));
        assert_eq!(unknown, Action::Rest, "nothing is known of what is to come");
        // What failed midway is tried as often as any other.
        assert_eq!(refused(|p| (p.last, p.good) = (Some(&mine), Some(&good))), Action::Sync(Why::Again));
        assert_eq!(refused(|p| (p.last, p.good, p.cut) = (Some(&brought), Some(&good), true)), Action::Sync(Why::New));
    }

    #[test]
    fn what_is_kept_in_place_of_the_bad_is_healed() {
        assert_eq!(kept(|_| ()), Action::PutBack);
        assert_eq!(kept(|p| p.now = at(2)), Action::Wait(at(5)));
        assert_eq!(kept(|p| p.kept = Some(NONE)), Action::Rest);
        assert_eq!(kept(|p| p.open = (false, false)), Action::Rest);
        assert_eq!(kept(|p| p.automated = Some(Automated { self_heal: false, ..ALL })), Action::Rest);
        // What was cut short is not whole, whatever it looks like.
        assert_eq!(kept(|p| (p.cut, p.kept) = (true, Some(NONE))), Action::PutBack);
        let other = content("other");
        assert_eq!(kept(|p| (p.running, p.kept) = (Some(&other), None)), Action::PutBack);
    }

    #[test]
    fn changes_by_others_are_undone_where_asked() {
        let done = last("new", true, 1);
        assert_eq!(with(|p| p.last = Some(&done)), Action::Sync(Why::Heal));
        assert_eq!(with(|p| (p.last, p.now) = (Some(&done), at(2))), Action::Wait(at(5)));
        let held = Automated { self_heal: false, ..ALL };
        assert_eq!(with(|p| (p.last, p.automated) = (Some(&done), Some(held))), Action::Rest);
        assert_eq!(with(|p| (p.last, p.difference) = (Some(&done), Some(NONE))), Action::Rest);
    }

    #[test]
    fn bad_content_is_replaced_by_the_last_good_one_once() {
        let (failed, good, new) = ([content("new")], content("good"), content("new"));
        assert_eq!(with(|p| p.failed = &failed), Action::Rest, "there is nothing to put back");
        assert_eq!(with(|p| (p.failed, p.good) = (&failed, Some(&good))), Action::PutBack);
        assert_eq!(with(|p| (p.failed, p.good) = (&failed, Some(&new))), Action::Rest);
        assert_eq!(with(|p| (p.failed, p.good, p.running) = (&failed, Some(&good), Some(&good))), Action::Rest);
        let back = last("good", true, 1);
        assert_eq!(with(|p| (p.failed, p.good, p.last) = (&failed, Some(&good), Some(&back))), Action::Rest);
        let tried = last("good", false, 1);
        assert_eq!(with(|p| (p.failed, p.good, p.last) = (&failed, Some(&good), Some(&tried))), Action::PutBack);
        assert_eq!(with(|p| (p.failed, p.good, p.suspended) = (&failed, Some(&good), true)), Action::Rest);
    }
}
