//! `tarpon token`, and what tokens are for.

use clap::{Args, Subcommand};

use crate::limits::TOKEN_NAME_BYTES_MAX;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Reads the repositories of hosts whose access is `token`.
    Read,
    /// Sees metrics with the names of repositories, and reads none.
    Metrics,
    /// All of it, and what runs the server.
    Admin,
}

impl Role {
    /// The role of this name.
    pub fn named(name: &str) -> Option<Role> {
        let all = [Role::Read, Role::Metrics, Role::Admin];
        all.into_iter().find(|role| role.name() == name)
    }

    /// As the server's file has it.
    pub fn name(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Metrics => "metrics",
            Role::Admin => "admin",
        }
    }

    /// Whether who has it may read repositories.
    pub fn may_read(self) -> bool {
        matches!(self, Role::Read | Role::Admin)
    }

    /// Whether who has it may see the names of all repositories.
    pub fn may_see_names(self) -> bool {
        matches!(self, Role::Metrics | Role::Admin)
    }
}

/// A token to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// Who is to have it, which [`check_token_name`] has passed.
    pub name: String,
    /// What it is for.
    pub role: Role,
}

/// Whether a token may have this name.
///
/// # Errors
/// What is allowed.
pub fn check_token_name(name: &str) -> Result<String, String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
    let has_length = (1..=TOKEN_NAME_BYTES_MAX).contains(&name.len());
    match has_length && name.bytes().all(is_allowed) {
        true => Ok(name.to_owned()),
        false => Err(format!(
            "a name has 1 to {TOKEN_NAME_BYTES_MAX} letters, digits and . _ - @"
        )),
    }
}

#[derive(Subcommand, Debug)]
pub(super) enum TokenVerb {
    /// Print a new token, and the line for the server's file of --tokens
    New(NewArgs),
}

/// What `tarpon token new` is given.
#[derive(Args, Debug)]
pub(super) struct NewArgs {
    /// Who is to have it; the log names it so
    #[arg(value_parser = check_token_name)]
    name: String,

    /// It may run the server, see metrics with names, and read as a token without a flag does; where access is upstream
    /// it reads nothing, as all tokens
    #[arg(long, conflicts_with = "metrics")]
    admin: bool,

    /// It may see metrics with the names of repositories, and read none
    #[arg(long)]
    metrics: bool,
}

impl TokenVerb {
    pub(super) fn into_new(self) -> NewToken {
        let TokenVerb::New(NewArgs {
            name,
            admin,
            metrics,
        }) = self;
        let role = match (admin, metrics) {
            (true, _) => Role::Admin,
            (_, true) => Role::Metrics,
            _ => Role::Read,
        };
        NewToken { name, role }
    }
}
