//! Which credential helpers a git of the server has: what they know, it can read.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::command::{Repository, Setup};
use super::environment::Surroundings;
use super::watched::{self, Ended, Said};
use crate::limits::{HELPERS_BYTES_MAX, HELPERS_LIMIT_MS, LISTING_MEMORY_BYTES};

/// The helpers that git's configuration names for the user that this process has, each with the URLs that it
/// is for. Not what they are given: a helper may be a line of shell with a password in it.
///
/// # Errors
/// Git cannot be run, or takes too long.
pub(crate) fn credential_helpers() -> io::Result<Vec<String>> {
    let setup = Setup {
        program: Path::new("git"),
        nice: 0,
        memory_bytes: LISTING_MEMORY_BYTES,
        repository: Repository::None,
        surroundings: Surroundings::Server { protocols: "" },
        settings: &[],
    };
    let mut command = setup.command();
    let pattern = r"^credential\.(.*\.)?helper$";
    command.args(["config", "--null", "--get-regexp", pattern]);
    let mut said = Said::of(&mut command)?;
    let until = Instant::now() + Duration::from_millis(HELPERS_LIMIT_MS);
    let is_over = || {
        let is_over = Instant::now() > until || said.len_bytes()? > HELPERS_BYTES_MAX;
        Ok(is_over.then_some(()))
    };
    match watched::finish(command.spawn()?, || false, is_over)? {
        // 1 is that there is none.
        Ended::Itself(status) if status.success() || status.code() == Some(1) => {
            Ok(names(&String::from_utf8_lossy(&said.output()?)))
        }
        Ended::Itself(_) => Err(io::Error::other(said.errors()?.trim().to_owned())),
        Ended::Over(()) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Reads what git says: a key, a line end, a value, and a NUL. An empty value takes all of the same key away
/// that stand before it.
fn names(said: &str) -> Vec<String> {
    let mut helpers: Vec<(&str, &str)> = Vec::new();
    for pair in said.split('\0').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('\n').unwrap_or((pair, ""));
        let urls = key
            .strip_prefix("credential.")
            .and_then(|key| key.strip_suffix("helper"))
            .map_or("", |urls| urls.trim_end_matches('.'));
        match value.split_whitespace().next() {
            None => helpers.retain(|(of, _)| *of != urls),
            Some(name) if name.starts_with('!') => helpers.push((urls, "a line of shell")),
            Some(name) => helpers.push((urls, name)),
        }
    }
    let shown = helpers.into_iter().map(|(urls, name)| match urls {
        "" => name.to_owned(),
        urls => format!("{name} for {urls}"),
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helpers_are_named_without_what_they_are_given() {
        let said = "credential.helper\ncache\0credential.helper\n\0credential.helper\nstore --file /x\0\
                    credential.https://git.example.org.helper\n!f() { echo password=hush; }; f\0\
                    credential.https://*.a.b/c.helper\n/usr/bin/own hush\0";
        let expected = [
            "store",
            "a line of shell for https://git.example.org",
            "/usr/bin/own for https://*.a.b/c",
        ];
        assert_eq!(names(said), expected);
        assert!(names("").is_empty());
    }
}
