//! Random sequences of what happens to an application, against the pure decision: pushes of good and bad commits, reverts, edits by
//! hand, requests, kills, outages and changes of its spec, in virtual time.
//!
//! Invariants: the seeds are fixed; nothing here waits. What the actor does around the decision is written down here once more, small.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::decide::{Action, Content, Difference, Last, Picture, Why, decide, given_up};
use crate::sync::application::{Automated, Prune, Retry};

/// How many objects there are at most.
const OBJECTS: usize = 3;
/// What a person writes into an object.
const BY_HAND: u32 = 9999;

/// What becomes of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    /// It is applied, and never healthy.
    Sick,
    /// Its second object is refused when it is written.
    Breaks,
    /// The rehearsal refuses it.
    Refused,
    /// It cannot be rendered.
    Wrong,
}

#[derive(Debug, Clone)]
struct Commit {
    kind: Kind,
    objects: [Option<(u32, Prune)>; OBJECTS],
}

#[derive(Debug, Clone)]
struct Going {
    commit: usize,
    step: usize,
    other: bool,
    attempts: u32,
}

struct World {
    random: fastrand::Rng,
    now: Timestamp,
    commits: Vec<Commit>,
    live: [Option<(u32, Prune)>; OBJECTS],
    /// Objects that were changed by hand since they were last written.
    edited: BTreeSet<usize>,
    target: usize,
    automated: Automated,
    retry: Retry,
    suspended: bool,
    barred: bool,
    outage: bool,
    open: bool,
    asked: bool,
    last: Option<Last>,
    good: Option<Content>,
    failed: Vec<Content>,
    under_way: Option<Content>,
    running: Option<Going>,
    judge: Option<(usize, Timestamp)>,
    begun: usize,
    log: Vec<String>,
}

fn content(commit: usize) -> Content {
    Content { revisions: vec![commit.to_string()], parameters: String::new() }
}

fn number(content: &Content) -> usize {
    content.revisions[0].parse().expect("a number")
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let automated = Automated { prune: random.u8(..4) > 0, self_heal: random.u8(..4) > 0, allow_empty: false };
        let retry = Retry { limit: i64::from(random.u8(..3)), ..Retry::default() };
        let mut this = Self {
            random,
            now: Timestamp::from_second(1_800_000_000).expect("a time"),
            commits: Vec::new(),
            live: [None; OBJECTS],
            edited: BTreeSet::new(),
            target: 0,
            automated,
            retry,
            suspended: false,
            barred: false,
            outage: false,
            open: true,
            asked: false,
            last: None,
            good: None,
            failed: Vec::new(),
            under_way: None,
            running: None,
            judge: None,
            begun: 0,
            log: Vec::new(),
        };
        this.push(Kind::Good);
        this.settle();
        this
    }

    fn say(&mut self, what: String) {
        let second = self.now.as_second() - 1_800_000_000;
        self.log.push(format!("{second:>5} {what}"));
    }

    fn push(&mut self, kind: Kind) {
        let value = u32::try_from(self.commits.len()).expect("few") + 1;
        let prune = |random: &mut fastrand::Rng| match random.u8(..4) {
            0 => Prune::No,
            1 => Prune::Confirm,
            _ => Prune::Yes,
        };
        let mut objects = [None; OBJECTS];
        for (index, object) in objects.iter_mut().enumerate() {
            // The first one is always wanted, so that nothing is emptied.
            if index == 0 || self.random.u8(..3) > 0 {
                *object = Some((value, prune(&mut self.random)));
            }
        }
        // Some commits change words alone.
        if kind == Kind::Good && !self.commits.is_empty() && self.random.u8(..4) == 0 {
            objects = self.commits[self.target].objects;
        }
        self.commits.push(Commit { kind, objects });
        self.target = self.commits.len() - 1;
        self.say(format!("push {} {kind:?} {objects:?}", self.target));
    }

    fn happen(&mut self) {
        match self.random.u8(..22) {
            0..=4 => self.push(Kind::Good),
            5 | 6 => self.push(Kind::Sick),
            7 | 8 => self.push(Kind::Breaks),
            9 => self.push(Kind::Refused),
            10 => self.push(Kind::Wrong),
            11 | 12 => {
                self.target = self.random.usize(..self.commits.len());
                self.say(format!("go back to {}", self.target));
            }
            13 | 14 => {
                let index = self.random.usize(..OBJECTS);
                if let Some((_, prune)) = self.live[index] {
                    self.live[index] = Some((BY_HAND, prune));
                    self.edited.insert(index);
                    self.say(format!("{index} is changed by hand"));
                }
            }
            15 => {
                self.asked = true;
                self.say("asked".to_owned());
            }
            16 | 17 => {
                self.running = None;
                self.judge = None;
                self.say("killed".to_owned());
            }
            18 => self.outage = !self.outage,
            19 => self.barred = !self.barred,
            20 => self.suspended = !self.suspended,
            _ => self.open = !self.open,
        }
    }

    fn refused(&self, commit: usize) -> bool {
        self.outage || self.commits[commit].kind == Kind::Refused
    }

    fn difference(&self, commit: usize) -> Difference {
        let wanted = &self.commits[commit].objects;
        let mut found = Difference { wanted: wanted.iter().flatten().count(), ..Difference::default() };
        for (wanted, live) in wanted.iter().zip(&self.live) {
            match (wanted, live) {
                (Some(wanted), live) if live.as_ref() != Some(wanted) => found.changed += 1,
                (None, Some((_, Prune::Yes))) => found.extra += 1,
                _ => {}
            }
        }
        found
    }

    fn step(&mut self) {
        let Some(mut going) = self.running.take() else { return };
        let index = going.step;
        going.step += 1;
        let commit = &self.commits[going.commit];
        let broken = commit.kind == Kind::Breaks && index == 1;
        match (commit.objects[index], self.live[index]) {
            (Some(wanted), _) if !broken => {
                self.live[index] = Some(wanted);
                self.edited.remove(&index);
            }
            (None, Some((_, Prune::Yes))) if self.automated.prune => {
                self.live[index] = None;
                self.edited.remove(&index);
            }
            _ => {}
        }
        if broken || going.step == OBJECTS { self.finish(&going, !broken) } else { self.running = Some(going) }
    }

    fn finish(&mut self, going: &Going, succeeded: bool) {
        let content = content(going.commit);
        self.say(format!("sync of {} ends, {succeeded}", going.commit));
        self.last = Some(Last { content: content.clone(), succeeded, attempts: going.attempts, at: self.now });
        self.under_way = None;
        if going.other {
            return;
        }
        if succeeded {
            let after = if self.commits[going.commit].kind == Kind::Sick { 10 } else { 2 };
            self.judge = Some((going.commit, self.after(after)));
        } else if given_up(&self.retry, going.attempts) {
            self.fail(&content);
        }
    }

    fn after(&self, seconds: i64) -> Timestamp {
        self.now.checked_add(SignedDuration::from_secs(seconds)).expect("a time")
    }

    fn fail(&mut self, content: &Content) {
        self.say(format!("{} is bad", number(content)));
        self.failed.retain(|one| one != content);
        self.failed.insert(0, content.clone());
    }

    fn approve(&mut self, content: &Content) {
        self.failed.retain(|one| one != content);
        if self.good.as_ref() != Some(content) {
            self.say(format!("{} is good", number(content)));
            self.good = Some(content.clone());
        }
    }

    /// One turn. When it wants to look again.
    fn turn(&mut self) -> Option<Timestamp> {
        if let Some((commit, at)) = self.judge
            && at <= self.now
        {
            self.judge = None;
            let is_sick = self.commits[commit].kind == Kind::Sick;
            if is_sick { self.fail(&content(commit)) } else { self.approve(&content(commit)) }
        }
        if self.barred {
            return None;
        }
        let wrong = self.commits[self.target].kind == Kind::Wrong;
        let target = content(self.target);
        let going = self.running.as_ref().map(|going| content(going.commit));
        let compared = !wrong && going.as_ref() != Some(&target);
        let difference = compared.then(|| self.difference(self.target));
        let refused = wrong || (compared && self.refused(self.target));
        let brought =
            self.last.as_ref().is_some_and(|last| last.succeeded && Some(&last.content) == self.good.as_ref());
        let away = self.failed.contains(&target) || refused;
        let keeps = brought && away && going.is_none() && self.good.as_ref() != Some(&target);
        let kept = self.good.as_ref().filter(|_| keeps).map(|good| self.difference(number(good)));
        if let Some(difference) = difference {
            self.take_what_is_there(&target, difference, refused);
        }
        self.judge_what_was_brought(&target);
        let picture = Picture {
            now: self.now,
            suspended: self.suspended,
            target: (!wrong).then_some(&target),
            difference,
            refused,
            kept,
            automated: Some(self.automated),
            retry: &self.retry,
            last: self.last.as_ref(),
            failed: &self.failed,
            good: self.good.as_ref(),
            running: going.as_ref(),
            cut: going.is_none() && self.under_way.is_some(),
            asked: self.asked,
            open: (self.open, self.open),
        };
        let action = decide(&picture);
        if self.asked && wrong && self.open {
            self.asked = false;
        }
        match action {
            Action::Rest | Action::RefuseEmpty => None,
            Action::Wait(at) => {
                assert!(at > self.now, "it waits for what has been\n{}", self.log.join("\n"));
                Some(at)
            }
            Action::Sync(why) => self.start(self.target, false, why),
            Action::PutBack => {
                let good = number(self.good.as_ref().expect("a good one"));
                self.start(good, true, Why::New)
            }
        }
    }

    fn take_what_is_there(&mut self, target: &Content, difference: Difference, refused: bool) {
        let failing = self.last.as_ref().is_some_and(|last| !last.succeeded && last.content == *target);
        let undone = failing || self.running.is_some() || self.under_way.is_some() || self.judge.is_some();
        if undone || refused || difference.open(self.automated) > 0 || self.failed.contains(target) {
            return;
        }
        if self.last.as_ref().is_none_or(|last| last.content != *target) {
            self.last = Some(Last { content: target.clone(), succeeded: true, attempts: 1, at: self.now });
        }
    }

    /// It is judged like every other; a life that was ended may have left it unjudged, too.
    fn judge_what_was_brought(&mut self, target: &Content) {
        let brought = self.last.as_ref().is_some_and(|last| last.succeeded && last.content == *target);
        let known = self.good.as_ref() == Some(target) || self.failed.contains(target);
        if brought && !known && self.judge.is_none() && self.running.is_none() && self.under_way.is_none() {
            let after = if self.commits[self.target].kind == Kind::Sick { 10 } else { 2 };
            self.judge = Some((self.target, self.after(after)));
        }
    }

    fn start(&mut self, commit: usize, other: bool, why: Why) -> Option<Timestamp> {
        let content = content(commit);
        let asked = why == Why::Asked;
        let tried = self.last.as_ref().filter(|last| last.content == content && !last.succeeded && !asked);
        let attempts = tried.map_or(1, |last| last.attempts + 1);
        assert!(asked || !self.failed.contains(&content) || other, "a bad one begins\n{}", self.log.join("\n"));
        self.asked &= !asked;
        if self.refused(commit) {
            self.say(format!("sync of {commit} is refused, {why:?}, other {other}"));
            if asked {
                return Some(self.after(1));
            }
            if other {
                return Some(self.after(60));
            }
            self.last = Some(Last { content: content.clone(), succeeded: false, attempts, at: self.now });
            if given_up(&self.retry, attempts) {
                self.fail(&content);
            }
            return Some(self.after(1));
        }
        self.say(format!("sync of {commit} begins, {why:?}, other {other}"));
        if asked {
            self.failed.retain(|one| *one != content);
        }
        self.begun += 1;
        self.judge = None;
        self.under_way = Some(content);
        self.running = Some(Going { commit, step: 0, other, attempts });
        None
    }

    /// Lets time pass until nothing is left to do; a second for each step of a sync.
    fn settle(&mut self) {
        let (begun, mut turns) = (self.begun, 0);
        loop {
            turns += 1;
            assert!(turns < 2000 && self.begun - begun < 40, "it never rests\n{}", self.log.join("\n"));
            self.step();
            let mut next = self.turn();
            if self.running.is_some() {
                next = Some(self.after(1));
            }
            let judged = self.judge.map(|(_, at)| at);
            let Some(at) = [next, judged].into_iter().flatten().min() else { return };
            self.now = at.max(self.after(1));
        }
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.step();
            self.turn();
            self.now = self.after(1);
        }
    }

    /// Whether what is there is what a commit wants, but for what was changed by hand and may stay so.
    fn is(&self, commit: usize) -> bool {
        let wanted = &self.commits[commit].objects;
        (0..OBJECTS).all(|index| match (wanted[index], self.live[index]) {
            _ if self.edited.contains(&index) && !self.automated.self_heal => true,
            (None, Some((_, prune))) => prune != Prune::Yes || !self.automated.prune,
            (wanted, live) => wanted == live,
        })
    }

    fn check(&self) {
        let told = || format!("live {:?} edited {:?}\n{}", self.live, self.edited, self.log.join("\n"));
        let target = content(self.target);
        let kind = self.commits[self.target].kind;
        let away = self.failed.contains(&target) || matches!(kind, Kind::Refused | Kind::Wrong);
        if !away {
            assert!(matches!(kind, Kind::Good), "{kind:?} is taken for good\n{}", told());
            assert!(self.is(self.target), "the newest commit is not there\n{}", told());
            return;
        }
        let Some(good) = self.good.as_ref().filter(|good| **good != target) else { return };
        let last = self.last.as_ref().expect("something was brought");
        let before = last.succeeded && !self.failed.contains(&last.content) && self.is(number(&last.content));
        assert!(self.is(number(good)) || before, "what is there is neither good nor what was there before\n{}", told());
        assert!(before || !last.succeeded || last.content == *good, "{}", told());
    }
}

#[test]
fn whatever_happens_it_comes_to_rest_with_the_newest_good_commit() {
    let mut begun = 0;
    for seed in 0..3000 {
        let mut world = World::new(seed);
        world.log.insert(0, format!("seed {seed}: {:?} {:?}", world.automated, world.retry));
        for _ in 0..world.random.u8(3..14) {
            world.happen();
            let seconds = world.random.u64(..9);
            world.pass(seconds);
        }
        // Whatever kept it from its work has gone.
        (world.outage, world.barred, world.suspended, world.open) = (false, false, false, true);
        world.say("all is open".to_owned());
        world.settle();
        world.check();
        // And rests, however often it looks.
        let before = world.begun;
        world.pass(30);
        assert_eq!(world.begun, before, "it begins again\n{}", world.log.join("\n"));
        begun += before;
    }
    assert!(begun > 3000, "so few syncs prove nothing: {begun}");
}
