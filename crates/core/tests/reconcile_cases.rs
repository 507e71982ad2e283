//! What becomes of workers in single cases, each in a few passes.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use pap_core::reconcile::{
    Action, Container, Key, Limits, Mark, Notice, Observed, Plan, Reconciler, Role, Sight, Standing, Step,
    Why, repository,
};
use pap_core::time::Tick;

/// A station's desk: what it knows, and what the engine shows.
struct Desk {
    reconciler: Reconciler,
    seconds: u64,
    containers: Vec<Container>,
    is_whole: bool,
    clusters: BTreeMap<String, Standing>,
    told: BTreeSet<Key>,
}

fn role(name: &str, hash: &str) -> Role {
    let role = name.split('-').next().unwrap().to_owned();
    Role { role, name: name.to_owned(), hash: hash.into(), image: "registry:5000/worker:2".into() }
}

fn key(cluster: &str) -> Key {
    Key { cluster: cluster.into(), role: "w".into() }
}

impl Desk {
    fn new(clusters: &[(&str, Standing)]) -> Self {
        Self::with(vec![role("w-{cluster_id}", "h")], clusters)
    }

    fn with(roles: Vec<Role>, clusters: &[(&str, Standing)]) -> Self {
        let limits = Limits { max_containers: 10, adopt_unlabelled: true };
        Self {
            reconciler: Reconciler::new(roles, limits, HashMap::new()),
            seconds: 0,
            containers: Vec::new(),
            is_whole: true,
            clusters: clusters.iter().map(|&(id, standing)| (id.to_owned(), standing)).collect(),
            told: BTreeSet::new(),
        }
    }

    fn add(&mut self, name: &str, mark: Mark, is: Observed) {
        let (id, image) = (format!("id-{name}"), "registry:5000/worker:1".into());
        self.containers.push(Container { id, name: name.into(), image, mark, is, restarts: Some(0) });
    }

    fn ours(&mut self, cluster: &str, name: &str, hash: &str) {
        let mark = Mark::Ours { cluster: cluster.into(), role: "w".into(), hash: hash.into() };
        self.add(name, mark, Observed::Running);
    }

    fn now(&self) -> Tick {
        Tick::from_start(Duration::from_secs(self.seconds))
    }

    fn pass(&mut self) -> Plan {
        self.pass_that(false)
    }

    fn pass_that(&mut self, prunes: bool) -> Plan {
        let now = self.now();
        let listing = self.reconciler.begin();
        let sight = Sight { listing, containers: &self.containers, is_whole: self.is_whole };
        let plan = self.reconciler.plan(now, &sight, &self.clusters, &self.told, prunes);
        self.told.extend(plan.notices.iter().map(|notice| notice.key().clone()));
        plan
    }

    /// The only action of a pass.
    fn one(&mut self) -> Action {
        let mut plan = self.pass();
        assert_eq!(plan.actions.len(), 1, "{plan:?}");
        plan.actions.remove(0)
    }

    fn nothing(&mut self) -> Plan {
        let plan = self.pass();
        assert_eq!(plan.actions, [], "{plan:?}");
        plan
    }

    fn ended(&mut self, action: &Action, outcome: Result<Option<&str>, &str>) {
        let now = self.now();
        let outcome = outcome.map(|made| made.map(str::to_owned)).map_err(str::to_owned);
        self.reconciler.ended(now, action, outcome);
    }

    /// Passes until people are told of something: of which worker, why, and after how many seconds.
    fn told(&mut self) -> (String, u64) {
        let begun = self.seconds;
        loop {
            match self.nothing().notices.pop() {
                Some(Notice::Failed(_, why)) => return (why, self.seconds - begun),
                other => assert_eq!(other, None),
            }
            self.seconds += 1;
            assert!(self.seconds < begun + 3600, "nobody is told");
        }
    }
}

#[test]
fn while_a_row_cannot_be_read_nothing_is_made_and_nothing_replaced() {
    let mut desk = Desk::new(&[("a", Standing::Live), ("b", Standing::Live)]);
    desk.ours("a", "w-a", "former");
    desk.is_whole = false;
    desk.nothing();
    desk.seconds += 60;
    let plan = desk.nothing();
    assert_eq!(plan.notices.len(), 2, "{plan:?}");
    assert!(plan.workers[1].trouble.as_ref().unwrap().contains("cannot be read"));
    desk.is_whole = true;
    assert_eq!(desk.one().step, Step::Create);
}

#[test]
fn an_engine_that_shows_nothing_for_a_while_takes_no_worker_from_us() {
    let mut desk = Desk::new(&[("a", Standing::Live)]);
    desk.add("w-a", Mark::None, Observed::Running);
    assert!(desk.nothing().is_adopted_changed);
    let listed = std::mem::take(&mut desk.containers);
    let action = desk.one();
    desk.ended(&action, Err("the name is in use"));
    desk.seconds += 600;
    desk.containers = listed;
    desk.reconciler = {
        let limits = Limits { max_containers: 10, adopt_unlabelled: false };
        // It is known by its id, whatever the setting and the template have become.
        Reconciler::new(vec![role("w-{cluster_id}", "h2")], limits, desk.reconciler.adopted().clone())
    };
    assert_eq!(desk.one().why, Why::Changed);

    let mut desk = Desk::new(&[("a", Standing::Live)]);
    desk.add("w-a", Mark::None, Observed::Running);
    desk.pass();
    desk.containers.clear();
    desk.pass();
    desk.seconds += 3599;
    assert_eq!(desk.reconciler.adopted().len(), 1);
    desk.pass();
    desk.seconds += 1;
    assert!(desk.pass().is_adopted_changed && desk.reconciler.adopted().is_empty(), "gone for good");
}

#[test]
fn an_image_without_a_name_is_like_no_other() {
    assert_eq!(repository("registry:5000/worker:1"), Some("registry:5000/worker"));
    assert_eq!(repository("worker@sha256:0abc"), Some("worker"));
    assert_eq!(repository("sha256:0abc"), None);
    let mut desk = Desk::with(
        vec![Role { image: "sha256:0abc".into(), ..role("w-{cluster_id}", "h") }],
        &[("a", Standing::Live)],
    );
    desk.add("w-a", Mark::None, Observed::Running);
    desk.containers[0].image = "sha256:1234".into();
    assert_eq!(desk.told().0, "another container bears its name");
    assert!(desk.reconciler.adopted().is_empty());
}

#[test]
fn whoever_bears_a_name_that_a_worker_needs_is_told_of() {
    // "w-a-x" is the name of the worker of "a-x", and was that of one of "a".
    for standing in [None, Some(Standing::Quiet), Some(Standing::Unknown)] {
        let mut desk = Desk::new(&[("a-x", Standing::Live)]);
        desk.clusters.extend(standing.map(|standing| ("a".to_owned(), standing)));
        desk.ours("a", "w-a-x", "h");
        assert_eq!(desk.told(), ("another container bears its name".into(), 10), "{standing:?}");
    }
    // One that goes by itself is waited for, but not for ever.
    let mut desk = Desk::new(&[("a-x", Standing::Live), ("a", Standing::Removed)]);
    desk.ours("a", "w-a-x", "h");
    let action = desk.one();
    assert_eq!(action.why, Why::Removed);
    assert_eq!(desk.told(), ("a worker that is to be removed still bears its name".into(), 300));
    desk.containers.clear();
    desk.ended(&action, Ok(None));
    assert_eq!(desk.one().step, Step::Create);
}

#[test]
fn people_are_told_of_a_worker_that_is_made_for_minutes() {
    let mut desk = Desk::new(&[("a", Standing::Live)]);
    desk.one();
    let plan = desk.nothing();
    assert_eq!(plan.workers[0].trouble, None, "that is no trouble yet");
    let (why, after) = desk.told();
    assert!(why.contains("images") && after == 300, "{why} {after}");

    // Others are before it, again and again.
    let mut desk = Desk::new(&[("a", Standing::Live)]);
    let action = desk.one();
    for _ in 0..9 {
        desk.reconciler.postponed(desk.now(), &action);
        desk.nothing();
        desk.seconds += 30;
        assert_eq!(desk.one(), action);
    }
    desk.reconciler.postponed(desk.now(), &action);
    assert!(desk.nothing().notices.is_empty());
    desk.seconds += 30;
    assert_eq!(desk.pass().notices.len(), 1);
}

#[test]
fn what_stands_in_the_way_after_an_attempt_is_told_as_soon_as_before_one() {
    let mut desk = Desk::new(&[("a", Standing::Live)]);
    let action = desk.one();
    desk.nothing();
    desk.ended(&action, Err("the name is in use"));
    desk.add("w-a", Mark::Other, Observed::Running);
    assert_eq!(desk.told(), ("another container bears its name".into(), 10));
}

#[test]
fn what_the_engine_only_says_is_not_done_again_without_a_pause() {
    let mut desk = Desk::new(&[("a", Standing::Live)]);
    let action = desk.one();
    desk.ended(&action, Ok(Some("id-w-a")));
    assert!(desk.nothing().workers[0].trouble.as_ref().unwrap().contains("never ran"));
    desk.seconds += 5;
    assert_eq!(desk.one().step, Step::Create, "after a while");

    let mut desk = Desk::new(&[("a", Standing::Removed)]);
    desk.ours("a", "w-a", "h");
    let action = desk.one();
    desk.ended(&action, Ok(None));
    assert!(desk.nothing().workers[0].trouble.as_ref().unwrap().contains("still there"));
    desk.seconds += 5;
    desk.one();
}

#[test]
fn what_was_decided_long_ago_is_not_done() {
    let now = |step, why| {
        let action = Action { key: key("a"), step, why };
        let holds = |seconds| action.holds(Some(Standing::Live), Duration::from_secs(seconds));
        (holds(5), holds(6))
    };
    assert_eq!(now(Step::Stop("x".into()), Why::Double), (true, false));
    assert_eq!(now(Step::Remove("x".into()), Why::Stopped), (true, false));
    assert_eq!(now(Step::Create, Why::Missing), (true, true), "an image may take long");
    let pruned = Action { key: key("a"), step: Step::Stop("x".into()), why: Why::Pruned };
    for (standing, holds) in [(None, true), (Some(Standing::Unknown), true), (Some(Standing::Quiet), false)] {
        assert_eq!(pruned.holds(standing, Duration::ZERO), holds);
    }
}

#[test]
fn what_a_person_prunes_is_what_was_there_and_it_is_tried_until_it_is_gone() {
    let mut desk = Desk::new(&[("b", Standing::Unknown)]);
    desk.ours("a", "w-a", "h");
    desk.ours("b", "w-b", "h");
    assert_eq!(desk.nothing().counts.unknown, 2);
    let plan = desk.pass_that(true);
    assert_eq!(plan.actions.len(), 2);
    // There was no room for one, and the other failed.
    desk.reconciler.withdrawn(&plan.actions[0]);
    desk.ended(&plan.actions[1], Err("busy"));
    desk.ours("c", "w-c", "h");
    assert_eq!(desk.one().key, key("a"));
    desk.seconds += 5;
    assert_eq!(desk.one().key, key("b"), "and not c, which came later");
    // A person starts it again under its id: nobody has asked for that.
    let again = desk.containers.remove(1);
    desk.ended(&Action { key: key("b"), step: Step::Stop(again.id.clone()), why: Why::Pruned }, Ok(None));
    desk.pass();
    desk.containers.push(again);
    desk.nothing();
}

#[test]
fn too_many_are_not_replaced_and_people_are_told_why() {
    let mut desk = Desk::new(&[]);
    for number in 0..11 {
        let cluster = format!("c{number}");
        desk.ours(&cluster, &format!("w-{cluster}"), "former");
        desk.clusters.insert(cluster, Standing::Live);
    }
    assert!(desk.told().0.contains("MAX_CONTAINERS"));
    desk.containers.pop();
    desk.clusters.remove("c10");
    assert_eq!(desk.one().why, Why::Changed);
}

#[test]
fn a_stop_that_is_refused_is_tried_ever_more_seldom_and_stays_told_until_it_is_done() {
    let others: [fn(&mut Desk); 2] = [
        // Its template has changed; and a second one runs.
        |desk| desk.ours("a", "w-a", "former"),
        |desk| {
            desk.ours("a", "w-a", "h");
            desk.ours("a", "copy", "h");
        },
    ];
    for prepare in others {
        let mut desk = Desk::new(&[("a", Standing::Live)]);
        prepare(&mut desk);
        let (mut stops, mut told) = (0, Vec::new());
        for _ in 0..3600 {
            let plan = desk.pass();
            told.extend(plan.notices);
            for action in plan.actions {
                assert!(matches!(action.step, Step::Stop(_)), "{action:?}");
                desk.ended(&action, Err("permission denied"));
                stops += 1;
            }
            desk.seconds += 1;
        }
        assert!((10..=25).contains(&stops), "{stops}");
        assert!(matches!(&told[..], [Notice::Failed(_, why)] if why == "permission denied"), "{told:?}");
        // It is done by somebody else.
        desk.containers.retain(|it| it.name == "w-a");
        let Mark::Ours { hash, .. } = &mut desk.containers[0].mark else { panic!() };
        "h".clone_into(hash);
        desk.nothing();
        desk.seconds += 60;
        assert_eq!(desk.nothing().notices, [Notice::Back(key("a"))]);
    }
}

#[test]
fn what_is_only_said_to_be_removed_is_not_removed_again_at_once_however_long_it_ran() {
    let mut desk = Desk::new(&[("a", Standing::Live)]);
    desk.ours("a", "w-a", "former");
    let mut stops = 0;
    for _ in 0..3600 {
        let plan = desk.pass();
        for action in plan.actions {
            desk.ended(&action, Ok(None));
            stops += 1;
        }
        desk.seconds += 1;
    }
    assert!((10..=25).contains(&stops), "{stops}");
    assert!(desk.told.contains(&key("a")));
}

#[test]
fn restarts_count_as_lately_only_if_they_were() {
    for (away, crashes) in [(300, true), (3600, false)] {
        let mut desk = Desk::new(&[("a", Standing::Live)]);
        let action = desk.one();
        desk.ours("a", "w-a", "h");
        desk.ended(&action, Ok(Some("id-w-a")));
        desk.nothing();
        // It is not looked at for a while.
        desk.containers[0].restarts = None;
        desk.seconds += 30;
        desk.nothing();
        desk.seconds += away;
        desk.containers[0].restarts = Some(5);
        assert_eq!(desk.pass().actions.len(), usize::from(crashes), "{away}");
    }
}

#[test]
fn a_row_without_a_name_is_in_nobodys_way() {
    let mut desk = Desk::new(&[("a", Standing::Live), ("b", Standing::Live)]);
    desk.ours("a", "w-a", "former");
    desk.ours("b", "w-b", "former");
    desk.add("", Mark::None, Observed::Unclear);
    assert_eq!(desk.one().why, Why::Changed);
    assert_eq!(desk.told, BTreeSet::new());
}

#[test]
fn what_cannot_be_started_is_made_anew() {
    let mut desk = Desk::new(&[("a", Standing::Live)]);
    desk.ours("a", "w-a", "h");
    desk.containers[0].is = Observed::Created;
    let start = desk.one();
    assert_eq!(start.step, Step::Start("id-w-a".into()));
    desk.ended(&start, Err("there is no such program"));
    desk.seconds += 5;
    let remove = desk.one();
    assert_eq!(remove.step, Step::Remove("id-w-a".into()));
    desk.ended(&remove, Ok(None));
    desk.containers.clear();
    assert_eq!(desk.one().step, Step::Create);
}

#[test]
fn people_are_told_of_a_worker_that_cannot_be_removed() {
    for gone in [Standing::Parked, Standing::Removed] {
        let mut desk = Desk::new(&[("a", gone)]);
        desk.ours("a", "w-a", "h");
        let mut told = Vec::new();
        for _ in 0..60 {
            let plan = desk.pass();
            told.extend(plan.notices);
            for action in plan.actions {
                desk.ended(&action, Err("permission denied"));
            }
            desk.seconds += 1;
        }
        assert_eq!(told, [Notice::Stuck(key("a"), "permission denied".into())]);
        // A station that has just been started gives it its time. That says nothing of the container.
        desk.clusters.insert("a".into(), Standing::Quiet);
        let limits = Limits { max_containers: 10, adopt_unlabelled: true };
        desk.reconciler = Reconciler::new(vec![role("w-{cluster_id}", "h")], limits, HashMap::new());
        assert_eq!(desk.nothing().notices, []);
        desk.containers.clear();
        assert_eq!(desk.nothing().notices, [Notice::Unwanted(key("a"))]);
    }
}

#[test]
fn containers_that_vanish_are_not_made_again_and_again() {
    let mut desk = Desk::new(&[("a", Standing::Live)]);
    let mut made = 0;
    for second in 0..600 {
        let plan = desk.pass();
        desk.containers.clear();
        for action in plan.actions {
            assert_eq!(action.step, Step::Create);
            made += 1;
            desk.ours("a", "w-a", "h");
            desk.containers[0].id = format!("id-{second}");
            let id = desk.containers[0].id.clone();
            desk.ended(&action, Ok(Some(&id)));
        }
        desk.seconds += 1;
    }
    assert!((5..=20).contains(&made), "{made}");
    assert!(desk.told.contains(&key("a")));
}

#[test]
fn what_failed_before_does_not_delay_a_removal() {
    let mut desk = Desk::new(&[("a", Standing::Live)]);
    for _ in 0..6 {
        let action = desk.one();
        desk.ended(&action, Err("there is no such network"));
        desk.seconds += 300;
    }
    desk.ours("a", "w-a", "h");
    desk.containers[0].is = Observed::Created;
    let action = desk.one();
    desk.ended(&action, Err("there is no such network"));
    desk.clusters.insert("a".into(), Standing::Removed);
    assert_eq!(desk.one().step, Step::Remove("id-w-a".into()));
}
