//! Calls the function library in Redis, and loads it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use redis::Cmd;
use sse_contract::{Call, Found, Function, LIBRARY_VERSION, Loading, Reply, Step, Way};

/// How a partition's Redis is asked to run functions. Shared by all connections to it.
#[derive(Debug)]
pub(crate) struct Library {
    way: Mutex<Way>,
    /// The partition's number for logs, if there are several.
    label: Option<u16>,
}

impl Library {
    /// Creates a library that is called by `FCALL` until `ensure` has found another way. `label` is
    /// the partition's number for logs, if there are several.
    pub(crate) fn new(label: Option<u16>) -> Self {
        Library { way: Mutex::default(), label }
    }

    /// The command for a call.
    pub(crate) fn command(&self, call: &Call<'_>) -> Cmd {
        let mut cmd = Cmd::new();
        for word in self.way().words(call).expect("every function is loaded") {
            cmd.arg(word);
        }
        cmd
    }

    /// Loads the library unless it is there in this version or a newer one. `call` sends one
    /// command and returns the answer; an error of `call` (a broken connection) is returned as it
    /// is. Also fails if Redis cannot load it now, or refuses both `FUNCTION LOAD` and
    /// `SCRIPT LOAD`.
    pub(crate) async fn ensure<E: From<String>>(
        &self,
        mut call: impl AsyncFnMut(Cmd) -> Result<Reply, E>,
    ) -> Result<(), E> {
        let (mut loading, mut step) = Loading::begin(&Function::ALL);
        loop {
            match step {
                Step::Send(words) => {
                    let mut cmd = Cmd::new();
                    cmd.arg(words);
                    step = loading.answered(call(cmd).await?);
                }
                Step::Done(way, found) => {
                    self.report(&found);
                    *self.way() = way;
                    return Ok(());
                }
                Step::Failed(error) => {
                    return Err(E::from(format!("the library cannot be loaded: {error}")));
                }
            }
        }
    }

    fn way(&self) -> MutexGuard<'_, Way> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, found: &Found) {
        let partition = self.label;
        match found {
            Found::Library => {}
            Found::Nothing => tracing::info!(
                partition,
                library.version = LIBRARY_VERSION,
                "the function library is loaded"
            ),
            Found::LoadRefused(error) => tracing::warn!(
                partition,
                %error,
                "FUNCTION LOAD is refused; EVALSHA serves this gateway, but no FCALL serves others"
            ),
            Found::CallRefused(error) => tracing::debug!(
                partition,
                %error,
                "FCALL is refused; functions are called by EVALSHA"
            ),
        }
    }
}
