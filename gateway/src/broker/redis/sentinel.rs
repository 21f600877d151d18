//! Finds the master that Redis Sentinel names, and hears when it names another.
//!
//! Source: redis.io, "Guidelines for Redis clients with support for Redis Sentinel". Beyond that,
//! several Sentinels are asked at the same time and the newest answer counts: one that is cut off
//! from the others still names a master that was deposed.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

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

/// How long the others are waited for once more than half of the Sentinels have answered.
const MOMENT: Duration = Duration::from_millis(200);

/// How long an older answer is not believed after a newer one. Sentinels that were set up anew begin
/// with older ones.
const REMEMBERED: Duration = Duration::from_secs(60);

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
    /// The newest answer so far, and when a Sentinel gave it last.
    newest: Mutex<Option<(Said, Instant)>>,
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
        Sentinels { sentinels, name, template, newest: Mutex::default() }
    }

    /// The addresses of the Sentinels, for messages before a master is known.
    pub(crate) fn addrs(&self) -> String {
        let addrs: Vec<&str> = self.sentinels.iter().map(|server| &**server.addr()).collect();
        format!("{:?} of the Sentinels {}", self.name, addrs.join(", "))
    }

    /// Where the master is, as the Sentinels say. Waits for more than half of them, and a moment for
    /// the others, and believes the one that knows of the last failover. The error says of each why
    /// it did not tell.
    pub(crate) async fn master(&self) -> Result<Server, SessionError> {
        let asked = self.sentinels.iter().map(|sentinel| async move {
            let asked = tokio::time::timeout(PATIENCE, self.ask(sentinel)).await;
            let late = SessionError::Timeout(PATIENCE);
            asked.unwrap_or(Err(late)).map_err(|error| format!("{}: {error}", sentinel.addr()))
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let (mut said, mut failures) = (Vec::<Said>::new(), Vec::new());
        loop {
            let most = said.len() > self.sentinels.len() / 2;
            let answer = match most {
                true => tokio::time::timeout(MOMENT, asked.next()).await.unwrap_or(None),
                false => asked.next().await,
            };
            match answer {
                Some(Ok(answer)) => said.push(answer),
                Some(Err(failure)) => failures.push(failure),
                None => break,
            }
        }
        let newest = said.into_iter().max_by_key(|said| said.epoch);
        let newest = newest.ok_or_else(|| {
            let why = failures.join("; ");
            SessionError::Refused(format!("no Sentinel tells where {:?} is: {why}", self.name))
        })?;
        let newest = self.compared(newest, Instant::now());
        Ok(self.template.at(&newest.host, newest.port))
    }

    /// The newer one of this answer and what was said before. After a failover most Sentinels may
    /// name the old master for some time: they hear of the new one from the first, and one that was
    /// slow does not act on that for half a minute.
    fn compared(&self, said: Said, now: Instant) -> Said {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        match &*newest {
            Some((known, heard)) if known.epoch > said.epoch && now - *heard < REMEMBERED => {
                known.clone()
            }
            _ => {
                *newest = Some((said.clone(), now));
                said
            }
        }
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
            match self.listen(sentinel, server).await {
                Ok(addr) => return addr,
                Err(error) => {
                    tracing::debug!(redis.addr = %sentinel.addr(), %error, "a Sentinel is not heard");
                }
            }
            tokio::time::sleep(PAUSE).await;
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

    /// Listens to a Sentinel until another master than `server` is named, and returns its address.
    /// What the Sentinel told before it was listened to is asked for once it has confirmed that it
    /// is.
    async fn listen(&self, sentinel: &Server, server: &Server) -> Result<String, SessionError> {
        let mut connection = connector::dial(sentinel, PATIENCE).await?;
        let subscribe = redis::cmd("SUBSCRIBE").arg(SWITCH).to_owned();
        connection.send(&subscribe).await?;
        let Connection { stream, input } = &mut connection;
        loop {
            let mut heard = false;
            while let Some((value, used)) = resp::parse(input)? {
                heard |= self.is_told(&value)?;
                bytes::Buf::advance(input, used);
            }
            if heard
                && let Ok(now) = self.master().await
                && now.addr() != server.addr()
            {
                return Ok(now.addr().to_string());
            }
            if stream.read_buf(input).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    /// Whether the Sentinel says that it is listened to from now on, or that this master has
    /// changed.
    fn is_told(&self, value: &Value<'_>) -> Result<bool, SessionError> {
        match value {
            Value::Error(error) => {
                Err(SessionError::Refused(String::from_utf8_lossy(error).into_owned()))
            }
            Value::Push(elements)
                if elements.first().and_then(Value::text) == Some("subscribe") =>
            {
                Ok(true)
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

#[cfg(test)]
mod tests {
    use sse_lab::BOUND;

    use super::*;
    use crate::broker::redis::place::Place;
    use crate::broker::redis::settings::RedisSettings;
    use crate::config::Config;

    /// The Sentinels tell of it once, before anybody listens.
    #[tokio::test]
    async fn a_master_that_was_deposed_before_anybody_listened_is_left() {
        let servers = sse_lab::sentinels::Sentinels::start(1, "");
        let pairs = [("redis.url".to_owned(), servers.url())];
        let config = Config::load(None, std::iter::empty(), &pairs).unwrap();
        let place = Place::of(&RedisSettings::of(&config)).unwrap();
        let old = place.master().await.unwrap();
        assert_eq!(servers.sentinels[0].command("", &["SENTINEL", "FAILOVER", "mymaster"]), "OK");
        let new = servers.servers[1].addr.to_string();
        sse_lab::eventually("all Sentinels name the new master", || {
            let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"];
            let named = servers.sentinels.iter().map(|s| s.command("", &words).replace('\n', ":"));
            named.into_iter().all(|named| named == new)
        });
        let other = tokio::time::timeout(BOUND, place.other_than(&old)).await;
        assert_eq!(other.as_deref(), Ok(&*new));
    }

    #[test]
    fn an_older_answer_is_not_believed_for_a_while() {
        let config = Config::load(None, std::iter::empty(), &[]).unwrap();
        let place = Place::of(&RedisSettings::of(&config)).unwrap();
        let Place::Url(template) = place else { panic!("{place:?}") };
        let sentinels = Sentinels::new(Vec::new(), "mymaster".to_owned(), *template);
        let said = |epoch, host: &str| Said { epoch, host: host.to_owned(), port: 6379 };
        let now = Instant::now();
        let compared =
            |said, seconds| sentinels.compared(said, now + Duration::from_secs(seconds)).host;
        assert_eq!(compared(said(1, "old"), 0), "old");
        assert_eq!(compared(said(2, "new"), 1), "new");
        assert_eq!(compared(said(1, "old"), 40), "new");
        assert_eq!(compared(said(2, "new"), 50), "new");
        assert_eq!(compared(said(1, "old"), 100), "new");
        assert_eq!(compared(said(0, "set up anew"), 111), "set up anew");
    }
}
