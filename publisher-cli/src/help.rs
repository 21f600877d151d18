//! The texts at the end of each command's `--help`: examples, the environment, exit codes. Tests
//! parse every example, and run those that are cheap.
//!
//! clap replaces a plain `{n}` in a help text with a line break. The escape sequence in
//! `{\x1b[0mn}` prevents this. It is invisible on a terminal, and `pages.rs` removes it from what it
//! writes.

/// The escape sequence that keeps clap from reading `{n}`.
pub const INVISIBLE: &str = "\x1b[0m";

/// The help of `bench URL`.
pub const BENCH_URL: &str = "The event stream, of any server; {\x1b[0mn} behind the host is the connection's number, from 0";

/// The help of `publish --count`.
pub const COUNT: &str =
    "Publish the event N times; {\x1b[0mn} in its data is then 1, 2, 3 and so on";

/// The help of `tail --format`.
pub const FORMAT: &str = "Print each event in this form, and nothing else of it: {id} {time} {channel} {type} \
    {data} stand for its parts, {raw} for the data unchanged, {json} for the data as a JSON value; \
    \\t and \\n are read, and {{ is a brace";

/// The end of `--help`.
pub const MAIN: &str = "\
Examples:
  sse-publish demo hello                      one event; prints its id
  sse-publish demo,orders --event tick hello  the same on two channels, typed
  sse-publish orders @order.json              the content of a file
  tail -f log | sse-publish demo              a line, an event; sent within 50 ms
  sse-publish demo --file events.txt --rate 10
  sse-publish --ndjson < items.ndjson         {\"channel\":\"a\",\"data\":{\"x\":1}} a line
  sse-publish --redis redis://user:pass@host demo hello
  sse-publish tail demo,orders                follow channels; resumes when cut
  sse-publish publish tail hello              a channel called \"tail\": name the subcommand
  sse-publish bench http://127.0.0.1:8080/events?channel=demo
  sse-publish token --secret-file jwt.secret --sub 42 --subscribe demo
  sse-publish key --publish orders            make an API key for a service

sse-publish COMMAND --help tells of tail, publish, bench, token, key, completions and man. sse-publish
publish --help has more about publishing.

Environment, where an option does not say otherwise:
  SSE_URL, SSE_REDIS    as --url and --redis
  SSE_TOKEN, SSE_KEY    as --token and --key; secrets belong here or into a profile's files rather than on
                        the command line, which other users of the machine can read
  SSE_PUBLISH_PROFILE   as --profile
  SSE_PUBLISH_CONFIG    the configuration file [default: ~/.config/sse-publish/config.toml, or below
                        XDG_CONFIG_HOME]
  SSL_CERT_FILE         other root certificates
  TRACEPARENT           goes with each request to a gateway, which logs it (W3C Trace Context)

Configuration file: each profile may have url or redis, prefix, token_file or key_file, and headers:
  default = \"local\"

  [profiles.local]
  url = \"http://127.0.0.1:8080\"

  [profiles.production]
  url = \"https://events.example.org\"
  token_file = \"production.token\"
An option goes before the environment, and the environment before the profile. A profile's token, key and
headers are sent to the server of its own url alone.

Exit codes:
  0    everything was published (tail: --limit was reached, the server ended the stream with 204, or
       stdout was closed)
  1    something was not published, or nobody can say; stderr names the lines and why (tail: refused;
       bench: not all connections opened and stayed open, or something was lost)
  2    no connection could be made: nothing was sent
  3    tail: a gap came, with --fail-on-gap
  64   the command line, the environment or the configuration file is wrong
  130  ended by Ctrl-C; a second one does not wait for the account";

/// The end of `publish --help`.
pub const PUBLISH: &str = "\
Examples:
  sse-publish demo hello
  sse-publish publish demo,orders hello       publish is the default, and may be named
  sse-publish demo @order.json                the content of a file, without its last line end
  sse-publish demo @@alice                    the text @alice
  date | sse-publish demo --whole             all of the input as one event
  sse-publish demo -f events.txt -r 10        ten lines a second
  find . -print0 | sse-publish files --delimiter '\\0'
  sse-publish demo 'tick {\x1b[0mn}' --count 5 --rate 1
  sse-publish orders paid -k order-17-paid    a second time, this prints the first event's id
  sse-publish orders -f orders.ndjson --key-field id
  sse-publish --ndjson < items.ndjson
  sse-publish tail orders --from -3 --limit 3 --channel --json | sse-publish --ndjson --key-field id

Every event carries an idempotency key, so retries publish nothing twice. With --idempotency-key or
--key-field the same is true of a second run, for as long as the gateway remembers keys (10 minutes by
default). Some clients cannot read events over 64 KB (see docs/clients.md); the first one of a run that is
longer is told of on stderr.

Output: of DATA, @FILE and --whole, stdout has the id of each event, or CHANNEL and id where several channels
are named. Of lines, stderr has a summary. --json prints a line for each event in both cases.

Environment: SSE_URL, SSE_REDIS, SSE_TOKEN, SSE_KEY, SSE_PUBLISH_PROFILE, SSE_PUBLISH_CONFIG, SSL_CERT_FILE
and TRACEPARENT; sse-publish --help tells of each.

Exit codes: 0 when everything was published; 1 when something was not, or nobody can say; 2 when no connection
could be made; 64 when the command line, the environment or the configuration file is wrong; 130 after Ctrl-C.";

/// The end of `tail --help`.
pub const TAIL: &str = "\
Examples:
  sse-publish tail demo                       what is published from now on
  sse-publish tail demo,orders --from 5m --time --channel
  sse-publish tail orders --from 2025-06-01T12:00:00+02:00
  sse-publish tail orders --from -20 --limit 20
  sse-publish tail orders --from oldest --json --parse | jq .data
  sse-publish tail demo,orders --format '{time} {channel} {type} {data}'
  sse-publish tail orders --json --fail-on-gap > orders.ndjson
  sse-publish --ndjson copy < orders.ndjson   publish them on another channel

A line has the event's id, its type and its data; a control character is written as an escape. An id begins
with the time of publication, in milliseconds since 1970. When the connection is cut, tail goes on
after the last event. Where events may be missing, stderr has a line that begins with gap.

Environment: SSE_URL, SSE_TOKEN, SSE_KEY, SSE_PUBLISH_PROFILE, SSE_PUBLISH_CONFIG, SSL_CERT_FILE, TRACEPARENT;
sse-publish --help tells of each. NO_COLOR, CLICOLOR and CLICOLOR_FORCE are followed.

Exit codes: 0 when --limit was reached, the server ended the stream with 204, or stdout was closed; 1 when
the server refuses; 2 when no connection can be made at all; 3 when a gap came, with --fail-on-gap; 64 when
the command line, the environment or the configuration file is wrong; 130 after Ctrl-C.";

/// The end of `bench --help`.
pub const BENCH: &str = "\
Use it only against servers that you run: it is an attack on any other. It stops by itself; Ctrl-C
ends it with the report so far.

With --publish each event is POSTed to /channels/CHANNEL of the same origin and carries its number and
the time, so the report tells what was lost, repeated or out of order, and how long each event took from
just before its POST to this client. Only one run at a time should publish on a channel. Without
--publish it counts what comes.

Examples:
  sse-publish bench 'http://127.0.0.1:8080/events?channel=demo' --connections 1000 --publish demo
  sse-publish bench 'http://127.0.0.1:8080/events?channel=demo' -c 50 -p demo --rate 100 --for 5s
  sse-publish bench 'https://sse.example.org/events?channel=user-{\x1b[0mn}' --profile production --json

Environment: SSE_TOKEN, SSE_KEY, SSE_PUBLISH_PROFILE, SSE_PUBLISH_CONFIG, SSL_CERT_FILE, TRACEPARENT; sse-publish
--help tells of each. SSE_URL is not read.

Exit codes: 0 when all connections opened and stayed open, nothing was lost, no gap event came, and
everything was published; 1 otherwise; 64 when the command line is wrong; 130 after Ctrl-C.";

/// The end of `token --help`.
pub const TOKEN: &str = "\
Examples:
  sse-publish token secret --out jwt.secret      make a secret, once; the gateway reads the same file
  sse-publish token --secret-file jwt.secret --sub 42 --subscribe 'user:{sub}:*'
  sse-publish token --secret-file jwt.secret --subscribe demo,orders --publish demo --expires 8h
  sse-publish token --secret-file jwt.secret --subscribe demo --expires 2099-12-31T23:59:59Z
  sse-publish token --pem key.pem --alg ES256 --publish orders --expires 5m
  sse-publish tail demo --token \"$(sse-publish token --secret-file jwt.secret --subscribe demo)\"
  sse-publish token check --secret-file jwt.secret < token.txt

The gateway takes these tokens with one of these lines in auth.jwt.keys:
  alg=HS256 secret_file=jwt.secret
  alg=ES256 pem=public.pem                       openssl pkey -in key.pem -pubout -out public.pem

A pattern is a channel's name, with * for any text and {claim} for what the token says of its bearer.
This is for development, tests and scripts; in production the service that knows your users makes their
tokens, with any library for JSON Web Tokens.

Environment: the variable that --secret-env names, and no other.

Exit codes: 0 when the token was made, or is one that a gateway with this key takes; 1 when it is not, or
when nothing was proven because no key was given; 64 when the command line is wrong.";

/// The end of `token check --help`.
pub const TOKEN_CHECK: &str = "\
Examples:
  sse-publish token check --secret-file jwt.secret < token.txt
  sse-publish token check --pem public.pem --aud sse --iss https://login.example.org < token.txt

Environment: the variable that --secret-env names, and no other.

Exit codes: 0 when a gateway with this key takes the token; 1 when it does not, or when nothing was proven
because no key was given; 64 when the command line is wrong.";

/// The end of `token secret --help`.
pub const TOKEN_SECRET: &str = "\
Examples:
  sse-publish token secret > jwt.secret
  sse-publish token secret --out jwt.secret      readable by its owner alone

Environment: none.

Exit codes: 0 when the secret was made; 1 when it could not be written; 64 when the command line is wrong.";

/// The end of `key --help`.
pub const KEY: &str = "\
Examples:
  sse-publish key --name billing --publish orders --publish 'user:*'
  sse-publish key --name billing --publish 'orders,user:*' --json

Give the key to the service, which sends it as X-API-Key, or to sse-publish (--key, SSE_KEY). Put the line
into the gateway's auth.keys: it holds a hash, from which nobody can find the key. Nothing keeps the key,
so it is shown this once. A line may say more: rate=EVENTS_A_SECOND, streams=NUMBER.

Environment: none.

Exit codes: 0 when the key was made; 1 when it could not be printed; 64 when the command line is wrong.";

/// The end of `completions --help`.
pub const COMPLETIONS: &str = "\
Examples:
  sse-publish completions bash > ~/.local/share/bash-completion/completions/sse-publish
  sse-publish completions zsh > ~/.zfunc/_sse-publish
  sse-publish completions fish > ~/.config/fish/completions/sse-publish.fish

Environment: none.

Exit codes: 0 when they were printed; 1 when they could not be; 64 when the command line is wrong.";

/// The end of `man --help`.
pub const MAN: &str = "\
Examples:
  sse-publish man | man -l -
  sse-publish man --out /usr/local/share/man/man1

Environment: none.

Exit codes: 0 when they were written; 1 when they could not be; 64 when the command line is wrong.";

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples in a help text: what stands below `Examples:`, without the remarks.
    fn examples(help: &str) -> Vec<String> {
        let help = help.replace(INVISIBLE, "");
        let (_, below) = help.split_once("Examples:\n").expect("every help has examples");
        let lines = below.lines().take_while(|line| line.starts_with("  "));
        lines.map(|line| line.trim().split("  ").next().unwrap().to_owned()).collect()
    }

    /// The words of each command of a shell's line, without redirections.
    fn commands(line: &str) -> Vec<Vec<String>> {
        let (mut commands, mut word, mut quote) = (vec![Vec::new()], String::new(), None);
        for c in line.chars().chain([' ']) {
            match (quote, c) {
                (Some(end), c) if c == end => quote = None,
                (Some(_), c) => word.push(c),
                (None, '\'' | '"') => quote = Some(c),
                (None, '|') => commands.push(Vec::new()),
                (None, ' ') if word.is_empty() => {}
                (None, ' ') => commands.last_mut().unwrap().push(std::mem::take(&mut word)),
                (None, c) => word.push(c),
            }
        }
        for words in &mut commands {
            if let Some(at) = words.iter().position(|word| matches!(word.as_str(), "<" | ">")) {
                words.drain(at..at + 2);
            }
        }
        commands
    }

    #[test]
    fn every_example_is_a_command_line_that_is_understood() {
        let mut parsed = 0;
        for help in
            [MAIN, PUBLISH, TAIL, BENCH, TOKEN, TOKEN_CHECK, TOKEN_SECRET, KEY, COMPLETIONS, MAN]
        {
            assert!(help.contains("\nEnvironment") && help.contains("\nExit codes:"), "{help}");
            for example in examples(help) {
                for words in commands(&example) {
                    if words[0] == "sse-publish" {
                        crate::args::parse(words).unwrap_or_else(|why| panic!("{example}: {why}"));
                        parsed += 1;
                    }
                }
            }
        }
        assert!(parsed > 40, "{parsed}");
    }
}
