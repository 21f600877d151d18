//! Publishes straight to Redis by the written contract: `FCALL sse_publish`, pipelined. Where the user
//! may not load functions the same text runs as a script.
//!
//! Every connection is set up anew (library, partitions), because a restart may have taken the library
//! away. A library newer than this program's is used as it is, never replaced.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, IntoConnectionInfo, RedisError, RedisResult, cmd,
};
use sse_contract::{
    CONTRACT_VERSION, Function, Keys, LIBRARY_VERSION, eval_script, library_source,
};

use crate::attempt::{Answer, Attempt, Reason, Target};
use crate::item::Event;
use crate::redis_reply;

/// A Redis server.
pub struct RedisTarget {
    client: Client,
    prefix: String,
    wait: Duration,
    session: Option<Session>,
}

/// A connection that is ready to publish.
struct Session {
    connection: MultiplexedConnection,
    keys: Keys,
    call: Call,
}

/// How the function is reached.
enum Call {
    Function,
    /// The script's SHA-1.
    Script(String),
}

/// Why there is no session.
enum NoSession {
    /// Another attempt may succeed.
    Passing(Reason),
    /// It would not.
    Final(Reason),
}

impl RedisTarget {
    /// Checks the URL; connects only when something is sent.
    pub fn new(url: &str, prefix: &str, wait: Duration) -> Result<Self, String> {
        // The error could quote a URL with a password in it, so it is not repeated.
        let info = url.into_connection_info().map_err(|error| {
            let detail = error.category().to_owned();
            format!("not a redis:// or rediss:// URL ({detail})")
        })?;
        if info.redis_settings().db() != 0 {
            return Err(
                "the gateway's keys are in database 0: pub/sub knows no databases".to_owned()
            );
        }
        let client = Client::open(info).map_err(|error| error.category().to_owned())?;
        Ok(RedisTarget { client, prefix: prefix.to_owned(), wait, session: None })
    }

    async fn open(&self) -> Result<Session, NoSession> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.wait))
            .set_response_timeout(Some(self.wait));
        let mut connection =
            self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let keys = self.keys(&mut connection).await?;
        let call = prepare(&mut connection).await?;
        Ok(Session { connection, keys, call })
    }

    /// Reads how the keys are named here. With one partition the state is at a plain name, else each
    /// partition has one, and they agree. Where no gateway was yet, there is one partition.
    async fn keys(&self, connection: &mut MultiplexedConnection) -> Result<Keys, NoSession> {
        for state in [Keys::new(&self.prefix, 1).state(0), Keys::new(&self.prefix, 2).state(0)] {
            let read = cmd("HMGET").arg(state).arg("partitions").arg("version").to_owned();
            let (partitions, version): (Option<u16>, Option<u32>) =
                match read.query_async(connection).await {
                    Ok(fields) => fields,
                    // A user confined to the plain names may not look at the others.
                    Err(error) if error.code() == Some("NOPERM") => continue,
                    Err(error) => return Err(error.into()),
                };
            if let Some(version) = version.filter(|&version| version != CONTRACT_VERSION) {
                return Err(NoSession::Final(Reason::new(format!(
                    "this Redis holds contract version {version}, this program speaks {CONTRACT_VERSION}"
                ))));
            }
            if let Some(partitions) = partitions {
                return Ok(Keys::new(&self.prefix, partitions));
            }
        }
        Ok(Keys::new(&self.prefix, 1))
    }
}

/// Makes sure that the function is there, at least as new as this program's; else loads the script.
async fn prepare(connection: &mut MultiplexedConnection) -> RedisResult<Call> {
    let version: RedisResult<u32> =
        cmd("FCALL").arg("sse_version").arg(0).query_async(connection).await;
    let mut load = cmd("FUNCTION");
    load.arg("LOAD");
    match version {
        Ok(version) if version >= LIBRARY_VERSION => return Ok(Call::Function),
        Ok(_) => {
            load.arg("REPLACE");
        }
        // Without REPLACE: a newer one may have been loaded since the question, and must stay.
        Err(error) if redis_reply::wants_setup(&error) => {}
        Err(error) if error.code().is_none_or(redis_reply::is_passing) => return Err(error),
        Err(_) => return script(connection).await,
    }
    match load.arg(library_source()).query_async::<String>(connection).await {
        Ok(_) => Ok(Call::Function),
        Err(error) if error.detail().is_some_and(|text| text.contains("already exists")) => {
            Ok(Call::Function)
        }
        Err(error) if error.code().is_none_or(redis_reply::is_passing) => Err(error),
        Err(_) => script(connection).await,
    }
}

async fn script(connection: &mut MultiplexedConnection) -> RedisResult<Call> {
    let text = eval_script(Function::Publish);
    cmd("SCRIPT").arg("LOAD").arg(text).query_async(connection).await.map(Call::Script)
}

impl From<RedisError> for NoSession {
    fn from(error: RedisError) -> Self {
        let passing = match error.code() {
            Some(code) => redis_reply::is_passing(code),
            None => error.is_io_error(),
        };
        if passing {
            NoSession::Passing(Reason::new(format!(
                "cannot connect to Redis: {}",
                describe(&error)
            )))
        } else {
            NoSession::Final(Reason::new(format!("Redis refuses: {}", describe(&error))))
        }
    }
}

fn describe(error: &RedisError) -> String {
    match error.kind() {
        ErrorKind::Io => error.to_string(),
        _ => redis_reply::reason(error).text,
    }
}

impl Session {
    fn command(&self, event: &Event) -> Cmd {
        let mut command = match &self.call {
            Call::Function => cmd("FCALL").arg(Function::Publish.name()).to_owned(),
            Call::Script(sha) => cmd("EVALSHA").arg(sha).to_owned(),
        };
        let (channel, keys) = (&event.channel, &self.keys);
        command.arg(3).arg(keys.state(keys.partition(channel.as_str()))).arg(keys.history(channel));
        command.arg(keys.idempotency(channel, &event.key)).arg(&*event.data);
        if let Some(event) = &event.event {
            command.arg(event.as_str());
        }
        command
    }
}

impl Target for RedisTarget {
    async fn send(&mut self, events: &[&Event]) -> Attempt {
        let all = events.len();
        let again = |reason, perhaps_published| Answer::Again { reason, perhaps_published };
        let mut session = match self.session.take() {
            Some(session) => session,
            None => match self.open().await {
                Ok(session) => session,
                Err(NoSession::Passing(reason)) => {
                    return Attempt {
                        connected: false,
                        ..Attempt::alike(all, again(reason, false))
                    };
                }
                Err(NoSession::Final(reason)) => {
                    let answer = Answer::Refused(reason);
                    return Attempt { connected: false, stop: true, ..Attempt::alike(all, answer) };
                }
            },
        };
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        for event in events {
            pipeline.add_command(session.command(event));
        }
        let results: RedisResult<Vec<RedisResult<String>>> =
            pipeline.query_async(&mut session.connection).await;
        match results {
            Ok(results) => {
                let errors = || results.iter().filter_map(|result| result.as_ref().err());
                // A demoted master, too, is left: the name may lead to its successor.
                let leave = |error: &RedisError| {
                    redis_reply::wants_setup(error)
                        || error.code().is_some_and(redis_reply::is_passing)
                };
                if !errors().any(leave) {
                    self.session = Some(session);
                }
                Attempt::of(results.into_iter().map(redis_reply::answer).collect())
            }
            Err(error) => {
                let reason = Reason::new(format!("the connection to Redis broke: {error}"));
                Attempt::alike(all, again(reason, true))
            }
        }
    }
}
