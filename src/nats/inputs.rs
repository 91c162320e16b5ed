//! The trait through which the jobs and the reconciler publish inputs.
//!
//! The jobs and the reconciler depend on this trait and not on NATS, so that a simulation can implement it.

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::contract::InputKind;
use crate::link::{LinkId, Timestamp};
use crate::nats::envelope;
use crate::nats::publisher::{PublishError, Publisher};
use crate::trace;

/// An input that a part of relink publishes.
#[derive(Clone, Debug)]
pub struct NewInput {
    /// The kind of the input.
    pub kind: InputKind,
    /// The link that the input is about.
    pub link: LinkId,
    /// The part of relink that publishes it: the `ce-source`.
    pub source: &'static str,
    /// When that part received it: the `ce-time`.
    pub at: Timestamp,
    /// The `ce-id`, if the publisher must recognise the input in the link's history. `None`: a random id.
    pub id: Option<String>,
    /// The body, JSON.
    pub body: Vec<u8>,
}

/// Publishes inputs to the input stream.
pub trait Inputs: Send + Sync {
    /// Stores one input. It returns when the server has acknowledged the input.
    ///
    /// # Errors
    /// [`PublishError`].
    fn put(&self, input: NewInput) -> BoxFuture<'_, Result<(), PublishError>>;
}

impl Inputs for Publisher {
    fn put(&self, input: NewInput) -> BoxFuture<'_, Result<(), PublishError>> {
        let NewInput { kind, link, source, at, id, body } = input;
        let mut headers = envelope::input_headers(kind, &link, source, at);
        if let Some(id) = id {
            headers.insert("ce-id", id);
        }
        envelope::insert_trace(&mut headers, trace::current().as_ref());
        let subject = self.subjects().input(kind, link.as_str());
        Box::pin(async move { self.publish(subject, headers, Bytes::from(body)).await.map(drop) })
    }
}
