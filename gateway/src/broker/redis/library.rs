//! Calls the function library in Redis, and loads it.
//!
//! Functions vanish when Redis restarts without persistence, so every new session checks for them.
//! Where the server refuses `FUNCTION`, the same text runs by `EVALSHA`.

use std::sync::{Mutex, PoisonError};

use redis::Cmd;
use sse_contract::{
    Call, Function, LIBRARY_VERSION, Meaning, eval_script, library_source, meaning,
};

/// How this Redis is asked to run functions. Shared by all connections to it.
#[derive(Debug, Default)]
pub(crate) struct Library {
    /// The `EVALSHA` digests of the functions, in the order of [`Function::ALL`]. `None` while
    /// `FCALL` works.
    scripts: Mutex<Option<Vec<String>>>,
}

/// An answer, reduced to what `ensure` needs. The ingest and the pool have different types of
/// answers, and both convert theirs to this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A number.
    Integer(i64),
    /// A text.
    Text(String),
    /// An error reply of the server.
    Error(String),
}

impl Library {
    /// The command for a call.
    pub(crate) fn command(&self, call: &Call<'_>) -> Cmd {
        let scripts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cmd = match scripts.as_ref() {
            None => {
                let mut cmd = redis::cmd("FCALL");
                cmd.arg(call.function().name());
                cmd
            }
            Some(digests) => {
                let mut cmd = redis::cmd("EVALSHA");
                cmd.arg(&digests[call.function() as usize]);
                cmd
            }
        };
        drop(scripts);
        for word in call.words() {
            cmd.arg(word);
        }
        cmd
    }

    /// Loads the library unless it is there in this version or a newer one. `call` sends one
    /// command and returns the answer; an error of `call` (a broken connection) is returned as it
    /// is. Also fails if Redis refuses both `FUNCTION LOAD` and `SCRIPT LOAD`.
    pub(crate) async fn ensure<E: From<String>>(
        &self,
        mut call: impl AsyncFnMut(Cmd) -> Result<Answer, E>,
    ) -> Result<(), E> {
        let mut version = redis::cmd("FCALL");
        version.arg("sse_version").arg(0);
        let refused = match call(version.clone()).await? {
            Answer::Integer(found) if found >= i64::from(LIBRARY_VERSION) => {
                self.set_scripts(None);
                return Ok(());
            }
            Answer::Integer(_) | Answer::Text(_) => None,
            Answer::Error(error) if meaning(&error) == Meaning::Missing => None,
            Answer::Error(error) => Some(error),
        };
        if refused.is_none() {
            let mut load = redis::cmd("FUNCTION");
            load.arg("LOAD").arg("REPLACE").arg(library_source());
            match call(load).await? {
                Answer::Error(error) => tracing::warn!(
                    %error,
                    "FUNCTION LOAD is refused; EVALSHA serves this gateway, but no FCALL serves others"
                ),
                _ => {
                    tracing::info!(
                        library.version = LIBRARY_VERSION,
                        "the function library is loaded"
                    );
                    self.set_scripts(None);
                    return Ok(());
                }
            }
        }
        let mut digests = Vec::new();
        for function in Function::ALL {
            let mut load = redis::cmd("SCRIPT");
            load.arg("LOAD").arg(eval_script(function));
            match call(load).await? {
                Answer::Text(digest) => digests.push(digest),
                other => {
                    return Err(E::from(format!(
                        "Redis refuses both FUNCTION and SCRIPT LOAD to this user: {other:?}"
                    )));
                }
            }
        }
        tracing::debug!("functions are called by EVALSHA");
        self.set_scripts(Some(digests));
        Ok(())
    }

    fn set_scripts(&self, scripts: Option<Vec<String>>) {
        *self.scripts.lock().unwrap_or_else(PoisonError::into_inner) = scripts;
    }
}
