//! Reads a gateway's answer to an NDJSON `POST /publish`: one result per line, or a problem
//! document. Does no I/O. Every event gets an answer, also if the gateway's answer leaves it out.

use hyper::StatusCode;
use hyper::header::HeaderMap;
use serde::Deserialize;

use crate::attempt::{Answer, Attempt, Reason};
use crate::http_head::{Problem, reason};

/// Bytes of a line; no result is that long.
const MAX_LINE: usize = 64 * 1024;

const OUTCOME_UNKNOWN: &str = "urn:sse-gateway:publish-outcome-unknown";

#[derive(Deserialize)]
struct ResultLine {
    /// The line of the request, counted from 1. Each line that this program sends is one item on
    /// one channel, so `item`, counted from 0, has the same meaning.
    line: Option<usize>,
    item: Option<usize>,
    id: Option<String>,
    error: Option<Problem>,
}

#[derive(Deserialize)]
struct Document {
    results: Vec<ResultLine>,
}

/// The answers to one request.
#[derive(Debug)]
pub struct Answers {
    answers: Vec<Option<Answer>>,
    line: Vec<u8>,
}

impl Answers {
    /// Answers to a request with this many lines.
    pub fn new(lines: usize) -> Self {
        Answers { answers: vec![None; lines], line: Vec::new() }
    }

    /// Reads a chunk of an NDJSON body. Fails at a line that is no result.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<(), String> {
        for part in chunk.split_inclusive(|&byte| byte == b'\n') {
            if self.line.len() + part.len() > MAX_LINE {
                return Err("the answer has a line too long for a result".to_owned());
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.end_line()?;
            }
        }
        Ok(())
    }

    /// Reads the last line, which may lack a line end.
    pub fn end(&mut self) -> Result<(), String> {
        self.end_line()
    }

    fn end_line(&mut self) -> Result<(), String> {
        let line = std::mem::take(&mut self.line);
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let result = serde_json::from_slice(&line)
            .map_err(|_| "the answer has a line that is not a result".to_owned())?;
        self.enter(result);
        Ok(())
    }

    fn enter(&mut self, result: ResultLine) {
        let at = result.line.and_then(|line| line.checked_sub(1)).or(result.item);
        let Some(slot) = at.and_then(|at| self.answers.get_mut(at)) else {
            return;
        };
        *slot = match (result.id, result.error) {
            (Some(id), _) => Some(Answer::Published(id)),
            (None, Some(problem)) => {
                let status = problem.status.and_then(|status| StatusCode::from_u16(status).ok());
                let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                Some(classify(status, problem.into_reason(status)))
            }
            (None, None) => None,
        };
    }

    /// Reads the results in a problem document. Returns whether it has a list of results.
    fn feed_document(&mut self, document: &[u8]) -> bool {
        let Ok(document) = serde_json::from_slice::<Document>(document) else {
            return false;
        };
        document.results.into_iter().for_each(|result| self.enter(result));
        true
    }

    /// The attempt; every event without an answer gets `rest`.
    pub fn finish(self, rest: Answer) -> Attempt {
        let fill = |answer: Option<Answer>| answer.unwrap_or_else(|| rest.clone());
        Attempt::of(self.answers.into_iter().map(fill).collect())
    }
}

/// The attempt if the answer is not NDJSON and its status is not 2xx.
pub fn refused(lines: usize, status: StatusCode, headers: &HeaderMap, document: &[u8]) -> Attempt {
    let mut answers = Answers::new(lines);
    let answer = classify(status, reason(status, headers, document));
    if answers.feed_document(document) {
        return answers.finish(answer);
    }
    let too_large = status == StatusCode::PAYLOAD_TOO_LARGE;
    let stop = !too_large && !matches!(answer, Answer::Again { .. });
    Attempt { too_large, stop, ..Attempt::alike(lines, answer) }
}

/// What a status says about one event.
fn classify(status: StatusCode, reason: Reason) -> Answer {
    let unknown = reason.kind.as_deref() == Some(OUTCOME_UNKNOWN);
    match status.as_u16() {
        // A proxy answers 502 or 504 even if the gateway behind it got the request.
        408 | 502 | 504 => Answer::Again { reason, perhaps_published: true },
        425 | 429 | 503 => Answer::Again { reason, perhaps_published: unknown },
        500..=599 => Answer::Unknown(reason),
        _ => Answer::Refused(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rest() -> Answer {
        Answer::Again { reason: Reason::new("cut"), perhaps_published: true }
    }

    #[test]
    fn results_are_matched_by_line_in_any_order() {
        let mut answers = Answers::new(3);
        let body = "{\"line\":3,\"channel\":\"a\",\"id\":\"3-0\"}\n\n{\"line\":1,\"channel\":\"a\",\"error\":\
            {\"type\":\"urn:sse-gateway:redis-unavailable\",\"title\":\"t\",\"status\":503,\"detail\":\"away\"}}";
        answers.feed(body.as_bytes()).unwrap();
        answers.end().unwrap();
        let attempt = answers.finish(rest());
        let away =
            Reason { kind: Some("urn:sse-gateway:redis-unavailable".into()), text: "away".into() };
        assert_eq!(attempt.answers[0], Answer::Again { reason: away, perhaps_published: false });
        assert_eq!(attempt.answers[1], rest());
        assert_eq!(attempt.answers[2], Answer::Published("3-0".into()));
    }

    #[test]
    fn a_problem_with_results_is_about_its_items_and_one_without_about_all() {
        let headers = HeaderMap::new();
        let with = br#"{"type":"urn:x","status":403,"detail":"d","results":[{"item":0,"error":{"status":403}}]}"#;
        assert!(!refused(1, StatusCode::FORBIDDEN, &headers, with).stop);
        assert!(refused(1, StatusCode::FORBIDDEN, &headers, b"{\"detail\":\"d\"}").stop);
        assert!(refused(1, StatusCode::NOT_FOUND, &headers, b"<html>").stop);
        assert!(!refused(1, StatusCode::SERVICE_UNAVAILABLE, &headers, b"").stop);
        let large = refused(2, StatusCode::PAYLOAD_TOO_LARGE, &headers, b"");
        assert!(large.too_large && !large.stop);
    }

    #[test]
    fn an_outcome_is_in_doubt_only_where_it_is() {
        let reason = |kind: &str| Reason { kind: Some(kind.into()), text: String::new() };
        let again =
            |status, kind| match classify(StatusCode::from_u16(status).unwrap(), reason(kind)) {
                Answer::Again { perhaps_published, .. } => perhaps_published,
                other => panic!("{other:?}"),
            };
        assert!(again(503, OUTCOME_UNKNOWN));
        assert!(!again(503, "urn:sse-gateway:redis-unavailable"));
        assert!(!again(429, ""));
        assert!(again(502, ""));
    }

    proptest! {
        #[test]
        fn every_event_has_an_answer_whatever_comes(chunks: Vec<Vec<u8>>, lines in 0usize..5) {
            let mut answers = Answers::new(lines);
            for chunk in chunks {
                if answers.feed(&chunk).is_err() {
                    break;
                }
            }
            answers.end().ok();
            prop_assert_eq!(answers.finish(rest()).answers.len(), lines);
        }

        #[test]
        fn results_read_alike_however_they_are_cut(cut in 0usize..80) {
            let body = b"{\"line\":1,\"channel\":\"a\",\"id\":\"1-0\"}\n{\"line\":2,\"channel\":\"a\",\"id\":\"2-0\"}\n";
            let (one, two) = body.split_at(cut.min(body.len()));
            let mut answers = Answers::new(2);
            answers.feed(one).unwrap();
            answers.feed(two).unwrap();
            answers.end().unwrap();
            let want = ["1-0", "2-0"].map(|id| Answer::Published(id.into()));
            prop_assert_eq!(answers.finish(rest()).answers, want);
        }
    }
}
