//! HTTP/2 on both ends of the proxy, straight on the `h2` library.
//!
//! A general HTTP library gives each request of a connection a channel, a task and a copy of its state, so that any
//! thread may send it. Here everything that a connection serves lives on one thread: a request is sent by whoever
//! forwards it, and its answer is polled in the same place. What is left to do for a whole connection is one task that
//! reads and writes frames ([`client`], [`server`]), which gathers what all of its streams have to say before it
//! writes.

pub(crate) mod client;
mod pipe;
mod pulse;
mod received;
pub(crate) mod server;
mod tunnel;

pub(crate) use pipe::Pipe;
pub(crate) use received::Received;
pub(crate) use tunnel::Tunnel;

/// Flow-control windows: enough for a gigabit at 10 ms, and a bound on what one peer can make the proxy hold.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// The most that waits to be written on one stream.
const SEND_BUFFER: usize = 256 * 1024;
