//! Tests of access control: who may subscribe and publish, and how everybody else is refused.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sse_token::{Algorithm, SigningKey};

use crate::support::{Answer, Redis, Subscriber, TestGateway, eventually, request};

pub const SECRET: &str = "a-secret-of-at-least-32-bytes-for-tests";
/// Lets each subject subscribe to `user:{sub}:*`, in addition to the token's own claims.
pub const JWT: (&str, &str) = (
    "auth.jwt.keys",
    "alg=HS256 secret=a-secret-of-at-least-32-bytes-for-tests subscribe=user:{sub}:*",
);
const API_KEY: &str = "key-for-tests-0123456789-0123456789";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A token with these claims, signed with `SECRET`. Expires in ten minutes unless `claims` says
/// otherwise.
pub fn token(claims: Value) -> String {
    signed(claims, SECRET.as_bytes())
}

fn signed(mut claims: Value, secret: &[u8]) -> String {
    if claims.get("exp").is_none() {
        claims["exp"] = json!(now() + 600);
    }
    let key = SigningKey::from_secret(secret).unwrap();
    sse_token::sign(claims.as_object().unwrap(), &key, Algorithm::HS256, None).unwrap()
}

pub fn hash_of(key: &str) -> String {
    sse_token::api_key::hash_in_hex(key)
}

pub fn bearer(token: &str) -> (&'static str, String) {
    ("Authorization", format!("Bearer {token}"))
}

fn get(gateway: &TestGateway, path: &str, headers: &[(&str, &str)]) -> Answer {
    request(gateway.addr, "GET", path, headers, b"")
}

/// The answer to a request for a stream that is refused.
fn refused(gateway: &TestGateway, query: &str, headers: &[(&str, &str)]) -> Answer {
    get(gateway, &format!("/events?{query}"), headers)
}

fn opened(gateway: &TestGateway, query: &str, headers: &[(&str, &str)]) -> Subscriber {
    let mut subscriber = Subscriber::open(gateway.addr, query, headers);
    assert!(subscriber.head.starts_with("HTTP/1.1 200"), "{}", subscriber.head);
    subscriber.opening();
    subscriber
}

fn rejected(gateway: &TestGateway, reason: &str) -> u64 {
    gateway.metrics.rejected.with_label_values(&[reason]).get()
}

#[test]
fn who_shows_nothing_may_do_what_anybody_may_and_nothing_else() {
    let gateway = TestGateway::memory(&[
        JWT,
        ("auth.anonymous.subscribe", "public:*"),
        ("auth.anonymous.publish", "guestbook"),
    ]);
    drop(opened(&gateway, "channel=public:news&channel=public:sport", &[]));
    for query in ["channel=orders", "channel=public:news&channel=orders", "channel=publicx"] {
        let answer = refused(&gateway, query, &[]);
        assert_eq!(answer.status, 401, "{query}: {}", answer.body);
        // A request without credentials gets no error code (RFC 6750 §3.1).
        assert!(
            answer.head.contains("www-authenticate: Bearer realm=\"sse-gateway\"\r\n"),
            "{}",
            answer.head
        );
        assert_eq!(answer.json()["type"], "urn:sse-gateway:authentication-required");
    }
    assert_eq!(request(gateway.addr, "HEAD", "/events?channel=orders", &[], b"").status, 401);
    assert_eq!(get(&gateway, "/channels/orders", &[]).status, 401);
    assert_eq!(get(&gateway, "/channels/orders/history", &[]).status, 401);
    assert_eq!(get(&gateway, "/channels/public:news/history", &[]).status, 200);
    assert_eq!(gateway.post("/channels/orders", &[], b"x").status, 401);
    assert_eq!(gateway.post("/channels/guestbook", &[], b"x").status, 200);
    assert_eq!(gateway.post("/tickets", &[], b"").status, 401);
    let item = br#"[{"channel":"guestbook","data":"a"},{"channel":"orders","data":"b"}]"#;
    let answer = gateway.post("/publish", &[("Content-Type", "application/json")], item);
    assert_eq!(answer.status, 207, "{}", answer.body);
    let results = answer.json();
    assert!(results["results"][0]["id"].is_string(), "{results}");
    assert_eq!(results["results"][1]["error"]["status"], 401, "{results}");
    assert_eq!(gateway.metrics.published.with_label_values(&["denied"]).get(), 2);
    assert_eq!(rejected(&gateway, "unauthenticated"), 4);
    gateway.settled();
}

#[test]
fn a_token_opens_the_channels_that_it_names() {
    let gateway = TestGateway::memory(&[JWT]);
    let (name, value) = bearer(&token(json!({
        "sub": "42", "subscribe": ["orders", "room:*"], "publish": "orders",
        "mercure": { "subscribe": ["https://example.com/books/{id}"], "publish": ["*"] },
    })));
    let headers = [(name, value.as_str())];
    for channel in ["orders", "room:7", "user:42:mail", "https://example.com/books/1"] {
        drop(opened(&gateway, &format!("channel={channel}"), &headers));
    }
    for channel in
        ["user:421:mail", "user:42", "user:43:mail", "secret", "https://example.com/books/1/x"]
    {
        let answer = refused(&gateway, &format!("channel=orders&channel={channel}"), &headers);
        assert_eq!(answer.status, 403, "{channel}: {}", answer.body);
        assert!(answer.head.contains("error=\"insufficient_scope\""), "{}", answer.head);
        assert!(answer.body.contains(channel), "{}", answer.body);
        assert_eq!(
            get(&gateway, &format!("/channels/{}/history", channel.replace('/', "%2F")), &headers)
                .status,
            403
        );
    }
    // The claim `mercure.publish` allows every channel.
    assert_eq!(gateway.post("/channels/secret", &headers, b"x").status, 200);
    let (name, value) = bearer(&token(json!({ "sub": "1", "publish": ["a:*"] })));
    let headers = [(name, value.as_str())];
    assert_eq!(gateway.post("/channels/b", &headers, b"x").status, 403);
    let lines = b"{\"channel\":\"a:1\",\"data\":1}\n{\"channel\":\"b\",\"data\":2}\n{\"channels\":[\"a:2\",\"c\"],\"data\":3}\n";
    let headers = [headers[0], ("Content-Type", "application/x-ndjson")];
    let answer = gateway.post("/publish", &headers, lines);
    let statuses: Vec<bool> = answer.body.lines().map(|line| line.contains("\"id\"")).collect();
    assert_eq!(statuses, [true, false, true, false], "{}", answer.body);
    gateway.settled();
}

/// The unit tests of the token check cover each reason. Here, none of these tokens may give access.
#[test]
fn a_token_that_is_not_to_be_taken_opens_nothing_and_is_not_repeated() {
    let strict =
        "alg=HS256 secret=a-secret-of-at-least-32-bytes-for-tests iss=https://a.example aud=sse";
    let gateway =
        TestGateway::memory(&[("auth.jwt.keys", strict), ("auth.anonymous.subscribe", "public")]);
    let claims = |change: &dyn Fn(&mut Value)| {
        let mut claims = json!({ "sub": "1", "iss": "https://a.example", "aud": "sse", "subscribe": ["*"], "publish": ["*"] });
        change(&mut claims);
        claims
    };
    let good = token(claims(&|_| {}));
    let parts: Vec<&str> = good.split('.').collect();
    // The header is {"alg":"none"}.
    let none = format!("eyJhbGciOiJub25lIn0.{}.", parts[1]);
    let (name, value) = bearer(&good);
    drop(opened(&gateway, "channel=a", &[(name, &value)]));
    for (what, token) in [
        ("alg none", none),
        ("alg none, with the signature", format!("eyJhbGciOiJub25lIn0.{}.{}", parts[1], parts[2])),
        ("another secret", signed(claims(&|_| {}), &[7; 32])),
        ("expired", token(claims(&|c| c["exp"] = json!(now() - 60)))),
        ("endless", token(claims(&|c| c["exp"] = json!(null)))),
        ("not yet", token(claims(&|c| c["nbf"] = json!(now() + 600)))),
        ("another issuer", token(claims(&|c| c["iss"] = json!("https://b.example")))),
        ("another audience", token(claims(&|c| c["aud"] = json!(["other"])))),
        ("no audience", token(claims(&|c| drop(c.as_object_mut().unwrap().remove("aud"))))),
        ("a pattern of no use", token(claims(&|c| c["subscribe"] = json!(["a b"])))),
        ("patterns that are none", token(claims(&|c| c["publish"] = json!(5)))),
        ("no token", "nonsense".to_owned()),
        ("nothing", String::new()),
        ("a long one", "x".repeat(9000)),
    ] {
        let (name, value) = bearer(&token);
        // Refused even on the public channel: a client that sends an invalid token must learn of
        // it.
        for answer in [
            refused(&gateway, "channel=public", &[(name, &value)]),
            gateway.post("/channels/a", &[(name, &value)], b"x"),
            gateway.post("/tickets", &[(name, &value)], b""),
        ] {
            assert_eq!(answer.status, 401, "{what}: {}", answer.body);
            if token.len() > 40 {
                assert!(!answer.body.contains(&token[..40]), "{what}: {}", answer.body);
            }
        }
    }
    gateway.settled();
}

/// A `*` or a separator in the claim `sub` must not act as one in the pattern `user:{sub}:*`.
#[test]
fn a_claim_is_no_wildcard_and_reaches_into_no_other_part() {
    let gateway = TestGateway::memory(&[JWT]);
    for sub in [
        json!("*"),
        json!("4*"),
        json!("42:x"),
        json!("42/x"),
        json!(""),
        json!(["42"]),
        json!("{x}"),
        json!("42\r\nx"),
    ] {
        let (name, value) = bearer(&token(json!({ "sub": sub })));
        for channel in ["user:42:mail", "user:42:x:mail", "user:*:mail", "user::mail"] {
            let channel = channel.replace('*', "%2A");
            let answer = refused(&gateway, &format!("channel={channel}"), &[(name, &value)]);
            assert!(matches!(answer.status, 400 | 401 | 403), "{sub} {channel}: {}", answer.body);
        }
    }
}

#[test]
fn a_cookie_is_taken_of_pages_of_this_site_and_of_those_listed() {
    let gateway = TestGateway::memory(&[
        JWT,
        ("auth.anonymous.subscribe", "public"),
        ("cors.origins", "https://app.example"),
    ]);
    let cookie = format!("a=b; sse_token={}; c=d", token(json!({ "sub": "42", "publish": ["*"] })));
    let query = "channel=user:42:mail";
    for headers in [
        vec![],
        vec![("Origin", "http://test")],
        vec![("Origin", "https://app.example")],
        vec![("Sec-Fetch-Site", "same-origin")],
    ] {
        let headers: Vec<_> = [("Cookie", cookie.as_str())].into_iter().chain(headers).collect();
        drop(opened(&gateway, query, &headers));
    }
    for header in
        [("Origin", "https://evil.example"), ("Origin", "null"), ("Sec-Fetch-Site", "cross-site")]
    {
        let headers = [("Cookie", cookie.as_str()), header];
        let answer = refused(&gateway, query, &headers);
        assert_eq!(answer.status, 403, "{header:?}: {}", answer.body);
        assert_eq!(answer.json()["type"], "urn:sse-gateway:foreign-origin");
        assert_eq!(gateway.post("/channels/a", &headers, b"x").status, 403, "{header:?}");
        // The page may still use what anonymous clients may use: that needs no cookie.
        drop(opened(&gateway, "channel=public", &headers));
    }
    // An expired cookie counts as no cookie.
    let old = format!("sse_token={}", token(json!({ "sub": "42", "exp": now() - 60 })));
    drop(opened(&gateway, "channel=public", &[("Cookie", &old)]));
    let answer = refused(&gateway, query, &[("Cookie", &old)]);
    assert_eq!(answer.status, 401);
    assert!(answer.body.contains("expired"), "{}", answer.body);
    // Two token cookies are ambiguous.
    let two = format!("{cookie}; sse_token=other");
    assert_eq!(refused(&gateway, query, &[("Cookie", &two)]).status, 400);
    gateway.settled();
}

/// Anybody can write a proxy's header.
#[test]
fn a_forwarded_host_names_this_site_only_where_a_trusted_proxy_tells_it() {
    let cookie = format!("sse_token={}", token(json!({ "sub": "42", "publish": ["*"] })));
    let told = [
        ("Cookie", cookie.as_str()),
        ("Origin", "https://gw.example"),
        ("X-Forwarded-Host", "gw.example:443"),
    ];
    let query = "channel=user:42:mail";
    let trusting = TestGateway::memory(&[JWT, ("server.trusted_proxies", "127.0.0.0/8")]);
    drop(opened(&trusting, query, &told));
    assert_eq!(trusting.post("/channels/a", &told, b"x").status, 200);
    let another = told.map(|(name, value)| (name, value.replace("gw.example:", "other.example:")));
    let another = [0, 1, 2].map(|n| (another[n].0, another[n].1.as_str()));
    assert_eq!(trusting.post("/channels/a", &another, b"x").status, 403);
    for settings in [&[JWT][..], &[JWT, ("server.trusted_proxies", "10.0.0.0/8")]] {
        let gateway = TestGateway::memory(settings);
        let is_foreign = |answer: Answer| {
            assert_eq!(answer.status, 403, "{}", answer.body);
            assert_eq!(answer.json()["type"], "urn:sse-gateway:foreign-origin");
        };
        is_foreign(gateway.post("/channels/a", &told, b"x"));
        is_foreign(gateway.post("/tickets", &told, b""));
        is_foreign(refused(&gateway, query, &told));
    }
}

/// With `cors.origins = "*"` a page of any site may use the gateway, but not with a cookie.
#[test]
fn any_origin_is_no_origin_for_cookies() {
    let gateway = TestGateway::memory(&[JWT, ("cors.origins", "*")]);
    let cookie = format!("sse_token={}", token(json!({ "sub": "42" })));
    let headers = [("Cookie", cookie.as_str()), ("Origin", "https://evil.example")];
    assert_eq!(refused(&gateway, "channel=user:42:mail", &headers).status, 403);
    let (name, value) = bearer(&token(json!({ "sub": "42" })));
    drop(opened(
        &gateway,
        "channel=user:42:mail",
        &[(name, &value), ("Origin", "https://evil.example")],
    ));
}

fn ticket_of(gateway: &TestGateway, token: &str) -> String {
    let (name, value) = bearer(token);
    let answer = gateway.post("/tickets", &[(name, &value)], b"");
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert!(
        answer.head.to_ascii_lowercase().contains("cache-control: no-store"),
        "{}",
        answer.head
    );
    assert!(answer.json()["expires_in"].as_u64().unwrap() <= 30);
    answer.json()["ticket"].as_str().unwrap().to_owned()
}

fn tickets_are_for_one_use(first: &TestGateway, second: &TestGateway) {
    let token = token(json!({ "sub": "42" }));
    let query = |ticket: &str| format!("channel=user:42:mail&ticket={ticket}");
    let ticket = ticket_of(first, &token);
    // Publishing takes no ticket.
    assert_eq!(
        second.post(&format!("/channels/user:42:mail?ticket={ticket}"), &[], b"x").status,
        400
    );
    drop(opened(second, &query(&ticket), &[]));
    // 204 is the only answer after which neither a browser nor a client with its own retries comes
    // back.
    for gateway in [first, second] {
        let before = rejected(gateway, "ticket_spent");
        let answer = refused(gateway, &query(&ticket), &[("Accept", "text/event-stream")]);
        assert_eq!(answer.status, 204, "{}", answer.body);
        assert_eq!(rejected(gateway, "ticket_spent"), before + 1);
    }
    // A valid cookie still identifies the client beside a spent ticket.
    let cookie = format!("sse_token={token}");
    drop(opened(second, &query(&ticket), &[("Cookie", &cookie)]));
    let other = ticket_of(first, &token);
    assert_eq!(refused(second, &format!("channel=orders&ticket={other}"), &[]).status, 403);
    assert_eq!(refused(second, &query(&"0".repeat(64)), &[]).status, 204);
    assert_eq!(refused(second, &query("short"), &[]).status, 401);
    first.settled();
    second.settled();
}

#[test]
fn a_ticket_is_for_one_use() {
    let gateway = TestGateway::memory(&[JWT]);
    tickets_are_for_one_use(&gateway, &gateway);
}

#[test]
fn a_ticket_is_for_one_use_on_any_replica() {
    for (partitions, names) in [("1", "sse:ticket:*"), ("4", "sse:{[0-3]}:ticket:*")] {
        let redis = Redis::start();
        let settings = [JWT, ("redis.partitions", partitions)];
        let [first, second] = [(); 2].map(|()| TestGateway::redis(&redis, &settings));
        tickets_are_for_one_use(&first, &second);
        // Redis keeps no spent ticket, and an unused one expires.
        ticket_of(&first, &token(json!({ "sub": "42" })));
        let keys = redis.command(&["KEYS", names]);
        assert_eq!(keys.lines().count(), 1, "{keys}");
        let ttl: i64 = redis.command(&["PTTL", keys.trim()]).trim().parse().unwrap();
        assert!((1..=30_000).contains(&ttl), "{ttl}");
    }
}

#[test]
fn a_token_in_the_url_is_taken_only_where_that_is_wanted() {
    let token = token(json!({ "sub": "42" }));
    let query = format!("channel=user:42:mail&token={token}");
    let gateway = TestGateway::memory(&[JWT]);
    let answer = refused(&gateway, &query, &[]);
    assert_eq!(answer.status, 401);
    assert!(answer.body.contains("tickets"), "{}", answer.body);
    let gateway = TestGateway::memory(&[JWT, ("auth.token_parameter", "true")]);
    drop(opened(&gateway, &query, &[]));
}

#[test]
fn an_api_key_opens_what_its_line_says() {
    let line = format!(
        "name=billing hash={} publish=orders publish=user:* subscribe=orders",
        hash_of(API_KEY)
    );
    let gateway = TestGateway::memory(&[("auth.keys", &line)]);
    let as_bearer = bearer(API_KEY);
    for header in [("X-API-Key", API_KEY), (as_bearer.0, as_bearer.1.as_str())] {
        assert_eq!(gateway.post("/channels/user:42", &[header], b"x").status, 200);
        assert_eq!(gateway.post("/channels/other", &[header], b"x").status, 403);
        drop(opened(&gateway, "channel=orders", &[header]));
        assert_eq!(refused(&gateway, "channel=other", &[header]).status, 403);
    }
    for wrong in [&API_KEY[1..], &hash_of(API_KEY), "", "x"] {
        assert_eq!(
            gateway.post("/channels/orders", &[("X-API-Key", wrong)], b"x").status,
            401,
            "{wrong}"
        );
    }
    gateway.settled();
}

/// The limits `streams` and `rate` of a line apply to each subject separately.
#[test]
fn each_bearer_may_take_what_its_line_says() {
    let jwt = "alg=HS256 secret=a-secret-of-at-least-32-bytes-for-tests subscribe=* publish=* streams=2 rate=3";
    let gateway = TestGateway::memory(&[("auth.jwt.keys", jwt)]);
    let [anna, bert] = ["anna", "bert"].map(|sub| bearer(&token(json!({ "sub": sub }))));
    let as_anna = [(anna.0, anna.1.as_str())];
    let as_bert = [(bert.0, bert.1.as_str())];
    let streams =
        [opened(&gateway, "channel=a", &as_anna), opened(&gateway, "channel=a", &as_anna)];
    let answer = refused(&gateway, "channel=a", &as_anna);
    assert_eq!(answer.status, 429, "{}", answer.body);
    drop(opened(&gateway, "channel=a", &as_bert));
    drop(streams);
    eventually("there is room again", || {
        Subscriber::open(gateway.addr, "channel=a", &as_anna).read().is_some()
    });
    let publish = |headers: &[(&str, &str)]| gateway.post("/channels/a", headers, b"x").status;
    // Three events pass at once, then three a second. On a slow machine more of the 200 pass, but
    // not all.
    let answers: Vec<u16> = (0..200).map(|_| publish(&as_anna)).collect();
    assert!(answers[..3].iter().all(|status| *status == 200), "{answers:?}");
    assert!(answers.contains(&429), "{answers:?}");
    assert_eq!(publish(&as_bert), 200);
    gateway.settled();
}

/// The stream sends `retry:` and ends unfinished, so an EventSource reconnects with its new cookie.
#[test]
fn a_stream_ends_when_its_grant_does() {
    let gateway = TestGateway::memory(&[JWT, ("auth.jwt.leeway", "0s")]);
    let cookie = |exp| format!("sse_token={}", token(json!({ "sub": "42", "exp": exp })));
    let first = cookie(now() + 5);
    let mut stream = opened(&gateway, "channel=user:42:mail", &[("Cookie", &first)]);
    let id =
        gateway.publish_as("user:42:mail", "one", &token(json!({ "sub": "p", "publish": ["*"] })));
    assert_eq!(stream.event().id, id);
    let (blocks, retry) = stream.rest();
    assert!(blocks.iter().all(|block| block.event == "checkpoint"), "{blocks:?}");
    assert!(retry.is_some());
    assert!(!stream.into_reader().get_ref().is_whole(), "the client is to come back");
    let closed = |reason: sse_gateway::stream::close_reason::CloseReason| {
        gateway.sum(|cells| cells.closed[reason as usize].get())
    };
    assert_eq!(closed(sse_gateway::stream::close_reason::CloseReason::Expired), 1);
    assert_eq!(refused(&gateway, "channel=user:42:mail", &[("Cookie", &first)]).status, 401);
    // No event is missing between the old and the new stream.
    let second =
        gateway.publish_as("user:42:mail", "two", &token(json!({ "sub": "p", "publish": ["*"] })));
    let fresh = cookie(now() + 600);
    let headers = [("Cookie", fresh.as_str()), ("Last-Event-ID", id.as_str())];
    let mut stream = Subscriber::open(gateway.addr, "channel=user:42:mail", &headers);
    assert_eq!(stream.opening().data, format!("{{\"from\":\"{id}\"}}"));
    assert_eq!(stream.event().id, second);
    drop(stream);
    gateway.settled();
}

fn revoke(gateway: &TestGateway, query: &str) -> Answer {
    request(gateway.admin, "DELETE", &format!("/connections?{query}"), &[], b"")
}

fn revocations_hold(
    first: &TestGateway,
    second: &TestGateway,
    third: impl FnOnce() -> Option<TestGateway>,
) {
    let issued = now() - 5;
    let of = |sub: &str, id: &str| {
        token(json!({ "sub": sub, "jti": id, "iat": issued, "publish": ["*"], "subscribe": ["*"] }))
    };
    let (anna, bert) = (of("anna", "t1"), of("bert", "t2"));
    let as_anna = bearer(&anna);
    let as_bert = bearer(&bert);
    let (as_anna, as_bert) = ([(as_anna.0, as_anna.1.as_str())], [(as_bert.0, as_bert.1.as_str())]);
    let mut of_anna = [opened(first, "channel=a", &as_anna), opened(second, "channel=a", &as_anna)];
    let mut of_bert = opened(second, "channel=a&channel=b", &as_bert);

    assert_eq!(revoke(first, "subject=anna").status, 200);
    for stream in &mut of_anna {
        let (blocks, _) = stream.rest();
        assert!(blocks.iter().all(|block| block.event == "checkpoint"), "{blocks:?}");
    }
    for stream in of_anna {
        assert!(stream.into_reader().get_ref().is_whole(), "nobody is to come back");
    }
    for gateway in [first, second] {
        assert_eq!(refused(gateway, "channel=a", &as_anna).status, 204);
        assert_eq!(gateway.post("/channels/a", &as_anna, b"x").status, 401);
        assert_eq!(gateway.post("/tickets", &as_anna, b"").status, 401);
    }
    // A token issued after the revocation is accepted.
    let later = bearer(&token(json!({ "sub": "anna", "iat": now() + 2, "subscribe": ["*"] })));
    drop(opened(second, "channel=a", &[(later.0, &later.1)]));
    // Streams of other subjects continue.
    let id = first.publish_as("b", "x", &bert);
    assert_eq!(of_bert.event().id, id);

    assert_eq!(revoke(second, "id=t2&for=1h").status, 200);
    of_bert.rest();
    eventually("the other one knows", || refused(first, "channel=a", &as_bert).status == 204);
    let others = bearer(&of("bert", "t3"));
    drop(opened(first, "channel=a", &[(others.0, &others.1)]));
    if let Some(third) = third() {
        assert_eq!(
            refused(&third, "channel=a", &as_anna).status,
            204,
            "one that starts later knows"
        );
        drop(opened(&third, "channel=a", &[(others.0, &others.1)]));
        third.settled();
    }

    // Revoking a channel ends its streams, but their clients may reconnect.
    let mut stream = opened(first, "channel=c&channel=d", &[(others.0, &others.1)]);
    assert_eq!(revoke(second, "channel=d").status, 200);
    let (_, retry) = stream.rest();
    assert!(retry.is_some() && !stream.into_reader().get_ref().is_whole());
    drop(opened(first, "channel=c&channel=d", &[(others.0, &others.1)]));
    for query in ["", "subject=a&id=b", "subject=a&for=soon", "who=a", "channel=a%20b"] {
        assert_eq!(revoke(first, query).status, 400, "{query}");
    }
    first.settled();
    second.settled();
}

#[test]
fn who_is_revoked_is_ended_and_not_let_in_again() {
    let gateway = TestGateway::memory(&[JWT]);
    revocations_hold(&gateway, &gateway, || None);
}

#[test]
fn who_is_revoked_is_so_on_every_replica() {
    let redis = Redis::start();
    let (first, second) = (TestGateway::redis(&redis, &[JWT]), TestGateway::redis(&redis, &[JWT]));
    revocations_hold(&first, &second, || {
        let third = TestGateway::redis(&redis, &[JWT]);
        Some(third)
    });
    let ttl: i64 = redis.command(&["PTTL", "sse:revoked"]).trim().parse().unwrap();
    assert!(ttl > 0, "{ttl}");
}

/// A gateway that misses the announcement of a revocation reads it from Redis when it reconnects.
#[test]
fn a_revocation_that_was_not_heard_is_read() {
    for (partitions, revoked) in [("1", "sse:revoked"), ("4", "sse:{0}:revoked")] {
        let redis = Redis::start();
        let settings = [JWT, ("redis.partitions", partitions)];
        let [first, second] = [(); 2].map(|()| TestGateway::redis(&redis, &settings));
        let anna = bearer(&token(json!({ "sub": "anna", "subscribe": ["*"] })));
        let mut stream = opened(&second, "channel=a", &[(anna.0, &anna.1)]);
        // Stored but not announced, as if the announcement had been lost.
        let line = format!("subject|{}|1|anna", now() + 1);
        redis.command(&["ZADD", revoked, "99999999999999", &line]);
        redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        stream.rest();
        eventually("both know", || {
            [&first, &second]
                .iter()
                .all(|g| refused(g, "channel=a", &[(anna.0, &anna.1)]).status == 204)
        });
    }
}

#[test]
fn what_contradicts_itself_is_refused_and_no_secret_is_shown() {
    let hash = hash_of(API_KEY);
    let with = |key: &str, value: &str| {
        TestGateway::try_start(&[(key, value)]).map(|_| ()).expect_err(&format!("{key} = {value}"))
    };
    for (key, value, culprit) in [
        ("auth.jwt.keys", "alg=HS256 secret=only-24-bytes-only-24-by", "32"),
        ("auth.jwt.keys", "secret=super-secret-super-secret-super-secret", "alg"),
        ("auth.jwt.keys", "alg=none secret=super-secret-super-secret-super-secret", "alg"),
        ("auth.jwt.keys", "alg=HS256 sercet=super-secret-super-secret-super-secret", "secret"),
        ("auth.jwt.keys", "alg=RS256 secret=super-secret-super-secret-super-secret", "RS256"),
        (
            "auth.jwt.keys",
            "alg=HS256 secret=super-secret-super-secret-super-secret pem=/a",
            "no two",
        ),
        ("auth.jwt.keys", "alg=HS256 super-secret-super-secret-super-secret", "name=value"),
        ("auth.jwt.keys", "alg=RS256 pem=/nowhere/key.pem", "/nowhere/key.pem"),
        ("auth.jwt.keys", "alg=RS256 jwks=ftp://a.example/jwks", "https://"),
        (
            "auth.jwt.keys",
            "alg=HS256 secret=super-secret-super-secret-super-secret subscribe={sub}*",
            "sub",
        ),
        ("auth.keys", "name=a hash=super-secret", "sse-publish key"),
        ("auth.anonymous.subscribe", "user:{sub}", "{sub}"),
        ("auth.forward.url", "file:///etc/passwd", "http://"),
        ("server.listen", "0.0.0.0:0", "auth.jwt.keys"),
    ] {
        let error = with(key, value);
        assert!(
            error.contains(culprit) && error.contains(key.split('.').next().unwrap()),
            "{value}: {error}"
        );
        assert!(!error.contains("super-secret") && !error.contains("only-24-bytes"), "{error}");
    }
    let line = format!("name=a hash={hash} publish=*");
    let error = TestGateway::try_start(&[("auth.keys", &line), ("auth.open", "true")])
        .map(|_| ())
        .unwrap_err();
    assert!(error.contains("auth.open") && !error.contains(&hash), "{error}");
    // With an API key configured, the gateway may listen beyond loopback.
    let outside = [("auth.keys", line.as_str()), ("server.listen", "0.0.0.0:0")];
    TestGateway::try_start(&outside).map(TestGateway::stop).unwrap();
}
