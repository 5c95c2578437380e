//! The control plane's side of a limit that all instances of a service keep together: it hands out
//! tokens as they are earned, so that all instances in sum are never above the limit.
//!
//! Tokens may be spent for [`LEASE`] after they were given out. So that no stretch of time sees more than
//! `burst + count × t / per`, the budget holds back what is earned in that time. It begins empty, since
//! nobody knows what was given out before. An instance that may go by its last share while it cannot be
//! heard has that share set aside.

use std::collections::BTreeMap;
use std::time::Duration;

use portolan_model::limit::{Alone, Counted, KEYS_MAX, LimitAmount, RateLimit};

use super::lease::{ASK_EVERY, BYTES_PER_TOKEN, LEASE};

/// An instance that showed no life for so long may be alone: its share is set aside.
pub const LOST_AFTER: Duration = Duration::from_millis(1_500);
/// Nobody gets anything for so long after the start: instances that are alone tell first which shares
/// they go by.
pub const STARTING: Duration = Duration::from_millis(2_500);
/// An instance that showed no life for so long is gone, and its share is free.
pub const GONE_AFTER: Duration = Duration::from_secs(600);
/// The most instances of one service.
pub const INSTANCES_MAX: usize = 10_000;
/// For how long what an instance wanted counts when others ask.
const WANT_COUNTS: Duration = Duration::from_millis(400);
/// All of a limit, in the unit of shares.
pub const WHOLE: u32 = 1_000_000;
/// The most control planes that hand out parts of one budget.
const PLANES_MAX: u32 = 64;

/// What so many bytes are worth in tokens, rounded down.
#[must_use]
pub fn tokens_of(bytes: u64) -> u32 {
    u32::try_from(bytes / BYTES_PER_TOKEN).unwrap_or(u32::MAX)
}

/// How many of `all` connections a share is worth.
#[must_use]
pub fn slots_of_share(share: u32, all: u32) -> u32 {
    let slots = u64::from(all) * u64::from(share.min(WHOLE)) / u64::from(WHOLE);
    u32::try_from(slots).unwrap_or(all)
}

/// The share that is worth so many of `all` connections.
#[must_use]
pub fn share_of_slots(slots: u32, all: u32) -> u32 {
    let share = (u64::from(slots) * u64::from(WHOLE)).div_ceil(u64::from(all.max(1)));
    u32::try_from(share).unwrap_or(WHOLE).min(WHOLE)
}

/// What a budget hands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetRate {
    /// So many.
    pub count: u32,
    /// In this time.
    pub per: Duration,
    /// At most so many at once.
    pub burst: u32,
    /// What instances do while they are alone.
    pub alone: Alone,
    /// How many control planes hand out parts of the same budget.
    pub planes: u32,
    /// Set where it is not of tokens but of connections, which are held for as long as they are needed: so
    /// many. An instance opens as many as its share is worth, and lets go of a share when they have ended.
    pub slots: Option<u32>,
}

impl BudgetRate {
    /// What `planes` control planes hand out of a limit; `None`: each instance counts for itself.
    #[must_use]
    pub fn of(limit: &RateLimit, planes: u32) -> Option<Self> {
        let Counted::Cluster { alone } = limit.counted else {
            return None;
        };
        let (count, per, burst, slots) = match limit.amount {
            LimitAmount::Requests { count, per, burst } => (count, per, burst, None),
            LimitAmount::Bytes { count, per } => {
                let tokens = tokens_of(count);
                (tokens, per, tokens, None)
            }
            LimitAmount::Connections(most) => (0, Duration::from_secs(1), 0, Some(most)),
        };
        Some(Self {
            count,
            per,
            burst,
            alone,
            planes: planes.clamp(1, PLANES_MAX),
            slots,
        })
    }

    /// The equal part of `instances`, in millionths of what all control planes hand out.
    fn equal_part(&self, instances: u32) -> u32 {
        let Some(slots) = self.slots else {
            return WHOLE / instances;
        };
        // Rounded up: who comes first gets it, and the others what is left.
        let each = (slots / self.planes).div_ceil(instances);
        share_of_slots(each, slots)
            .saturating_mul(self.planes)
            .min(WHOLE)
    }
    /// What may lie here at most, in tokens: the burst without what instances may still spend.
    fn held_max(&self) -> u64 {
        let in_flight = (u128::from(self.count) * LEASE.as_nanos()).div_ceil(self.per_ns());
        let in_flight = u64::try_from(in_flight).unwrap_or(u64::MAX);
        u64::from(self.burst).saturating_sub(in_flight)
    }

    /// Whether tokens can be handed out at all: a burst smaller than what is earned in the time that
    /// tokens live cannot be kept by several.
    #[must_use]
    pub fn can_be_shared(&self) -> bool {
        self.held_max() > 0
    }

    fn per_ns(&self) -> u128 {
        self.per.as_nanos().max(1)
    }
}

/// What an instance asks.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// The sending of the last answer that it got, by our clock.
    pub contact: Duration,
    /// The share that it goes by if it is alone, or that its connections need, as it was told.
    pub share: u32,
    /// How many tokens it wants, by key.
    pub wants: &'a [(String, u32)],
}

/// What it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The share that it goes by from now on if it is alone.
    pub share: u32,
    /// Tokens, in the order of what it wanted.
    pub tokens: Vec<u32>,
}

/// One limit of one service.
#[derive(Debug)]
pub struct Budget<I> {
    rate: BudgetRate,
    started: Duration,
    keys: BTreeMap<String, Held<I>>,
    instances: BTreeMap<I, Instance>,
    /// Millionths of the rate that are handed out now.
    handed_out: u32,
}

/// The tokens of one key.
#[derive(Debug)]
struct Held<I> {
    /// Tokens × nanoseconds of `per`.
    level: u128,
    at: Duration,
    wants: BTreeMap<I, Want>,
}

/// What an instance wanted, and when.
#[derive(Debug, Clone, Copy)]
struct Want {
    tokens: u32,
    at: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Instance {
    asked: Duration,
    /// The sending of the last answer that reached it. Until one does, it goes by its share.
    contact: Duration,
    /// The largest share that it may go by.
    in_force: u32,
    /// What it was told last.
    told: u32,
}

impl<I: Ord + Clone> Budget<I> {
    /// A budget of a control plane that started at `started`.
    #[must_use]
    pub fn new(rate: BudgetRate, started: Duration) -> Self {
        Self {
            rate,
            started,
            keys: BTreeMap::new(),
            instances: BTreeMap::new(),
            handed_out: WHOLE,
        }
    }

    /// Hands out something else from now on.
    pub fn retune(&mut self, rate: BudgetRate) {
        if rate.per != self.rate.per {
            // What lies here is counted in units of that time.
            self.keys.clear();
        }
        self.rate = rate;
    }

    /// Answers an instance; `None` while nobody is answered yet.
    pub fn ask(&mut self, id: &I, asking: Asking<'_>, now: Duration) -> Option<Given> {
        self.meet(id, asking, now);
        if now < self.started + STARTING {
            return None;
        }
        self.set_aside(now);
        let share = self.share_of(id, now);
        let tokens = asking.wants.iter();
        let tokens = tokens.map(|(key, want)| self.give(id, key, *want, now));
        Some(Given {
            share,
            tokens: tokens.collect(),
        })
    }

    /// An instance said farewell: its share is free.
    pub fn farewell(&mut self, id: &I) {
        self.instances.remove(id);
    }

    /// Whether nobody has asked of late.
    #[must_use]
    pub fn is_idle(&self, now: Duration) -> bool {
        let quiet = |it: &Instance| now.saturating_sub(it.asked) >= GONE_AFTER;
        self.instances.values().all(quiet)
    }

    fn meet(&mut self, id: &I, asking: Asking<'_>, now: Duration) {
        let known = self.instances.get(id).copied();
        if known.is_none() && self.instances.len() >= INSTANCES_MAX {
            return;
        }
        let told = known.map_or(0, |known| known.told);
        // What is told is a control plane's part of it.
        let goes_by = asking.share.saturating_mul(self.rate.planes.max(1));
        let instance = Instance {
            asked: now,
            contact: asking.contact.min(now),
            in_force: goes_by.min(WHOLE).max(told),
            told,
        };
        self.instances.insert(id.clone(), instance);
    }

    /// Sets aside the shares of those who may be alone, and hands out the rest.
    fn set_aside(&mut self, now: Duration) {
        let silence = |instance: &Instance| now.saturating_sub(instance.contact);
        self.instances
            .retain(|_, it| now.saturating_sub(it.asked) < GONE_AFTER);
        let lost = self
            .instances
            .values()
            .filter(|it| silence(it) > LOST_AFTER);
        let lost: u32 = match self.rate.alone {
            Alone::LastShare => lost.map(|it| it.in_force).fold(0, u32::saturating_add),
            Alone::Open | Alone::Closed => 0,
        };
        let handed_out = WHOLE.saturating_sub(lost);
        if handed_out != self.handed_out {
            for held in self.keys.values_mut() {
                held.earn(&self.rate, self.handed_out, now);
            }
            self.handed_out = handed_out;
        }
    }

    /// The share that an instance is told: an equal part, as far as others have let go of theirs.
    fn share_of(&mut self, id: &I, now: Duration) -> u32 {
        let live = self
            .instances
            .iter()
            .filter(|(_, it)| now.saturating_sub(it.asked) <= LOST_AFTER);
        let live = u32::try_from(live.count()).unwrap_or(u32::MAX).max(1);
        let equal = self.rate.equal_part(live);
        let others = self.instances.iter().filter(|(other, _)| *other != id);
        let others = others.fold(0, |sum: u32, (_, it)| sum.saturating_add(it.in_force));
        let share = equal.min(WHOLE.saturating_sub(others));
        if let Some(instance) = self.instances.get_mut(id) {
            instance.told = share;
            instance.in_force = instance.in_force.max(share);
        }
        share / self.rate.planes.max(1)
    }

    fn give(&mut self, id: &I, key: &str, want: u32, now: Duration) -> u32 {
        if !self.instances.contains_key(id) {
            return 0;
        }
        let (rate, handed_out) = (self.rate, self.handed_out);
        if !self.keys.contains_key(key) {
            if self.keys.len() >= KEYS_MAX {
                self.keys.retain(|_, held| {
                    held.earn(&rate, handed_out, now);
                    held.is_used(&rate, handed_out, now)
                });
            }
            if self.keys.len() >= KEYS_MAX {
                return 0;
            }
            // As if it had been there from the start, empty then.
            let held = Held {
                level: 0,
                at: self.started,
                wants: BTreeMap::new(),
            };
            self.keys.insert(key.to_owned(), held);
        }
        let Some(held) = self.keys.get_mut(key) else {
            return 0;
        };
        held.earn(&rate, handed_out, now);
        held.give(&rate, id, want, now)
    }
}

impl<I: Ord + Clone> Held<I> {
    /// Adds what was earned since the last look, up to what may lie here.
    fn earn(&mut self, rate: &BudgetRate, handed_out: u32, now: Duration) {
        let part = |whole: u128| {
            whole * u128::from(handed_out) / u128::from(WHOLE) / u128::from(rate.planes.max(1))
        };
        let time = now.saturating_sub(self.at).as_nanos();
        let earned = part(u128::from(rate.count).saturating_mul(time));
        let most = part(u128::from(rate.held_max()).saturating_mul(rate.per_ns()));
        self.level = self.level.saturating_add(earned).min(most);
        self.at = now;
    }

    /// Gives an instance its part of what is here, by what all want.
    fn give(&mut self, rate: &BudgetRate, id: &I, want: u32, now: Duration) -> u32 {
        self.wants.remove(id);
        self.wants
            .retain(|_, other| now.saturating_sub(other.at) <= WANT_COUNTS);
        if want == 0 {
            return 0;
        }
        // Others count by how soon they ask again, so that it does not matter who asks first.
        let whole = ASK_EVERY.as_millis();
        let due = |other: &Want| {
            let since = now.saturating_sub(other.at).as_millis().min(whole);
            u128::from(other.tokens) * since
        };
        let mine = u128::from(want) * whole;
        let all = mine + self.wants.values().map(due).sum::<u128>();
        let here = self.level / rate.per_ns();
        let fair = (here * mine).div_ceil(all.max(1));
        let given = u32::try_from(fair).unwrap_or(u32::MAX).min(want);
        let wanted = Want {
            tokens: want,
            at: now,
        };
        self.wants.insert(id.clone(), wanted);
        self.level = self.level.saturating_sub(u128::from(given) * rate.per_ns());
        given
    }

    fn is_used(&self, rate: &BudgetRate, handed_out: u32, now: Duration) -> bool {
        let mut full = Self {
            level: u128::MAX,
            at: now,
            wants: BTreeMap::new(),
        };
        full.earn(rate, handed_out, now);
        self.level < full.level
    }
}

#[cfg(test)]
mod tests;
