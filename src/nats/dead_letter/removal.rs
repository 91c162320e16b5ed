//! Removes a dead letter for ever. relink never does it by itself: an operator has read the letter and does not need it.

use super::{DeadLetterError, DeadLetters, StoredLetter};
use crate::nats::limit::{READ_TIMEOUT, connected, within};

impl DeadLetters {
    /// Removes a letter that was read. The server overwrites its bytes. No other letter gets its sequence.
    ///
    /// # Errors
    /// [`DeadLetterError::NotRemoved`]; then the letter may be removed or not.
    pub async fn remove(&self, letter: &StoredLetter) -> Result<(), DeadLetterError> {
        let stream = self.subjects.dead_stream();
        let removed = async {
            connected(&self.context.client()).await?;
            within(READ_TIMEOUT, async {
                let stream = self.context.get_stream_no_info(&stream).await.map_err(|error| error.to_string())?;
                stream.delete_message(letter.sequence).await.map_err(|error| error.to_string())
            })
            .await
        };
        match removed.await {
            Ok(_true) => Ok(()),
            Err(detail) => Err(DeadLetterError::NotRemoved { stream, detail }),
        }
    }
}
