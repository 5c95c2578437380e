//! Figures for people: medians with their spread, in tables that can be pasted.

use std::fmt;

use comfy_table::{Table, presets};
use serde::Serialize;

/// Of fewer repeats, quartiles would say less than the least and the most.
const QUARTILES_MIN: usize = 4;

/// An empty table.
pub(crate) fn table(heads: &[impl ToString]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(heads.iter().map(ToString::to_string));
    table
}

/// The median of repeats, and half of what lies between the least and the most.
pub(crate) fn spread(values: &[f64], digits: usize) -> String {
    let (Some(least), Some(most)) = (
        values.iter().copied().min_by(f64::total_cmp),
        values.iter().copied().max_by(f64::total_cmp),
    ) else {
        return "-".to_owned();
    };
    format!(
        "{:.digits$} ± {:.digits$}",
        median(values),
        (most - least) / 2.0
    )
}

/// How many times the others' ours is, as each repeat says: its two figures were taken seconds apart, and
/// neighbours of the machine change more in a minute than peers differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Ratio {
    median: f64,
    /// The lower and the upper quartile of at least [`QUARTILES_MIN`] repeats; the least and the most of two
    /// or three.
    between: Option<[f64; 2]>,
    /// How many repeats say something. One in which a figure is missing or not above zero, because the direct
    /// path's share was more than all of it, says nothing.
    counted: usize,
    /// How many there were.
    repeats: usize,
}

impl Ratio {
    /// Compares figures of the same repeats; `None` if no repeat says anything.
    pub(crate) fn of(own: &[f64], others: &[f64]) -> Option<Self> {
        let mut each: Vec<f64> = own
            .iter()
            .zip(others)
            .filter(|(own, other)| **own > 0.0 && **other > 0.0)
            .map(|(own, other)| own / other)
            .collect();
        each.sort_by(f64::total_cmp);
        let (&least, &most) = (each.first()?, each.last()?);
        let between = match each.len() {
            1 => None,
            count if count < QUARTILES_MIN => Some([least, most]),
            _ => Some([quantile(&each, 0.25), quantile(&each, 0.75)]),
        };
        Some(Self {
            median: quantile(&each, 0.5),
            between,
            counted: each.len(),
            repeats: own.len().max(others.len()),
        })
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}", self.median)?;
        if let Some([low, high]) = self.between {
            write!(f, " ({low:.2}–{high:.2})")?;
        }
        if self.counted < self.repeats {
            write!(f, ", {} of {}", self.counted, self.repeats)?;
        }
        Ok(())
    }
}

/// A ratio as a table shows it.
pub(crate) fn cell(ratio: Option<&Ratio>) -> String {
    ratio.map_or_else(|| "-".to_owned(), Ratio::to_string)
}

/// The middle value; of an even number, the mean of the two in the middle. 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, 0.5)
}

/// The value below which this share of the sorted ones lies, in between two of them where none is just there.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * sorted.len().saturating_sub(1) as f64;
    let at = |index: f64| sorted.get(index as usize).copied().unwrap_or(0.0);
    let (below, above) = (at(place.floor()), at(place.ceil()));
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(own: &[f64], others: &[f64]) -> String {
        cell(Ratio::of(own, others).as_ref())
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn quartiles_have_a_quarter_on_their_outer_side() {
        let five = [1.0, 2.0, 3.0, 4.0, 5.0];
        assert_eq!([0.25, 0.75].map(|share| quantile(&five, share)), [2.0, 4.0]);
        let four = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(
            [0.25, 0.75].map(|share| quantile(&four, share)),
            [1.75, 3.25]
        );
        assert_eq!(quantile(&[7.0], 0.25), 7.0);
    }

    #[test]
    fn a_slow_minute_does_not_change_a_ratio() {
        let slow = shown(&[1.0, 2.0, 9.0], &[2.0, 4.0, 18.0]);
        assert_eq!(slow, "0.50 (0.50–0.50)");
    }

    #[test]
    fn a_ratio_shows_what_its_repeats_lie_between() {
        assert_eq!(shown(&[1.0], &[2.0]), "0.50");
        assert_eq!(shown(&[1.0, 9.0], &[1.0, 3.0]), "2.00 (1.00–3.00)");
        let four = shown(&[1.0, 2.0, 3.0, 4.0], &[1.0; 4]);
        assert_eq!(four, "2.50 (1.75–3.25)");
    }

    #[test]
    fn repeats_that_say_nothing_are_left_out_and_told() {
        let below_zero = shown(&[1.0, -1.0, 3.0], &[2.0, 2.0, 2.0]);
        assert_eq!(below_zero, "1.00 (0.50–1.50), 2 of 3");
        let missing = shown(&[f64::NAN, 1.0], &[2.0, 2.0]);
        assert_eq!(missing, "0.50, 1 of 2");
        assert_eq!(shown(&[-1.0], &[1.0]), "-");
        assert_eq!(shown(&[], &[1.0]), "-");
    }
}
