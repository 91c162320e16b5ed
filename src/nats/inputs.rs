//! The input stream, as far as relink's own parts need it: somewhere to put what they have learnt.
//!
//! The jobs and the reconciler know this trait and not the bus, so that a simulation can stand behind it.

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::contract::InputKind;
use crate::link::{LinkId, Timestamp};
use crate::nats::envelope;
use crate::nats::publisher::{PublishError, Publisher};

/// An input that a part of relink publishes.
#[derive(Clone, Debug)]
pub struct NewInput {
    /// What kind of news it is.
    pub kind: InputKind,
    /// Which link it is about.
    pub link: LinkId,
    /// Which part says so: the `ce-source`.
    pub source: &'static str,
    /// When it was heard.
    pub at: Timestamp,
    /// What marks it for whoever has to recognise it in the link's history; else it gets some id.
    pub id: Option<String>,
    /// The body, JSON.
    pub body: Vec<u8>,
}

/// The way into the input stream.
pub trait Inputs: Send + Sync {
    /// Stores one input; on the disk when this is through.
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
        let subject = self.subjects().input(kind, link.as_str());
        Box::pin(async move { self.publish(subject, headers, Bytes::from(body)).await.map(drop) })
    }
}
