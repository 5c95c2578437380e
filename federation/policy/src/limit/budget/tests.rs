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
        slots: None,
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

    /// Asks when it is time, and passes as many of `load` requests as it may.
    fn tick(
        &mut self,
        budget: &mut Budget<u64>,
        rate: &BudgetRate,
        load: u64,
        now: Duration,
    ) -> u64 {
        if self.asks_at <= now {
            self.asks_at = now + ASK_EVERY;
            self.ask(budget, now);
        }
        (0..load).filter(|_| self.request(rate, now)).count() as u64
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
        let all = instances.iter_mut();
        let served = all.map(|it| it.tick(&mut budget, &rate, load, now)).sum();
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

#[test]
fn a_control_plane_that_starts_hears_whole_shares() {
    // Of two control planes each hands out half, and an instance is told half of its share.
    let of_two = BudgetRate {
        planes: 2,
        ..rate(Alone::LastShare)
    };
    let mut budget = Budget::new(of_two, Duration::ZERO);
    let mut ask = |id, share, now| {
        let asking = Asking {
            contact: now,
            share,
            wants: &[],
        };
        budget.ask(&id, asking, now).map(|given| given.share)
    };
    // The first is heard once, before anybody is answered, and is alone from then on.
    assert_eq!(ask(1, WHOLE / 2, Duration::from_secs(1)), None);
    let now = Duration::from_secs(5);
    assert_eq!(
        ask(2, 0, now),
        Some(0),
        "the first goes by all that is here"
    );
}

/// An instance that holds connections, as sidecars do.
#[derive(Clone)]
struct Holder {
    id: u64,
    share: u32,
    heard: Duration,
    open: u32,
    cut_off: bool,
}

impl Holder {
    fn new(id: u64) -> Self {
        Self {
            id,
            share: 0,
            heard: Duration::ZERO,
            open: 0,
            cut_off: false,
        }
    }

    fn opens(&mut self, slots: u32) -> bool {
        let may = self.open < slots_of_share(self.share, slots);
        self.open += u32::from(may);
        may
    }

    fn ask(&mut self, budgets: &mut [Budget<u64>], slots: u32, now: Duration) {
        let at = usize::try_from(self.id).unwrap() % budgets.len();
        let asking = Asking {
            contact: self.heard,
            share: self.share.max(share_of_slots(self.open, slots)),
            wants: &[],
        };
        if self.cut_off {
            return;
        }
        if let Some(given) = budgets[at].ask(&self.id, asking, now) {
            (self.heard, self.share) = (now, given.share);
        }
    }
}

fn of_connections(slots: u32, planes: u32) -> BudgetRate {
    BudgetRate {
        slots: Some(slots),
        planes,
        ..rate(Alone::LastShare)
    }
}

#[derive(Debug, Clone)]
enum Deed {
    /// It opens so many, as far as it may.
    Open(usize, u32),
    Close(usize),
    /// It says farewell when its connections have ended; the next one comes when it is healed.
    Leave(usize),
    CutOff(usize),
    Heal(usize),
    /// Killed without farewell, its connections too; a new one comes in its place.
    Replace(usize),
    /// The control plane starts again, and everybody is there to tell it.
    Restart,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        20 => (0_usize..6, 1_u32..30).prop_map(|(who, more)| Deed::Open(who, more)),
        12 => (0_usize..6).prop_map(Deed::Close),
        1 => (0_usize..6).prop_map(Deed::Leave),
        1 => (0_usize..6).prop_map(Deed::CutOff),
        2 => (0_usize..6).prop_map(Deed::Heal),
        1 => (0_usize..6).prop_map(Deed::Replace),
        1 => Just(Deed::Restart),
    ]
}

proptest! {
    #[test]
    fn instances_together_never_hold_more_connections_than_there_are(
        deeds in prop::collection::vec(deed(), 1..600), slots in 1_u32..200, planes in 1_u32..3,
    ) {
        let rate = of_connections(slots, planes);
        let new = |now| (0..planes).map(|_| Budget::new(rate, now)).collect::<Vec<_>>();
        let mut budgets = new(Duration::ZERO);
        let mut now = Duration::from_secs(5);
        // The first has everything, and the others come one by one.
        let mut all: Vec<Holder> = (0..6).map(|id| Holder { cut_off: id > 0, ..Holder::new(id) }).collect();
        let mut next_id = 6;
        for deed in deeds {
            match deed {
                Deed::Open(who, more) => {
                    (0..more).take_while(|_| all[who].opens(slots)).count();
                }
                Deed::Leave(who) if !all[who].cut_off => {
                    let id = all[who].id;
                    let at = usize::try_from(id).unwrap() % budgets.len();
                    budgets[at].farewell(&id);
                    all[who] = Holder { cut_off: true, ..Holder::new(next_id) };
                    next_id += 1;
                }
                Deed::Leave(_) => {}
                Deed::Close(who) => all[who].open = all[who].open.saturating_sub(1),
                Deed::CutOff(who) => all[who].cut_off = true,
                Deed::Heal(who) => all[who].cut_off = false,
                Deed::Replace(who) => {
                    all[who] = Holder::new(next_id);
                    next_id += 1;
                }
                Deed::Restart => {
                    budgets = new(now);
                    for one in &mut all {
                        (one.cut_off, one.heard) = (false, Duration::ZERO);
                    }
                }
            }
            for one in &mut all {
                one.ask(&mut budgets, slots, now);
            }
            now += TICK;
            let open: u32 = all.iter().map(|one| one.open).sum();
            prop_assert!(open <= slots, "{open} of {slots}");
        }
    }
}

#[test]
fn every_connection_is_given_to_somebody() {
    for (slots, instances) in [(100, 3), (6, 6), (5, 6), (1, 6), (1_000_000, 7)] {
        let mut budgets = [Budget::new(of_connections(slots, 1), Duration::ZERO)];
        let mut all: Vec<Holder> = (0..instances).map(Holder::new).collect();
        for round in 0..8 {
            for one in &mut all {
                one.ask(
                    &mut budgets,
                    slots,
                    Duration::from_secs(5) + ASK_EVERY * round,
                );
            }
        }
        let given: u32 = all.iter().map(|one| slots_of_share(one.share, slots)).sum();
        assert!(given <= slots && given + 2 >= slots, "{given} of {slots}");
        let most = slots.div_ceil(u32::try_from(instances).unwrap());
        assert!(
            all.iter()
                .all(|one| slots_of_share(one.share, slots) <= most + 1)
        );
    }
}

#[test]
fn shares_and_connections_are_worth_each_other() {
    for all in [1, 3, 7, 100, 999_983, 1_000_000] {
        for slots in [0, 1, all / 3, all / 2, all] {
            assert_eq!(
                slots_of_share(share_of_slots(slots, all), all),
                slots,
                "{slots} of {all}"
            );
        }
    }
}

/// Bytes are taken in pieces of any size, of which a part is given back.
#[derive(Debug, Clone)]
struct Piece {
    who: usize,
    tokens: u32,
    unused: u32,
}

fn piece() -> impl Strategy<Value = Piece> {
    (0_usize..4, 1_u32..60, 0_u32..60).prop_map(|(who, tokens, unused)| Piece {
        who,
        tokens,
        unused,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn bytes_of_all_instances_together_are_never_above(
        pieces in prop::collection::vec(piece(), 100..1_500), per_tick in 1_usize..6,
    ) {
        let rate = rate(Alone::LastShare);
        let local = Rate::of_requests(rate.count, rate.per, rate.burst);
        let mut budget = Budget::new(rate, Duration::ZERO);
        let mut now = Duration::from_secs(5);
        let mut instances: Vec<Instance> = (0..4).map(|id| Instance::new(id, now)).collect();
        let mut taken = Vec::new();
        for pieces in pieces.chunks(per_tick) {
            for instance in &mut instances {
                if instance.asks_at <= now {
                    instance.asks_at = now + ASK_EVERY;
                    instance.ask(&mut budget, now);
                }
            }
            let mut used = 0;
            for piece in pieces {
                let lease = &instances[piece.who].lease;
                if let Ok(spent) = lease.take_some(piece.tokens, now) {
                    let unused = piece.unused.min(spent.tokens());
                    lease.give_back(spent, unused, &local);
                    used += u64::from(spent.tokens() - unused);
                }
            }
            taken.push((now, used));
            now += TICK;
        }
        prop_assert!(!exceeded(&taken, &rate));
    }
}

/// Of two control planes of one cluster each hands out half. Instances change between them as they please.
fn run_with_two(alone: Alone, events: &[Event], load: u64) -> Vec<(Duration, u64)> {
    let rate = BudgetRate {
        planes: 2,
        ..rate(alone)
    };
    let mut now = Duration::from_secs(5);
    let mut budgets = [0, 1].map(|_| Budget::new(rate, Duration::ZERO));
    let mut instances: Vec<Instance> = (0..5).map(|id| Instance::new(id, now)).collect();
    let mut asks = [0, 1, 0, 1, 0];
    let mut next_id = 5;
    let mut taken = Vec::new();
    for event in events {
        match event {
            Event::Nothing | Event::RestartControl => {}
            // It asks the other one from now on, which answers it for the first time.
            Event::CutOff(which) => {
                asks[*which] = 1 - asks[*which];
                instances[*which].heard = Duration::ZERO;
            }
            Event::Heal(which) => instances[*which].cut_off ^= true,
            Event::Replace(which) => {
                instances[*which] = Instance::new(next_id, now);
                next_id += 1;
            }
        }
        let all = instances.iter_mut().zip(asks);
        let served = all.map(|(it, asks)| it.tick(&mut budgets[asks], &rate, load, now));
        taken.push((now, served.sum()));
        now += TICK;
    }
    taken
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn two_control_planes_together_are_never_above(
        events in prop::collection::vec(event(), 40..400), load in 1_u64..40,
    ) {
        for alone in [Alone::Closed, Alone::LastShare] {
            prop_assert!(!exceeded(&run_with_two(alone, &events, load), &rate(alone)));
        }
    }
}

#[test]
fn two_control_planes_hand_out_everything_where_both_are_asked() {
    let taken = run_with_two(Alone::Closed, &vec![Event::Nothing; 400], 20);
    let served: u64 = taken.iter().map(|(_, served)| served).sum();
    assert!((900..=1_100).contains(&served), "{served}");
}
