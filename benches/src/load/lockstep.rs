//! A number of requests and no more, over connections that stay.
//!
//! For counting: unlike every other load this one is not on a thread of its own, and when it returns nothing is under
//! way. All connections or streams send at once, and again when the last of them is answered, so that what a
//! proxy finds together does not depend on who was faster.

use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::{JoinSet, LocalSet};

use super::http1::{self, Target, patiently};
use super::http2;
use crate::subject::Entry;

/// Connections that ask when they are told to.
pub(crate) struct Lockstep {
    runtime: Runtime,
    local: LocalSet,
    callers: Callers,
}

enum Callers {
    Http1 { target: Rc<Target>, connections: Vec<(TcpStream, Vec<u8>)> },
    Http2 { sender: SendRequest<Bytes>, call: Rc<Request<()>>, streams: usize, _driver: JoinSet<()> },
}

impl Lockstep {
    /// So many HTTP/1.1 connections, each with one request at a time for this path of the host.
    ///
    /// # Errors
    /// A connection cannot be made.
    pub(crate) fn http1(address: SocketAddr, host: &str, path: &str, connections: usize) -> Result<Self> {
        let runtime = runtime()?;
        let connect = async {
            let mut made = Vec::new();
            for _ in 0..connections {
                made.push((http1::connect(address).await?, Vec::with_capacity(16 * 1024)));
            }
            anyhow::Ok(made)
        };
        let connections = runtime.block_on(connect).context("a connection")?;
        let target = Rc::new(Target::new(address, &[host], path));
        Ok(Self { runtime, local: LocalSet::new(), callers: Callers::Http1 { target, connections } })
    }

    /// One HTTP/2 connection with so many calls at a time.
    ///
    /// # Errors
    /// The connection cannot be made.
    pub(crate) fn http2(entry: &Entry, streams: usize) -> Result<Self> {
        let Some(authority) = entry.authority.first() else { bail!("no authority to call") };
        let call = Rc::new(http2::call(authority)?);
        let (runtime, local, mut driver) = (runtime()?, LocalSet::new(), JoinSet::new());
        let sender = local.block_on(&runtime, http2::open(entry.address, &mut driver))?;
        let callers = Callers::Http2 { sender, call, streams, _driver: driver };
        Ok(Self { runtime, local, callers })
    }

    /// So many requests and their answers, rounded down to whole rounds.
    ///
    /// # Errors
    /// One was not answered as it should be: then the number means nothing.
    pub(crate) fn ask(&mut self, requests: usize) -> Result<()> {
        let Self { runtime, local, callers } = self;
        local.block_on(runtime, async {
            for _ in 0..requests / callers.at_once() {
                callers.round().await?;
            }
            Ok(())
        })
    }

    /// Requests in a round.
    pub(crate) fn at_once(&self) -> usize {
        self.callers.at_once()
    }
}

impl Callers {
    fn at_once(&self) -> usize {
        match self {
            Self::Http1 { connections, .. } => connections.len(),
            Self::Http2 { streams, .. } => *streams,
        }
    }

    async fn round(&mut self) -> Result<()> {
        match self {
            Self::Http1 { target, connections } => {
                let mut asking = JoinSet::new();
                for (mut stream, mut read) in connections.drain(..) {
                    let target = Rc::clone(target);
                    asking.spawn_local(async move {
                        patiently(http1::exchange(&mut stream, target.request(0), &mut read)).await?;
                        anyhow::Ok((stream, read))
                    });
                }
                while let Some(answered) = asking.join_next().await {
                    connections.push(answered??);
                }
            }
            Self::Http2 { sender, call, streams, .. } => {
                let mut asking = JoinSet::new();
                for _ in 0..*streams {
                    let (sender, call) = (sender.clone(), Rc::clone(call));
                    asking.spawn_local(async move { patiently(http2::exchange(&sender, &call)).await });
                }
                while let Some(answered) = asking.join_next().await {
                    answered??;
                }
            }
        }
        Ok(())
    }
}

fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Upstream;

    #[test]
    fn everything_that_was_asked_is_answered_over_the_connections_that_there_are() {
        let upstream = Upstream::start().unwrap();
        let mut load = Lockstep::http1(upstream.http1, "any", "/bytes/100", 3).unwrap();
        load.ask(30).unwrap();
        let Callers::Http1 { connections, .. } = &load.callers else { panic!("they are HTTP/1.1") };
        assert_eq!(connections.len(), 3);

        let entry = Entry { address: upstream.http2, authority: vec!["any".to_owned()] };
        let mut load = Lockstep::http2(&entry, 4).unwrap();
        load.ask(40).unwrap();
        load.ask(4).unwrap();
    }

    #[test]
    fn a_server_that_goes_away_is_a_failure_and_no_number() {
        let upstream = Upstream::start().unwrap();
        let mut load = Lockstep::http1(upstream.http1, "any", "/", 2).unwrap();
        load.ask(2).unwrap();
        drop(upstream);
        assert!(load.ask(2).is_err());
    }
}
