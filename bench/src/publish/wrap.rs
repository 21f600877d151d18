//! Requests that publish in a server's own words.

use std::net::SocketAddr;

/// How a server wants an event.
#[derive(Debug, Clone)]
pub struct Wrap {
    /// Where: not every server is published to where it serves.
    pub addr: SocketAddr,
    /// The path.
    pub path: String,
    /// Header lines, each ended by CRLF.
    pub headers: String,
    /// The body, in which `{c}` is the channel's name and `{d}` the event.
    pub body: &'static str,
    /// What the body is.
    pub text: Text,
}

/// What may stand in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    /// Neither names nor stamped events have anything in them that JSON would escape.
    Json,
    /// A form's fields.
    Form,
}

impl Wrap {
    /// The body for one event.
    pub fn body(&self, channel: &str, data: &str) -> String {
        // The name first: what stands in an event is not looked at again.
        let body = self.body.replace("{c}", channel);
        match self.text {
            Text::Json => body.replace("{d}", data),
            Text::Form => body.replace("{d}", &data.replace('=', "%3D").replace(' ', "+")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrap(body: &'static str, text: Text) -> Wrap {
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        Wrap { addr, path: String::new(), headers: String::new(), body, text }
    }

    #[test]
    fn an_event_is_written_as_the_text_needs_it() {
        let json = wrap(r#"{"channel":"{c}","data":"{d}"}"#, Text::Json);
        assert_eq!(json.body("a", "t=1 xx"), r#"{"channel":"a","data":"t=1 xx"}"#);
        let form = wrap("topic={c}&data={d}", Text::Form);
        assert_eq!(form.body("a", "t=1 xx"), "topic=a&data=t%3D1+xx");
    }
}
