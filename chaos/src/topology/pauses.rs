//! What a kill of one of a cluster's masters means for streams: how long those of the other masters
//! paused, and how soon those of the killed one went on.
//!
//! Only connections count that were open before the kill and did not end meanwhile, so that nothing
//! else that was broken is measured.

use crate::topology::history::{History, Seen, What};
use crate::topology::shared::Kill;

/// Until how long after a promotion the streams of the other masters are looked at.
const AFTER_MS: u64 = 2_000;

/// What was measured.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pauses {
    /// The longest time from sending a publication until its event came, in partitions of other
    /// masters, in milliseconds. By whether the cluster refuses everything while slots have no owner:
    /// without, with.
    pub others_ms: [u64; 2],
    /// How many events were measured for that.
    pub others: [u64; 2],
    /// From each kill until the promotion, the longest, in milliseconds.
    pub promotion_ms: u64,
    /// From the promotion until a stream of the killed master was told or was sent an event that was
    /// published after the kill, the longest, in milliseconds.
    pub repaired_ms: u64,
    /// How many streams were measured for that.
    pub repaired: u64,
}

/// Measures all kills.
pub fn of(history: &History, kills: &[Kill]) -> Pauses {
    let mut pauses = Pauses::default();
    for kill in kills {
        pauses.promotion_ms = pauses.promotion_ms.max(kill.promoted_ms - kill.at_ms);
        for seen in history.seen.iter().filter(|seen| seen.steady) {
            of_one(history, kill, seen, &mut pauses);
        }
    }
    pauses
}

fn of_one(history: &History, kill: &Kill, seen: &Seen, pauses: &mut Pauses) {
    let until_ms = kill.promoted_ms + AFTER_MS;
    // The connection that lasted from before the kill.
    let open = seen.opens.iter().rposition(|open| open.head_ms.is_some_and(|ms| ms < kill.at_ms));
    let Some(open) = open else { return };
    if seen.opens.get(open + 1).is_some_and(|next| next.at_ms < until_ms) {
        return;
    }
    let of_kill = |channel: u16| kill.partitions.contains(&history.partition(channel));
    let with = usize::from(kill.full_coverage);
    let mut went_on = None;
    for told in seen.told.iter().filter(|told| told.open == open && told.at_ms > kill.at_ms) {
        match &told.what {
            What::Event(stamp) => {
                let Some(publication) = history.publications.get(stamp) else { continue };
                // The attempt that was acknowledged, for the others went to a dead server.
                let Some(ack) = publication.acked.first() else { continue };
                if of_kill(stamp.channel) {
                    if ack.sent_ms > kill.at_ms {
                        went_on = went_on.or(Some(told.at_ms));
                    }
                } else if (kill.at_ms..until_ms).contains(&ack.sent_ms) && !publication.doubted {
                    let took = told.at_ms.saturating_sub(ack.sent_ms);
                    pauses.others_ms[with] = pauses.others_ms[with].max(took);
                    pauses.others[with] += 1;
                }
            }
            What::Gap { channels, .. } if channels.iter().any(|channel| of_kill(*channel)) => {
                went_on = went_on.or(Some(told.at_ms));
            }
            _ => {}
        }
    }
    if let Some(at_ms) = went_on {
        pauses.repaired_ms = pauses.repaired_ms.max(at_ms.saturating_sub(kill.promoted_ms));
        pauses.repaired += 1;
    }
}
