//! Printing: tables for people, YAML and JSON for programs.

use std::io::Write;

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::args::Output;
use crate::exit::{Code, Failure};

/// Writes to standard output. A reader that has gone away (`| head`) is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| {
        if text.ends_with('\n') {
            Ok(())
        } else {
            out.write_all(b"\n")
        }
    });
    match written.and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::new(
            Code::Files,
            format!("cannot write to standard output: {error}"),
        )),
    }
}

/// Writes to standard error; when even that fails there is nobody left to tell.
pub(crate) fn complain(text: &str) {
    let _unheard = writeln!(std::io::stderr().lock(), "{text}");
}

/// Prints a value as YAML or JSON, or as the table that `table` makes.
pub(crate) fn value(
    output: Output,
    value: &impl Serialize,
    table: impl FnOnce() -> String,
) -> Result<(), Failure> {
    match output {
        Output::Table => print(&table()),
        Output::Json => {
            let text = serde_json::to_string_pretty(value)
                .map_err(|error| Failure::internal(format!("cannot print as JSON: {error}")))?;
            print(&text)
        }
        Output::Yaml => print(&yaml(value)?),
    }
}

/// A value as one YAML document.
pub(crate) fn yaml(value: &impl Serialize) -> Result<String, Failure> {
    serde_saphyr::to_string(value)
        .map_err(|error| Failure::internal(format!("cannot print as YAML: {error}")))
}

/// A table without lines, as `kubectl` users know it.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    let text = table.to_string();
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.trim_end().strip_prefix(' ').unwrap_or(line.trim_end()))
        .collect();
    lines.join("\n")
}

/// An age as `5s`, `3m`, `2h`, `4d`.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (7_200, "2h"),
            (200_000, "2d"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn tables_have_no_trailing_blanks() {
        let text = table(["NAME", "READY"], [["orders".to_owned(), "1/1".to_owned()]]);
        assert!(
            text.starts_with("NAME") && text.lines().all(|line| line == line.trim_end()),
            "{text:?}"
        );
    }
}
