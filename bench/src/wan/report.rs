//! Results for people.

use std::io::Write;

use anyhow::Result;
use comfy_table::Table;

use super::{Lossy, PathResults, Results};
use crate::figures::{cell, median, spread, table};
use crate::subjects::direct;

/// Prints everything to standard output.
pub(super) fn print(results: &Results) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{}; TCP by {}, Portolan's links by {}; {} ms round trip, {} Mbit/s, {} requests under way, {} × {} s, medians (± half the spread)",
        results.machine,
        results.tcp,
        results.congestion.as_deref().unwrap_or("their default"),
        results.rtt_ms,
        results.rate_mbit,
        results.connections,
        results.repeats,
        results.seconds
    )?;
    for warning in &results.warnings {
        writeln!(out, "WARNING: {warning}")?;
    }
    writeln!(
        out,
        "\nRequests, and bytes in one connection\n{}",
        lossy(results)
    )?;
    writeln!(
        out,
        "\nThe first call to a destination, and further ones, without loss\n{}",
        first_calls(results)
    )?;
    writeln!(out, "\nRatios\n{}", ratios(results))?;
    for skipped in &results.skipped {
        writeln!(out, "SKIPPED: {skipped}")?;
    }
    Ok(())
}

fn lossy(results: &Results) -> Table {
    let mut table = table(&[
        "loss %",
        "path",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "failed",
        "up Mbit/s",
        "down Mbit/s",
        "broken",
    ]);
    for (loss, paths) in by_loss(results) {
        for (path, at) in paths {
            table.add_row([
                loss.to_string(),
                path.name.to_owned(),
                spread(&at.throughput, 0),
                spread(&at.p50, 1),
                spread(&at.p99, 1),
                at.failed.to_string(),
                spread(&flowed(&at.up), 1),
                spread(&flowed(&at.down), 1),
                at.broken.len().to_string(),
            ]);
        }
    }
    table
}

fn first_calls(results: &Results) -> Table {
    let mut table = table(&[
        "path",
        "first ms",
        "further ms",
        "first, round trips",
        "further, round trips",
        "more round trips",
    ]);
    let rtt = f64::from(results.rtt_ms.max(1));
    for path in &results.paths {
        let trips = |times: &[f64]| (!times.is_empty()).then(|| median(times) / rtt);
        let shown =
            |trips: Option<f64>| trips.map_or_else(|| "-".to_owned(), |it| format!("{it:.2}"));
        let (cold, warm) = (trips(&path.cold), trips(&path.warm));
        let more = cold.zip(warm).map(|(cold, warm)| cold - warm);
        table.add_row([
            path.name.to_owned(),
            spread(&path.cold, 1),
            spread(&path.warm, 1),
            shown(cold),
            shown(warm),
            shown(more),
        ]);
    }
    table
}

fn ratios(results: &Results) -> Table {
    let mut table = table(&["loss %", "path", "against", "p50", "p99", "up", "down"]);
    for ratios in &results.ratios {
        let against = match ratios.against {
            direct::NAME => "direct (no proxies, no TLS)",
            peer => peer,
        };
        let mut row = vec![
            ratios.loss.to_string(),
            ratios.path.to_owned(),
            against.to_owned(),
        ];
        let cells = [&ratios.p50, &ratios.p99, &ratios.up, &ratios.down];
        row.extend(cells.map(|it| cell(it.as_ref())));
        table.add_row(row);
    }
    table
}

/// At each loss, every path.
fn by_loss(results: &Results) -> Vec<(f64, Vec<(&PathResults, &Lossy)>)> {
    let losses = results.paths.first().map_or(&[][..], |path| &path.lossy);
    losses
        .iter()
        .enumerate()
        .map(|(index, at)| {
            let paths = results.paths.iter();
            (
                at.loss,
                paths.map(|path| (path, &path.lossy[index])).collect(),
            )
        })
        .collect()
}

/// The rates of connections that did not break.
fn flowed(rates: &[Option<f64>]) -> Vec<f64> {
    rates.iter().copied().flatten().collect()
}
