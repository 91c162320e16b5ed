//! The threads of all work behind the HTTP server. With `RELINK_WEBHOOKS_FIRST` they get less of a busy CPU than the threads that answer
//! requests (Linux).
//!
//! A webhook is safe as soon as it is in the journal, and Belvo gives up on a webhook that is answered too late. What follows can wait: so
//! while more webhooks arrive than one machine can handle, they are taken in at full speed, and handled as soon as there is time. On a CPU
//! that is not busy the priority changes nothing. The price: a busy program in the same control group gets ten times the CPU of the node.

use std::io;

use tokio::runtime::{Builder, Runtime};
use tokio_util::task::AbortOnDropHandle;

use super::Task;
use crate::os;

/// A runtime of its own.
pub(super) struct Background(Option<Runtime>);

impl Background {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub(super) fn start(webhooks_first: bool) -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.thread_name("background").enable_all();
        if webhooks_first {
            builder.on_thread_start(os::lower_thread_priority);
        }
        Ok(Self(Some(builder.build()?)))
    }

    fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("only drop takes it")
    }

    /// Starts a task. What it starts runs on these threads too.
    pub(super) fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> Task<T> {
        AbortOnDropHandle::new(self.runtime().spawn(task))
    }

    /// Calls a function whose tasks run on these threads.
    pub(super) fn call<T>(&self, starts: impl FnOnce() -> T) -> T {
        let _context = self.runtime().enter();
        starts()
    }

    /// Waits for a future on these threads.
    pub(super) async fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        match self.spawn(future).await {
            Ok(output) => output,
            Err(ended) => std::panic::resume_unwind(ended.into_panic()),
        }
    }
}

impl Drop for Background {
    /// A runtime may not be dropped where it would have to wait for its threads. Everything that has to end in order has ended before.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
