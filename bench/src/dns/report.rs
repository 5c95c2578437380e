//! Results for people.

use std::io::Write;

use anyhow::Result;
use comfy_table::Table;

use super::{Results, ServerResults};
use crate::figures::{Ratio, cell, spread, table};

/// Prints everything to standard output.
pub(super) fn print(results: &Results) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{}; {} names, {} questions under way, {} × {} s, medians (± half the spread)",
        results.machine, results.names, results.askers, results.repeats, results.seconds
    )?;
    for warning in &results.warnings {
        writeln!(out, "WARNING: {warning}")?;
    }
    writeln!(out, "\n{}", servers(results))?;
    writeln!(out, "\nRatios\n{}", ratios(results))?;
    for skipped in &results.skipped {
        writeln!(out, "SKIPPED: {skipped}")?;
    }
    Ok(())
}

fn servers(results: &Results) -> Table {
    let mut heads: Vec<String> = [
        "server",
        "answers/s",
        "CPU µs/answer",
        "server busy %",
        "p50 µs, full",
        "p99 µs, full",
    ]
    .map(str::to_owned)
    .into();
    for rate in &results.rates {
        heads.extend([format!("p50 µs, {rate}/s"), format!("p99 µs, {rate}/s")]);
    }
    heads.push("resident MiB".to_owned());
    let mut table = table(&heads);
    for server in &results.servers {
        let times = |values: &[f64], by: f64| values.iter().map(|it| it * by).collect::<Vec<_>>();
        let mut row = vec![
            server.name.to_owned(),
            spread(&server.throughput, 0),
            spread(&times(&server.cpu, 1_000.0), 2),
            spread(&times(&server.busy, 100.0), 0),
            spread(&at(&server.full_latency, 0), 0),
            spread(&at(&server.full_latency, 1), 0),
        ];
        for fixed in &server.fixed {
            row.extend([0, 1].map(|which| spread(&at(fixed, which), 0)));
        }
        row.push(format!("{:.1}", server.resident as f64 / 1024.0));
        table.add_row(row);
    }
    table
}

/// Each of Portolan's servers against each peer.
fn ratios(results: &Results) -> Table {
    let mut table = table(&[
        "server",
        "against",
        "answers/s",
        "CPU",
        "p50, full",
        "p99, full",
    ]);
    let ours = |server: &&ServerResults| server.name.starts_with("portolan");
    for own in results.servers.iter().filter(ours) {
        for peer in results.servers.iter().filter(|server| !ours(server)) {
            let ratio = |own: &[f64], peer: &[f64]| cell(Ratio::of(own, peer).as_ref());
            let latency = |which| {
                ratio(
                    &at(&own.full_latency, which),
                    &at(&peer.full_latency, which),
                )
            };
            table.add_row([
                own.name.to_owned(),
                peer.name.to_owned(),
                ratio(&own.throughput, &peer.throughput),
                ratio(&own.cpu, &peer.cpu),
                latency(0),
                latency(1),
            ]);
        }
    }
    table
}

fn at(latency: &[[f64; 2]], which: usize) -> Vec<f64> {
    latency.iter().map(|it| it[which]).collect()
}
