//! Revoked subjects and tokens, which are refused although their tokens are still valid, and
//! channels whose streams were ended.
//!
//! A revocation is a member of a sorted set in Redis, scored with the time until which it is kept.
//! Every gateway reads the whole set: at its start, after a reconnect to Redis, every 30 s, and at
//! once when another gateway announces a change. So a gateway that was offline or starts later
//! learns all of them. With the memory broker revocations exist in this process only.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::access::grant::{Grant, Seconds, now};
use crate::feed::inbox::Whose;

/// How often the set is read without an announcement.
pub const REFRESH: Duration = Duration::from_secs(30);
/// The pause before the next try after a failed read.
pub const PAUSE: Duration = Duration::from_secs(1);
/// How long a channel's revocation is kept. It ends the channel's streams once and refuses nobody.
pub const ONCE: Duration = Duration::from_secs(60);

/// A revocation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Revocation {
    /// The subject, token or channel.
    pub whose: Whose,
    /// When it was made. Tokens issued later are accepted.
    pub at: Seconds,
    /// Random; distinguishes equal revocations of the same second.
    pub nonce: u64,
}

/// All known revocations.
#[derive(Debug, Default)]
pub struct Revocations {
    known: Mutex<Known>,
    /// Held from the read of Redis until [`Revocations::learn`] returns. Otherwise the result of an
    /// older read could replace that of a newer one.
    pub reading: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    /// Revoked subjects and tokens. A token issued at this second or earlier is refused.
    refused: HashMap<Whose, Seconds>,
    /// Revocations that have already ended streams here.
    done: HashSet<Revocation>,
    /// With the memory broker, all revocations and until when each is kept.
    own: Vec<(Instant, Revocation)>,
}

impl fmt::Display for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, value) = match &self.whose {
            Whose::Subject(value) => ("subject", value),
            Whose::Token(value) => ("token", value),
            Whose::Channel(value) => ("channel", value),
        };
        write!(f, "{kind}|{}|{:x}|{value}", self.at, self.nonce)
    }
}

impl Revocation {
    /// A revocation made now.
    pub fn now(whose: Whose) -> Self {
        Revocation { whose, at: now(), nonce: fastrand::u64(..) }
    }

    /// Parses what [`fmt::Display`] wrote; none if it is malformed.
    pub fn read(line: &str) -> Option<Self> {
        let mut parts = line.splitn(4, '|');
        let (kind, at, nonce, value) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let whose = match kind {
            "subject" => Whose::Subject(value.into()),
            "token" => Whose::Token(value.into()),
            "channel" => Whose::Channel(value.into()),
            _ => return None,
        };
        Some(Revocation {
            whose,
            at: at.parse().ok()?,
            nonce: u64::from_str_radix(nonce, 16).ok()?,
        })
    }
}

impl Revocations {
    /// Whether the grant's subject or token is revoked.
    pub fn revoked(&self, grant: &Grant) -> bool {
        let known = self.lock();
        if known.refused.is_empty() {
            return false;
        }
        // A token without `iat` counts as issued before any revocation.
        let issued = grant.issued.unwrap_or(0);
        let is = |whose: Whose| known.refused.get(&whose).is_some_and(|at| issued <= *at);
        let subject =
            grant.subject.as_deref().is_some_and(|subject| is(Whose::Subject(subject.into())));
        subject || grant.token_id.as_deref().is_some_and(|id| is(Whose::Token(id.into())))
    }

    /// Replaces the known revocations by `all`. Returns the new ones, whose streams must end.
    pub fn learn(&self, all: Vec<Revocation>) -> Vec<Revocation> {
        self.lock().learn(all)
    }

    /// Adds one and keeps it for `keep`, with the memory broker. Returns the new ones, whose
    /// streams must end.
    pub fn add(&self, one: Revocation, keep: Duration) -> Vec<Revocation> {
        let mut known = self.lock();
        known.own.push((Instant::now() + keep, one));
        known.learn_own()
    }

    /// Drops outdated revocations, with the memory broker. Returns the new ones, whose streams must
    /// end.
    pub fn learn_own(&self) -> Vec<Revocation> {
        self.lock().learn_own()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn learn(&mut self, all: Vec<Revocation>) -> Vec<Revocation> {
        let new = all.iter().filter(|one| !self.done.contains(one)).cloned().collect();
        self.refused = HashMap::with_capacity(all.len());
        for one in &all {
            if !matches!(one.whose, Whose::Channel(_)) {
                let at = self.refused.entry(one.whose.clone()).or_default();
                *at = one.at.max(*at);
            }
        }
        self.done = all.into_iter().collect();
        new
    }

    /// Learns those of `own` that are not outdated. The caller holds the lock since it changed
    /// `own`; otherwise a concurrent call could replace the set with one that lacks the newest
    /// revocation.
    fn learn_own(&mut self) -> Vec<Revocation> {
        let now = Instant::now();
        self.own.retain(|(end, _)| *end > now);
        let all = self.own.iter().map(|(_, one)| one.clone()).collect();
        self.learn(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(subject: &str, token: &str, issued: Option<Seconds>) -> Grant {
        Grant {
            subject: Some(subject.into()),
            token_id: Some(token.into()),
            issued,
            ..Grant::default()
        }
    }

    #[test]
    fn a_revocation_is_of_what_was_issued_before() {
        let revocations = Revocations::default();
        assert!(!revocations.revoked(&of("a", "1", None)));
        let one = |whose| Revocation { whose, at: 100, nonce: 1 };
        let lines = vec![one(Whose::Subject("a".into())), one(Whose::Token("2".into()))];
        assert_eq!(revocations.learn(lines.clone()).len(), 2);
        assert!(revocations.learn(lines).is_empty(), "it ends streams once");
        assert!(
            revocations.revoked(&of("a", "1", None))
                && revocations.revoked(&of("a", "1", Some(100)))
        );
        assert!(
            !revocations.revoked(&of("a", "1", Some(101)))
                && !revocations.revoked(&of("b", "1", None))
        );
        assert!(revocations.revoked(&of("b", "2", Some(5))));
        revocations.learn(Vec::new());
        assert!(!revocations.revoked(&of("a", "1", None)), "it is over");
    }

    #[test]
    fn without_redis_they_are_kept_as_long_as_it_was_said() {
        let revocations = Revocations::default();
        let one = |name: &str| Revocation::now(Whose::Subject(name.into()));
        assert_eq!(revocations.add(one("a"), ONCE).len(), 1);
        assert!(revocations.add(one("b"), Duration::ZERO).is_empty(), "it is over at once");
        assert!(revocations.revoked(&of("a", "1", None)));
        assert!(!revocations.revoked(&of("b", "1", None)));
        assert_eq!(revocations.known.lock().unwrap().own.len(), 1);
    }

    /// With the memory broker outdated revocations are dropped every 30 s, in another task than the
    /// operator's call.
    #[test]
    fn none_is_forgotten_while_another_task_looks_for_what_is_over() {
        let one = |name: &str| Revocation::now(Whose::Subject(name.into()));
        let revocations = Revocations::default();
        for n in 0..100 {
            revocations.add(one(&n.to_string()), ONCE);
        }
        for round in 0..200 {
            let (name, together) = (format!("new {round}"), std::sync::Barrier::new(2));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    together.wait();
                    revocations.learn_own();
                });
                together.wait();
                revocations.add(one(&name), ONCE);
            });
            assert!(revocations.revoked(&of(&name, "1", None)), "{name}");
        }
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        for whose in
            [Whose::Subject("a|b|c".into()), Whose::Token("".into()), Whose::Channel("a".into())]
        {
            let one = Revocation::now(whose);
            assert_eq!(Revocation::read(&one.to_string()), Some(one));
        }
        for odd in ["", "subject", "subject|1|2", "x|1|2|a", "subject|x|2|a", "subject|1|y|a"] {
            assert_eq!(Revocation::read(odd), None, "{odd}");
        }
    }
}
