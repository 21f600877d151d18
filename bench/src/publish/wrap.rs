//! Requests that publish an event in the format of a particular server.

use std::net::SocketAddr;

/// The format of a server's requests.
#[derive(Debug, Clone)]
pub struct Wrap {
    /// The address for publishing, which may differ from the one for streams.
    pub addr: SocketAddr,
    /// The path.
    pub path: String,
    /// Header lines. Each ends with CRLF.
    pub headers: String,
    /// The body; `{c}` stands for the channel's name, `{d}` for the event.
    pub body: &'static str,
    /// The syntax of the body.
    pub text: Text,
}

/// The syntax of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    /// JSON. Neither channels' names nor stamped events contain anything that must be escaped.
    Json,
    /// Form fields.
    Form,
}

impl Wrap {
    /// The body for one event.
    pub fn body(&self, channel: &str, data: &str) -> String {
        // The name comes first, so that `{c}` in an event is not replaced.
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
