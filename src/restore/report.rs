//! What a restore says at its end: a line or JSON, advice, and the exit code.

use std::io::Write;

use super::error::RestoreError;
use super::origin::is_url;
use super::progress::Progress;
use super::proof::is_new;
use super::proven::Proven;
use super::summary::{
    Counted, ENTRIES, FILES, Failure, SOURCE_CLONE, SOURCE_UPDATE, SUBMODULES, Summary, UNTRACKED,
    counted, size,
};
use crate::config::RestoreArgs;
use crate::io::say::say_line;

/// So many digits of an id are shown to people.
const SHOWN_DIGITS: usize = 12;

/// The exit code when all is there but the summary that was asked for: that of a full disk.
const OUTPUT_LOST_CODE: u8 = 4;

/// What may help against an error, behind its text.
fn advice(args: &RestoreArgs, error: &RestoreError, progress: &Progress) -> &'static str {
    let is_url = is_url(args.repo_url.text());
    let is_update = args.update && !is_new(&args.dir);
    if is_update && error.is_servers() {
        return match error {
            _ if args.fallback_clone() => {
                "; --fallback clone is for a directory that is not there or empty: this one stays as it is"
            }
            RestoreError::Server(_) if !progress.has_answer() => {
                "; check --server or TARPON_SERVER"
            }
            _ => "",
        };
    }
    match error {
        RestoreError::Submodule { source, .. } => match **source {
            RestoreError::NoSnapshot(_) | RestoreError::Denied(_) if is_update => {
                "; the server has to have it, too (--upstream)"
            }
            RestoreError::NoSnapshot(_) | RestoreError::Denied(_) if !args.fallback_clone() => {
                "; the server has to have it, too (--upstream), or --fallback clone clones it"
            }
            _ => "",
        },
        RestoreError::Server(_) if args.fallback_clone() => "",
        RestoreError::Server(_) if !is_url && progress.has_answer() => "",
        RestoreError::Server(_) if !is_url => "; check --server or TARPON_SERVER",
        RestoreError::Server(_) if progress.has_answer() => {
            "; --fallback clone would clone from the upstream instead"
        }
        // Perhaps it is no tarpon at all.
        RestoreError::Server(_) => {
            "; check --server or TARPON_SERVER, or have --fallback clone do without a server"
        }
        // Not even its beginning is that of an archive.
        RestoreError::Corrupt { offset: ..=4, .. } => {
            ": is it a tarpon server? check --server or TARPON_SERVER"
        }
        _ => "",
    }
}

/// Says how a restore ended; returns the exit code.
pub(crate) fn conclude(
    args: &RestoreArgs,
    result: Result<Summary, RestoreError>,
    progress: &Progress,
) -> u8 {
    match result {
        Ok(summary) => match report(args, &progress.ended(summary)) {
            Ok(()) => 0,
            Err(e) => {
                let directory = args.dir.display();
                say_line(format_args!(
                    "tarpon: {directory} is complete, but the summary cannot be written: {e}"
                ));
                OUTPUT_LOST_CODE
            }
        },
        Err(error) => {
            let advice = advice(args, &error, progress);
            say_line(format_args!("tarpon: {error}{advice}"));
            if args.json {
                // What cannot be written is not what went wrong first.
                let _ = print_json(&failure(args, &error, progress));
            }
            error.exit_code()
        }
    }
}

fn print_json(value: &impl serde::Serialize) -> std::io::Result<()> {
    // Numbers and strings are always JSON.
    let json = serde_json::to_string(value).unwrap_or_default();
    let mut out = std::io::stdout();
    writeln!(out, "{json}")?;
    out.flush()
}

/// What `--json` says of a restore that failed.
fn failure(args: &RestoreArgs, error: &RestoreError, progress: &Progress) -> Failure {
    let summary = progress.summary(&args.repo_url, &args.dir.to_string_lossy());
    Failure::of(&error.to_string(), error.exit_code(), summary)
}

/// The same of a command line that nothing can be made of; `why` is clap's.
pub fn print_misuse(why: &str, exit_code: u8) {
    let why = why.split("\n\n").next().unwrap_or_default();
    let why = why.strip_prefix("error: ").unwrap_or(why);
    let progress = Progress::default();
    // Whoever cannot be told has the exit code.
    let _ = print_json(&Failure::of(why, exit_code, progress.summary(&"", "")));
}

/// What is checked out, in short.
fn at(summary: &Summary) -> String {
    let Some(commit) = &summary.head.commit else {
        return String::new();
    };
    let short = commit.get(..SHOWN_DIGITS).unwrap_or(commit);
    match &summary.head.branch {
        Some(branch) => format!(" at {short} (branch {branch})"),
        None => format!(" at {short} (detached)"),
    }
}

/// What was done.
fn done(summary: &Summary) -> String {
    let (repository, directory) = (&summary.repository, &summary.directory);
    match summary.source {
        SOURCE_UPDATE if summary.head.commit.is_none() => {
            format!("updated {directory} from {repository}, with nothing checked out")
        }
        SOURCE_UPDATE if summary.head.is_same => format!("{directory} is already"),
        SOURCE_UPDATE => format!("updated {directory} from {repository}"),
        SOURCE_CLONE => format!("cloned {repository} into {directory}"),
        _ => format!("restored {repository} into {directory}"),
    }
}

/// How much came.
fn came(summary: &Summary) -> String {
    let mut said = Vec::new();
    if let (Some(bytes), Some(entries)) = (summary.bytes, summary.entries) {
        let what = match summary.source {
            SOURCE_UPDATE => FILES,
            _ => ENTRIES,
        };
        said.push(size(bytes));
        if summary.seed_bytes > 0 {
            said.push(format!("{} from the seed", size(summary.seed_bytes)));
        }
        said.push(counted(entries, what));
    }
    let in_modules = summary.submodules.map_or(0, |all| all.cleaned);
    match summary.cleaned.unwrap_or(0) + in_modules {
        0 => {}
        count => said.push(format!("{} removed", counted(count, UNTRACKED))),
    }
    if let Some(Counted { count, bytes, .. }) = summary.submodules {
        said.push(match bytes {
            0 => counted(count, SUBMODULES),
            bytes => format!("{} ({})", counted(count, SUBMODULES), size(bytes)),
        });
    }
    said.iter().map(|said| format!("{said}, ")).collect()
}

fn report(args: &RestoreArgs, summary: &Summary) -> std::io::Result<()> {
    if args.json {
        return print_json(summary);
    }
    if !args.quiet {
        let asks = match summary.head.is_same && !args.fresh {
            true => " (--fresh has it ask the upstream)",
            false => "",
        };
        let age = summary.age_s;
        let age = age.map(|age_s| format!(", as of {age_s} s ago{asks}"));
        say_line(format_args!(
            "{}{}: {}{:.2} s; its origin is {}{}",
            done(summary),
            at(summary),
            came(summary),
            summary.total_ms / 1000.0,
            summary.origin,
            age.unwrap_or_default(),
        ));
        if let Some(Proven { proven, believed }) = &summary.verified {
            say_line(format_args!(
                "tarpon: {}: proven: {}; believed: {}",
                summary.directory,
                proven.join(", "),
                believed.join(", ")
            ));
        }
        if let Some(note) = &summary.note {
            say_line(format_args!("tarpon: {}: {note}", summary.directory));
        }
    }
    Ok(())
}
