//! Results for people: medians with their spread, and ratios to the peers that do the same work.

use std::io::Write;

use anyhow::Result;
use comfy_table::Table;

use super::ratios::added;
use super::{ProxyResults, Results};
use crate::figures::{cell, median, spread, table};

/// Prints everything to standard output.
pub(crate) fn print(results: &Results) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{}; {} connections, {} × {} s, medians (± half the spread)",
        results.machine, results.connections, results.repeats, results.seconds
    )?;
    for warning in &results.warnings {
        writeln!(out, "WARNING: {warning}")?;
    }
    writeln!(out, "\n{}", costs(results))?;
    for (index, pace) in results.paces.iter().enumerate() {
        writeln!(
            out,
            "\nAdded latency at {pace}, µs (direct: absolute)\n{}",
            latencies(results, index)
        )?;
    }
    if results.paths.iter().any(|path| !path.up.is_empty()) {
        writeln!(out, "\nOne connection, bytes\n{}", bulk(results))?;
    }
    writeln!(out, "\nEach process\n{}", processes(results))?;
    writeln!(out, "\nRatios\n{}", ratios(results))?;
    for skipped in &results.skipped {
        writeln!(out, "SKIPPED: {skipped}")?;
    }
    Ok(())
}

fn costs(results: &Results) -> Table {
    let mut table = table(&[
        "path",
        "requests/s",
        "CPU µs/request, all proxies",
        "p50 µs, full",
        "p99 µs, full",
    ]);
    for path in &results.paths {
        let cpu: Vec<f64> = path.cpu().iter().map(|cpu| cpu * 1_000.0).collect();
        let full = |at: usize| {
            path.full_latency
                .iter()
                .map(|it| it[at])
                .collect::<Vec<_>>()
        };
        table.add_row([
            path.name.to_owned(),
            spread(&path.throughput, 0),
            spread(&cpu, 1),
            spread(&full(0), 0),
            spread(&full(1), 0),
        ]);
    }
    table
}

fn latencies(results: &Results, rate: usize) -> Table {
    let mut table = table(&["path", "p50", "p90", "p99", "p99.9"]);
    for path in &results.paths {
        let mut row = vec![path.name.to_owned()];
        row.extend((0..4).map(|at| spread(&added(&results.paths, path, rate, at), 0)));
        table.add_row(row);
    }
    table
}

fn bulk(results: &Results) -> Table {
    let mut table = table(&[
        "path",
        "up Gbit/s",
        "down Gbit/s",
        "CPU s/GB up",
        "CPU s/GB down",
    ]);
    for path in results.paths.iter().filter(|path| !path.up.is_empty()) {
        let sum = |of: fn(&ProxyResults) -> &Vec<f64>| -> f64 {
            path.proxies.iter().map(|proxy| median(of(proxy))).sum()
        };
        table.add_row([
            path.name.to_owned(),
            spread(&path.up, 2),
            spread(&path.down, 2),
            format!("{:.2}", sum(|proxy| &proxy.cpu_up)),
            format!("{:.2}", sum(|proxy| &proxy.cpu_down)),
        ]);
    }
    table
}

fn processes(results: &Results) -> Table {
    let mut table = table(&[
        "path",
        "process",
        "CPU µs/request",
        "resident MiB, idle",
        "loaded",
        "private MiB, idle",
        "loaded",
        "KiB per idle tunnel",
    ]);
    for path in &results.paths {
        for proxy in &path.proxies {
            let cpu: Vec<f64> = proxy.cpu.iter().map(|cpu| cpu * 1_000.0).collect();
            table.add_row([
                path.name.to_owned(),
                proxy.role.to_owned(),
                spread(&cpu, 1),
                format!("{:.1}", proxy.idle as f64 / 1024.0),
                format!("{:.1}", proxy.loaded as f64 / 1024.0),
                format!("{:.1}", proxy.private_idle as f64 / 1024.0),
                format!("{:.1}", proxy.private_loaded as f64 / 1024.0),
                proxy
                    .tunnel
                    .map_or_else(|| "-".to_owned(), |tunnel| format!("{tunnel:.1}")),
            ]);
        }
    }
    table
}

fn ratios(results: &Results) -> Table {
    let mut heads = ["path", "against", "CPU", "throughput"]
        .map(str::to_owned)
        .to_vec();
    for pace in &results.paces {
        heads.extend([format!("added p50, {pace}"), format!("added p99, {pace}")]);
    }
    heads.extend(["up".to_owned(), "down".to_owned()]);
    let mut table = table(&heads);
    for ratios in &results.ratios {
        let mut row = vec![ratios.path.to_owned(), ratios.against.to_owned()];
        row.extend([&ratios.cpu, &ratios.throughput].map(|it| cell(it.as_ref())));
        for added in &ratios.added {
            row.extend([&added.p50, &added.p99].map(|it| cell(it.as_ref())));
        }
        row.extend([&ratios.up, &ratios.down].map(|it| cell(it.as_ref())));
        table.add_row(row);
    }
    table
}
