//! Tests of access that is decided elsewhere: by the keys of a set at a URL (`jwks=`), and by the
//! forward-auth service. Both are real HTTP servers here, and they misbehave.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use sse_lab::listener::Listener;
use sse_token::{Algorithm, SigningKey};

use crate::access::token;
use crate::support::{Answer, Scratch, Subscriber, TestGateway, eventually, request};

/// How a [`Server`] answers.
#[derive(Clone)]
pub enum Behaviour {
    /// With this status, these further header lines and this body.
    Says(u16, String, String),
    /// With 200 and this body without a length: it ends with the connection.
    UntilClose(String),
    /// Not at all, while the connection stays open.
    Hangs,
    /// With a body that never ends.
    Endless,
}

/// A minimal HTTP server that records the head of each request.
pub struct Server {
    pub addr: SocketAddr,
    behaviour: Arc<Mutex<Behaviour>>,
    heads: Arc<Mutex<Vec<String>>>,
    _listener: Listener,
}

impl Server {
    pub fn new(behaviour: Behaviour) -> Self {
        let behaviour = Arc::new(Mutex::new(behaviour));
        let heads = Arc::new(Mutex::new(Vec::new()));
        let shared = (behaviour.clone(), heads.clone());
        let listener = Listener::start(move |client| serve(client, &shared.0, &shared.1));
        Server { addr: listener.addr, behaviour, heads, _listener: listener }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    /// The heads of all requests so far.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    fn asked(&self) -> usize {
        self.heads.lock().unwrap().len()
    }
}

fn serve(stream: TcpStream, behaviour: &Mutex<Behaviour>, heads: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        heads.lock().unwrap().push(head);
        let now = behaviour.lock().unwrap().clone();
        match now {
            Behaviour::Says(status, lines, body) => {
                let answer = format!(
                    "HTTP/1.1 {status} It\r\nContent-Length: {}\r\n{lines}\r\n{body}",
                    body.len()
                );
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
            Behaviour::UntilClose(body) => {
                let _ = stream.write_all(format!("HTTP/1.1 200 It\r\n\r\n{body}").as_bytes());
                return;
            }
            Behaviour::Hangs => {
                let _ = reader.read(&mut [0; 1]);
                return;
            }
            Behaviour::Endless => {
                let _ = stream.write_all(b"HTTP/1.1 200 It\r\n\r\n{\"keys\":[");
                while stream.write_all(&[b' '; 4096]).is_ok() {}
                return;
            }
        }
    }
}

pub fn says(status: u16, body: impl ToString) -> Behaviour {
    Behaviour::Says(status, String::new(), body.to_string())
}

/// An Ed25519 key pair: the private key as PEM, the public key as the `x` of a JWK.
fn pair() -> (Vec<u8>, String) {
    let openssl = |args: &[&str], input: &[u8]| {
        let mut child = Command::new("openssl")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("openssl, which scripts/test installs");
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap().stdout
    };
    let private = openssl(&["genpkey", "-algorithm", "ed25519"], b"");
    let der = openssl(&["pkey", "-pubout", "-outform", "DER"], &private);
    let encoded = openssl(&["base64", "-A"], &der[der.len() - 32..]);
    let x = String::from_utf8(encoded).unwrap().replace('+', "-").replace('/', "_");
    (private, x.trim_end_matches('=').to_owned())
}

fn jwk(kid: &str, x: &str) -> Value {
    json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": kid, "x": x })
}

fn signed(private: &[u8], kid: &str) -> String {
    let claims =
        json!({ "sub": "42", "exp": 99_999_999_999u64, "subscribe": ["*"], "publish": ["*"] });
    let key = SigningKey::from_pem(private, Algorithm::EdDSA).unwrap();
    sse_token::sign(claims.as_object().unwrap(), &key, Algorithm::EdDSA, Some(kid)).unwrap()
}

fn ask(gateway: &TestGateway, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    request(gateway.addr, "GET", "/channels/a", &[("Authorization", &bearer)], b"")
}

#[test]
fn keys_of_a_set_are_read_and_a_new_one_is_found_by_its_name() {
    let ((first, x1), (second, x2), (third, _)) = (pair(), pair(), pair());
    let server = Server::new(says(200, json!({ "keys": [jwk("k1", &x1), { "kty": "new" }, 5] })));
    let line = format!("alg=EdDSA jwks={}", server.url("/jwks.json?secret=s3cret"));
    let gateway = TestGateway::memory(&[("auth.jwt.keys", &line)]);
    eventually("the first key is taken", || ask(&gateway, &signed(&first, "k1")).status == 200);
    assert_eq!(
        ask(&gateway, &signed(&second, "k1")).status,
        401,
        "the name is right, the key is not"
    );
    // Anybody can invent key ids, so the gateway must not fetch the set for each.
    let before = server.asked();
    for n in 0..50 {
        assert_eq!(ask(&gateway, &signed(&third, &format!("made-up-{n}"))).status, 401);
    }
    assert!(server.asked() <= before + 1, "{} times", server.asked() - before);
    // The gateway finds the new key once it may ask the source again. It no longer accepts the
    // removed key, although it accepted a token of that key before.
    server.behave(says(200, json!({ "keys": [jwk("k2", &x2)] })));
    eventually("the second key is taken", || ask(&gateway, &signed(&second, "k2")).status == 200);
    assert_eq!(ask(&gateway, &signed(&first, "k1")).status, 401);
    let heads = server.heads.lock().unwrap();
    assert!(
        heads.iter().all(|head| head.starts_with("GET /jwks.json?secret=s3cret ")),
        "{heads:?}"
    );
}

/// While the gateway cannot read a set, it asks clients to come back instead of calling their
/// tokens invalid. A set that it has read from a file outlives the file.
#[test]
fn while_a_set_cannot_be_read_the_keys_of_before_stay() {
    let (private, x) = pair();
    let good = says(200, json!({ "keys": [jwk("k1", &x)] }));
    let elsewhere = Server::new(good.clone());
    let redirect =
        Behaviour::Says(302, format!("Location: {}\r\n", elsewhere.url("/")), String::new());
    let secret = json!({ "keys": [{ "kty": "oct", "alg": "HS256", "kid": "k1", "k": "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE" }] });
    for bad in [
        says(500, "no"),
        says(200, "nonsense"),
        says(200, json!({ "keys": [] })),
        says(200, json!({ "keys": "x" })),
        says(200, secret),
        says(200, "[".repeat(100_000)),
        redirect,
        Behaviour::Endless,
        Behaviour::Hangs,
    ] {
        let server = Server::new(bad.clone());
        let line = format!("alg=EdDSA jwks={}", server.url("/"));
        let gateway = TestGateway::memory(&[("auth.jwt.keys", &line)]);
        let token = signed(&private, "k1");
        let answer = ask(&gateway, &token);
        assert_eq!(answer.status, 503, "{}", answer.body);
        let bearer = format!("Bearer {token}");
        let headers = [("Authorization", bearer.as_str())];
        let mut stream = Subscriber::open(gateway.addr, "channel=a", &headers);
        assert!(stream.head.starts_with("HTTP/1.1 200"), "{}", stream.head);
        let (blocks, retry) = stream.rest();
        assert!(blocks.is_empty() && retry.is_some(), "{blocks:?}");
        assert_eq!(elsewhere.asked(), 0, "a redirect was followed");
    }
    // A set in a file is read at the start.
    let dir = Scratch::new("jwks");
    let file = dir.path().join("jwks.json");
    std::fs::write(&file, json!({ "keys": [jwk("k1", &x)] }).to_string()).unwrap();
    let line = format!("alg=EdDSA jwks={}", file.display());
    let gateway = TestGateway::memory(&[("auth.jwt.keys", &line)]);
    drop(dir);
    assert_eq!(ask(&gateway, &signed(&private, "k1")).status, 200);
    assert_eq!(
        ask(&gateway, &signed(&private, "k2")).status,
        401,
        "the file is gone, its key stays"
    );
}

fn with_session(gateway: &TestGateway, method: &str, path: &str) -> Answer {
    let headers = [("Cookie", "session=s1"), ("Authorization", "Bearer opaque"), ("X-Team", "red")];
    request(gateway.addr, method, path, &headers, b"x")
}

#[test]
fn a_service_that_is_asked_decides() {
    let server = Server::new(says(200, ""));
    let url = server.url("/check?gateway=1");
    let settings = [
        ("auth.forward.url", url.as_str()),
        ("auth.forward.cache", "0s"),
        ("auth.forward.headers", "x-team"),
    ];
    let gateway = TestGateway::memory(&settings);
    // An answer without a body grants what the request asked for, and nothing else.
    let mut stream =
        Subscriber::open(gateway.addr, "channel=a&channel=b%2Fc", &[("Cookie", "session=s1")]);
    stream.opening();
    assert_eq!(with_session(&gateway, "POST", "/channels/a").status, 200);
    let head = server.heads.lock().unwrap().last().unwrap().to_ascii_lowercase();
    for line in [
        "get /check?gateway=1&channel=a http/1.1",
        "cookie: session=s1",
        "authorization: bearer opaque",
        "x-team: red",
        "x-forwarded-for: 127.0.0.1",
        "x-sse-action: publish",
        "x-original-method: post",
        "x-original-uri: /channels/a",
    ] {
        assert!(head.contains(&format!("{line}\r\n")), "{line}: {head}");
    }
    assert!(server.heads.lock().unwrap()[0].contains("channel=a&channel=b%2Fc"));

    server.behave(says(200, json!({ "subject": "42", "subscribe": ["user:42:*"], "publish": ["out"], "expires_in": 600 })));
    assert_eq!(with_session(&gateway, "GET", "/channels/user:42:a").status, 200);
    assert_eq!(with_session(&gateway, "GET", "/channels/user:43:a").status, 403);
    assert_eq!(with_session(&gateway, "POST", "/channels/out").status, 200);
    assert_eq!(with_session(&gateway, "POST", "/channels/user:42:a").status, 403);
    let headers = [("Cookie", "session=s1"), ("Content-Type", "application/json")];
    let answer = gateway.post(
        "/publish",
        &headers,
        br#"[{"channel":"out","data":1},{"channel":"in","data":1}]"#,
    );
    assert_eq!(answer.status, 207, "{}", answer.body);
    assert!(server.heads.lock().unwrap().last().unwrap().contains("channel=out&channel=in"));

    // A body without a length is a body. If it counted as none, it would grant what was asked for.
    server.behave(Behaviour::UntilClose(json!({ "subscribe": [] }).to_string()));
    assert_eq!(with_session(&gateway, "GET", "/channels/a").status, 403);

    server.behave(says(401, ""));
    let answer = with_session(&gateway, "GET", "/channels/a");
    assert!(answer.status == 401 && answer.head.contains("www-authenticate"), "{}", answer.head);
    server.behave(says(403, ""));
    assert_eq!(with_session(&gateway, "GET", "/channels/a").status, 403);
    // A cookie from a page of another site is refused without asking the service.
    let asked = server.asked();
    let headers = [("Cookie", "session=s1"), ("Origin", "https://evil.example")];
    assert_eq!(gateway.post("/channels/a", &headers, b"x").status, 403);
    assert_eq!(request(gateway.addr, "GET", "/events?channel=a", &headers, b"").status, 403);
    assert_eq!(server.asked(), asked);
    drop(stream);
    gateway.settled();
}

#[test]
fn a_service_that_does_not_decide_lets_nobody_in_and_ends_no_event_source() {
    let elsewhere = Server::new(says(200, ""));
    let redirect =
        Behaviour::Says(307, format!("Location: {}\r\n", elsewhere.url("/")), String::new());
    let server = Server::new(says(200, ""));
    let url = server.url("/");
    let settings = [
        ("auth.forward.url", url.as_str()),
        ("auth.forward.timeout", "300ms"),
        ("auth.anonymous.subscribe", "public"),
    ];
    let gateway = TestGateway::memory(&settings);
    for bad in [
        says(500, ""),
        says(404, ""),
        redirect,
        says(200, "nonsense"),
        says(200, json!({ "subscribe": "*" })),
        says(200, json!({ "subscribe": ["a b"] })),
        says(200, "[".repeat(60_000)),
        Behaviour::Hangs,
        Behaviour::Endless,
    ] {
        server.behave(bad);
        let mut stream = Subscriber::open(gateway.addr, "channel=a", &[("Cookie", "session=s1")]);
        assert!(stream.head.starts_with("HTTP/1.1 200"), "{}", stream.head);
        let (blocks, retry) = stream.rest();
        assert!(blocks.is_empty() && retry.is_some(), "{blocks:?}");
        assert_eq!(with_session(&gateway, "POST", "/channels/a").status, 503);
        assert_eq!(with_session(&gateway, "GET", "/channels/a").status, 503);
    }
    assert_eq!(elsewhere.asked(), 0, "a redirect was followed, with the cookie");
    // The service is not asked about channels that are open to anonymous clients.
    let mut stream = Subscriber::open(gateway.addr, "channel=public", &[]);
    stream.opening();
    server.behave(says(200, ""));
    eventually("it is asked again", || with_session(&gateway, "GET", "/channels/a").status == 200);
    drop(stream);
    gateway.settled();
}

#[test]
fn those_who_ask_the_same_share_one_answer() {
    let server = Server::new(says(200, ""));
    let url = server.url("/");
    let gateway = TestGateway::memory(&[("auth.forward.url", &url), ("auth.forward.cache", "1h")]);
    let addr = gateway.addr;
    let at_once: Vec<_> = (0..20)
        .map(|_| {
            thread::spawn(move || {
                Subscriber::open(addr, "channel=a", &[("Cookie", "session=s1")]).opening();
            })
        })
        .collect();
    for one in at_once {
        one.join().unwrap();
    }
    assert_eq!(server.asked(), 1);
    Subscriber::open(addr, "channel=a", &[("Cookie", "session=s2")]).opening();
    Subscriber::open(addr, "channel=b", &[("Cookie", "session=s1")]).opening();
    assert_eq!(server.asked(), 3, "another client, another channel");
    gateway.settled();
}

/// The gateway asks the service only about credentials that it cannot check itself.
#[test]
fn own_tokens_and_a_service_stand_beside_each_other() {
    let server = Server::new(says(403, ""));
    let url = server.url("/");
    let jwt = "alg=HS256 secret=a-secret-of-at-least-32-bytes-for-tests";
    let gateway = TestGateway::memory(&[("auth.forward.url", &url), ("auth.jwt.keys", jwt)]);
    assert_eq!(ask(&gateway, &token(json!({ "subscribe": ["a"] }))).status, 200);
    assert_eq!(server.asked(), 0);
    assert_eq!(ask(&gateway, "opaque").status, 403);
    assert_eq!(server.asked(), 1);
}
