//! Payloads that identify themselves, so that a subscriber can check every byte by itself.
//!
//! A payload depends only on the run's seed and its stamp. Many contain what would break a careless
//! encoder: empty lines, lines that look like fields, spaces at the edges.

use std::borrow::Cow;

/// The permanent channels of a run: one with large events, busy ones, a nearly quiet one, and some
/// whose names contain those of other keys.
pub const CHANNELS: [&str; 13] = [
    "bulk",
    "orders",
    "user:42",
    "a/b",
    "x.y@z",
    "n=1~2",
    "under_score-",
    "quiet",
    "user",
    "history:orders",
    "idem:user:42",
    "state",
    "known:{a:b}",
];
/// The channel with large events, so that slow readers fall behind.
pub const BULK: u16 = 0;
/// This channel's name, a colon and a key that begins with `42:` look like `user:42`, a colon and a
/// key.
pub const USER: u16 = 8;
/// The channel `user:42`, with which [`USER`] could be confused.
pub const USER_42: u16 = 2;
/// The channel on which events are hours apart.
pub const QUIET: u16 = 7;
/// Channels with a steady flow of events.
pub const BUSY: std::ops::Range<u16> = 1..7;

/// Channels that come and go, by the hundred.
pub const CROWD: std::ops::Range<u16> = 100..400;
/// The groups of channels that one item is published to.
const GROUPS: [[u16; 2]; 3] = [[1, 3], [4, USER], [USER_42, 9]];
/// From here on, the channel of a stamp is an index into [`GROUPS`].
const GROUP: u16 = 900;
/// Channels used once, each by a client that publishes as soon as its stream is open.
pub const ONCE: std::ops::Range<u16> = 1_000..60_000;

/// Publishers from this number on, except [`MARKER`], send no idempotency keys.
pub const KEYLESS: u16 = 1_000;
/// The publisher of the final markers.
pub const MARKER: u16 = u16::MAX;

/// The name of a channel.
pub fn channel_name(index: u16) -> Cow<'static, str> {
    match CHANNELS.get(usize::from(index)) {
        Some(name) => Cow::Borrowed(name),
        None if CROWD.contains(&index) => Cow::Owned(format!("crowd:{index}")),
        None => Cow::Owned(format!("once:{index}")),
    }
}

/// The name of a channel, encoded for the path or the query of a URL.
pub fn channel_in_url(index: u16) -> String {
    let name = channel_name(index);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let each = name.bytes().map(|byte| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    each.collect()
}

/// The channel of this name.
pub fn channel_index(name: &str) -> Option<u16> {
    if let Some(n) = CHANNELS.iter().position(|known| *known == name) {
        return Some(n as u16);
    }
    let (kind, number) = name.split_once(':')?;
    let number: u16 = number.parse().ok()?;
    let range = match kind {
        "crowd" => CROWD,
        "once" => ONCE,
        _ => return None,
    };
    range.contains(&number).then_some(number)
}

/// Identifies one publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stamp {
    /// The channel, or the group of channels from [`GROUP`] on.
    pub channel: u16,
    /// The publisher's number.
    pub publisher: u16,
    /// The publisher's count, from 1; 0 is the final marker of a channel.
    pub seq: u32,
}

impl Stamp {
    /// The stamp of a publication to several channels as one item.
    pub fn of_group(n: usize, publisher: u16, seq: u32) -> Stamp {
        Stamp { channel: GROUP + (n % GROUPS.len()) as u16, publisher, seq }
    }

    /// The channels of this publication.
    pub fn channels(&self) -> &[u16] {
        let group = self.channel.checked_sub(GROUP).and_then(|n| GROUPS.get(usize::from(n)));
        group.map_or(std::slice::from_ref(&self.channel), |group| group)
    }

    /// The publication's idempotency key, if it has one.
    pub fn key(self) -> Option<String> {
        let head = if self.channel == USER { "42:" } else { "" };
        let keyless = (KEYLESS..MARKER).contains(&self.publisher);
        (!keyless).then(|| format!("{head}p{}-{}", self.publisher, self.seq))
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

    /// The stamp that a payload begins with. Compare the payload with [`Stamp::text`] to check the
    /// rest.
    pub fn read(text: &str) -> Option<Stamp> {
        let mut parts = text.lines().next()?.split(' ');
        let stamp = Stamp {
            channel: parts.next()?.parse().ok()?,
            publisher: parts.next()?.parse().ok()?,
            seq: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_found_by_its_name() {
        for index in (0..CHANNELS.len() as u16).chain(CROWD).chain([1_000, 59_999]) {
            assert_eq!(channel_index(&channel_name(index)), Some(index));
        }
        assert_eq!(channel_index("crowd:5"), None);
    }

    #[test]
    fn a_group_is_several_channels_and_a_channel_is_one() {
        assert_eq!(Stamp::of_group(1, 1, 1).channels(), [4, USER]);
        assert_eq!(Stamp { channel: QUIET, publisher: 1, seq: 1 }.channels(), [QUIET]);
    }

    #[test]
    fn a_key_with_a_colon_reads_like_another_channels() {
        let key = |channel| Stamp { channel, publisher: 3, seq: 7 }.key().unwrap();
        assert_eq!(
            format!("{}:{}", CHANNELS[usize::from(USER)], key(USER)),
            format!("{}:{}", CHANNELS[usize::from(USER_42)], key(USER_42)),
        );
    }
}
