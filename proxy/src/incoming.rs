//! A body as it arrives, whichever HTTP it came by.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use crate::http2::Received;

/// The body of a request from a caller or of an answer from an upstream.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// None: the exchange turns into a tunnel.
    Empty,
    /// By HTTP/1.
    Http1(hyper::body::Incoming),
    /// By HTTP/2.
    Http2(Received),
}

/// Why it did not arrive whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IncomingError {
    /// By HTTP/1.
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    /// By HTTP/2.
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

impl Incoming {
    /// The next frame; `None` after the last.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, IncomingError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(IncomingError::Http1),
            Self::Http2(body) => body.poll_frame(cx).map_err(IncomingError::Http2),
        }
    }

    /// Nothing more will come.
    pub(crate) fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    /// What is still to come.
    pub(crate) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}

impl From<hyper::body::Incoming> for Incoming {
    fn from(body: hyper::body::Incoming) -> Self {
        Self::Http1(body)
    }
}
