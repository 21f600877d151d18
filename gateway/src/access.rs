//! Access control: who may subscribe and who may publish.
//!
//! Every way to authenticate (token, API key, ticket, another service's answer, anonymous access)
//! yields a [`Grant`]. The grant is determined once per request; the delivery of events checks
//! nothing.

pub(crate) mod admission;
pub mod api_key;
pub(crate) mod asker;
pub(crate) mod checked;
pub mod client;
pub mod cluster_streams;
pub mod credentials;
pub(crate) mod denied;
pub(crate) mod forward;
pub mod grant;
pub mod issuers;
pub(crate) mod key_set;
pub(crate) mod outbound;
pub mod revocations;
pub(crate) mod tickets;

use std::sync::Arc;

use sse_contract::Channel;
use sse_token::Token;

use crate::access::api_key::ApiKeys;
use crate::access::asker::Asker;
use crate::access::credentials::Credentials;
use crate::access::denied::{Denied, Over, Refused, Why};
use crate::access::forward::{Action, Forward, Verdict};
use crate::access::grant::Grant;
use crate::access::issuers::{Issuers, Refusal};
use crate::access::outbound::Outbound;
use crate::access::revocations::Revocations;
use crate::access::tickets::Tickets;
use crate::broker::Broker;
use crate::config::origins::AllowedOrigins;
use crate::config::{AuthConfig, CorsConfig};

/// Decides what the sender of a request may do.
#[derive(Debug)]
pub struct Access {
    /// Everybody may do everything: `[auth]` is not configured, or `auth.open` is set.
    open: bool,
    config: AuthConfig,
    origins: AllowedOrigins,
    /// What requests without credentials may do. Added to every grant.
    anonymous: Arc<Grant>,
    keys: ApiKeys,
    issuers: Issuers,
    forward: Option<Forward>,
    tickets: Tickets,
    outbound: Outbound,
    /// Subjects and tokens that are refused although their grants have not expired.
    pub revocations: Revocations,
}

/// The result of checking a request's credentials.
enum Shown {
    /// No credentials that the gateway itself can check, or an invalid cookie. Holds the refusal to
    /// send if neither anonymous access nor the forward-auth service allows the request.
    Nothing(Denied),
    /// Valid credentials.
    Grant(Arc<Grant>),
    /// A ticket that was already used, has expired or never existed.
    Spent,
}

impl Access {
    /// Reads key files and certificates. The error names the setting at fault.
    pub fn new(config: &AuthConfig, cors: &CorsConfig) -> Result<Self, String> {
        let keys = ApiKeys::new(&config.keys)?;
        let jwt = &config.jwt;
        let issuers = Issuers::new(&jwt.keys, jwt.leeway.as_secs(), !jwt.require_expiry)?;
        let granted = Grant {
            subscribe: config.anonymous.subscribe.clone().into(),
            publish: config.anonymous.publish.clone().into(),
            of_anybody: true,
            ..Grant::default()
        };
        let open = config.is_open();
        let anonymous = Arc::new(if open { Grant::everything() } else { granted });
        Ok(Access {
            open,
            config: config.clone(),
            origins: cors.origins.clone(),
            anonymous,
            keys,
            issuers,
            forward: Forward::new(&config.forward),
            tickets: Tickets::default(),
            outbound: Outbound::new(),
            revocations: Revocations::default(),
        })
    }

    /// Reloads the key sets of `jwks=` periodically. Returns only if there are none.
    pub async fn watch_keys(&self) {
        self.issuers.watch(&self.outbound).await;
    }

    /// Whether everybody may do everything.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether [`Access::publisher`] may ask the forward-auth service, which is sent the channels.
    /// The caller must then read the request's body first.
    pub fn asks_for_channels(&self) -> bool {
        self.forward.is_some() && !self.open
    }

    /// The sender's grant, if it may subscribe to all of `channels`.
    pub async fn subscriber(
        &self,
        asker: &impl Asker,
        channels: &[Channel],
        broker: &Broker,
    ) -> Result<Arc<Grant>, Refused> {
        if self.open {
            return Ok(self.anonymous.clone());
        }
        let denied =
            |grant: &Grant| channels.iter().find(|channel| !self.may_subscribe(grant, channel));
        let grant = match self.shown(asker, true, broker).await? {
            Shown::Grant(grant) => grant,
            _ if denied(&self.anonymous).is_none() => return Ok(self.anonymous.clone()),
            Shown::Spent => return Err(Refused::Over(Over::TicketSpent)),
            Shown::Nothing(denied) => {
                self.forwarded(asker, Action::Subscribe, channels, denied).await?
            }
        };
        match denied(&grant) {
            None => Ok(grant),
            Some(channel) => Err(not_granted(Why::MayNotSubscribe, &grant, channel).into()),
        }
    }

    fn may_subscribe(&self, grant: &Grant, channel: &Channel) -> bool {
        grant.may_subscribe(channel) || self.anonymous.may_subscribe(channel)
    }

    /// The sender's grant for publishing. `channels` holds the channels known so far and may be
    /// empty. A returned grant does not imply that they are allowed: check each item with
    /// [`Access::may_publish`].
    pub async fn publisher(
        &self,
        asker: &impl Asker,
        channels: &[Channel],
        broker: &Broker,
    ) -> Result<Arc<Grant>, Refused> {
        if self.open {
            return Ok(self.anonymous.clone());
        }
        match self.shown(asker, false, broker).await? {
            Shown::Grant(grant) => Ok(grant),
            Shown::Spent => Err(unauthenticated().into()),
            Shown::Nothing(denied) => {
                let all =
                    !channels.is_empty() && channels.iter().all(|c| self.anonymous.may_publish(c));
                let some = channels.is_empty()
                    && !self.anonymous.publish.is_empty()
                    && self.forward.is_none();
                if all || some {
                    return Ok(self.anonymous.clone());
                }
                self.forwarded(asker, Action::Publish, channels, denied).await
            }
        }
    }

    /// Whether the grant, or anonymous access, allows publishing to the channel.
    pub fn may_publish(&self, grant: &Grant, channel: &Channel) -> Result<(), Denied> {
        if grant.may_publish(channel) || self.anonymous.may_publish(channel) {
            return Ok(());
        }
        Err(not_granted(Why::MayNotPublish, grant, channel))
    }

    /// Whether the request carries an API key with `admin=true`.
    pub fn is_admin(&self, asker: &impl Asker) -> bool {
        let shown = Credentials::of(asker, "", &[]).unwrap_or_default();
        let keys = [shown.api_key, shown.bearer].into_iter().flatten();
        keys.filter_map(|key| self.keys.find(key))
            .any(|known| known.admin && !self.revocations.revoked(&known.grant))
    }

    /// Issues a ticket with the sender's grant, and its lifetime in seconds.
    pub async fn ticket(
        &self,
        asker: &impl Asker,
        broker: &Broker,
    ) -> Result<(String, u64), Refused> {
        if self.open {
            let detail = "there is no access control here, so there are no tickets: open the stream without one";
            return Err(Denied::new(Why::NoTickets, detail).into());
        }
        let grant = match self.shown(asker, false, broker).await? {
            Shown::Grant(grant) => grant,
            Shown::Nothing(denied) => return Err(denied.into()),
            Shown::Spent => return Err(unauthenticated().into()),
        };
        let mut lifetime = self.config.tickets.lifetime;
        if let Some(left) = grant.left() {
            lifetime = lifetime.min(left);
        }
        let ticket = self.tickets.issue(&grant, lifetime, broker).await?;
        Ok((ticket, lifetime.as_secs()))
    }

    /// Checks the request's credentials. An invalid header, parameter or API key is an error. An
    /// invalid cookie counts as none, because browsers send cookies unasked.
    async fn shown(
        &self,
        asker: &impl Asker,
        tickets: bool,
        broker: &Broker,
    ) -> Result<Shown, Refused> {
        let pairs = asker.parameters().map_err(Denied::from)?;
        let shown = Credentials::of(asker, &self.config.cookie, &pairs)?;
        if let Some(key) = shown.api_key.or(shown.bearer)
            && let Some(known) = self.keys.find(key)
        {
            return self.not_revoked(known.grant.clone());
        }
        if shown.api_key.is_some() {
            return Err(invalid("this API key is not known").into());
        }
        if let Some(token) = shown.bearer
            && (self.forward.is_none() || (!self.issuers.is_empty() && Token::read(token).is_ok()))
        {
            return self.token(token).await;
        }
        if let Some(token) = &shown.token {
            if !self.config.token_parameter {
                let detail = "tokens are not taken from the URL, where logs keep them; send a header, or POST /tickets";
                return Err(invalid(detail).into());
            }
            return self.token(token).await;
        }
        let mut spent = false;
        if let Some(ticket) = &shown.ticket {
            if !tickets {
                return Err(invalid("a ticket is for opening a stream").into());
            }
            match self.tickets.take(ticket, broker).await? {
                Some(grant) if !grant.has_expired() => return self.not_revoked(Arc::new(grant)),
                _ => spent = true,
            }
        }
        if spent && shown.cookie.is_none() {
            return Ok(Shown::Spent);
        }
        let Some(cookie) = shown.cookie.filter(|_| !self.issuers.is_empty()) else {
            return Ok(if spent { Shown::Spent } else { Shown::Nothing(unauthenticated()) });
        };
        let denied = match self.check_site(asker) {
            Err(denied) => denied,
            Ok(()) => match self.token(cookie).await {
                Err(Refused::Denied(denied)) => denied,
                other => return other,
            },
        };
        Ok(if spent { Shown::Spent } else { Shown::Nothing(denied) })
    }

    async fn token(&self, token: &str) -> Result<Shown, Refused> {
        match self.issuers.grant(token, &self.outbound).await {
            Ok(grant) => self.not_revoked(grant),
            Err(Refusal::Invalid(why)) => Err(invalid(why).into()),
            Err(Refusal::NoKeys) => {
                Err(Refused::ComeBack("the keys of this token's issuer cannot be had".to_owned()))
            }
        }
    }

    /// Checks again whether a grant was revoked, for a stream that took time to open.
    pub fn still_holds(&self, grant: &Grant) -> Result<(), Refused> {
        if self.revocations.revoked(grant) { Err(Refused::Over(Over::Revoked)) } else { Ok(()) }
    }

    fn not_revoked(&self, grant: Arc<Grant>) -> Result<Shown, Refused> {
        self.still_holds(&grant)?;
        Ok(Shown::Grant(grant))
    }

    async fn forwarded(
        &self,
        asker: &impl Asker,
        action: Action,
        channels: &[Channel],
        otherwise: Denied,
    ) -> Result<Arc<Grant>, Refused> {
        let Some(forward) = &self.forward else { return Err(otherwise.into()) };
        if asker.header("Cookie").next().is_some() {
            self.check_site(asker)?;
        }
        match forward.ask(asker, action, channels, &self.outbound).await {
            Verdict::Allowed(grant) => {
                self.still_holds(&grant)?;
                Ok(grant)
            }
            Verdict::Unknown => Err(unauthenticated().into()),
            Verdict::Forbidden => {
                let why = if action == Action::Publish {
                    Why::MayNotPublish
                } else {
                    Why::MayNotSubscribe
                };
                Err(Denied::new(why, "you may not do this, says the service that was asked").into())
            }
            Verdict::Away => {
                let why = "the service that says who is allowed does not answer";
                Err(Refused::ComeBack(why.to_owned()))
            }
        }
    }

    /// Refuses cookies from pages of other sites, unless `cors.origins` lists the site: a browser
    /// sends cookies with such requests too.
    fn check_site(&self, asker: &impl Asker) -> Result<(), Denied> {
        let detail = match asker.foreign_origin(&self.origins) {
            Some(origin) => format!(
                "pages of {origin} may not use the cookies of this site; cors.origins lists those that may"
            ),
            None => return Ok(()),
        };
        Err(Denied::new(Why::ForeignOrigin, detail).field("Origin"))
    }
}

fn unauthenticated() -> Denied {
    let detail = "say who you are: a token in Authorization: Bearer, an API key, a ticket or the site's cookie";
    Denied::new(Why::Unauthenticated, detail)
}

fn invalid(why: impl Into<String>) -> Denied {
    Denied::new(Why::InvalidCredentials, why)
}

fn not_granted(why: Why, grant: &Grant, channel: &Channel) -> Denied {
    let verb = if why == Why::MayNotPublish { "publish to" } else { "listen to" };
    if grant.of_anybody {
        let detail = format!("nobody in particular may {verb} {channel}; say who you are");
        return Denied::new(Why::Unauthenticated, detail).field("channel");
    }
    Denied::new(why, format!("what you showed does not allow you to {verb} {channel}"))
        .field("channel")
}
