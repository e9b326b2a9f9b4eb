//! The `tarpon` command: reads its arguments, runs what they ask for, sets the exit code.

use std::process::ExitCode;

use tarpon::config::{self, Command, Config};

fn main() -> ExitCode {
    if let Some(why) = tarpon::io::child::start_if_asked(std::env::args_os()) {
        eprintln!("tarpon: {why}");
        return ExitCode::from(127);
    }
    match config::parse(std::env::args_os(), |name| std::env::var_os(name)) {
        Ok(Command::Serve(config)) => serve(*config),
        Ok(Command::Restore(_)) => {
            eprintln!("tarpon: restore is not there yet; use curl URL | zstd -d | tar x");
            ExitCode::from(2)
        }
        Err(error) => ExitCode::from(error.report()),
    }
}

fn serve(config: Config) -> ExitCode {
    if let Err(error) = tarpon::log::init(config.log_format, |name| std::env::var_os(name)) {
        eprintln!("tarpon: {error}");
        return ExitCode::from(2);
    }
    match tarpon::server::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tarpon: {error}");
            ExitCode::FAILURE
        }
    }
}
