//! Many instances on a clock of our own, with answers that get lost and control planes that start again.

use proptest::prelude::*;

use super::super::Rate;
use super::super::lease::{ASK_EVERY, Contact, Empty, Lease};
use super::*;

const TICK: Duration = Duration::from_millis(25);

fn rate(alone: Alone) -> BudgetRate {
    BudgetRate {
        count: 100,
        per: Duration::from_secs(1),
        burst: 100,
        alone,
        planes: 1,
    }
}

/// An instance as sidecars are.
struct Instance {
    id: u64,
    lease: Lease,
    contact: Contact,
    share: u32,
    /// Our answers' sending, as the control plane counts.
    heard: Duration,
    cut_off: bool,
    asks_at: Duration,
}

impl Instance {
    fn new(id: u64, now: Duration) -> Self {
        Self {
            id,
            lease: Lease::default(),
            contact: Contact::default(),
            share: 0,
            heard: Duration::ZERO,
            cut_off: false,
            asks_at: now,
        }
    }

    fn request(&self, rate: &BudgetRate, now: Duration) -> bool {
        let local = Rate::of_requests(rate.count, rate.per, rate.burst);
        match self.lease.take(now) {
            Ok(()) => true,
            Err(Empty::Reached(_) | Empty::Unasked) => match self.contact.alone_since(now) {
                None => false,
                Some(since) => self
                    .lease
                    .take_alone(rate.alone, (&local, self.share), since, now)
                    .is_ok(),
            },
        }
    }

    fn ask(&mut self, budget: &mut Budget<u64>, now: Duration) {
        let want = self.lease.asking(now);
        if self.cut_off {
            return;
        }
        let wants = [(String::new(), want)];
        let asking = Asking {
            contact: self.heard,
            share: self.share,
            wants: &wants,
        };
        if let Some(given) = budget.ask(&self.id, asking, now) {
            self.heard = now;
            self.share = given.share;
            self.contact.answered(now);
            self.lease.put(want, given.tokens[0], now);
        }
    }
}

/// One thing that happens, besides requests.
#[derive(Debug, Clone)]
enum Event {
    Nothing,
    CutOff(usize),
    Heal(usize),
    Replace(usize),
    RestartControl,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        20 => Just(Event::Nothing),
        1 => (0_usize..5).prop_map(Event::CutOff),
        1 => (0_usize..5).prop_map(Event::Heal),
        1 => (0_usize..5).prop_map(Event::Replace),
        1 => Just(Event::RestartControl),
    ]
}

/// Whether some stretch of time sees more than the limit: every stretch, one by one.
fn exceeded(taken: &[(Duration, u64)], rate: &BudgetRate) -> bool {
    (0..taken.len()).any(|first| {
        let mut sum = 0_u128;
        taken[first..].iter().any(|(at, amount)| {
            sum += u128::from(*amount);
            let earned = u128::from(rate.count) * (*at - taken[first].0).as_nanos();
            sum > u128::from(rate.burst) + earned / rate.per.as_nanos()
        })
    })
}

/// Runs the events, one for each tick, under a load of so many requests per tick and instance.
fn run(rate: BudgetRate, events: &[Event], load: u64) -> Vec<(Duration, u64)> {
    let mut now = Duration::from_secs(5);
    let mut budget = Budget::new(rate, Duration::ZERO);
    let mut instances: Vec<Instance> = (0..5).map(|id| Instance::new(id, now)).collect();
    let mut next_id = 5;
    let mut taken = Vec::new();
    for event in events {
        match event {
            Event::Nothing => {}
            Event::CutOff(which) => instances[*which].cut_off = true,
            Event::Heal(which) => instances[*which].cut_off = false,
            // Killed without farewell; a new one comes in its place.
            Event::Replace(which) => {
                instances[*which] = Instance::new(next_id, now);
                next_id += 1;
            }
            Event::RestartControl => {
                budget = Budget::new(rate, now);
                for instance in &mut instances {
                    instance.heard = Duration::ZERO;
                }
            }
        }
        let mut served = 0;
        for instance in &mut instances {
            if instance.asks_at <= now {
                instance.asks_at = now + ASK_EVERY;
                instance.ask(&mut budget, now);
            }
            served += (0..load).filter(|_| instance.request(&rate, now)).count() as u64;
        }
        taken.push((now, served));
        now += TICK;
    }
    taken
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn all_instances_together_are_never_above(
        events in prop::collection::vec(event(), 40..400), load in 1_u64..40,
    ) {
        let rate = rate(Alone::Closed);
        prop_assert!(!exceeded(&run(rate, &events, load), &rate));
    }

    #[test]
    fn nor_with_those_who_go_by_their_last_share(
        // Without restarts of the control plane: one that knows nothing of somebody who is alone cannot
        // set its share aside.
        events in prop::collection::vec(event().prop_filter("restart", |event| {
            !matches!(event, Event::RestartControl)
        }), 40..400),
        load in 1_u64..40,
    ) {
        let rate = rate(Alone::LastShare);
        prop_assert!(!exceeded(&run(rate, &events, load), &rate));
    }
}

#[test]
fn a_restart_that_everybody_sees_is_not_above_with_last_shares() {
    let rate = rate(Alone::LastShare);
    let mut events = vec![Event::Nothing; 200];
    events.push(Event::RestartControl);
    events.extend(vec![Event::Nothing; 400]);
    assert!(!exceeded(&run(rate, &events, 20), &rate));
}

#[test]
fn what_is_earned_is_really_handed_out() {
    let rate = rate(Alone::Closed);
    let taken = run(rate, &vec![Event::Nothing; 400], 20);
    let served: u64 = taken.iter().map(|(_, served)| served).sum();
    // Ten seconds: a thousand, and the half burst at the beginning.
    assert!((950..=1_100).contains(&served), "{served}");
}

#[test]
fn those_who_want_alike_get_alike() {
    let mut budget = Budget::new(rate(Alone::Closed), Duration::ZERO);
    let mut got = [0_u32; 3];
    let wants = [(String::new(), 50)];
    for round in 0..100 {
        let now = Duration::from_secs(5) + ASK_EVERY * round;
        for (id, sum) in (0_u64..).zip(&mut got) {
            let asking = Asking {
                contact: now,
                share: 0,
                wants: &wants,
            };
            *sum += budget.ask(&id, asking, now).unwrap().tokens[0];
        }
    }
    let (least, most) = (got.iter().min().unwrap(), got.iter().max().unwrap());
    assert!(2 * most < 3 * least, "{got:?}");
}

#[test]
fn shares_never_add_up_to_more_than_all() {
    let mut budget = Budget::new(rate(Alone::LastShare), Duration::ZERO);
    let mut ask = |id, share, now| {
        let asking = Asking {
            contact: now,
            share,
            wants: &[],
        };
        budget.ask(&id, asking, now).unwrap().share
    };
    let now = Duration::from_secs(5);
    assert_eq!(ask(1, 0, now), WHOLE);
    assert_eq!(ask(2, 0, now), 0, "the first still goes by all of it");
    assert_eq!(ask(1, WHOLE, now), WHOLE / 2);
    assert_eq!(ask(2, 0, now), 0, "it was told, but may not have heard");
    assert_eq!(ask(1, WHOLE / 2, now), WHOLE / 2);
    assert_eq!(ask(2, 0, now), WHOLE / 2);
}

#[test]
fn a_burst_too_small_to_share_is_known() {
    let small = BudgetRate {
        burst: 50,
        ..rate(Alone::Closed)
    };
    assert!(!small.can_be_shared());
    assert!(rate(Alone::Closed).can_be_shared());
}
