//! The source of the Redis function library `sse`, also in the form for `EVALSHA`.

/// The version inside `sse.lua`. A gateway replaces only an older library.
pub const LIBRARY_VERSION: u32 = 4;
/// The version of names, ids and frames. A gateway of another version refuses to start on this
/// Redis.
pub const CONTRACT_VERSION: u32 = 2;
/// The number of events that one call of [`Function::PublishBatch`] takes at most.
pub const MAX_BATCH: usize = 64;

const SOURCE: &str = include_str!("../lua/sse.lua");

/// A function of the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// Publishes one event.
    Publish,
    /// Publishes up to [`MAX_BATCH`] events, each with its own answer.
    PublishBatch,
    /// Checks the epoch, raises the clock and returns it with the limits.
    Tick,
    /// Reads histories and the clock in one atomic step.
    Read,
    /// Begins a new epoch at an operator's request.
    Fence,
    /// Writes the limits and begins a new epoch.
    Settings,
}

impl Function {
    /// Every function, in the order in which the library defines them.
    pub const ALL: [Function; 6] = [
        Function::Publish,
        Function::PublishBatch,
        Function::Tick,
        Function::Read,
        Function::Fence,
        Function::Settings,
    ];

    /// The function's name for `FCALL`.
    pub fn name(self) -> &'static str {
        match self {
            Function::Publish => "sse_publish",
            Function::PublishBatch => "sse_publish_batch",
            Function::Tick => "sse_tick",
            Function::Read => "sse_read",
            Function::Fence => "sse_fence",
            Function::Settings => "sse_settings",
        }
    }
}

/// The source for `FUNCTION LOAD`.
pub fn library_source() -> &'static str {
    SOURCE
}

/// Everything that publishing needs stands above this line of the library. Running a script costs
/// Redis some nanoseconds for each of its lines, so the scripts that publish leave out the rest.
const GATEWAYS: &str = "\n-- For gateways and operators.";

/// The script for `SCRIPT LOAD` and `EVAL` where the server refuses `FUNCTION`: the library without
/// its first line, followed by a call of one function. Its flags are those that the library
/// registers the function with.
pub fn eval_script(function: Function) -> String {
    let (_, body) = SOURCE.split_once('\n').expect("the library has a first line");
    let (publishing, _) = body.split_once(GATEWAYS).expect("the library says what is for gateways");
    let (head, body) = match function {
        Function::Publish | Function::PublishBatch => ("", publishing),
        _ => ("#!lua flags=allow-oom\n", body),
    };
    format!("{head}{body}return {}(KEYS, ARGV)\n", function.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_this_version_and_these_functions() {
        assert!(SOURCE.contains(&format!("local LIBRARY_VERSION = {LIBRARY_VERSION}\n")));
        assert!(SOURCE.contains(&format!("local CONTRACT_VERSION = {CONTRACT_VERSION}\n")));
        for function in Function::ALL {
            assert!(SOURCE.contains(&format!("local function {}(", function.name())));
        }
        let (publishing, _) = SOURCE.split_once(GATEWAYS).unwrap();
        for function in [Function::Publish, Function::PublishBatch] {
            assert!(publishing.contains(&format!("local function {}(", function.name())));
        }
        assert!(SOURCE.contains(&format!("local MAX_BATCH = {MAX_BATCH}\n")));
        for (n, function) in Function::ALL.into_iter().enumerate() {
            assert_eq!(function as usize, n, "callers index by it");
        }
    }
}
