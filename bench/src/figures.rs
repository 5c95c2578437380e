//! Figures for people: medians with their spread, in tables that can be pasted.

use comfy_table::{Table, presets};

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

/// How many times the others' ours is: the median of what each repeat says, since its two figures were taken
/// seconds apart, and neighbours of the machine change more in a minute than peers differ. Where a repeat says
/// nothing, because the direct path's share was more than all of it, the ratio of the medians.
pub(crate) fn ratio(own: &[f64], others: &[f64]) -> String {
    if own.is_empty() || others.is_empty() {
        return "-".to_owned();
    }
    let paired = own.len() == others.len() && own.iter().chain(others).all(|figure| *figure > 0.0);
    let ratio = if paired {
        let each: Vec<f64> = own.iter().zip(others).map(|(a, b)| a / b).collect();
        median(&each)
    } else {
        median(own) / median(others)
    };
    format!("{ratio:.2}")
}

/// The middle value; of an even number, the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let at = |index: usize| sorted.get(index).copied().unwrap_or(0.0);
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(at(middle.wrapping_sub(1)), at(middle))
    } else {
        at(middle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn a_slow_minute_does_not_change_a_ratio() {
        assert_eq!(ratio(&[1.0, 2.0, 9.0], &[2.0, 4.0, 18.0]), "0.50");
        assert_eq!(ratio(&[1.0, 9.0, 1.0], &[2.0, 18.0, 18.0]), "0.50");
        assert_eq!(ratio(&[1.0, -1.0, 3.0], &[2.0, 2.0, 2.0]), "0.50");
        assert_eq!(ratio(&[1.0], &[2.0, 2.0]), "0.50");
        assert_eq!(ratio(&[], &[1.0]), "-");
    }
}
