//! `tarpon restore`, the real program: what it restores is what `git clone` gives, and whatever
//! goes wrong, the target is whole or not there and the exit code says why.

#[path = "../support/mod.rs"]
mod support;

mod archives;
mod bundle;
mod children;
mod corrupt;
mod dates;
mod endless;
mod errors;
mod flips;
mod foreign;
mod fresh;
mod gitdir;
mod interrupted;
mod lab;
mod limits;
mod logins;
mod manifests;
mod others;
mod overwrite;
mod parts;
mod preambles;
mod proven;
mod recursive;
mod remade;
mod seed;
mod staging;
mod streams;
mod submodules;
mod tips;
mod tls;
mod update;
mod verify;
mod wanted;
mod wants;
mod worktree;
