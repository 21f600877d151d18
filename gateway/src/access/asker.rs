//! A request as far as access control reads it: who sends it, and what it shows.

use crate::access::client::ClientAddr;
use crate::config::origins::AllowedOrigins;

/// Who asks. HTTP's side of it is `http/asking.rs`.
pub trait Asker {
    /// The values of a header, in order.
    fn header<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]>;

    /// The parameters of the query, in order, decoded.
    fn parameters(&self) -> Result<Vec<(String, String)>, NotUtf8>;

    /// The method.
    fn method(&self) -> &str;

    /// The path, without the query.
    fn path(&self) -> &str;

    /// Whose the request is.
    fn client(&self) -> ClientAddr;

    /// The origin of a page of another site that is not listed by its name. A browser sends cookies for such a page, too.
    fn foreign_origin(&self, listed: &AllowedOrigins) -> Option<String>;
}

/// A parameter of the query is not UTF-8: its name, as it stands there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the query parameter {0:?} is not UTF-8")]
pub struct NotUtf8(pub String);
