//! Who does much worse than the siblings.

use std::time::Duration;

use portolan_model::traffic::{LatencyOutlier, SuccessRate};

/// So many endpoints must have been judged before one of them can be called an outlier.
const SIBLINGS_MIN: usize = 3;

/// What one endpoint answered in an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Good answers.
    pub good: u32,
    /// All answers.
    pub all: u32,
}

/// Who succeeds much less often: below the mean of all by more than so many standard deviations (Envoy's
/// rule). Endpoints with few answers neither judge nor are judged.
#[must_use]
pub fn poor(tallies: &[Tally], rule: SuccessRate) -> Vec<usize> {
    let judged: Vec<(usize, f64)> = tallies
        .iter()
        .enumerate()
        .filter(|(_, tally)| tally.all >= rule.requests_min.max(1))
        .map(|(at, tally)| (at, f64::from(tally.good) / f64::from(tally.all)))
        .collect();
    if judged.len() < SIBLINGS_MIN {
        return Vec::new();
    }
    let count = judged.len() as f64;
    let mean = judged.iter().map(|(_, rate)| rate).sum::<f64>() / count;
    let variance = judged
        .iter()
        .map(|(_, rate)| (rate - mean) * (rate - mean))
        .sum::<f64>()
        / count;
    let least = mean - variance.sqrt() * f64::from(rule.deviations_milli) / 1_000.0;
    let below = judged.into_iter().filter(|(_, rate)| *rate < least);
    below.map(|(at, _)| at).collect()
}

/// Who is much slower: above a multiple of the median of all. Who was never measured neither judges nor is
/// judged.
#[must_use]
pub fn slow(latencies: &[Option<Duration>], rule: LatencyOutlier) -> Vec<usize> {
    let mut known: Vec<Duration> = latencies.iter().flatten().copied().collect();
    if known.len() < SIBLINGS_MIN {
        return Vec::new();
    }
    known.sort_unstable();
    let median = known[(known.len() - 1) / 2];
    let most = median.saturating_mul(rule.of_median_percent) / 100;
    let slow = |latency: &Duration| *latency > most && *latency >= rule.least;
    let measured = latencies.iter().enumerate();
    measured
        .filter(|(_, latency)| latency.as_ref().is_some_and(slow))
        .map(|(at, _)| at)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RATE: SuccessRate = SuccessRate {
        interval: Duration::from_secs(10),
        requests_min: 100,
        deviations_milli: 1_900,
    };
    const LATENCY: LatencyOutlier = LatencyOutlier {
        of_median_percent: 300,
        least: Duration::from_millis(10),
    };

    fn tally(good: u32, all: u32) -> Tally {
        Tally { good, all }
    }

    #[test]
    fn one_of_many_that_fails_often_stands_out_and_all_that_fail_alike_do_not() {
        let mut tallies = vec![tally(990, 1_000); 9];
        tallies.push(tally(700, 1_000));
        assert_eq!(poor(&tallies, RATE), [9]);
        assert_eq!(poor(&[tally(10, 1_000); 9], RATE), [0; 0]);
    }

    #[test]
    fn few_answers_and_few_siblings_judge_nobody() {
        let mut tallies = vec![tally(100, 100); 9];
        tallies.push(tally(0, 99));
        assert_eq!(poor(&tallies, RATE), [0; 0]);
        assert_eq!(poor(&[tally(100, 100), tally(0, 100)], RATE), [0; 0]);
    }

    #[test]
    fn three_times_the_median_is_slow_unless_all_of_it_is_fast() {
        let ms = |ms| Some(Duration::from_millis(ms));
        let most = [ms(10), ms(11), None, ms(12), ms(37)];
        assert_eq!(slow(&most, LATENCY), [4]);
        assert_eq!(slow(&[ms(1), ms(1), ms(1), ms(9)], LATENCY), [0; 0]);
        assert_eq!(slow(&[ms(10), ms(100)], LATENCY), [0; 0]);
    }

    proptest! {
        /// Never everybody: somebody is at least as good as the mean, and as fast as the median.
        #[test]
        fn somebody_is_always_left(
            answers in prop::collection::vec((0_u32..200, 0_u32..200, 0_u64..500), 1..12)
        ) {
            let tallies: Vec<_> = answers.iter().map(|(good, bad, _)| tally(*good, good + bad)).collect();
            let times: Vec<_> = answers.iter().map(|(_, _, ms)| Some(Duration::from_millis(*ms))).collect();
            prop_assert!(poor(&tallies, RATE).len() < answers.len());
            prop_assert!(slow(&times, LATENCY).len() <= answers.len() / 2);
        }
    }
}
