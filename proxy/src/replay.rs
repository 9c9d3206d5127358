//! A request body that can be sent again.
//!
//! The first attempt streams the body as it arrives, and a copy of what has passed is kept up to a bound. While the
//! copy is whole, a new attempt starts from it and then goes on with what is still to come. Past the bound the copy
//! is let go: the body streams on, and the request is not tried again.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use crate::body::BodyError;

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
#[derive(Clone)]
pub(crate) struct Replay(Rc<RefCell<Shared>>);

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
}

impl Replay {
    /// Takes the caller's body; nothing is read until an attempt reads it.
    pub(crate) fn new(incoming: Incoming, room: Rc<Room>) -> Self {
        let ended = incoming.is_end_stream();
        Self(Rc::new(RefCell::new(Shared {
            incoming,
            kept: Vec::new(),
            kept_bytes: 0,
            trailers: None,
            ended,
            overflowed: false,
            broken: false,
            attempt: 0,
            waker: None,
            bytes: 0,
            room,
        })))
    }

    /// The body for a new attempt; the one before it can read no more.
    pub(crate) fn attempt(&self) -> Attempt {
        let mut shared = self.0.borrow_mut();
        shared.attempt += 1;
        if let Some(waker) = shared.waker.take() {
            waker.wake(); // lets the stale attempt find out and reset its stream
        }
        Attempt { shared: self.0.clone(), number: shared.attempt, position: 0, trailers_sent: false }
    }

    /// A further attempt would send every byte again.
    pub(crate) fn is_replayable(&self) -> bool {
        let shared = self.0.borrow();
        !shared.overflowed && !shared.broken
    }

    /// The caller's own side of the body failed.
    pub(crate) fn is_broken(&self) -> bool {
        self.0.borrow().broken
    }

    /// Body bytes received from the caller so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.borrow().bytes
    }

    /// Nobody waits for an answer any more: what still reads the body stops.
    pub(crate) fn stop(&self) {
        let mut shared = self.0.borrow_mut();
        shared.attempt += 1;
        if let Some(waker) = shared.waker.take() {
            waker.wake();
        }
    }

    /// No further attempt will come: the copy is let go.
    pub(crate) fn settle(&self) {
        self.0.borrow_mut().overflow();
    }
}

impl Shared {
    fn keep(&mut self, data: &Bytes) {
        self.bytes += data.len() as u64;
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
    /// until it has: see [`Attempt::poll_frame`].
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
pub(crate) struct Attempt {
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
        let frame = std::task::ready!(Pin::new(&mut shared.incoming).poll_frame(cx));
        match frame {
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
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                shared.broken = true;
                Poll::Ready(Some(Err(BodyError::Caller(error))))
            }
            None => {
                shared.ended = true;
                Poll::Ready(None)
            }
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        let shared = self.shared.borrow();
        shared.attempt == self.number
            && shared.ended
            && self.position >= shared.kept.len()
            && (shared.trailers.is_none() || self.trailers_sent)
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
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
