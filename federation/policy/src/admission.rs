//! How many requests an overloaded app is given at a time: as many as it answers about as fast as when it is
//! idle. The others are refused at once, while their callers can still go elsewhere, instead of waiting in
//! a queue until nobody wants their answers.
//!
//! The limit follows the gradient of latency (as Netflix' concurrency limits and Envoy's adaptive concurrency
//! do): answers that take longer than the app's own time mean a queue, and lower it; as long as there is
//! none it grows. The app's own time is measured again now and then with few requests under way.

use std::time::Duration;

use portolan_model::traffic::AdaptiveConcurrency;

/// The limit is thought over when so many answers came and so much time passed.
const ANSWERS_MIN: u32 = 10;
const WINDOW: Duration = Duration::from_millis(50);
/// The most that it falls in one step, as a factor.
const STEEPEST: f64 = 0.5;
/// The highest limit.
const LIMIT_MAX: f64 = 10_000.0;
/// The limit while nothing is known.
const LIMIT_FIRST: f64 = 32.0;

/// What is known of one app port. Moments must not go backwards.
#[derive(Debug, Clone)]
pub struct Admission {
    rule: AdaptiveConcurrency,
    limit: f64,
    under_way: u32,
    /// The app's own time, and when it was measured.
    own: Option<(Duration, Duration)>,
    measuring: bool,
    window: Window,
}

#[derive(Debug, Clone, Copy, Default)]
struct Window {
    began: Duration,
    answers: u32,
    sum: Duration,
    least: Option<Duration>,
    busiest: u32,
}

impl Admission {
    /// Nothing known.
    #[must_use]
    pub fn new(rule: AdaptiveConcurrency, now: Duration) -> Self {
        Self {
            rule,
            limit: LIMIT_FIRST,
            under_way: 0,
            own: None,
            measuring: true,
            window: Window::begin(now),
        }
    }

    /// The rule that counts from now on.
    pub fn obey(&mut self, rule: AdaptiveConcurrency) {
        self.rule = rule;
    }

    /// Lets one more request in, if there is room; it ends with [`Self::end`].
    ///
    /// # Errors
    /// How many are under way: as many as may be.
    pub fn begin(&mut self, now: Duration) -> Result<(), u32> {
        if self.under_way >= self.allowed(now) {
            return Err(self.under_way);
        }
        self.under_way += 1;
        self.window.busiest = self.window.busiest.max(self.under_way);
        Ok(())
    }

    /// A request that was let in ended, answered after `took` unless it got no answer.
    pub fn end(&mut self, now: Duration, took: Option<Duration>) {
        self.under_way = self.under_way.saturating_sub(1);
        let Some(took) = took else {
            return;
        };
        let window = &mut self.window;
        window.answers += 1;
        window.sum += took;
        window.least = Some(window.least.map_or(took, |least| least.min(took)));
        if window.answers >= ANSWERS_MIN && now.saturating_sub(window.began) >= WINDOW {
            self.think_over(now);
        }
    }

    /// How many may be under way now.
    #[must_use]
    pub fn allowed(&self, now: Duration) -> u32 {
        let least = self.rule.least.max(1);
        if self.measuring && self.own.is_some() && !self.stale_for_long(now) {
            return least;
        }
        (self.limit as u32).max(least)
    }

    /// Whether measuring goes on for too long, because hardly anybody calls.
    fn stale_for_long(&self, now: Duration) -> bool {
        now.saturating_sub(self.window.began) > self.rule.measure_every
    }

    fn think_over(&mut self, now: Duration) {
        let window = std::mem::replace(&mut self.window, Window::begin(now));
        let average = window.sum / window.answers.max(1);
        if self.measuring {
            // What was sent before measuring began was still waiting in the queue.
            let own = window.least.unwrap_or(average);
            self.own = Some((own, now));
            self.measuring = false;
            return;
        }
        let Some((own, measured_at)) = self.own else {
            return;
        };
        let own = window.least.map_or(own, |least| least.min(own));
        self.own = Some((own, measured_at));
        let tolerated = own.as_secs_f64() * f64::from(self.rule.tolerance_percent) / 100.0;
        let gradient = (tolerated / average.as_secs_f64().max(1e-9)).clamp(STEEPEST, 1.0);
        let next = self.limit * gradient + self.limit.sqrt();
        if next < self.limit || f64::from(window.busiest) >= self.limit / 2.0 {
            self.limit = next.clamp(f64::from(self.rule.least.max(1)), LIMIT_MAX);
        }
        self.measuring = now.saturating_sub(measured_at) >= self.rule.measure_every;
    }
}

impl Window {
    fn begin(now: Duration) -> Self {
        Self {
            began: now,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const MS: Duration = Duration::from_millis(1);

    /// An app that serves so many requests at a time, each in 10 ms, and queues the others.
    struct App {
        servers: usize,
        serving: Vec<(Duration, Duration)>,
        queue: VecDeque<Duration>,
    }

    struct Result {
        good: u32,
        refused: u32,
        longest: Duration,
    }

    impl App {
        /// Sends so many requests a second for so long; an answer within 200 ms is a good one.
        fn under(
            mut self,
            per_second: u32,
            seconds: u32,
            admission: &mut Option<Admission>,
        ) -> Result {
            let mut result = Result {
                good: 0,
                refused: 0,
                longest: Duration::ZERO,
            };
            let step = Duration::from_micros(100);
            let mut due = 0.0;
            for tick in 0..seconds * 10_000 {
                let now = step * tick;
                self.serving.retain(|(ends, sent)| {
                    if *ends > now {
                        return true;
                    }
                    let took = now - *sent;
                    result.good += u32::from(took <= 200 * MS);
                    result.longest = result.longest.max(took);
                    if let Some(admission) = admission.as_mut() {
                        admission.end(now, Some(took));
                    }
                    false
                });
                due += f64::from(per_second) / 10_000.0;
                while due >= 1.0 {
                    due -= 1.0;
                    match admission.as_mut().map(|it| it.begin(now)) {
                        Some(Err(_)) => result.refused += 1,
                        Some(Ok(())) | None => self.queue.push_back(now),
                    }
                }
                while self.serving.len() < self.servers {
                    let Some(sent) = self.queue.pop_front() else {
                        break;
                    };
                    self.serving.push((now + 10 * MS, sent));
                }
            }
            result
        }
    }

    fn app(servers: usize) -> App {
        App {
            servers,
            serving: Vec::new(),
            queue: VecDeque::new(),
        }
    }

    fn admission() -> Option<Admission> {
        Some(Admission::new(
            AdaptiveConcurrency::default(),
            Duration::ZERO,
        ))
    }

    #[test]
    fn at_twice_what_it_can_an_app_does_nine_tenths_of_what_it_can() {
        for servers in [1, 2, 8, 32] {
            let capacity = servers as u32 * 100;
            let result = app(servers).under(2 * capacity, 60, &mut admission());
            let goodput = f64::from(result.good) / f64::from(60 * capacity);
            assert!(goodput > 0.9, "{servers} servers: {goodput}");
            assert!(
                result.refused > 60 * capacity * 8 / 10,
                "{servers}: {}",
                result.refused
            );
        }
    }

    #[test]
    fn without_it_nearly_nothing_of_that_is_in_time() {
        let result = app(8).under(1_600, 60, &mut None);
        assert!(f64::from(result.good) / 48_000.0 < 0.1, "{}", result.good);
    }

    #[test]
    fn below_what_it_can_nothing_is_refused_for_long() {
        for servers in [2, 8, 32] {
            let capacity = servers as u32 * 100;
            let result = app(servers).under(capacity * 7 / 10, 60, &mut admission());
            let part = f64::from(result.refused) / f64::from(60 * capacity * 7 / 10);
            assert!(part < 0.02, "{servers} servers: {part}");
        }
    }

    #[test]
    fn who_got_no_answer_leaves_its_place() {
        let mut admission = admission().unwrap();
        for _ in 0..1_000 {
            admission.begin(MS).unwrap();
            admission.end(MS, None);
        }
        assert_eq!(admission.under_way, 0);
    }
}
