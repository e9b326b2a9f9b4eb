//! HTTP/1.x: [`wire`], what requests mean and how answers are written, as pure functions over bytes;
//! and [`net`], the sockets, clocks and places that speak it.

pub mod net;
pub mod wire;
