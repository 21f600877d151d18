//! How to make sure that the library's functions can be called. It sends nothing: its caller sends
//! each command and passes on the answer. So the gateway and the publishers cannot differ.
//!
//! Functions vanish when Redis restarts without persistence, so every new connection asks for them.
//! Where a user may not load functions, the same text runs as scripts.

use crate::{Call, Function, LIBRARY_VERSION, Meaning, eval_script, library_source, meaning};

/// How the functions are called.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Way {
    /// By `FCALL`.
    #[default]
    Functions,
    /// By `EVALSHA`: the digest of each function's script.
    Scripts(Vec<(Function, String)>),
}

impl Way {
    /// The two words that begin a call of a function. The call's own words follow. `None` if the
    /// function is not among those that were loaded as scripts.
    pub fn head(&self, function: Function) -> Option<[&str; 2]> {
        match self {
            Way::Functions => Some(["FCALL", function.name()]),
            Way::Scripts(digests) => {
                let (_, digest) = digests.iter().find(|(loaded, _)| *loaded == function)?;
                Some(["EVALSHA", digest])
            }
        }
    }

    /// All words of a call. `None` as for [`Way::head`].
    pub fn words<'a>(&'a self, call: &'a Call<'_>) -> Option<impl Iterator<Item = &'a [u8]>> {
        let head = self.head(call.function())?;
        Some(head.into_iter().map(str::as_bytes).chain(call.words()))
    }
}

/// An answer of Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A number.
    Integer(i64),
    /// A text.
    Text(String),
    /// An error: its code, then its words.
    Error(String),
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send this command, and pass the answer to [`Loading::answered`].
    Send(Vec<String>),
    /// The functions can be called in this way.
    Done(Way, Found),
    /// Redis cannot be used now: it answered this error.
    Failed(String),
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The library was there, in this version or a newer one.
    Library,
    /// The library was missing or older, and was loaded.
    Nothing,
    /// This user may not load functions, for this reason. So no `FCALL` serves others either.
    LoadRefused(String),
    /// This user may not call functions, for this reason.
    CallRefused(String),
}

/// The loading of the library by one connection.
#[derive(Debug)]
pub struct Loading {
    functions: &'static [Function],
    state: State,
}

#[derive(Debug)]
enum State {
    /// Asks for the version.
    Version,
    /// Loads the library.
    Load,
    /// Loads scripts, because functions were refused.
    Scripts(Vec<(Function, String)>, Found),
}

impl Loading {
    /// Begins to load these functions; at least one. Returns the first command to send.
    pub fn begin(functions: &'static [Function]) -> (Self, Step) {
        let loading = Loading { functions, state: State::Version };
        (loading, ask_version())
    }

    /// Takes in the answer to the last command.
    pub fn answered(&mut self, reply: Reply) -> Step {
        match (&mut self.state, reply) {
            (_, Reply::Error(error)) if is_passing(code(&error)) => Step::Failed(error),
            (State::Version, Reply::Integer(version)) if version >= LIBRARY_VERSION.into() => {
                Step::Done(Way::Functions, Found::Library)
            }
            (State::Version, Reply::Integer(_) | Reply::Text(_)) => {
                self.load(&["FUNCTION", "LOAD", "REPLACE", library_source()])
            }
            // Without REPLACE: a newer library may have been loaded since the question, and must
            // stay.
            (State::Version, Reply::Error(error)) if meaning(&error) == Meaning::Missing => {
                self.load(&["FUNCTION", "LOAD", library_source()])
            }
            (State::Version, Reply::Error(error)) => self.script(Found::CallRefused(error)),
            // Another program has loaded it since the question, perhaps an older one.
            (State::Load, Reply::Error(error)) if error.contains("already exists") => {
                self.state = State::Version;
                ask_version()
            }
            (State::Load, Reply::Error(error)) => self.script(Found::LoadRefused(error)),
            (State::Load, _) => Step::Done(Way::Functions, Found::Nothing),
            (State::Scripts(digests, found), Reply::Text(digest)) => {
                digests.push((self.functions[digests.len()], digest));
                match self.functions.get(digests.len()) {
                    Some(next) => load_script(*next),
                    None => {
                        let (digests, found) = (std::mem::take(digests), found.clone());
                        Step::Done(Way::Scripts(digests), found)
                    }
                }
            }
            (State::Scripts(..), Reply::Error(error)) => Step::Failed(error),
            (State::Scripts(..), Reply::Integer(n)) => {
                Step::Failed(format!("SCRIPT LOAD answered {n}"))
            }
        }
    }

    fn load(&mut self, words: &[&str]) -> Step {
        self.state = State::Load;
        send(words)
    }

    fn script(&mut self, found: Found) -> Step {
        self.state = State::Scripts(Vec::new(), found);
        load_script(self.functions[0])
    }
}

fn send(words: &[&str]) -> Step {
    Step::Send(words.iter().map(|word| (*word).to_owned()).collect())
}

fn ask_version() -> Step {
    send(&["FCALL", "sse_version", "0"])
}

fn load_script(function: Function) -> Step {
    send(&["SCRIPT", "LOAD", &eval_script(function)])
}

fn code(error: &str) -> &str {
    error.split(' ').next().unwrap_or_default()
}

/// Whether a server leaves the state that this error code names by itself, or by a failover. Only
/// to be asked before anything is published.
pub fn is_passing(code: &str) -> bool {
    matches!(
        code,
        "LOADING"
            | "READONLY"
            | "MASTERDOWN"
            | "CLUSTERDOWN"
            | "TRYAGAIN"
            | "BUSY"
            | "OOM"
            | "MISCONF"
            | "NOREPLICAS"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &[Function] = &[Function::Publish, Function::PublishBatch];

    fn error(text: &str) -> Reply {
        Reply::Error(text.to_owned())
    }

    /// Answers each command in turn. Returns the first two words of each command, and the end.
    fn loaded(replies: impl IntoIterator<Item = Reply>) -> (Vec<String>, Step) {
        let (mut loading, mut step) = Loading::begin(BOTH);
        let (mut sent, mut replies) = (Vec::new(), replies.into_iter());
        while let Step::Send(words) = &step {
            let words: Vec<&str> =
                words.iter().map(String::as_str).filter(|word| word.len() < 20).collect();
            sent.push(words.join(" "));
            step = loading.answered(replies.next().expect("no further command"));
        }
        assert_eq!(replies.next(), None, "all answers are asked for");
        (sent, step)
    }

    #[test]
    fn a_library_of_this_version_or_a_newer_one_is_used_as_it_is() {
        for version in [LIBRARY_VERSION, LIBRARY_VERSION + 1] {
            let (sent, end) = loaded([Reply::Integer(version.into())]);
            assert_eq!(sent, ["FCALL sse_version 0"]);
            assert_eq!(end, Step::Done(Way::Functions, Found::Library));
        }
    }

    #[test]
    fn an_older_library_is_replaced_and_a_missing_one_is_loaded() {
        let missing = || error("ERR Function not found");
        let loads = || Reply::Text("sse".to_owned());
        let (sent, end) = loaded([Reply::Integer(1), loads()]);
        assert_eq!(sent[1], "FUNCTION LOAD REPLACE");
        assert_eq!(end, Step::Done(Way::Functions, Found::Nothing));
        let (sent, end) = loaded([missing(), loads()]);
        assert_eq!(sent[1], "FUNCTION LOAD");
        assert_eq!(end, Step::Done(Way::Functions, Found::Nothing));
        // Another program loaded it meanwhile: the same one, or an older one.
        let exists = || error("ERR Library 'sse' already exists");
        let (_, end) = loaded([missing(), exists(), Reply::Integer(LIBRARY_VERSION.into())]);
        assert_eq!(end, Step::Done(Way::Functions, Found::Library));
        let (sent, end) = loaded([missing(), exists(), Reply::Integer(1), loads()]);
        assert_eq!(sent[3], "FUNCTION LOAD REPLACE");
        assert_eq!(end, Step::Done(Way::Functions, Found::Nothing));
    }

    #[test]
    fn who_may_not_use_functions_uses_scripts() {
        let digests = || ["a", "b"].map(|digest| Reply::Text(digest.to_owned()));
        let scripts = || Way::Scripts(vec![(BOTH[0], "a".to_owned()), (BOTH[1], "b".to_owned())]);
        let refused = "NOPERM not this".to_owned();
        let (sent, end) = loaded([error(&refused)].into_iter().chain(digests()));
        assert_eq!(sent, ["FCALL sse_version 0", "SCRIPT LOAD", "SCRIPT LOAD"]);
        assert_eq!(end, Step::Done(scripts(), Found::CallRefused(refused.clone())));
        let asked = [error("ERR Function not found"), error(&refused)];
        let (sent, end) = loaded(asked.into_iter().chain(digests()));
        assert_eq!(sent.len(), 4);
        assert_eq!(end, Step::Done(scripts(), Found::LoadRefused(refused)));

        let way = scripts();
        assert_eq!(way.head(Function::PublishBatch), Some(["EVALSHA", "b"]));
        assert_eq!(way.head(Function::Tick), None);
        assert_eq!(Way::Functions.head(Function::Tick), Some(["FCALL", "sse_tick"]));
    }

    #[test]
    fn what_redis_leaves_by_itself_is_no_reason_for_scripts() {
        let loading = || error("LOADING Redis is loading the dataset in memory");
        let Reply::Error(text) = loading() else { unreachable!() };
        let (sent, end) = loaded([loading()]);
        assert_eq!((sent.len(), end), (1, Step::Failed(text.clone())));
        let (_, end) = loaded([error("ERR Function not found"), loading()]);
        assert_eq!(end, Step::Failed(text));
        let refused = "NOPERM not this";
        let (_, end) = loaded([error(refused), error(refused)]);
        assert_eq!(end, Step::Failed(refused.to_owned()));
        let (_, end) = loaded([error(refused), Reply::Integer(5)]);
        assert_eq!(end, Step::Failed("SCRIPT LOAD answered 5".to_owned()));
    }
}
