//! The `tarpon` command: reads its arguments, runs what they ask for, sets the exit code.

#![deny(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use tarpon::access::tokens;
use tarpon::config::{self, Command, Config};
use tarpon::faults::Faults;
use tarpon::io::say::say;
use tarpon::io::signal::StopSignals;
use tarpon::server::FAILED_CODE;
use tarpon::store::admin::{self, AdminError, Looked};

fn main() -> ExitCode {
    if let Some(why) = tarpon::io::child::start_if_asked(std::env::args_os()) {
        say(format_args!("tarpon: {why}"));
        return ExitCode::from(tarpon::io::child::NOT_STARTED_CODE);
    }
    match config::parse(std::env::args_os(), |name| std::env::var_os(name)) {
        Ok(Command::Serve(config)) => serve(*config),
        Ok(Command::Check(config)) => check(&config),
        Ok(Command::Restore(args)) => match Faults::from_env(|name| std::env::var_os(name)) {
            Ok(faults) => ExitCode::from(tarpon::restore::run(&args, &faults)),
            Err(error) => wrong_setting(&error),
        },
        Ok(Command::NewToken(new)) => new_token(&new),
        Ok(Command::Store(asked)) => look_at_store(&asked),
        Ok(Command::Completions(shell)) => {
            printed(config::completions(shell, &mut std::io::stdout()))
        }
        Ok(Command::Man) => printed(config::man(&mut std::io::stdout())),
        Err(error) => misused(&error),
    }
}

/// Prints a token and the line for the server's file.
fn new_token(new: &config::NewToken) -> ExitCode {
    let print = || {
        let made = tokens::make(new)?;
        let mut out = std::io::stdout();
        out.write_all(made.token.as_bytes())?;
        writeln!(out, "\n{}", made.line)?;
        out.flush()
    };
    printed(print())
}

/// Says what lies in an object store.
fn look_at_store(asked: &config::StoreAdmin) -> ExitCode {
    match admin::look_at_store(asked, Box::new(std::io::stdout())) {
        Ok(Looked::Sound) => ExitCode::SUCCESS,
        Ok(Looked::Damaged) => ExitCode::from(admin::DAMAGED_CODE),
        Ok(Looked::Nothing) => {
            say(format_args!(
                "tarpon: --store {}: no server has shared anything there; is it what their --store says?",
                asked.url
            ));
            ExitCode::from(FAILED_CODE)
        }
        Err(AdminError::Write(error)) => printed(Err(error)),
        Err(error) => {
            say(format_args!("tarpon: --store {}: {error}", asked.url));
            ExitCode::from(FAILED_CODE)
        }
    }
}

/// Says why what was asked for cannot be printed.
fn printed(result: std::io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!(
                "tarpon: cannot write what was asked for: {error}"
            ));
            ExitCode::from(FAILED_CODE)
        }
    }
}

/// Says what is wrong with the command line, unless it asks for help; gives the exit code for it.
fn misused(error: &config::ConfigError) -> ExitCode {
    let is_given = |arg: &str| std::env::args_os().skip(1).any(|given| given == arg);
    let is_restore = std::env::args_os()
        .nth(1)
        .is_some_and(|verb| verb == "restore");
    let code = error.report();
    if code != 0 && is_restore && is_given("--json") {
        tarpon::restore::print_misuse(&error.to_string(), code);
    }
    ExitCode::from(code)
}

/// Looks at what a server would be started with.
fn check(config: &Config) -> ExitCode {
    let env = |name: &str| std::env::var_os(name);
    // What filters the log is a setting, too.
    let _log = match tarpon::telemetry::log::init(config.log_format, env) {
        Ok(log) => log,
        Err(error) => return wrong_setting(&error),
    };
    let mut warnings = unknown_variables();
    let checked = tarpon::server::check_settings(config).map(|found| warnings.extend(found));
    for line in warnings {
        say(format_args!("tarpon: {line}"));
    }
    match checked {
        Ok(()) => printed(writeln!(std::io::stdout(), "serve would start")),
        Err(error) => {
            say(format_args!("tarpon: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}

/// A line for each variable of the environment that looks like a setting and is none.
fn unknown_variables() -> Vec<String> {
    let names: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .collect();
    config::unknown_variables(names.iter().map(String::as_str))
}

fn serve(config: Config) -> ExitCode {
    // Before the first thread: a signal reaches whichever thread does not block it.
    let signals = match StopSignals::block() {
        Ok(signals) => signals,
        Err(error) => {
            say(format_args!("tarpon: cannot block signals: {error}"));
            return ExitCode::from(FAILED_CODE);
        }
    };
    let env = |name: &str| std::env::var_os(name);
    let faults = match Faults::from_env(env) {
        Ok(faults) => faults,
        Err(error) => return wrong_setting(&error),
    };
    let _log = match tarpon::telemetry::log::init(config.log_format, env) {
        Ok(log) => log,
        Err(error) => return wrong_setting(&error),
    };
    for line in unknown_variables() {
        tracing::warn!("{line}");
    }
    match tarpon::server::run(config, faults, &signals) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("tarpon: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}

/// Says what is wrong with a variable; the exit code is that of any wrong setting.
fn wrong_setting(error: &dyn std::error::Error) -> ExitCode {
    say(format_args!("tarpon: {error}"));
    ExitCode::from(config::MISUSED_CODE)
}
