//! The meaning of an error that answers a publish. Only this module decides whether an error proves
//! that an event was not published. The gateway and `sse-publish` both use it, so they cannot
//! disagree.

use crate::EventId;

/// What an error means for the event that it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The function or script is not loaded, so nothing ran. Load the library and call again.
    Missing,
    /// The event, a name or an argument is invalid. Nothing was written. Redis would refuse it
    /// again.
    Invalid,
    /// The idempotency key was used for another payload. Nothing was written.
    Conflict,
    /// The Redis user lacks a right that publishing needs. Nothing was written.
    Denied,
    /// The data lives in another epoch than the caller named. Nothing was written. Find the master,
    /// read its epoch and send the event again.
    OtherEpoch,
    /// Redis refused a step. What had been written was undone, and nothing was sent live. The event
    /// may be sent again freely.
    Undone,
    /// The state belongs to another contract version or number of partitions. Nothing was written.
    Mismatch,
    /// Redis Cluster has the keys elsewhere, is moving them, or is down. Nothing ran, or what ran was
    /// undone. Find the partition's master and send the event again.
    Elsewhere,
    /// It is unknown whether the event was published, so no program may repeat it on its own.
    ///
    /// This is the meaning of every error without one of the script's own codes, whatever Redis
    /// calls it. Redis can raise an error before the script, in the middle of it, or in another
    /// script of that name. Treating such an error after a publication as "nothing was sent" once
    /// made four events of one.
    Unknown,
}

/// The meaning of an error, given its whole text, `CODE words`.
pub fn meaning(error: &str) -> Meaning {
    match error.split(' ').next().unwrap_or_default() {
        "SSEINVALID" => Meaning::Invalid,
        "SSECONFLICT" => Meaning::Conflict,
        "SSEDENIED" => Meaning::Denied,
        "SSEEPOCH" => Meaning::OtherEpoch,
        "SSEUNDONE" if is_moving(error) => Meaning::Elsewhere,
        "SSEUNDONE" => Meaning::Undone,
        "SSEMISMATCH" => Meaning::Mismatch,
        // A running script cannot cause these two errors, because a script cannot call functions or
        // scripts.
        "NOSCRIPT" => Meaning::Missing,
        // Redis Cluster looks at a call's keys before it runs the call. Within a script it answers
        // "ERR Script attempted to access a non local key" instead.
        "MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN" => Meaning::Elsewhere,
        _ if error.trim_end_matches('.') == "ERR Function not found" => Meaning::Missing,
        _ => Meaning::Unknown,
    }
}

/// Whether the library undid an event because Redis Cluster is moving the partition: a key that the
/// call does not name, the witness, has gone already or has not come yet.
fn is_moving(error: &str) -> bool {
    error.contains(NON_LOCAL) || error.contains(NO_WITNESS)
}

/// How Redis 7.0 to 8 answer a script that touches a key of another server.
const NON_LOCAL: &str = "attempted to access a non local key";

/// How the library answers where the witness is not here.
const NO_WITNESS: &str = "the partition has no witness here";

/// The words of an error for people: without the code if it is one of the script's own, else the
/// whole text.
pub fn detail(error: &str) -> &str {
    match (meaning(error), error.split_once(' ')) {
        (Meaning::Unknown | Meaning::Missing, _) | (_, None) => error,
        (Meaning::Elsewhere, Some((code, _))) if code != "SSEUNDONE" => error,
        (_, Some((_, words))) => words,
    }
}

/// Reads one text of a batch's answer: the event's id, or the error's meaning and its words for
/// people.
pub fn batch_answer(text: &str) -> Result<EventId, (Meaning, &str)> {
    text.parse().map_err(|_| (meaning(text), detail(text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_scripts_own_codes_say_that_nothing_was_published() {
        for (error, expected) in [
            ("SSEINVALID data: 2 bytes, at most 1", Meaning::Invalid),
            ("SSECONFLICT idempotency_key: …", Meaning::Conflict),
            ("SSEDENIED this user may not SET sse:idem:a|k", Meaning::Denied),
            ("SSEEPOCH the data lives in epoch 1, the caller in 2", Meaning::OtherEpoch),
            ("SSEUNDONE WRONGTYPE …", Meaning::Undone),
            ("SSEMISMATCH version: …", Meaning::Mismatch),
            ("NOSCRIPT No matching script. Please use EVAL.", Meaning::Missing),
            ("ERR Function not found", Meaning::Missing),
            ("MOVED 10106 127.0.0.1:7401", Meaning::Elsewhere),
            ("ASK 10106 127.0.0.1:7401", Meaning::Elsewhere),
            ("TRYAGAIN Multiple keys request during rehashing of slot", Meaning::Elsewhere),
            ("CLUSTERDOWN Hash slot not served", Meaning::Elsewhere),
            (
                "SSEUNDONE ERR Script attempted to access a non local key in a cluster node",
                Meaning::Elsewhere,
            ),
            ("SSEUNDONE the partition has no witness here: it is being …", Meaning::Elsewhere),
            ("ERR Script attempted to access a non local key in a cluster node", Meaning::Unknown),
            // Errors of Redis itself, before a script, within it or about it.
            ("NOPERM this user has no permissions to run the 'fcall' command", Meaning::Unknown),
            ("ERR The user executing the script can't run this command", Meaning::Unknown),
            ("OOM command not allowed when used memory > 'maxmemory'.", Meaning::Unknown),
            ("READONLY You can't write against a read only replica.", Meaning::Unknown),
            ("ERR Function not found, said a script that had published", Meaning::Unknown),
            ("SSEINVALIDATED", Meaning::Unknown),
            ("xSSEINVALID x", Meaning::Unknown),
            ("", Meaning::Unknown),
        ] {
            assert_eq!(meaning(error), expected, "{error}");
        }
    }

    #[test]
    fn the_librarys_words_are_those_that_are_looked_for() {
        assert!(crate::library_source().contains(NO_WITNESS));
    }

    #[test]
    fn a_batch_answers_ids_and_errors() {
        assert_eq!(batch_answer("5-65536"), Ok(EventId { ms: 5, seq: 65536 }));
        let invalid = batch_answer("SSEINVALID data: 2 bytes, at most 1");
        assert_eq!(invalid, Err((Meaning::Invalid, "data: 2 bytes, at most 1")));
        assert_eq!(batch_answer("SSEUNDONE"), Err((Meaning::Undone, "SSEUNDONE")));
        assert_eq!(batch_answer("OOM no"), Err((Meaning::Unknown, "OOM no")));
        assert_eq!(batch_answer("MOVED 1 a:1"), Err((Meaning::Elsewhere, "MOVED 1 a:1")));
        assert_eq!(batch_answer(""), Err((Meaning::Unknown, "")));
    }

    proptest! {
        #[test]
        fn what_is_not_an_own_code_is_unknown(code in "[A-Z]{0,8}", words in ".{0,30}") {
            let error = format!("{code} {words}");
            let own = ["SSEINVALID", "SSECONFLICT", "SSEDENIED", "SSEEPOCH", "SSEUNDONE", "SSEMISMATCH", "NOSCRIPT"];
            prop_assume!(!own.contains(&code.as_str()) && !error.starts_with("ERR Function not found"));
            prop_assert_eq!(meaning(&error), Meaning::Unknown);
        }
    }
}
