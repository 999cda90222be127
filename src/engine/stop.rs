//! How a person stops a run: once to finish what runs, twice to drop it.

use std::sync::Arc;

use tokio::sync::watch;

/// The wish to stop, shared by whoever hears it (a signal handler) and the engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stop {
    asked: Arc<watch::Sender<bool>>,
    now: Arc<watch::Sender<bool>>,
}

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}

impl Stop {
    /// Nobody has asked yet.
    pub fn new() -> Self {
        Self { asked: Arc::new(watch::Sender::new(false)), now: Arc::new(watch::Sender::new(false)) }
    }

    /// Asks. The first time: finish running steps; the second time: stop now. Returns true for the second time.
    pub fn ask(&self) -> bool {
        let again = self.asked.send_replace(true);
        if again {
            self.now.send_replace(true);
        }
        again
    }

    /// True when anybody has asked.
    pub fn asked(&self) -> bool {
        *self.asked.borrow()
    }

    /// Ends when somebody asks.
    pub async fn until_asked(&self) {
        until(&self.asked).await;
    }

    /// Ends when somebody asks for the second time.
    pub async fn until_now(&self) {
        until(&self.now).await;
    }

    /// What running steps hear: true when everything is to stop now.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.now.subscribe()
    }

    /// Asks whenever the process gets SIGINT or SIGTERM, from now on. `told` is called each time with whether it is to
    /// stop now.
    ///
    /// # Errors
    /// When no signal handler can be installed.
    pub fn on_signals(&self, told: impl Fn(bool) + Send + 'static) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let stop = self.clone();
        tokio::spawn(async move {
            loop {
                let heard = tokio::select! { heard = int.recv() => heard, heard = term.recv() => heard };
                if heard.is_none() {
                    return;
                }
                told(stop.ask());
            }
        });
        Ok(())
    }
}

async fn until(sender: &watch::Sender<bool>) {
    let mut receiver = sender.subscribe();
    if receiver.wait_for(|set| *set).await.is_err() {
        std::future::pending::<()>().await;
    }
}
