//! A request body that can be sent again.
//!
//! The first attempt streams the body as it arrives, and a copy of what has passed is kept up to a bound. While the
//! copy is whole, a new attempt starts from it and then goes on with what is still to come. Past the bound the copy
//! is let go: the body streams on, and the request is not tried again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio::sync::oneshot;

use crate::body::BodyError;
use crate::incoming::Incoming;

/// The most that is kept of one body.
pub(crate) const LIMIT_BYTES: usize = 64 * 1024;

/// The most pieces that are kept: of a body that comes byte by byte, the handles would take more than the bytes.
const LIMIT_FRAMES: usize = 1024;

/// What all bodies kept by one worker may take together.
#[derive(Debug)]
pub(crate) struct Room {
    left: Cell<usize>,
}

impl Room {
    /// Room for `bytes` in all.
    pub(crate) fn new(bytes: usize) -> Rc<Self> {
        Rc::new(Self { left: Cell::new(bytes) })
    }

    fn take(&self, bytes: usize) -> bool {
        match self.left.get().checked_sub(bytes) {
            Some(left) => {
                self.left.set(left);
                true
            }
            None => false,
        }
    }

    fn give_back(&self, bytes: usize) {
        self.left.set(self.left.get() + bytes);
    }
}

/// The body of one request, for all of its attempts. Clones share it.
///
/// Most requests have none; that there is nothing to send again costs nothing to know.
#[derive(Clone)]
pub(crate) struct Replay(Option<Rc<RefCell<Shared>>>);

struct Shared {
    incoming: Incoming,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// The copy is no longer whole.
    overflowed: bool,
    /// The caller's side failed; no attempt can succeed.
    broken: bool,
    /// Only this attempt may read.
    attempt: u32,
    waker: Option<Waker>,
    bytes: u64,
    room: Rc<Room>,
    /// Kept for others who are sent the same.
    tee: Option<Tee>,
}

/// A second copy of a body, whatever becomes of the first, until it is whole.
struct Tee {
    kept: Vec<Bytes>,
    bytes: usize,
    room: Rc<Room>,
    heirs: Vec<oneshot::Sender<Replay>>,
}

/// A body that somebody else is to be sent, once it is whole.
pub(crate) enum Copied {
    Whole(Replay),
    Coming(oneshot::Receiver<Replay>),
}

impl Copied {
    /// The body. `None`: it is bigger than what is kept, or did not come whole.
    pub(crate) async fn whole(self) -> Option<Replay> {
        match self {
            Self::Whole(replay) => Some(replay),
            Self::Coming(replay) => replay.await.ok(),
        }
    }
}

impl Tee {
    /// Keeps more. False: there is no room for it.
    fn keep(&mut self, data: &Bytes) -> bool {
        let full = self.bytes + data.len() > LIMIT_BYTES || self.kept.len() >= LIMIT_FRAMES;
        if full || !self.room.take(data.len()) {
            return false;
        }
        self.bytes += data.len();
        self.kept.push(data.clone());
        true
    }

    fn hand_over(mut self, trailers: Option<&HeaderMap>) {
        for heir in std::mem::take(&mut self.heirs) {
            if self.room.take(self.bytes) {
                // One that does not want it any more gives the room back by dropping it.
                let _ = heir.send(Replay::kept(
                    self.kept.clone(),
                    self.bytes,
                    trailers.cloned(),
                    self.room.clone(),
                ));
            }
        }
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        self.room.give_back(self.bytes);
    }
}

impl Replay {
    /// Takes the caller's body; nothing is read until an attempt reads it.
    pub(crate) fn new(incoming: Incoming, room: Rc<Room>) -> Self {
        if incoming.is_end_stream() {
            return Self(None);
        }
        Self(Some(Rc::new(RefCell::new(Shared {
            incoming,
            kept: Vec::new(),
            kept_bytes: 0,
            trailers: None,
            ended: false,
            overflowed: false,
            broken: false,
            attempt: 0,
            waker: None,
            bytes: 0,
            room,
            tee: None,
        }))))
    }

    /// A body that has come whole; its `bytes` are taken from the room already.
    fn kept(kept: Vec<Bytes>, bytes: usize, trailers: Option<HeaderMap>, room: Rc<Room>) -> Self {
        Self(Some(Rc::new(RefCell::new(Shared {
            incoming: Incoming::Empty,
            kept,
            kept_bytes: bytes,
            trailers,
            ended: true,
            overflowed: false,
            broken: false,
            attempt: 0,
            waker: None,
            bytes: bytes as u64,
            room,
            tee: None,
        }))))
    }

    /// The same body for somebody else, once it has come whole. Asked for before the first attempt reads.
    pub(crate) fn copy(&self) -> Copied {
        let Some(shared) = &self.0 else { return Copied::Whole(Self(None)) };
        let shared = &mut *shared.borrow_mut();
        let (heir, copied) = oneshot::channel();
        let room = shared.room.clone();
        let tee =
            shared.tee.get_or_insert_with(|| Tee { kept: Vec::new(), bytes: 0, room, heirs: Vec::new() });
        tee.heirs.push(heir);
        Copied::Coming(copied)
    }

    /// The body for a new attempt; the one before it can read no more.
    pub(crate) fn attempt(&self) -> Attempt {
        Attempt(self.0.as_ref().map(|shared| {
            let number = shared.borrow_mut().supersede();
            Reader { shared: shared.clone(), number, position: 0, trailers_sent: false }
        }))
    }

    /// The whole body once more, for an attempt beside the one that has it. `None`: it is not all here.
    pub(crate) fn again(&self) -> Option<Attempt> {
        let Some(shared) = &self.0 else { return Some(Attempt(None)) };
        let shared = shared.borrow();
        if !shared.ended || shared.overflowed || shared.broken {
            return None;
        }
        let copy = Shared {
            incoming: Incoming::Empty,
            kept: shared.kept.clone(), // handles, not bytes
            kept_bytes: 0,
            trailers: shared.trailers.clone(),
            ended: true,
            overflowed: false,
            broken: false,
            attempt: 0,
            waker: None,
            bytes: shared.bytes,
            room: shared.room.clone(),
            tee: None,
        };
        Some(Attempt(Some(Reader {
            shared: Rc::new(RefCell::new(copy)),
            number: 0,
            position: 0,
            trailers_sent: false,
        })))
    }

    /// There is no body, nor will there be one.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|shared| {
            let shared = shared.borrow();
            shared.ended && shared.bytes == 0 && shared.trailers.is_none()
        })
    }

    /// A further attempt would send every byte again.
    pub(crate) fn is_replayable(&self) -> bool {
        self.0.as_ref().is_none_or(|shared| {
            let shared = shared.borrow();
            !shared.overflowed && !shared.broken
        })
    }

    /// The caller's own side of the body failed.
    pub(crate) fn is_broken(&self) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.borrow().broken)
    }

    /// Body bytes received from the caller so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |shared| shared.borrow().bytes)
    }

    /// Nobody waits for an answer any more: what still reads the body stops.
    pub(crate) fn stop(&self) {
        if let Some(shared) = &self.0 {
            shared.borrow_mut().supersede();
        }
    }

    /// No further attempt will come: the copy is let go.
    pub(crate) fn settle(&self) {
        if let Some(shared) = &self.0 {
            shared.borrow_mut().overflow();
        }
    }
}

impl Shared {
    /// Takes the body from the attempt that has it; the number of the next.
    fn supersede(&mut self) -> u32 {
        self.attempt += 1;
        if let Some(waker) = self.waker.take() {
            waker.wake(); // lets the stale attempt find out and reset its stream
        }
        self.attempt
    }

    fn keep(&mut self, data: &Bytes) {
        self.bytes += data.len() as u64;
        self.tee.take_if(|tee| !tee.keep(data));
        if self.overflowed {
            return;
        }
        let full = self.kept_bytes + data.len() > LIMIT_BYTES || self.kept.len() >= LIMIT_FRAMES;
        if full || !self.room.take(data.len()) {
            self.overflow();
        } else {
            self.kept_bytes += data.len();
            self.kept.push(data.clone());
        }
    }

    /// Lets go of the copy. An attempt that had not caught up with it keeps its own position, so the frames stay
    /// until it has: see [`Reader::poll_frame`].
    fn overflow(&mut self) {
        self.overflowed = true;
        self.room.give_back(self.kept_bytes);
        self.kept_bytes = 0;
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.room.give_back(self.kept_bytes);
    }
}

/// The body as one attempt sends it.
pub(crate) struct Attempt(Option<Reader>);

struct Reader {
    shared: Rc<RefCell<Shared>>,
    number: u32,
    /// How many kept frames this attempt has sent.
    position: usize,
    trailers_sent: bool,
}

impl Attempt {
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.0.as_mut().map_or(Poll::Ready(None), |reader| reader.poll_frame(cx))
    }

    /// A later attempt has the body.
    pub(crate) fn is_superseded(&self) -> bool {
        self.0.as_ref().is_some_and(|reader| reader.shared.borrow().attempt != reader.number)
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Reader::is_end_stream)
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or(SizeHint::with_exact(0), Reader::size_hint)
    }
}

impl Reader {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut shared = self.shared.borrow_mut();
        let shared = &mut *shared;
        if shared.attempt != self.number {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if let Some(data) = shared.kept.get(self.position) {
            self.position += 1;
            let data = data.clone();
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if shared.overflowed && !shared.kept.is_empty() {
            shared.kept = Vec::new();
            self.position = 0;
        }
        if shared.ended {
            return Poll::Ready(match shared.trailers.clone() {
                Some(trailers) if !self.trailers_sent => {
                    self.trailers_sent = true;
                    Some(Ok(Frame::trailers(trailers)))
                }
                _ => None,
            });
        }
        shared.waker = Some(cx.waker().clone());
        let frame = std::task::ready!(shared.incoming.poll_frame(cx));
        let frame = match frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    shared.keep(data);
                    if !shared.overflowed {
                        self.position += 1;
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    shared.trailers = Some(trailers.clone());
                    shared.ended = true;
                    self.trailers_sent = true;
                }
                if shared.incoming.is_end_stream() {
                    shared.ended = true;
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                shared.broken = true;
                Some(Err(BodyError::Caller(error)))
            }
            None => {
                shared.ended = true;
                None
            }
        };
        if shared.ended
            && let Some(tee) = shared.tee.take()
        {
            tee.hand_over(shared.trailers.as_ref());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let shared = self.shared.borrow();
        shared.attempt == self.number
            && shared.ended
            && self.position >= shared.kept.len()
            && (shared.trailers.is_none() || self.trailers_sent)
    }

    fn size_hint(&self) -> SizeHint {
        let shared = self.shared.borrow();
        let mut hint = shared.incoming.size_hint();
        let unsent: u64 = shared.kept.iter().skip(self.position).map(|data| data.len() as u64).sum();
        if let Some(exact) = hint.exact() {
            hint.set_exact(exact + unsent);
        } else {
            hint = SizeHint::new();
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::body::Body;

    /// The body of a request as the HTTP library gives it.
    async fn replay(request: &str) -> Replay {
        let (mut peer, io) = tokio::io::duplex(1024);
        peer.write_all(request.as_bytes()).await.unwrap();
        let seen = Rc::new(RefCell::new(None));
        let service = service_fn(|request: Request<hyper::body::Incoming>| {
            let replay = Replay::new(request.into_body().into(), Room::new(LIMIT_BYTES));
            seen.replace(Some(replay));
            std::future::pending::<Result<http::Response<Body>, std::convert::Infallible>>()
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(io), service);
        let mut connection = std::pin::pin!(connection);
        std::future::poll_fn(|cx| {
            assert!(connection.as_mut().poll(cx).is_pending());
            if seen.borrow().is_some() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        seen.take().expect("the request has come")
    }

    #[tokio::test]
    async fn a_request_without_a_body_can_be_sent_again_whatever_happened() {
        for request in
            ["GET / HTTP/1.1\r\nhost: a\r\n\r\n", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"]
        {
            let replay = replay(request).await;
            let mut first = replay.attempt();
            let second = replay.attempt();
            assert!(first.is_end_stream() && second.is_end_stream(), "{request:?}");
            assert_eq!(second.size_hint().exact(), Some(0), "{request:?}");
            let end = first.poll_frame(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(end, Poll::Ready(None)), "{request:?}");
            replay.stop();
            replay.settle();
            assert!(replay.is_empty() && replay.is_replayable() && !replay.is_broken(), "{request:?}");
            assert_eq!(replay.bytes(), 0);
        }
    }

    /// All that an attempt sends.
    async fn sent(mut attempt: Attempt) -> Vec<u8> {
        let mut sent = Vec::new();
        while let Some(frame) = std::future::poll_fn(|cx| attempt.poll_frame(cx)).await {
            sent.extend_from_slice(frame.unwrap().data_ref().unwrap());
        }
        sent
    }

    #[tokio::test]
    async fn a_copy_comes_whole_and_gives_its_room_back() {
        let replay = replay("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello").await;
        let room = replay.0.as_ref().unwrap().borrow().room.clone();
        let (first, second) = (replay.copy(), replay.copy());
        replay.settle(); // what becomes of the first copy says nothing of the others
        assert_eq!(sent(replay.attempt()).await, b"hello");
        for copy in [first, second] {
            let copy = copy.whole().await.unwrap();
            assert_eq!(copy.attempt().size_hint().exact(), Some(5));
            assert_eq!(sent(copy.attempt()).await, b"hello");
        }
        drop(replay);
        assert_eq!(room.left.get(), LIMIT_BYTES);
    }

    #[tokio::test]
    async fn what_does_not_come_whole_is_not_copied() {
        let replay = replay("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello").await;
        let room = replay.0.as_ref().unwrap().borrow().room.clone();
        assert!(room.take(LIMIT_BYTES - 4)); // less is left than the body has
        let crowded = replay.copy();
        assert_eq!(sent(replay.attempt()).await, b"hello");
        assert!(crowded.whole().await.is_none());
        let unread = replay.copy();
        drop(replay);
        assert!(unread.whole().await.is_none());
        assert_eq!(room.left.get(), 4);
    }

    #[tokio::test]
    async fn a_body_that_is_all_here_can_be_sent_beside_itself() {
        let replay = replay("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello").await;
        let mut first = replay.attempt();
        assert!(replay.again().is_none(), "nothing of it has been read");
        let context = &mut Context::from_waker(Waker::noop());
        let data = |frame| match frame {
            Poll::Ready(Some(Ok(frame))) => Frame::into_data(frame).unwrap(),
            _ => panic!("the body is here"),
        };
        assert_eq!(data(first.poll_frame(context)), "hello");
        let mut second = replay.again().unwrap();
        assert_eq!(second.size_hint().exact(), Some(5));
        assert_eq!(data(second.poll_frame(context)), "hello");
        assert!(second.is_end_stream() && first.is_end_stream());
        assert!(!first.is_superseded());
    }

    #[tokio::test]
    async fn a_body_goes_to_the_last_attempt() {
        let replay = replay("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello").await;
        let mut first = replay.attempt();
        assert!(!replay.is_empty() && replay.is_replayable() && !first.is_end_stream());
        assert_eq!(first.size_hint().exact(), Some(5));
        let second = replay.attempt();
        let stale = first.poll_frame(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(stale, Poll::Ready(Some(Err(BodyError::Superseded)))));
        assert!(!second.is_end_stream());
        replay.settle();
        assert!(!replay.is_replayable());
    }
}
