//! Connections kept for reuse: multiplexed ones shared by many requests, exclusive ones lent to one at a time.
//!
//! Which is cheaper depends on how much is under way. A request alone on an HTTP/2 connection pays for header
//! compression, frames and a task of the connection's own, and has nobody to share the cost of a system call with;
//! over HTTP/1.1 it costs a quarter less. With many under way HTTP/2 writes and reads several of them at once, and is the
//! cheaper one. [`Pool::alone`] tells which it is.
//!
//! A pool belongs to one worker and one address. One dial serves everybody who waits for it. A connection past its
//! age takes no new requests and ends when its last one does; an unused one is closed by [`Pool::sweep`].

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::rc::{Rc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Shared};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};

use crate::body::Body;
use crate::bulkhead::{Bulkhead, Permit};
use crate::failure::{Failure, Side};
use crate::http2::client::{self, Client};
use crate::metrics::{ConnectionKind, Limit, Metrics, OpenConnection, Role, Wire};
use crate::ring;
use crate::snapshot::Http2Policy;
use crate::stream::Stream;

/// So many requests at once are cheaper on connections of their own than on a shared one.
const FEW: usize = 4;
/// Where there were more, there will soon be more again: it must have been quiet for so long.
const CALM: Duration = Duration::from_millis(50);
/// How long an exclusive connection may take to be ready again after its last answer.
const TURNAROUND: Duration = Duration::from_millis(2);

/// The connections to one address.
pub(crate) struct Pool {
    shared: RefCell<Vec<Rc<Multiplexed>>>,
    dialing: RefCell<Option<Dialing>>,
    idle: RefCell<Vec<Idle>>,
    /// Those on loan, and those being dialed for a loan.
    taken: Rc<Cell<usize>>,
    /// When more than a few were last under way at once.
    crowded: Cell<Option<Instant>>,
    settings: Cell<Settings>,
    /// Counts the connections, from a number by chance.
    births: Cell<u64>,
    /// Shared with the pools of the service's other endpoints.
    limit: Bulkhead,
    metrics: Metrics,
}

/// What kind of connections these are, and how long they live.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) side: Side,
    pub(crate) mtls: bool,
    /// Unused for so long, a connection closes.
    pub(crate) idle: Duration,
    /// So old, it takes no new requests.
    pub(crate) max_age: Option<Duration>,
    /// So many requests, and an exclusive one takes no more.
    pub(crate) max_requests: Option<u32>,
    /// For shared ones.
    pub(crate) http2: Http2Policy,
}

type Dialing = Shared<LocalBoxFuture<'static, Result<(), Failure>>>;

struct Idle {
    sender: http1::SendRequest<Body>,
    since: Instant,
    born: Birth,
    /// Requests that it has carried.
    served: u32,
    open: Weak<Open>,
}

/// When a connection was made, and how much less long it lives than it may: were it none, connections that were made
/// together would end together.
#[derive(Debug, Clone, Copy)]
struct Birth {
    at: Instant,
    /// A share of its time, up to a tenth.
    less: f64,
}

impl Birth {
    /// Whether `time` has passed `since`, less what this one has less.
    fn has_passed(self, time: Duration, since: Instant, now: Instant) -> bool {
        now.duration_since(since).as_secs_f64() > time.as_secs_f64() * (1.0 - self.less)
    }
}

/// One HTTP/2 connection.
struct Multiplexed {
    client: Client,
    under_way: Cell<usize>,
    /// Requests at once, as far as it goes by this side.
    most: usize,
    born: Birth,
    last_used: Cell<Instant>,
}

impl Multiplexed {
    /// One that allows nothing at the moment is used all the same, once: another would allow no more.
    fn has_room(&self) -> bool {
        self.under_way.get() < self.client.streams().clamp(1, self.most)
    }
}

/// A place on a multiplexed connection, given back when dropped.
pub(crate) struct Stake(Rc<Multiplexed>);

impl Stake {
    /// What sends the request.
    pub(crate) fn client(&self) -> &Client {
        &self.0.client
    }
}

/// Another place on the same connection, for what goes on after the answer.
impl Clone for Stake {
    fn clone(&self) -> Self {
        self.0.under_way.set(self.0.under_way.get() + 1);
        Self(self.0.clone())
    }
}

impl Drop for Stake {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get() - 1);
    }
}

/// The right to a loan, counted while it lasts.
pub(crate) struct Turn(Rc<Cell<usize>>);

impl Turn {
    fn take(taken: &Rc<Cell<usize>>) -> Self {
        taken.set(taken.get() + 1);
        Self(taken.clone())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// An exclusive connection on loan; it goes back when dropped, if it can be used again.
pub(crate) struct Loan {
    sender: Option<http1::SendRequest<Body>>,
    born: Birth,
    /// Requests that it has carried, this one included.
    served: u32,
    /// Counts the connection also after an upgrade, when its own task has ended.
    open: Option<Rc<Open>>,
    pool: Weak<Pool>,
    _turn: Turn,
}

impl Loan {
    /// The handle that sends requests.
    pub(crate) fn sender(&mut self) -> &mut http1::SendRequest<Body> {
        self.sender.as_mut().expect("present until dropped")
    }

    /// The connection has served another request before.
    pub(crate) fn is_reused(&self) -> bool {
        self.served > 1
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let Some(pool) = self.pool.upgrade() else { return };
        let Some(sender) = self.sender.take().filter(|sender| !sender.is_closed()) else { return };
        if pool.settings.get().max_requests.is_some_and(|most| self.served >= most) {
            return;
        }
        let open = self.open.as_ref().map(Rc::downgrade).unwrap_or_default();
        let (born, served) = (self.born, self.served);
        pool.idle.borrow_mut().push(Idle { sender, since: Instant::now(), born, served, open });
    }
}

impl Pool {
    /// An empty pool. Its connections count against `limit`.
    pub(crate) fn new(settings: Settings, limit: Bulkhead, metrics: Metrics) -> Rc<Self> {
        Rc::new(Self {
            shared: RefCell::default(),
            dialing: RefCell::default(),
            idle: RefCell::default(),
            taken: Rc::default(),
            crowded: Cell::new(None),
            settings: Cell::new(settings),
            births: Cell::new(RandomState::new().hash_one(0)),
            limit,
            metrics,
        })
    }

    /// Changes what new connections are like, and how long those that are there live.
    pub(crate) fn configure(&self, settings: Settings) {
        self.settings.set(settings);
    }

    /// A place on a multiplexed connection; dials where there is none with room.
    ///
    /// # Errors
    /// Those of `dial`. Everybody who waited for the same dial gets the same error.
    pub(crate) async fn stake<D>(self: &Rc<Self>, dial: impl Fn() -> D) -> Result<Stake, Failure>
    where
        D: Future<Output = Result<Stream, Failure>> + 'static,
    {
        loop {
            if let Some(stake) = self.ready_stake(Instant::now()) {
                return Ok(stake);
            }
            let dialing = self.dialing.borrow().clone();
            let dialing = match dialing {
                Some(dialing) => dialing,
                None => self.start_dial(dial()),
            };
            dialing.await?;
        }
    }

    /// A place on a multiplexed connection that is there already.
    pub(crate) fn ready_stake(&self, now: Instant) -> Option<Stake> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|connection| !connection.client.is_closed());
        let connection =
            shared.iter().find(|connection| connection.has_room() && !self.is_old(connection.born, now))?;
        connection.under_way.set(connection.under_way.get() + 1);
        connection.last_used.set(now);
        Some(Stake(connection.clone()))
    }

    /// A turn on an exclusive connection, if so little is under way that another request is cheaper there. Where a
    /// shared connection is in use, it had better join the others; where connections are scarce, it shares.
    pub(crate) fn alone(&self, now: Instant) -> Option<Turn> {
        let shared: usize = self.shared.borrow().iter().map(|connection| connection.under_way.get()).sum();
        if shared + self.taken.get() >= FEW {
            self.crowded.set(Some(now));
            return None;
        }
        let crowded = self.crowded.get().is_some_and(|at| now.duration_since(at) < CALM);
        let joins = crowded || shared > 0 || self.dialing.borrow().is_some();
        (!joins && (self.keeps_idle() || self.limit.is_roomy())).then(|| self.turn())
    }

    /// A turn on an exclusive connection in any case.
    pub(crate) fn turn(&self) -> Turn {
        Turn::take(&self.taken)
    }

    /// Whether an exclusive connection is kept for the next loan.
    pub(crate) fn keeps_idle(&self) -> bool {
        !self.idle.borrow().is_empty()
    }

    fn birth(&self) -> Birth {
        let number = self.births.get().wrapping_add(1);
        self.births.set(number);
        Birth { at: Instant::now(), less: ring::chance(number) / 10.0 }
    }

    fn is_old(&self, born: Birth, now: Instant) -> bool {
        self.settings.get().max_age.is_some_and(|age| born.has_passed(age, born.at, now))
    }

    /// Dials in a task of its own, so that a caller who gives up does not take the connection from the others.
    fn start_dial(self: &Rc<Self>, dial: impl Future<Output = Result<Stream, Failure>> + 'static) -> Dialing {
        let pool = Rc::downgrade(self);
        let open = self.open(Wire::Http2);
        let (http2, born) = (self.settings.get().http2, self.birth());
        let task = spawn_local(async move {
            let made = async { handshake_http2(dial.await?, http2, born, open?).await }.await;
            let Some(pool) = pool.upgrade() else { return Err(Failure::Draining) };
            pool.dialing.borrow_mut().take();
            pool.shared.borrow_mut().push(Rc::new(made?));
            Ok(())
        });
        let dialing = task.map(|ended| ended.unwrap_or(Err(Failure::ConnectRefused))).boxed_local().shared();
        *self.dialing.borrow_mut() = Some(dialing.clone());
        dialing
    }

    /// An exclusive connection: an unused one, or a new one.
    ///
    /// # Errors
    /// Those of `dial`.
    pub(crate) async fn loan<D>(
        self: &Rc<Self>,
        turn: Turn,
        dial: impl FnOnce() -> D,
    ) -> Result<Loan, Failure>
    where
        D: Future<Output = Result<Stream, Failure>>,
    {
        while let Some(mut idle) = self.take_idle() {
            // The connection's task may not have finished with the request before. Where it does not soon, that
            // request's body is still being sent (its answer came early), and nobody else waits for that: dropped
            // here, the connection ends after it.
            if let Ok(Ok(())) = timeout(TURNAROUND, idle.sender.ready()).await {
                return Ok(self.lend(turn, idle.sender, idle.born, idle.open.upgrade(), idle.served + 1));
            }
        }
        // Dialing is rare, and its state is large: it must not be a part of every request's.
        Box::pin(self.fresh_loan(turn, dial())).await
    }

    /// A new exclusive connection.
    ///
    /// # Errors
    /// Those of `dial`.
    pub(crate) async fn fresh_loan(
        self: &Rc<Self>,
        turn: Turn,
        dial: impl Future<Output = Result<Stream, Failure>>,
    ) -> Result<Loan, Failure> {
        let open = Rc::new(self.open(Wire::Http1)?);
        let stream = dial.await?;
        let (sender, connection) = http1::Builder::new()
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| Failure::ConnectRefused)?;
        let counted = open.clone();
        spawn_local(async move {
            let _open = counted;
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "exclusive connection ended");
            }
        });
        Ok(self.lend(turn, sender, self.birth(), Some(open), 1))
    }

    fn lend(
        self: &Rc<Self>,
        turn: Turn,
        sender: http1::SendRequest<Body>,
        born: Birth,
        open: Option<Rc<Open>>,
        served: u32,
    ) -> Loan {
        Loan { sender: Some(sender), born, served, open, pool: Rc::downgrade(self), _turn: turn }
    }

    /// Takes a place among the service's connections.
    fn open(&self, wire: Wire) -> Result<Open, Failure> {
        let Settings { side, mtls, .. } = self.settings.get();
        let Some(permit) = self.limit.admit() else {
            self.metrics.limit_reached(side, Limit::ServiceConnections);
            return Err(Failure::Overloaded);
        };
        let kind = ConnectionKind { side, role: Role::Dialed, wire, mtls };
        Ok(Open { _counted: self.metrics.connection_opened(kind), _permit: permit })
    }

    fn take_idle(&self) -> Option<Idle> {
        let now = Instant::now();
        loop {
            let idle = self.idle.borrow_mut().pop()?;
            if !idle.sender.is_closed() && !self.is_old(idle.born, now) {
                return Some(idle);
            }
        }
    }

    /// Closes what is unused or past its age. Called about once a second.
    pub(crate) fn sweep(&self, now: Instant) {
        let Settings { idle, .. } = self.settings.get();
        self.shared.borrow_mut().retain(|connection| {
            let is_idle = connection.born.has_passed(idle, connection.last_used.get(), now);
            let unused = connection.under_way.get() == 0 && is_idle;
            // One that is past its age ends with its last request: its stakes keep it.
            !(unused || connection.client.is_closed() || self.is_old(connection.born, now))
        });
        self.idle.borrow_mut().retain(|unused| {
            let kept = !unused.born.has_passed(idle, unused.since, now) && !self.is_old(unused.born, now);
            kept && !unused.sender.is_closed()
        });
    }
}

async fn handshake_http2(
    stream: Stream,
    policy: Http2Policy,
    born: Birth,
    open: Open,
) -> Result<Multiplexed, Failure> {
    let (client, connection) = client::handshake(stream, policy).await.map_err(|error| {
        tracing::debug!(%error, "HTTP/2 did not start");
        Failure::ConnectRefused
    })?;
    spawn_local(async move {
        let _open = open;
        if let Err(error) = connection.await {
            tracing::debug!(%error, "multiplexed connection ended");
        }
    });
    let now = Instant::now();
    let most = policy.max_streams as usize;
    Ok(Multiplexed { client, under_way: Cell::new(0), most, born, last_used: Cell::new(now) })
}

/// Counts one connection for as long as it lives.
struct Open {
    _counted: OpenConnection,
    _permit: Permit,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Request;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::LocalSet;

    use super::*;

    /// Answers each request as soon as its head has come, and reads nothing of its body.
    async fn hasty(listener: TcpListener) {
        loop {
            let (mut io, _) = listener.accept().await.unwrap();
            spawn_local(async move {
                let mut head = Vec::new();
                while io.read_buf(&mut head).await.is_ok_and(|count| count > 0) {
                    if head.windows(4).any(|end| end == b"\r\n\r\n") {
                        head.clear();
                        io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                        io.readable().await.unwrap();
                    }
                    if head.len() > 64 * 1024 {
                        std::future::pending::<()>().await;
                    }
                }
            });
        }
    }

    async fn exchange(pool: &Rc<Pool>, address: std::net::SocketAddr, body: Body) -> bool {
        let dial = async move { Ok(Stream::from(TcpStream::connect(address).await.unwrap())) };
        let mut loan = pool.loan(pool.turn(), || dial).await.unwrap();
        let answer = loan.sender().send_request(Request::post("/").body(body).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        drop(answer);
        loan.is_reused()
    }

    fn settings() -> Settings {
        Settings {
            side: Side::Inbound,
            mtls: false,
            idle: Duration::from_secs(60),
            max_age: None,
            max_requests: None,
            http2: Http2Policy::default(),
        }
    }

    #[test]
    fn connections_that_were_made_together_do_not_end_together() {
        let pool = Pool::new(settings(), Bulkhead::new(8), Metrics::default());
        let births = [(); 100].map(|()| pool.birth());
        let hour = Duration::from_secs(3600);
        let ended =
            |after| births.iter().filter(|born| born.has_passed(hour, born.at, born.at + after)).count();
        assert_eq!((ended(hour * 9 / 10), ended(hour + Duration::from_millis(1))), (0, 100));
        assert!((20..80).contains(&ended(hour * 19 / 20)), "{}", ended(hour * 19 / 20));
    }

    #[tokio::test]
    async fn a_connection_closes_after_the_requests_that_it_may_carry() {
        let checks = async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            spawn_local(hasty(listener));
            let settings = Settings { max_requests: Some(2), ..settings() };
            let pool = Pool::new(settings, Bulkhead::new(8), Metrics::default());
            for reused in [false, true, false, true, false] {
                assert_eq!(exchange(&pool, address, Body::Empty).await, reused);
            }
        };
        LocalSet::new().run_until(checks).await;
    }

    #[tokio::test]
    async fn an_upload_that_goes_on_after_its_answer_keeps_nobody_waiting() {
        let checks = async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            spawn_local(hasty(listener));
            let settings = settings();
            let pool = Pool::new(settings, Bulkhead::new(8), Metrics::default());
            assert!(!exchange(&pool, address, Body::Empty).await);
            assert!(exchange(&pool, address, Body::Empty).await, "a connection that is free is used again");
            let upload = Body::Whole(Some(Bytes::from(vec![0; 64 << 20])));
            assert!(exchange(&pool, address, upload).await);
            let next = timeout(Duration::from_secs(20), exchange(&pool, address, Body::Empty)).await;
            assert_eq!(next, Ok(false), "the upload's connection is not free");
        };
        LocalSet::new().run_until(checks).await;
    }
}
