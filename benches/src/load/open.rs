//! HTTP/1.1 requests at a fixed rate.
//!
//! Open loop: a request is sent when it is due, whether or not earlier ones were answered, and its latency counts from
//! then. So a subject that stalls is charged for everybody who would have asked meanwhile, which a closed loop forgives
//! (coordinated omission). A timer of the kernel paces it, since a runtime's own timer goes by the millisecond and
//! spinning would take from the proxies what is measured. How late the generator itself was is recorded beside it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::http1::{Target, answer, connect, patiently};
use super::{Load, Recorder, all};

/// Connections that are there from the start and used in turn.
const KEPT: usize = 16;
/// Connections there may be in all, once those are busy; then requests wait for one.
const MOST: usize = 256;
/// Requests that may wait. Beyond this the subject is too slow for the rate, and no latency means anything.
const MOST_WAITING: usize = 20_000;

/// Sends this many requests a second.
///
/// # Errors
/// No thread can be made; whatever fails later is told when the load is stopped.
pub(crate) fn open(target: Target, per_second: NonZeroU32) -> Result<Load> {
    Load::start(move |recorder| async move {
        let desk = Rc::new(Desk { target, recorder, state: RefCell::default() });
        for _ in 0..KEPT {
            let stream = connect(desk.target.address).await?;
            let mut state = desk.state.borrow_mut();
            state.connections += 1;
            state.idle.push_back(Connection { stream, read: Vec::with_capacity(4096) });
        }
        pace(&desk, Schedule::every(Duration::from_secs(1) / per_second.get())).await
    })
}

/// When requests are due: the first one interval after the start, then one an interval.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    start: Instant,
    interval: Duration,
}

impl Schedule {
    fn every(interval: Duration) -> Self {
        Self { start: Instant::now(), interval }
    }

    /// When the request of this number is due, counted from nought. Computed from the start, so that no error adds up.
    fn due(&self, number: u64) -> Instant {
        let nanos = u128::from(number + 1) * self.interval.as_nanos();
        self.start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// A timer that expires when requests are due and counts what nobody has waited for.
#[derive(Debug)]
struct Ticks(AsyncFd<OwnedFd>);

impl Ticks {
    #[expect(
        deprecated,
        reason = "its successor is unsafe: the descriptor must stay open, as one that is owned does"
    )]
    fn new(schedule: &Schedule) -> Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let interval = Timespec::try_from(schedule.interval).context("an interval")?;
        let first = schedule.due(0).saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let first = Timespec::try_from(first).context("an interval")?;
        timerfd_settime(
            &timer,
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: interval, it_value: first },
        )?;
        Ok(Self(AsyncFd::with_interest(timer, Interest::READABLE)?))
    }

    /// How many requests have become due since the last call; one at least.
    async fn next(&self) -> io::Result<u64> {
        loop {
            let mut ready = self.0.readable().await?;
            let mut count = [0; 8];
            match ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut count)?)) {
                Ok(read) => {
                    read?;
                    return Ok(u64::from_ne_bytes(count));
                }
                Err(_would_block) => {}
            }
        }
    }
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

/// What the pacer and the requests under way share.
#[derive(Debug)]
struct Desk {
    target: Target,
    recorder: Rc<Recorder>,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The one that rested longest is taken first.
    idle: VecDeque<Connection>,
    connections: usize,
    /// When the requests were due that no connection was free for.
    waiting: VecDeque<Instant>,
    sent: usize,
}

/// What a request is sent on.
enum Turn {
    Free(Connection),
    More,
    Wait,
}

async fn pace(desk: &Rc<Desk>, schedule: Schedule) -> Result<()> {
    let ticks = Ticks::new(&schedule)?;
    let mut running = JoinSet::new();
    let mut number = 0;
    while !desk.recorder.stopping() {
        for _ in 0..ticks.next().await? {
            let due = schedule.due(number);
            number += 1;
            match desk.turn() {
                Turn::Free(connection) => {
                    // Written here and now; only the answer is waited for elsewhere.
                    let request = desk.target.request(desk.next_number());
                    let written = match connection.stream.try_write(request) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                        written => written.context("a request")?,
                    };
                    desk.recorder.begun(due, Instant::now());
                    let rest = request[written..].to_vec();
                    running.spawn_local(Rc::clone(desk).serve(connection, due, rest));
                }
                Turn::More => {
                    desk.recorder.begun(due, Instant::now());
                    running.spawn_local(Rc::clone(desk).serve_on_another(due));
                }
                Turn::Wait => desk.wait(due)?,
            }
        }
        while let Some(ended) = running.try_join_next() {
            ended.map_err(io::Error::other).flatten().context("a request")?;
        }
    }
    all(running, "requests under way").await
}

impl Desk {
    fn turn(&self) -> Turn {
        let mut state = self.state.borrow_mut();
        match state.idle.pop_front() {
            Some(connection) => Turn::Free(connection),
            None if state.connections < MOST => {
                state.connections += 1;
                Turn::More
            }
            None => Turn::Wait,
        }
    }

    fn next_number(&self) -> usize {
        let mut state = self.state.borrow_mut();
        state.sent = state.sent.wrapping_add(1);
        state.sent
    }

    fn wait(&self, due: Instant) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        if state.waiting.len() == MOST_WAITING {
            return Err(io::Error::other(format!(
                "{MOST_WAITING} requests are waiting: too slow for the rate"
            )));
        }
        state.waiting.push_back(due);
        Ok(())
    }

    async fn serve_on_another(self: Rc<Self>, due: Instant) -> io::Result<()> {
        let stream = connect(self.target.address).await?;
        let connection = Connection { stream, read: Vec::with_capacity(4096) };
        let request = self.target.request(self.next_number()).to_vec();
        self.serve(connection, due, request).await
    }

    /// Sees this request through and then those that wait, and gives the connection back.
    async fn serve(
        self: Rc<Self>,
        mut connection: Connection,
        mut due: Instant,
        mut unsent: Vec<u8>,
    ) -> io::Result<()> {
        loop {
            let Connection { stream, read } = &mut connection;
            patiently(async {
                stream.write_all(&unsent).await?;
                answer(stream, read).await
            })
            .await?;
            self.recorder.answered(due, Instant::now());
            let mut state = self.state.borrow_mut();
            let Some(next) = state.waiting.pop_front() else {
                state.idle.push_back(connection);
                return Ok(());
            };
            drop(state);
            due = next;
            unsent = self.target.request(self.next_number()).to_vec();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Upstream;
    use std::net::TcpListener;
    use std::thread;

    const PER_SECOND: NonZeroU32 = NonZeroU32::new(1000).unwrap();

    #[test]
    fn requests_are_due_by_the_clock_and_no_error_adds_up() {
        let schedule = Schedule::every(Duration::from_secs(1) / 4000);
        assert_eq!(schedule.due(0) - schedule.start, Duration::from_micros(250));
        assert_eq!(schedule.due(3_999_999) - schedule.start, Duration::from_secs(1000));
    }

    #[test]
    fn the_rate_is_kept_whatever_the_answers_do() {
        let upstream = Upstream::start().unwrap();
        let load = open(Target::new(upstream.http1, &["any"], "/"), PER_SECOND).unwrap();
        load.measure();
        let began = Instant::now();
        while load.done() < 300 {
            assert!(began.elapsed() < Duration::from_secs(20), "{} answers", load.done());
            thread::sleep(Duration::from_millis(1));
        }
        assert!(began.elapsed() > Duration::from_millis(250), "300 requests in {:?}", began.elapsed());
        let tally = load.stop().unwrap();
        assert!(tally.latency.len() >= 290, "{}", tally.latency.len());
        assert!(tally.lateness.len() >= 100, "all know how late they were sent, but those that waited");
    }

    #[test]
    fn a_stall_is_charged_to_every_request_that_was_due_meanwhile() {
        // It takes connections, and says nothing for 200 ms; then it answers whatever has come.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            use std::io::{Read as _, Write as _};
            let stall = Instant::now() + Duration::from_millis(200);
            for stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || {
                    let (mut stream, mut read) = (stream, [0; 1024]);
                    while stream.read(&mut read).is_ok_and(|length| length > 0) {
                        thread::sleep(stall.saturating_duration_since(Instant::now()));
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
                    }
                });
            }
        });
        let load = open(Target::new(address, &["any"], "/"), PER_SECOND).unwrap();
        load.measure();
        let began = Instant::now();
        while load.done() < 300 {
            assert!(began.elapsed() < Duration::from_secs(20), "{} answers", load.done());
            thread::sleep(Duration::from_millis(1));
        }
        let latency = load.stop().unwrap().latency;
        // 1 a ms was due in the 200 ms: those of the first half waited 100 ms at least. A closed loop sees 16.
        let waited = latency.len() - latency.count_between(0, 90_000_000);
        assert!(waited >= 80, "{waited} of {} requests waited 90 ms", latency.len());
        assert!(!server.is_finished());
    }
}
