//! What every writer and reader of the gateway's Redis keys agrees on: channel names, event ids,
//! live frames, key names, the function library with its calls and answers, the JSON item of a
//! publisher, and patterns of channel names.
//!
//! This crate does no I/O and knows neither Redis clients nor HTTP, so that the gateway, the
//! publisher and the tests can share one definition. `docs/redis-contract.md` is the same contract
//! in words, for publishers in other languages.

mod address;
mod call;
mod channel;
mod cursor;
mod event;
mod event_id;
mod item;
mod keys;
mod library;
mod live_frame;
mod loading;
mod outcome;
pub mod pattern;

pub use address::{Address, AddressError};
pub use call::{Call, Caller, Part, Publish, batch_len};
pub use channel::{Channel, ChannelError};
pub use cursor::{Cursor, CursorError, Positions};
pub use event::{EventType, EventTypeError, RESERVED_EVENT_TYPES};
pub use event_id::{EventId, EventIdError};
pub use item::{IdempotencyKeyError, Item, MAX_IDEMPOTENCY_KEY, compact_json, idempotency_key};
pub use keys::{Keys, PrefixError};
pub use library::{
    CONTRACT_VERSION, Function, LIBRARY_VERSION, MAX_BATCH, eval_script, library_source,
};
pub use live_frame::{LiveMessage, decode_live, encode_live};
pub use loading::{Found, Loading, Reply, Step, Way, is_passing};
pub use outcome::{Meaning, batch_answer, detail, meaning};
