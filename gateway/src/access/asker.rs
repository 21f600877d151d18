//! What access control reads of a request: its sender and its credentials.

use crate::access::client::ClientAddr;
use crate::config::origins::AllowedOrigins;

/// A request. `http/asking.rs` implements this for actix requests.
pub trait Asker {
    /// All values of a header, in order.
    fn header<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]>;

    /// The decoded query parameters, in order.
    fn parameters(&self) -> Result<Vec<(String, String)>, NotUtf8>;

    /// The HTTP method.
    fn method(&self) -> &str;

    /// The path, without the query.
    fn path(&self) -> &str;

    /// The client that sent the request.
    fn client(&self) -> ClientAddr;

    /// The origin of the page that sent the request, if it is of another site and `listed` does not
    /// name it. Browsers send cookies for such pages too.
    fn foreign_origin(&self, listed: &AllowedOrigins) -> Option<String>;
}

/// A query parameter is not UTF-8. Holds its name as sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the query parameter {0:?} is not UTF-8")]
pub struct NotUtf8(pub String);
