//! What shells offer behind `tarpon`: flags, and the values that a flag can have where those are few.

use clap::{Arg, Command, ValueHint};
use clap_complete::Shell;

/// What `clap_complete` ends the part of a subcommand with, behind its flags: it offers the flags again where
/// a word without a name is typed.
const BASH_END: &str = "\
            esac
            COMPREPLY=( $(compgen -W \"${opts}\" -- \"${cur}\") )
";

/// The same, where that word is a directory.
const BASH_DIRECTORY: &str = "\
            esac
            COMPREPLY=()
            if [[ \"${BASH_VERSINFO[0]}\" -ge 4 ]]; then
                compopt -o plusdirs
            fi
";

/// The completions of `shell`.
pub(super) fn of(shell: Shell, command: Command) -> String {
    let offer = |command: Command| command.mut_args(offered);
    let mut command = ["serve", "check", "restore"]
        .into_iter()
        .fold(command, |command, name| command.mut_subcommand(name, offer));
    // What makes them takes no error for an answer.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, "tarpon", &mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    match shell {
        Shell::Bash => with_directory(text),
        _ => text,
    }
}

/// What is offered as an argument's value. Whether it is one is looked at elsewhere, for a flag may also be a
/// variable or a line of a file.
fn offered(arg: Arg) -> Arg {
    let is_open = arg.get_possible_values().is_empty() && arg.get_action().takes_values();
    match arg.get_id().as_str() {
        "state" | "dir" => arg.value_hint(ValueHint::DirPath),
        "config" | "webhook_secrets" | "tokens" | "oidc_ca" | "tls_cert" | "tls_key"
        | "tls_client_ca" | "tls_client_crl" | "cacert" | "cert" | "key" => {
            arg.value_hint(ValueHint::FilePath)
        }
        "repo_url" => arg.value_hint(ValueHint::Url),
        "log_format" => arg.value_parser(["auto", "human", "json"]),
        "io_driver" => arg.value_parser(["auto", "uring", "epoll"]),
        "no_default_upstreams" | "store_readonly" => arg.value_parser(["true", "false"]),
        "depth" => arg.value_parser(["1"]),
        _ if is_open => arg.value_hint(ValueHint::Other),
        _ => arg,
    }
}

/// For bash `clap_complete` leaves out what has no name.
fn with_directory(text: String) -> String {
    // The first is that of `help`.
    let Some(begin) = text.rfind("__restore)\n            opts=") else {
        return text;
    };
    let (before, restore) = text.split_at(begin);
    format!("{before}{}", restore.replacen(BASH_END, BASH_DIRECTORY, 1))
}

#[cfg(test)]
mod tests {
    use std::process::Command as Program;

    use super::*;

    fn made(shell: Shell) -> String {
        let mut text = Vec::new();
        super::super::cli::completions(shell, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    /// What bash offers behind these words.
    fn by_bash(words: &[&str]) -> String {
        let script = format!(
            "{}\ncompopt() {{ echo \"$2\"; }}\nCOMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1))\n\
             _tarpon tarpon \"${{@: -1}}\" \"${{@: -2:1}}\"\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
            made(Shell::Bash)
        );
        let out = Program::new("bash")
            .args(["-c", &script, "bash"])
            .args(words)
            .output()
            .unwrap();
        assert!(out.stderr.is_empty(), "{out:?}");
        let text = String::from_utf8(out.stdout).unwrap();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn bash_offers_values_and_directories() {
        let rows = [
            (
                &["tarpon", "serve", "--log-format", ""][..],
                "auto human json",
            ),
            (&["tarpon", "serve", "--io-driver", "u"], "uring"),
            (&["tarpon", "serve", "--state", ""], "plusdirs"),
            (&["tarpon", "serve", "--fetch-interval", ""], "nospace"),
            (&["tarpon", "restore", "--fallback", ""], "none clone"),
            (&["tarpon", "restore", "--depth", ""], "1"),
            (&["tarpon", "restore", "github.com/a/b", ""], "plusdirs"),
            (
                &["tarpon", "restore", "github.com/a/b", "--fres"],
                "--fresh",
            ),
            (&["tarpon", "completions", "f"], "fish"),
        ];
        for (words, offered) in rows {
            assert_eq!(by_bash(words), offered, "{words:?}");
        }
        let files = by_bash(&["tarpon", "serve", "--webhook-secrets", "Cargo.tom"]);
        assert!(files.contains("Cargo.toml"), "{files}");
    }

    #[test]
    fn other_shells_are_told_of_them_too() {
        let (zsh, fish) = (made(Shell::Zsh), made(Shell::Fish));
        let has = |text: &str, begin: &str, end: &str| {
            let found = text.lines().any(|l| l.contains(begin) && l.contains(end));
            assert!(found, "{begin} {end}: {text}");
        };
        has(&zsh, "--state=", ":DIR:_files -/");
        has(&zsh, ":dir -- ", ":_files -/");
        has(&zsh, "--log-format=", "(auto human json)");
        has(&zsh, "--webhook-secrets=", ":FILE:_files");
        has(&fish, "-l state ", "__fish_complete_directories");
        has(&fish, "-l config ", "-r -F");
        has(&fish, "-l depth ", "1");
    }
}
