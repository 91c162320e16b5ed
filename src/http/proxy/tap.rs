//! A body that passes on piece by piece. A copy of its first bytes is kept, and its end can be noted.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

/// The most bytes of a body that are kept. Belvo's errors have some hundred bytes, and a request with a link seldom more.
pub(super) const COPY_BYTES_MAX: usize = 64 * 1024;

/// The copy of a body. The pieces share their memory with the body, so nothing is copied while it passes on.
#[derive(Default)]
struct Kept {
    pieces: Vec<Bytes>,
    size: usize,
    /// Whether the body ended with an error.
    is_broken: bool,
}

/// A copy that the body fills while others hold it.
#[derive(Clone, Default)]
pub(super) struct SharedCopy(Arc<Mutex<Kept>>);

impl SharedCopy {
    /// The bytes so far; empty if they were more than [`COPY_BYTES_MAX`].
    pub(super) fn bytes(&self) -> Bytes {
        match &self.lock().pieces[..] {
            [] => Bytes::new(),
            [piece] => piece.clone(),
            pieces => pieces.concat().into(),
        }
    }

    /// Whether the body ended with an error: its sender is gone, or has sent something that is no HTTP.
    pub(super) fn is_broken(&self) -> bool {
        self.lock().is_broken
    }

    fn keep(&self, piece: &Bytes) {
        let mut kept = self.lock();
        kept.size = kept.size.saturating_add(piece.len());
        if kept.size <= COPY_BYTES_MAX {
            kept.pieces.push(piece.clone());
        } else {
            kept.pieces = Vec::new();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What happens when the body has ended, or is not needed any more.
pub(super) type AtEnd = Box<dyn FnOnce() + Send>;

/// A body whose first bytes are kept.
pub(super) struct Tapped {
    // The client of the call needs a body that is `Sync`. The lock is never taken.
    body: Mutex<Body>,
    copy: SharedCopy,
    at_end: Mutex<Option<AtEnd>>,
}

impl Tapped {
    pub(super) fn new(body: Body, copy: SharedCopy, at_end: Option<AtEnd>) -> Self {
        Self { body: Mutex::new(body), copy, at_end: Mutex::new(at_end) }
    }

    fn body(&mut self) -> &mut Body {
        self.body.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    fn look<T>(&self, look: impl FnOnce(&Body) -> T) -> T {
        look(&self.body.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl HttpBody for Tapped {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let tapped = self.get_mut();
        let polled = Pin::new(tapped.body()).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => frame.data_ref().into_iter().for_each(|piece| tapped.copy.keep(piece)),
            Poll::Ready(Some(Err(_gone))) => tapped.copy.lock().is_broken = true,
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.look(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.look(HttpBody::size_hint)
    }
}

impl Drop for Tapped {
    fn drop(&mut self) {
        let at_end = self.at_end.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(at_end) = at_end {
            at_end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_passes_on_and_leaves_a_bounded_copy() {
        for (size, kept) in [(0, 0), (9, 9), (COPY_BYTES_MAX, COPY_BYTES_MAX), (COPY_BYTES_MAX + 1, 0)] {
            let (copy, sent) = (SharedCopy::default(), vec![b'x'; size]);
            let pieces: Vec<Result<Bytes, axum::Error>> =
                sent.chunks(1000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            let body = Body::from_stream(futures::stream::iter(pieces));
            let (ended, mut has_ended) = tokio::sync::oneshot::channel();
            let at_end = Box::new(move || ended.send(()).unwrap());
            let tapped = Body::new(Tapped::new(body, copy.clone(), Some(at_end)));
            assert!(has_ended.try_recv().is_err());
            let passed = axum::body::to_bytes(tapped, usize::MAX).await.unwrap();
            assert_eq!((passed.len(), copy.bytes().len()), (size, kept));
            has_ended.try_recv().unwrap();
        }
    }
}
