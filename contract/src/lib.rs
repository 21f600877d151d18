//! What every writer and reader of the gateway's Redis keys agrees on: channel names, event ids, live
//! frames, key names and the function library. It does no I/O and knows neither Redis clients nor HTTP,
//! so that the gateway, the publisher and the tests share one definition. `docs/redis-contract.md` is
//! the same contract in words, for publishers in other languages.

mod channel;
mod event;
mod event_id;
mod keys;
mod library;
mod live_frame;

pub use channel::{Channel, ChannelError};
pub use event::{EventType, EventTypeError, RESERVED_EVENT_TYPES};
pub use event_id::{EventId, EventIdError};
pub use keys::Keys;
pub use library::{CONTRACT_VERSION, Function, LIBRARY_VERSION, eval_script, library_source};
pub use live_frame::{LiveMessage, decode_live, encode_live};

/// The longest idempotency key, in bytes.
pub const MAX_IDEMPOTENCY_KEY: usize = 200;
