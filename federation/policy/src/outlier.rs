//! When an endpoint (or a whole cluster) that fails is left alone, and for how long.
//!
//! Two kinds of failure count apart. Answers that fail (5xx, reset, timeout) eject after
//! [`Settings::consecutive`] in a row, for longer each time. Connections that fail eject at once
//! but briefly: a dead endpoint must not cost five calls, and one that restarts must not wait half
//! a minute.

mod siblings;

use std::time::Duration;

use portolan_model::traffic::OutlierDetection;

pub use siblings::{Tally, poor, slow};

/// When and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Failed answers in a row that eject.
    pub consecutive: u32,
    /// The first ejection after failed answers; the n-th takes n times as long.
    pub base: Duration,
    /// The longest ejection after failed answers.
    pub max: Duration,
    /// The first ejection after a failed connection; each further one in a row takes twice as long.
    pub connect_base: Duration,
    /// The longest ejection after a failed connection.
    pub connect_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            consecutive: 5,
            base: Duration::from_secs(30),
            max: Duration::from_secs(300),
            connect_base: Duration::from_secs(1),
            connect_max: Duration::from_secs(30),
        }
    }
}

impl From<&OutlierDetection> for Settings {
    fn from(declared: &OutlierDetection) -> Self {
        Self {
            consecutive: declared.consecutive_failures,
            base: declared.base_ejection,
            max: declared.ejection_max,
            ..Self::default()
        }
    }
}

/// Why something was ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Too many failed answers in a row, or one right after it came back.
    Answers,
    /// It succeeds much less often than its siblings.
    SuccessRate,
    /// It is much slower than its siblings.
    Latency,
    /// It did not accept a connection.
    Connect,
}

/// An ejection that just began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// Why.
    pub cause: Cause,
    /// When it ends.
    pub until: Duration,
}

/// What one endpoint's or cluster's answers say of it. Moments must not go backwards.
#[derive(Debug, Clone, Default)]
pub struct Outlier {
    settings: Settings,
    /// Failed answers since the last good one.
    failures: u32,
    /// Ejections after failed answers that are not forgiven yet.
    ejections: u32,
    /// When one of those may be forgiven.
    forgiven_at: Duration,
    /// Failed connections since the last good answer.
    connect_failures: u32,
    /// The current or last ejection.
    ejection: Option<Ejection>,
    /// No good answer since the last ejection after failed answers.
    probation: bool,
}

impl Outlier {
    /// Nothing known.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            ..Self::default()
        }
    }

    /// What is learned from now on is judged by these settings.
    pub fn judge_by(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// It answered well. This ends an ejection that a failed connection began; one that failed
    /// answers began runs its time, since calls that were under way prove nothing. Afterwards one
    /// earlier ejection is forgiven per [`Settings::base`].
    pub fn success(&mut self, now: Duration) {
        self.failures = 0;
        self.connect_failures = 0;
        match self.running(now) {
            Some(Cause::Connect) => self.ejection = None,
            Some(Cause::Answers | Cause::SuccessRate | Cause::Latency) => return,
            None => {}
        }
        self.probation = false;
        if self.ejections > 0 && now >= self.forgiven_at {
            self.ejections -= 1;
            self.forgiven_at = now.saturating_add(self.settings.base);
        }
    }

    /// Its answer failed. Returns the ejection that this begins, if it does. While it is ejected
    /// (and tried as a last resort) failures change nothing.
    pub fn failure(&mut self, now: Duration) -> Option<Ejection> {
        if self.ejected(now) {
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures < self.settings.consecutive && !self.probation {
            return None;
        }
        self.probation = true;
        Some(self.eject_for_long(Cause::Answers, now))
    }

    /// It does worse than its siblings. Returns the ejection that this begins, unless it is ejected already.
    pub fn outlies(&mut self, cause: Cause, now: Duration) -> Option<Ejection> {
        (!self.ejected(now)).then(|| self.eject_for_long(cause, now))
    }

    /// It did not accept a connection. Returns the ejection that this begins, if it does.
    pub fn connect_failure(&mut self, now: Duration) -> Option<Ejection> {
        if self.ejected(now) {
            return None;
        }
        let factor = 1_u32.checked_shl(self.connect_failures).unwrap_or(u32::MAX);
        self.connect_failures = self.connect_failures.saturating_add(1);
        let time = self.settings.connect_base.saturating_mul(factor);
        Some(self.eject(Cause::Connect, now, time.min(self.settings.connect_max)))
    }

    /// Somebody who knows says that it is back after it was gone (its sidecar reports it ready again,
    /// its link is up again): what failed before says nothing of it now, so it is tried again at once,
    /// and not on probation. Earlier ejections still make the next one longer.
    pub fn readmit(&mut self, now: Duration) {
        self.failures = 0;
        self.connect_failures = 0;
        self.probation = false;
        if self.ejected(now) {
            self.ejection = None;
        }
    }

    /// Whether it is left alone now.
    #[must_use]
    pub fn ejected(&self, now: Duration) -> bool {
        self.running(now).is_some()
    }

    /// Until when it is left alone, if it is now.
    #[must_use]
    pub fn ejected_until(&self, now: Duration) -> Option<Duration> {
        self.ejection
            .map(|ejection| ejection.until)
            .filter(|until| now < *until)
    }

    fn running(&self, now: Duration) -> Option<Cause> {
        self.ejection
            .filter(|ejection| now < ejection.until)
            .map(|ejection| ejection.cause)
    }

    fn eject_for_long(&mut self, cause: Cause, now: Duration) -> Ejection {
        self.failures = 0;
        self.ejections = self.ejections.saturating_add(1);
        let time = self.settings.base.saturating_mul(self.ejections);
        let ejection = self.eject(cause, now, time.min(self.settings.max));
        self.forgiven_at = ejection.until.saturating_add(self.settings.base);
        ejection
    }

    fn eject(&mut self, cause: Cause, now: Duration, time: Duration) -> Ejection {
        let ejection = Ejection {
            cause,
            until: now.saturating_add(time),
        };
        self.ejection = Some(ejection);
        ejection
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn fail(outlier: &mut Outlier, times: u32, now: Duration) -> Option<Ejection> {
        (0..times).filter_map(|_| outlier.failure(now)).last()
    }

    #[test]
    fn five_failures_in_a_row_eject_and_four_do_not() {
        let mut outlier = Outlier::default();
        assert_eq!(fail(&mut outlier, 4, s(0)), None);
        outlier.success(s(0));
        assert_eq!(fail(&mut outlier, 4, s(0)), None);
        let until = s(30);
        let cause = Cause::Answers;
        assert_eq!(outlier.failure(s(0)), Some(Ejection { cause, until }));
        assert!(outlier.ejected(s(29)) && !outlier.ejected(s(30)));
        assert_eq!(outlier.ejected_until(s(1)), Some(s(30)));
        assert_eq!(fail(&mut outlier, 9, s(10)), None, "while it is ejected");
    }

    #[test]
    fn one_failure_after_the_return_ejects_for_longer() {
        let mut outlier = Outlier::default();
        let mut now = s(0);
        fail(&mut outlier, 4, now);
        for n in 1..15 {
            let ejection = outlier.failure(now).unwrap();
            assert_eq!(ejection.until - now, s(30 * n).min(s(300)));
            now = ejection.until;
        }
    }

    #[test]
    fn good_answers_forgive_one_ejection_at_a_time() {
        let mut outlier = Outlier::default();
        fail(&mut outlier, 5, s(0));
        assert_eq!(outlier.failure(s(30)).unwrap().until, s(90));
        outlier.success(s(60));
        assert!(outlier.ejected(s(60)), "a late answer proves nothing");
        outlier.success(s(90));
        assert_eq!(fail(&mut outlier, 4, s(91)), None, "no probation any more");
        outlier.success(s(120));
        assert_eq!(fail(&mut outlier, 5, s(121)).unwrap().until, s(121 + 60));
    }

    #[test]
    fn failed_connections_eject_at_once_and_briefly() {
        let mut outlier = Outlier::default();
        let mut now = s(0);
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            let ejection = outlier.connect_failure(now).unwrap();
            assert_eq!(
                (ejection.cause, ejection.until - now),
                (Cause::Connect, s(seconds))
            );
            assert_eq!(outlier.connect_failure(now), None);
            now = ejection.until;
        }
        outlier.connect_failure(now);
        outlier.success(now);
        assert!(
            !outlier.ejected(now),
            "a last resort that works is back at once"
        );
        assert_eq!(outlier.connect_failure(now).unwrap().until, now + s(1));
    }

    #[test]
    fn who_is_reported_back_is_tried_again_at_once_but_has_a_record() {
        let mut outlier = Outlier::default();
        outlier.connect_failure(s(0));
        outlier.readmit(s(0));
        assert!(!outlier.ejected(s(0)));
        fail(&mut outlier, 5, s(0));
        outlier.readmit(s(1));
        assert!(!outlier.ejected(s(1)));
        assert_eq!(fail(&mut outlier, 4, s(1)), None, "not on probation");
        let again = outlier.failure(s(1)).unwrap();
        assert_eq!(again.until, s(1 + 60), "for longer than the first time");
    }

    #[derive(Debug, Clone)]
    enum Event {
        Success,
        Failure,
        Connect,
        Readmit,
        Wait(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            1 => Just(Event::Success),
            4 => Just(Event::Failure),
            1 => Just(Event::Connect),
            1 => Just(Event::Readmit),
            2 => (0_u64..60).prop_map(Event::Wait),
        ]
    }

    proptest! {
        /// Reference: the history since the last good answer, counted from scratch each time.
        #[test]
        fn ejections_have_a_reason_and_an_end(events in prop::collection::vec(event(), 0..200)) {
            let mut outlier = Outlier::default();
            let mut now = s(0);
            let mut bad = 0_u32;
            let mut ever_ejected = false;
            for event in events {
                let begun = match event {
                    Event::Success => { outlier.success(now); bad = 0; None }
                    Event::Readmit => { outlier.readmit(now); None }
                    Event::Failure => { bad += 1; outlier.failure(now) }
                    Event::Connect => outlier.connect_failure(now),
                    Event::Wait(seconds) => { now += s(seconds); None }
                };
                if let Some(ejection) = begun {
                    let longest = match ejection.cause {
                        Cause::Answers | Cause::SuccessRate | Cause::Latency => s(300),
                        Cause::Connect => s(30),
                    };
                    prop_assert!(ejection.until > now && ejection.until - now <= longest);
                    prop_assert!(ejection.cause == Cause::Connect || ever_ejected || bad >= 5);
                    ever_ejected |= ejection.cause == Cause::Answers;
                }
                prop_assert!(!outlier.ejected(now + s(300)));
            }
        }
    }
}
