//! What is published: text that names itself, so that a subscriber can check every byte without asking.
//!
//! A payload follows from the run's seed and its stamp alone. Many hold what would break a careless
//! encoder: empty lines, lines that look like fields, spaces at the edges.

/// The channels of a run: one of large events, six busy ones, one that is nearly quiet.
pub const CHANNELS: [&str; 8] =
    ["bulk", "orders", "user:42", "a/b", "x.y@z", "n=1~2", "under_score-", "quiet"];
/// Where events are large, so that slow readers fall behind.
pub const BULK: u16 = 0;
/// Where hours could pass between two events.
pub const QUIET: u16 = 7;

/// Names one publication: what was meant to be published once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stamp {
    /// Index into [`CHANNELS`].
    pub channel: u16,
    /// Who published.
    pub publisher: u16,
    /// The publisher's count, from 1; 0 is the final marker of a channel.
    pub seq: u32,
}

impl Stamp {
    /// The channel's name.
    pub fn channel_name(self) -> &'static str {
        CHANNELS[usize::from(self.channel)]
    }

    /// The idempotency key of this publication.
    pub fn key(self) -> String {
        format!("p{}-{}", self.publisher, self.seq)
    }

    /// The payload.
    pub fn text(self, seed: u64) -> String {
        let mix = (u64::from(self.publisher) << 48) ^ (u64::from(self.seq) << 8);
        let mut rng = fastrand::Rng::with_seed(seed ^ mix ^ u64::from(self.channel));
        let mut text = format!("{} {} {}", self.channel, self.publisher, self.seq);
        match rng.u8(0..6) {
            0 => {}
            1 => text += "\nid: 9999999999999-1\nevent: gap\ndata: {}\n\n",
            2 => text += "\n:\n\n  padded \u{2028}\u{1f980} ",
            3 => text += "\nretry: 1\nid\n",
            _ => text += &format!("\n{:016x}", rng.u64(..)),
        }
        if self.channel == BULK {
            let line = format!("\n{:032x}", rng.u128(..));
            text += &line.repeat(rng.usize(30..120));
        }
        text
    }

    /// The stamp that a payload claims; whether the rest of it is right is asked of [`Stamp::text`].
    pub fn read(text: &str) -> Option<Stamp> {
        let mut parts = text.lines().next()?.split(' ');
        let stamp = Stamp {
            channel: parts.next()?.parse().ok()?,
            publisher: parts.next()?.parse().ok()?,
            seq: parts.next()?.parse().ok()?,
        };
        (usize::from(stamp.channel) < CHANNELS.len() && parts.next().is_none()).then_some(stamp)
    }
}
