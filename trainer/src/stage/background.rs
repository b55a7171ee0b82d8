//! A background thread that ends with the stage that started it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// A background thread. Dropping it signals the thread to end and joins it.
pub struct BackgroundThread {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl BackgroundThread {
    /// Starts the thread. `work` must check often whether its flag is set, and return when it is.
    pub fn start(work: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let ending = done.clone();
        Self { done, thread: Some(thread::spawn(move || work(&ending))) }
    }
}

impl Drop for BackgroundThread {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
