//! Removes a dead letter for ever. relink never does it by itself: an operator has read the letter and does not need it.

use tokio::time::timeout;

use super::{DeadLetterError, DeadLetters};
use crate::nats::limit::{READ_TIMEOUT, connected};

impl DeadLetters {
    /// Removes a letter. The server overwrites its bytes. No other letter gets its sequence.
    ///
    /// # Errors
    /// [`DeadLetterError::NotRemoved`]; then the letter may be removed or not. [`DeadLetterError::NotFound`].
    pub async fn remove(&self, sequence: u64) -> Result<(), DeadLetterError> {
        // Reads it first: the server answers the same for a sequence that never existed and for other errors.
        self.get(sequence).await?;
        let stream = self.subjects.dead_stream();
        let failed = |detail: String| DeadLetterError::NotRemoved { stream: stream.clone(), detail };
        connected(&self.context.client()).await.map_err(failed)?;
        let removed = timeout(READ_TIMEOUT, async {
            let stream = self.context.get_stream_no_info(&stream).await.map_err(|error| error.to_string())?;
            stream.delete_message(sequence).await.map_err(|error| error.to_string())
        });
        match removed.await {
            Ok(Ok(_true)) => Ok(()),
            Ok(Err(detail)) => Err(failed(detail)),
            Err(_) => Err(failed("NATS did not answer".to_owned())),
        }
    }
}
