//! What an error that answers a publish means: the one place that decides whether an event may be said not
//! to have been published. The gateway and `sse-publish` both ask here, so that they cannot disagree.

use crate::EventId;

/// What an error means for the event it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The function or script is not there, so nothing ran: load the library and call again.
    Missing,
    /// The event, a name or an argument is not valid. Nothing was written, and it would be refused again.
    Invalid,
    /// The idempotency key was used for another payload. Nothing was written.
    Conflict,
    /// The user lacks a right that publishing needs. Nothing was written.
    Denied,
    /// The data lives in another epoch than the caller. Nothing was written; find the master, ask for its
    /// epoch and send it again.
    OtherEpoch,
    /// Redis refused a step; what had been written was taken back and nothing was sent live. It may be sent
    /// again freely.
    Undone,
    /// Another version of the contract, or another number of partitions. Nothing was written.
    Mismatch,
    /// Nobody can say whether the event was published, so no program repeats it on its own account.
    ///
    /// Whatever is not one of the script's own codes is this, whatever Redis calls it: an error of Redis
    /// may be raised before the script, in the middle of it, or by a script of somebody else. Told as
    /// "nothing was sent", such an error behind a publication made four events of one.
    Unknown,
}

/// What an error's whole text, `CODE words`, means.
pub fn meaning(error: &str) -> Meaning {
    match error.split(' ').next().unwrap_or_default() {
        "SSEINVALID" => Meaning::Invalid,
        "SSECONFLICT" => Meaning::Conflict,
        "SSEDENIED" => Meaning::Denied,
        "SSEEPOCH" => Meaning::OtherEpoch,
        "SSEUNDONE" => Meaning::Undone,
        "SSEMISMATCH" => Meaning::Mismatch,
        // Neither can come out of a script that runs: a script cannot call functions or scripts.
        "NOSCRIPT" => Meaning::Missing,
        _ if error.trim_end_matches('.') == "ERR Function not found" => Meaning::Missing,
        _ => Meaning::Unknown,
    }
}

/// The words for people: those behind one of the script's own codes, else the whole text.
pub fn detail(error: &str) -> &str {
    match (meaning(error), error.split_once(' ')) {
        (Meaning::Unknown | Meaning::Missing, _) | (_, None) => error,
        (_, Some((_, words))) => words,
    }
}

/// One text of a batch's answer: the event's id, or what became of it and the words for people.
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
            // What Redis itself says, before a script, within it or of it.
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
    fn a_batch_answers_ids_and_errors() {
        assert_eq!(batch_answer("5-65536"), Ok(EventId { ms: 5, seq: 65536 }));
        let invalid = batch_answer("SSEINVALID data: 2 bytes, at most 1");
        assert_eq!(invalid, Err((Meaning::Invalid, "data: 2 bytes, at most 1")));
        assert_eq!(batch_answer("SSEUNDONE"), Err((Meaning::Undone, "SSEUNDONE")));
        assert_eq!(batch_answer("OOM no"), Err((Meaning::Unknown, "OOM no")));
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
