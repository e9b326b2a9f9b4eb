//! Running git: what every git is told, what it may take, and how it ends. The server's upkeep of
//! mirrors and the client's steps are both run here.
//!
//! In comes who runs it and on what ([`command`]), out comes what it wrote, or why there is nothing
//! ([`Failure`] in the server, [`watched::Ended`] in the client). What must hold: a git sees no
//! variable and obeys no setting that is not named here or by its caller, leads a process group of
//! its own, has a memory limit, and is gone with all of its helpers when its caller is done with it.
//!
//! What differs does so for a reason. The background plane of the server awaits a git whose output
//! it takes from pipes as it comes ([`running`]): a listing is judged line by line, an upload is
//! streamed. The client is one thread that has nothing else to do: it has git write into files
//! without names, looks at them now and then, and reads them once it has ended ([`watched`]).

mod command;
mod environment;
mod group;
mod growth;
mod helpers;
mod running;
mod said;
pub(crate) mod watched;

pub(crate) use command::{Repository, Setup, silence, stdin_file};
pub(crate) use environment::{Configuration, Surroundings};
pub(crate) use growth::{Arrived, Growth};
pub(crate) use helpers::credential_helpers;
pub(crate) use running::{Failure, Output, Sink, feed, run};
pub(crate) use said::{DISK_FULL_MESSAGES, Tail};
