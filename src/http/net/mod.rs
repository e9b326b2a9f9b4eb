//! Connections: who has a place, what is read of a client and how long it is waited for, and how
//! bytes leave. Everything here runs on a network core and never blocks it.
//!
//! - [`conn`]: the life of a connection: requests are received, answered by a [`service`], delivered.
//! - [`socket`]: sends from memory, from files and from pipes, as fast as the client takes it.
//! - [`door`]: how many there may be; [`idle`]: who makes room when places are short; [`bodies`]: the
//!   memory that request bodies share, and [`body`]: one of them; [`client`]: whom an address stands for.
//! - [`made`]: the content of an answer that a child makes while it is sent.
//! - [`tls`]: what is between a socket and what is sent and received where that is sealed.
//! - [`peer`]: who is at the other end.
//! - [`pulse`]: the clock of a core without io_uring.

pub(crate) mod bodies;
pub(crate) mod body;
pub(crate) mod client;
pub(crate) mod conn;
pub(crate) mod door;
pub(crate) mod idle;
pub(crate) mod made;
pub(crate) mod peer;
pub(crate) mod pulse;
pub(crate) mod service;
pub(crate) mod socket;
pub mod tls;
mod unless;
