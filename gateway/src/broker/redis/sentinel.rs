//! Finds the master that Redis Sentinel names, and hears when it names another.
//!
//! Source: redis.io, "Guidelines for Redis clients with support for Redis Sentinel". Beyond that,
//! several Sentinels are asked at the same time and the newest answer counts: one that is cut off
//! from the others still names a master that was deposed.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::AsyncReadExt;

use crate::broker::redis::connector::{self, Connection, SessionError};
use crate::broker::redis::place::Server;
use crate::broker::redis::resp::{self, Value};

/// A Sentinel that does not answer within this time is not waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long after a failure a Sentinel is listened to again.
const PAUSE: Duration = Duration::from_secs(1);

/// The pub/sub channel on which Sentinels tell of a new master.
const SWITCH: &str = "+switch-master";

/// The Sentinels that watch over one master.
#[derive(Debug)]
pub struct Sentinels {
    /// At least one.
    sentinels: Vec<Server>,
    /// What the Sentinels call the master.
    name: String,
    /// Credentials and TLS for the master; its address is what is asked for.
    template: Server,
}

/// What a Sentinel says of the master.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    /// Each failover has a higher one.
    epoch: u64,
    host: String,
    port: u16,
}

impl Sentinels {
    /// Sentinels, what they call the master, and a server whose credentials and TLS are the
    /// master's.
    pub(crate) fn new(sentinels: Vec<Server>, name: String, template: Server) -> Self {
        Sentinels { sentinels, name, template }
    }

    /// The addresses of the Sentinels, for messages before a master is known.
    pub(crate) fn addrs(&self) -> String {
        let addrs: Vec<&str> = self.sentinels.iter().map(|server| &**server.addr()).collect();
        format!("{:?} of the Sentinels {}", self.name, addrs.join(", "))
    }

    /// Where the master is, as the Sentinels say. Waits for more than half of them, and believes the
    /// one that knows of the last failover. The error says of each why it did not tell.
    pub(crate) async fn master(&self) -> Result<Server, SessionError> {
        let asked = self.sentinels.iter().map(|sentinel| async move {
            let asked = tokio::time::timeout(PATIENCE, self.ask(sentinel)).await;
            let late = SessionError::Timeout(PATIENCE);
            asked.unwrap_or(Err(late)).map_err(|error| format!("{}: {error}", sentinel.addr()))
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let (mut said, mut failures) = (Vec::<Said>::new(), Vec::new());
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(answer) => said.push(answer),
                Err(failure) => failures.push(failure),
            }
            if said.len() > self.sentinels.len() / 2 {
                break;
            }
        }
        let newest = said.into_iter().max_by_key(|said| said.epoch);
        let newest = newest.ok_or_else(|| {
            let why = failures.join("; ");
            SessionError::Refused(format!("no Sentinel tells where {:?} is: {why}", self.name))
        })?;
        Ok(self.template.at(&newest.host, newest.port))
    }

    /// Waits until the Sentinels name another master than this one, and returns its address.
    pub(crate) async fn other_than(&self, server: &Server) -> String {
        let watches = self.sentinels.iter().map(|sentinel| self.watch(sentinel, server));
        let mut watches: FuturesUnordered<_> = watches.collect();
        match watches.next().await {
            Some(addr) => addr,
            None => std::future::pending().await,
        }
    }

    async fn watch(&self, sentinel: &Server, server: &Server) -> String {
        loop {
            let failed = match self.listen(sentinel).await {
                Ok(()) => false,
                Err(error) => {
                    tracing::debug!(redis.addr = %sentinel.addr(), %error, "a Sentinel is not heard");
                    true
                }
            };
            // What it told while nobody listened is asked for.
            if let Ok(now) = self.master().await
                && now.addr() != server.addr()
            {
                return now.addr().to_string();
            }
            if failed {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn ask(&self, sentinel: &Server) -> Result<Said, SessionError> {
        let mut connection = connector::dial(sentinel, PATIENCE).await?;
        let cmd = redis::cmd("SENTINEL").arg("MASTER").arg(&self.name).to_owned();
        connection.call(&cmd, |value| self.said(value)).await?
    }

    fn said(&self, value: &Value<'_>) -> Result<Said, SessionError> {
        if let Value::Error(error) = value {
            let error = String::from_utf8_lossy(error);
            return Err(SessionError::Refused(match error.contains("No such master") {
                true => format!("it knows no master named {:?}", self.name),
                false => error.into_owned(),
            }));
        }
        let pairs = value.elements().chunks_exact(2);
        let field = |name| pairs.clone().find(|pair| pair[0].text() == Some(name)).map(|p| &p[1]);
        let number = |name| field(name).and_then(Value::integer);
        let said = || {
            let port = u16::try_from(number("port")?).ok()?;
            let epoch = u64::try_from(number("config-epoch")?).ok()?;
            Some(Said { epoch, host: field("ip")?.text()?.to_owned(), port })
        };
        said().ok_or_else(|| SessionError::Refused(format!("it answered {value:?}")))
    }

    /// Returns once a Sentinel tells of a new master of this name.
    async fn listen(&self, sentinel: &Server) -> Result<(), SessionError> {
        let mut connection = connector::dial(sentinel, PATIENCE).await?;
        let subscribe = redis::cmd("SUBSCRIBE").arg(SWITCH).to_owned();
        connection.send(&subscribe).await?;
        let Connection { stream, input } = &mut connection;
        loop {
            while let Some((value, used)) = resp::parse(input)? {
                let heard = self.is_told(&value)?;
                bytes::Buf::advance(input, used);
                if heard {
                    return Ok(());
                }
            }
            if stream.read_buf(input).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    fn is_told(&self, value: &Value<'_>) -> Result<bool, SessionError> {
        match value {
            Value::Error(error) => {
                Err(SessionError::Refused(String::from_utf8_lossy(error).into_owned()))
            }
            Value::Push(elements) => {
                let texts: Vec<&str> = elements.iter().filter_map(Value::text).collect();
                let [kind, channel, told] = texts[..] else { return Ok(false) };
                let name = told.split(' ').next();
                Ok(kind == "message" && channel == SWITCH && name == Some(&self.name))
            }
            _ => Ok(false),
        }
    }
}
