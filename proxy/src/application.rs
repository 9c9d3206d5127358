//! The workload's own application, behind one port: where it listens and the connections kept to it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::bulkhead::Bulkhead;
use crate::concurrency::Gate;
use crate::config::{AppPort, ProxyConfig};
use crate::failure::{Failure, Side};
use crate::metrics::Metrics;
use crate::peer;
use crate::pool::{Loan, Pool, Settings, Stake};
use crate::snapshot::{Http2Policy, Protocol};
use crate::stream::Stream;

/// Applications close idle connections after as little as 5 s; the proxy closes first, so that no request meets a
/// connection that is just being closed.
const IDLE: Duration = Duration::from_secs(4);

/// It is on this machine: where it does not answer at once, it does not answer.
const CONNECT: Duration = Duration::from_secs(1);

/// One port of the application.
pub(crate) struct Application {
    /// The service port.
    pub(crate) port: u16,
    pub(crate) address: SocketAddr,
    /// As it was registered.
    pub(crate) protocol: Protocol,
    /// Whom it is kept busy by.
    pub(crate) gate: Rc<Gate>,
    pool: Rc<Pool>,
}

impl Application {
    /// The application behind `app`; nothing is connected yet.
    pub(crate) fn new(app: &AppPort, config: &ProxyConfig, metrics: Metrics) -> Rc<Self> {
        let settings = Settings {
            side: Side::Inbound,
            mtls: false,
            idle: IDLE,
            max_age: None,
            max_requests: None,
            http2: Http2Policy::default(),
        };
        let limit = u32::try_from(config.limits.connections).unwrap_or(u32::MAX);
        Rc::new(Self {
            port: app.port,
            address: app.address,
            protocol: app.protocol,
            gate: Rc::default(),
            pool: Pool::new(settings, Bulkhead::new(limit), metrics),
        })
    }

    /// A connection of its own.
    ///
    /// # Errors
    /// [`Failure::ConnectRefused`] or [`Failure::ConnectTimeout`].
    pub(crate) async fn connect(address: SocketAddr) -> Result<Stream, Failure> {
        peer::connect(address, CONNECT).await.map(Stream::from)
    }

    /// An HTTP/1 connection, kept or new.
    ///
    /// # Errors
    /// As [`Application::connect`], and [`Failure::Overloaded`].
    pub(crate) async fn loan(&self) -> Result<Loan, Failure> {
        self.pool.loan(self.pool.turn(), || Self::connect(self.address)).await
    }

    /// A new HTTP/1 connection.
    ///
    /// # Errors
    /// As [`Application::loan`].
    pub(crate) async fn fresh_loan(&self) -> Result<Loan, Failure> {
        Box::pin(self.pool.fresh_loan(self.pool.turn(), Self::connect(self.address))).await
    }

    /// A place on an HTTP/2 connection.
    ///
    /// # Errors
    /// As [`Application::loan`].
    pub(crate) async fn stake(&self) -> Result<Stake, Failure> {
        let address = self.address;
        match self.pool.ready_stake(Instant::now()) {
            Some(stake) => Ok(stake),
            None => Box::pin(self.pool.stake(|| Self::connect(address))).await,
        }
    }

    /// Closes unused connections.
    pub(crate) fn sweep(&self, now: Instant) {
        self.pool.sweep(now);
    }
}
