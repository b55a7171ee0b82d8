//! Ctrl-C and SIGTERM, seen once and remembered. Talks to the operating system only.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use plumbline_crds::exit_code::ExitCode;
use signal_hook::consts::SIGINT;
use signal_hook::flag;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Whether this process was asked to stop.
#[derive(Clone, Debug)]
pub struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Starts to listen. From now on the first of these signals no longer ends the process by itself; a second Ctrl-C
    /// does, at once, whatever is being done.
    pub fn listen() -> io::Result<Self> {
        let impatient = Arc::new(AtomicBool::new(false));
        let status = i32::from(ExitCode::Interrupted.number());
        flag::register_conditional_shutdown(SIGINT, status, Arc::clone(&impatient))?;
        flag::register(SIGINT, impatient)?;
        let (sender, receiver) = watch::channel(false);
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                sender.send_replace(true);
            }
        });
        Ok(Self(receiver))
    }

    /// Whether it happened.
    pub fn happened(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for it.
    pub async fn wait(&mut self) {
        // The sender lives as long as the runtime; without it nothing can happen any more.
        if self.0.wait_for(|happened| *happened).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Sleeps; less long if it happens.
    pub async fn sleep(&mut self, duration: Duration) {
        tokio::select! {
            () = tokio::time::sleep(duration) => {}
            () = self.wait() => {}
        }
    }
}
