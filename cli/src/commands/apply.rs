//! `portolan apply` and `portolan diff`.

use std::path::Path;

use portolan_api::admin::{Action, ApplyRequest, ApplyResponse, Change, Document, Problem};

use super::admin::{Admin, said};
use crate::args::{AdminArgs, ApplyArgs, DiffArgs, FilesArgs};
use crate::exit::{Code, Failure};
use crate::render;

/// The most bytes that are read of one file.
const FILE_MAX: u64 = 1 << 20;
/// The most files of one command.
const FILES_MAX: usize = 1_000;

pub(crate) fn apply(args: &ApplyArgs) -> Result<(), Failure> {
    let response = send(&args.admin, &args.files, args.dry_run)?;
    let mut lines = String::new();
    for change in &response.changes {
        let dry = if args.dry_run { " (dry run)" } else { "" };
        lines.push_str(&format!("{} {}{dry}\n", change.resource, word(change)));
    }
    render::print(&lines)
}

pub(crate) fn diff(args: &DiffArgs) -> Result<(), Failure> {
    let response = send(&args.admin, &args.files, true)?;
    let mut lines = String::new();
    for change in response
        .changes
        .iter()
        .filter(|change| change.action() != Action::Unchanged)
    {
        lines.push_str(&format!("{} would be {}\n", change.resource, word(change)));
        let (before, after) = (parse(&change.before_json)?, parse(&change.after_json)?);
        for line in portolan_compiler::diff::diff(before.as_ref(), &after.unwrap_or_default()) {
            lines.push_str(&format!("  {line}\n"));
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    render::print(&lines)?;
    Err(Failure::new(Code::Differs, ""))
}

/// Sends the files' texts; all problems are printed, and an error among them ends the command.
fn send(admin: &AdminArgs, files: &FilesArgs, dry_run: bool) -> Result<ApplyResponse, Failure> {
    let request = ApplyRequest {
        documents: documents(&files.files)?,
        dry_run,
        default_namespace: files.namespace.clone(),
    };
    let response = Admin::call(admin, async move |mut client| client.apply(request).await)?;
    report(&response.problems)?;
    if response.changes.is_empty() {
        let names: Vec<String> = files
            .files
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        return Err(Failure::invalid(format!(
            "{} declares nothing; nothing was stored",
            names.join(", ")
        )));
    }
    Ok(response)
}

/// Prints problems; fails if one of them is an error.
pub(crate) fn report(problems: &[Problem]) -> Result<(), Failure> {
    for problem in problems {
        let severity = if problem.warning { "warning" } else { "error" };
        render::complain(&format!("{severity}: {}", said(problem)));
    }
    match problems.iter().filter(|problem| !problem.warning).count() {
        0 => Ok(()),
        1 => Err(Failure::invalid("1 mistake; nothing was stored")),
        mistakes => Err(Failure::invalid(format!(
            "{mistakes} mistakes; nothing was stored"
        ))),
    }
}

/// Reads every file that the arguments name.
pub(crate) fn documents(files: &[std::path::PathBuf]) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    for file in files {
        if file.is_dir() {
            for inner in declaration_files(file)? {
                documents.push(document(&inner)?);
            }
        } else {
            documents.push(document(file)?);
        }
        if documents.len() > FILES_MAX {
            return Err(Failure::invalid(format!(
                "more than {FILES_MAX} files; apply them in several steps"
            )));
        }
    }
    Ok(documents)
}

fn document(file: &Path) -> Result<Document, Failure> {
    use std::io::Read;
    let fail =
        |error: std::io::Error| Failure::files(format!("cannot read {}: {error}", file.display()));
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(FILE_MAX + 1)
            .read_to_string(&mut text)
            .map_err(fail)?;
    } else {
        let opened = std::fs::File::open(file).map_err(fail)?;
        opened
            .take(FILE_MAX + 1)
            .read_to_string(&mut text)
            .map_err(fail)?;
    }
    if text.len() as u64 > FILE_MAX {
        return Err(Failure::files(format!(
            "{} is larger than 1 MiB; split it",
            file.display()
        )));
    }
    Ok(Document {
        file: file.display().to_string(),
        text,
    })
}

fn declaration_files(folder: &Path) -> Result<Vec<std::path::PathBuf>, Failure> {
    let fail = |error: std::io::Error| {
        Failure::files(format!("cannot read {}: {error}", folder.display()))
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("yaml" | "yml" | "json")) {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(Failure::files(format!(
            "{} holds no .yaml, .yml or .json file",
            folder.display()
        )));
    }
    Ok(files)
}

pub(crate) fn word(change: &Change) -> &'static str {
    match change.action() {
        Action::Unchanged => "unchanged",
        Action::Created => "created",
        Action::Configured => "configured",
        Action::Deleted => "deleted",
    }
}

/// A document, or nothing for none.
fn parse(json: &str) -> Result<Option<serde_json::Value>, Failure> {
    if json.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(json).map(Some).map_err(|error| {
        Failure::internal(format!(
            "the control plane answered with broken JSON: {error}"
        ))
    })
}
