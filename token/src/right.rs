//! Reads what a token's claims allow: patterns of channels to listen to and to publish to.

use serde_json::Value;
use sse_contract::pattern::{Pattern, Template};

use crate::Claims;

/// An action on a channel that a token can allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Listening.
    Subscribe,
    /// Publishing.
    Publish,
}

impl Right {
    /// The name of the claim.
    pub fn name(self) -> &'static str {
        match self {
            Right::Subscribe => "subscribe",
            Right::Publish => "publish",
        }
    }

    /// Patterns of the channels for which these claims allow the action.
    ///
    /// # Errors
    ///
    /// The claim is neither a pattern nor a list of patterns. The token is then refused as a whole,
    /// because its issuer made the mistake.
    pub fn of(self, claims: &Claims) -> Result<Vec<Pattern>, String> {
        let mut patterns: Vec<Pattern> =
            self.templates(claims)?.iter().filter_map(|template| template.fill(claims)).collect();
        patterns.extend(self.of_mercure(claims));
        Ok(patterns)
    }

    /// The patterns in the claim of this name, which is a pattern or a list of them. `{claim}`
    /// stands for another claim of the same token and is not filled in yet.
    ///
    /// # Errors
    ///
    /// The claim is something else, or a pattern is invalid.
    pub fn templates(self, claims: &Claims) -> Result<Vec<Template>, String> {
        let name = self.name();
        let wrong = |what: String| format!("the token's claim {name:?} {what}");
        let template = |value: &Value| {
            let text = value
                .as_str()
                .ok_or_else(|| wrong("must be a pattern or a list of patterns".to_owned()))?;
            text.parse().map_err(|error| wrong(format!("has a pattern of no use: {error}")))
        };
        match claims.get(name) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(values)) => values.iter().map(template).collect(),
            Some(value) => Ok(vec![template(value)?]),
        }
    }

    /// The patterns in `mercure: {subscribe, publish}` (Mercure 0.x). A topic that cannot be a
    /// channel's name grants nothing.
    fn of_mercure(self, claims: &Claims) -> Vec<Pattern> {
        let mercure = claims.get("mercure").and_then(|mercure| mercure.get(self.name()));
        let topics = mercure.and_then(Value::as_array).into_iter().flatten();
        topics.filter_map(Value::as_str).filter_map(Pattern::of_mercure).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(right: Right, claims: Value) -> Result<Vec<String>, String> {
        let patterns = right.of(claims.as_object().unwrap())?;
        Ok(patterns.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_claim_is_one_pattern_or_several_and_mercures_add_to_it() {
        let claims = json!({
            "sub": "42", "subscribe": ["orders", "user:{sub}:*", "room:{room}"], "publish": "a",
            "mercure": { "subscribe": ["/books/{id}", "no channel"], "publish": ["*"] },
        });
        let listen = ["orders", "user:42:*", "/books/{}"].map(str::to_owned).to_vec();
        assert_eq!(of(Right::Subscribe, claims.clone()), Ok(listen));
        assert_eq!(of(Right::Publish, claims), Ok(vec!["a".to_owned(), "*".to_owned()]));
        assert_eq!(of(Right::Publish, json!({ "publish": null })), Ok(Vec::new()));
        for odd in [json!(5), json!({}), json!(["a", 5]), json!("a b"), json!([""]), json!(true)] {
            let error = of(Right::Publish, json!({ "publish": odd })).unwrap_err();
            assert!(error.contains("\"publish\""), "{error}");
        }
    }
}
