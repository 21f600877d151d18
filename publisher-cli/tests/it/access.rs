//! Tests of tokens and API keys: making, checking and sending them.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::Value;
use sse_lab::scratch::Scratch;

use crate::cli::{Run, run, run_with};
use crate::scripted_gateway::{ScriptedGateway, publish_all, reply, response, stream};

/// A temporary directory of one test.
struct Folder(Scratch);

impl Folder {
    fn new(name: &str) -> Folder {
        Folder(Scratch::new(name))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// Makes a secret with `token secret`, and returns its path.
    fn secret(&self) -> String {
        let path = self.path("secret");
        let made = run(&["token", "secret", "--out", &path], "");
        assert_eq!((made.code, made.out.as_str()), (0, ""), "{}", made.err);
        path
    }
}

/// Makes a token, and checks that nothing else is printed.
fn token(arguments: &[&str]) -> String {
    let made = run(&[&["token"], arguments].concat(), "");
    assert_eq!((made.code, made.err.as_str()), (0, ""));
    let token = made.out.strip_suffix('\n').unwrap();
    assert!(!token.contains('\n') && token.split('.').count() == 3, "{token}");
    token.to_owned()
}

/// Checks a token from standard input, and that its signature is not printed.
fn checked(token: &str, arguments: &[&str]) -> Run {
    let checked = run(&[&["token", "check"], arguments].concat(), &format!("{token}\n"));
    let signature = token.rsplit('.').next().unwrap();
    assert!(
        signature.is_empty()
            || !(checked.out.contains(signature) || checked.err.contains(signature))
    );
    checked
}

fn openssl(arguments: &[&str]) {
    let mut command = Command::new("openssl");
    let status = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.expect("openssl, of Debian's package of that name").success(), "{arguments:?}");
}

#[test]
fn what_is_made_is_taken_and_told_in_words() {
    let folder = Folder::new("made");
    let secret = folder.secret();
    let key = ["--secret-file", secret.as_str()];
    let made = token(
        &[
            &key[..],
            &["--sub", "42", "--subscribe", "user:{sub}:*", "--subscribe", "orders"],
            &["--publish", "room:{room}", "--claim", "room=\"a\"", "--claim", "n={\"x\":1}"],
            &["--iss", "https://a.example", "--jti", "t1", "--kid", "k1", "--expires", "90m"],
        ]
        .concat(),
    );
    let told = checked(&made, &key);
    assert_eq!((told.code, told.err.as_str()), (0, ""), "{}", told.out);
    for words in [
        "Its signature is right: HS256, with the key of ",
        "Its bearer (sub) is 42.\n",
        "Its issuer (iss): https://a.example.\n",
        "Its own name (jti): t1.\n",
        "Its key's name (kid): k1.\n",
        "It allows to listen to: user:42:*, orders.\n",
        "It allows to publish to: room:a.\n",
        "It is good until ",
        "It also says n={\"x\":1}, room=\"a\".\n",
        "A gateway with this key takes it.\n",
    ] {
        assert!(told.out.contains(words), "{words}: {}", told.out);
    }
    // As an argument, with the scheme of the header that the token was copied from.
    let argument = format!("Bearer {made}");
    assert_eq!(run(&["token", "check", &argument, key[0], key[1]], "").code, 0);
}

#[test]
fn each_token_has_a_name_and_an_end_of_its_own() {
    let folder = Folder::new("own");
    let secret = folder.secret();
    let name = || {
        let told = checked(&token(&["--secret-file", &secret]), &["--secret-file", &secret]);
        assert!(told.out.contains("(59m 5") || told.out.contains("(1h from now"), "{}", told.out);
        let name =
            told.out.lines().find(|line| line.starts_with("Its own name")).unwrap().to_owned();
        assert_eq!(name.len(), "Its own name (jti): .".len() + 32, "{name}");
        name
    };
    assert_ne!(name(), name());
    let for_ever = token(&["--secret-file", &secret, "--expires", "never"]);
    let told = checked(&for_ever, &["--secret-file", &secret]);
    assert_eq!(told.code, 1);
    assert!(told.out.contains("It has no end (exp).\n"), "{}", told.out);
    assert!(told.out.contains("unless its auth.jwt.require_expiry is false"), "{}", told.out);
}

#[test]
fn what_is_wrong_with_a_token_is_said() {
    let folder = Folder::new("wrong");
    let secret = folder.secret();
    let key = ["--secret-file", secret.as_str()];
    let other = folder.path("other");
    assert_eq!(run(&["token", "secret", "--out", &other], "").code, 0);

    let made = token(&[&key[..], &["--sub", "42", "--aud", "shop", "--iss", "https://a"]].concat());
    let of_other = checked(&made, &["--secret-file", &other]);
    assert_eq!(of_other.code, 1);
    assert!(of_other.out.starts_with("Its signature is wrong: it says HS256"), "{}", of_other.out);
    assert!(
        of_other.out.ends_with("A gateway refuses it: the token's signature is wrong.\n"),
        "{}",
        of_other.out
    );

    let unproven = checked(&made, &[]);
    assert_eq!(unproven.code, 1, "without a key nothing is proven");
    assert!(unproven.out.contains("Its bearer (sub) is 42.\n"), "{}", unproven.out);
    assert!(unproven.out.contains("Nothing is proven"), "{}", unproven.out);

    let audience = checked(&made, &key);
    assert_eq!(audience.code, 1);
    assert!(audience.out.starts_with("Its signature is right"), "{}", audience.out);
    assert!(audience.out.contains("is for another audience (shop); say --aud"), "{}", audience.out);
    assert_eq!(checked(&made, &[&key[..], &["--aud", "shop"]].concat()).code, 0);
    let issuer = checked(&made, &[&key[..], &["--aud", "shop", "--iss", "https://b"]].concat());
    assert!(
        issuer.code == 1 && issuer.out.contains("of another issuer (https://a) than --iss"),
        "{}",
        issuer.out
    );

    for odd in ["x", "a.b.c", "eyJhbGciOiJub25lIn0.e30."] {
        let told = checked(odd, &key);
        assert_eq!(
            (told.code, told.out.as_str()),
            (1, "A gateway refuses it: this is no JSON Web Token.\n")
        );
    }
    assert_eq!(run(&["token", "check", key[0], key[1]], "\n").code, 64, "no token");
}

/// Anybody can issue a token with any claims, so claims may contain control characters.
#[test]
fn no_claim_reaches_the_terminal_as_more_than_text() {
    let folder = Folder::new("terminal");
    let secret = folder.secret();
    let made = token(&[
        "--secret-file",
        &secret,
        "--sub",
        "a\nA gateway with this key takes it.\x1b[2J\u{9b}",
    ]);
    let told = checked(&made, &[]);
    assert!(told.out.contains("(sub) is a\\nA gateway"), "{}", told.out);
    assert!(!told.out.contains(['\x1b', '\u{9b}']));
}

#[test]
fn key_pairs_sign_and_public_keys_check() {
    let folder = Folder::new("pairs");
    let (private, public) = (folder.path("key.pem"), folder.path("public.pem"));
    for (algorithm, options) in [
        ("ES256", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"][..]),
        ("RS256", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]),
        ("EdDSA", &["-algorithm", "ed25519"]),
    ] {
        openssl(&[&["genpkey"], options, &["-out", &private]].concat());
        openssl(&["pkey", "-in", &private, "-pubout", "-out", &public]);
        let made = token(&["--pem", &private, "--alg", algorithm, "--publish", "orders"]);
        let told = checked(&made, &["--pem", &public]);
        assert_eq!(told.code, 0, "{algorithm}: {}", told.out);
        assert!(
            told.out.starts_with(&format!("Its signature is right: {algorithm}")),
            "{}",
            told.out
        );
        // The token names an algorithm, but cannot choose how the key is used.
        let confused = checked(&made, &["--secret-file", &public]);
        assert_eq!(confused.code, 64, "{}", confused.out);
        assert!(confused.err.contains("needs a public key"), "{}", confused.err);
        let private_key = checked(&made, &["--pem", &private]);
        assert!(
            private_key.code == 64 && private_key.err.contains("-pubout"),
            "{}",
            private_key.err
        );
    }
}

#[test]
fn a_secret_is_in_a_file_or_a_variable_and_never_on_the_command_line() {
    let folder = Folder::new("secret");
    let path = folder.secret();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let secret = std::fs::read_to_string(&path).unwrap();
    assert!(
        secret.len() == 65 && secret.trim_end().bytes().all(|b| b.is_ascii_hexdigit()),
        "{secret}"
    );
    let again = run(&["token", "secret", "--out", &path], "");
    assert_eq!((again.code, again.out.as_str()), (1, ""));
    assert!(again.err.contains(&path), "{}", again.err);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), secret, "what is there stays");
    let printed = run(&["token", "secret"], "");
    assert!(printed.code == 0 && printed.out.len() == 65 && printed.err.is_empty());
    assert_ne!(printed.out, secret);

    let made = token(&["--secret-file", &path]);
    let with =
        run_with(&[("JWT", secret.trim_end())], &["token", "check", &made, "--secret-env", "JWT"]);
    assert_eq!(with.code, 0, "{}", with.out);
    let without = run(&["token", "--secret-env", "JWT_OF_NOBODY"], "");
    assert!(
        without.code == 64 && without.err.contains("JWT_OF_NOBODY is not set"),
        "{}",
        without.err
    );
    let short = run_with(&[("JWT", "correct-horse")], &["token", "--secret-env", "JWT"]);
    assert!(short.code == 64 && short.err.contains("at least 32"), "{}", short.err);
    assert!(!short.err.contains("correct-horse"), "{}", short.err);
    for arguments in
        [&["token", "--secret", "correct-horse"][..], &["token", "--secret=correct-horse"]]
    {
        let refused = run(arguments, "");
        assert_eq!(refused.code, 64);
        assert!(!refused.err.contains("correct-horse"), "{}", refused.err);
    }
}

#[test]
fn a_token_that_would_be_of_no_use_is_not_made() {
    let folder = Folder::new("no-use");
    let secret = folder.secret();
    let key = ["token", "--secret-file", secret.as_str()];
    for (arguments, culprit) in [
        (&["--subscribe", "user:{sub}:*"][..], "\"user:{sub}:*\" would allow nothing"),
        (
            &["--sub", "4:2", "--publish", "a", "--publish", "user:{sub}"],
            "\"user:{sub}\" would allow nothing",
        ),
        (&["--subscribe", "a b"], "' '"),
        (&["--claim", "room=a"], "'room=\"…\"'"),
        (&["--claim", "exp=5"], "--expires"),
        (&["--expires", "0"], "above zero"),
        (&["--alg", "ES256"], "needs a key pair"),
        (&["--alg", "none"], "must be one of HS256"),
        (&["--sub", &"x".repeat(8000)], "8192 at most"),
    ] {
        let refused = run(&[&key[..], arguments].concat(), "");
        assert_eq!((refused.code, refused.out.as_str()), (64, ""), "{arguments:?}");
        assert!(refused.err.contains(culprit), "{}", refused.err);
    }
    let refused = run(&["token"], "");
    assert!(refused.code == 64 && refused.err.contains("token secret --out"), "{}", refused.err);
    let refused = run(&["token", "--pem", &secret], "");
    assert!(refused.code == 64 && refused.err.contains("--pem needs --alg"), "{}", refused.err);
}

#[test]
fn a_token_in_the_wrong_place_is_not_repeated() {
    let folder = Folder::new("place");
    let made = token(&["--secret-file", &folder.secret()]);
    for arguments in [&["token", &made][..], &["token", "check", &made, &made], &["key", &made]] {
        let refused = run(arguments, "");
        assert_eq!(refused.code, 64);
        assert!(!refused.err.contains(&made[..12]), "{}", refused.err);
        assert!(refused.err.contains("token check"), "{}", refused.err);
    }
}

#[test]
fn an_api_key_is_shown_once_and_its_line_holds_the_hash() {
    let made =
        run(&["key", "--name", "billing", "--publish", "orders", "--subscribe", "user:*"], "");
    assert_eq!((made.code, made.err.as_str()), (0, ""));
    let lines: Vec<&str> = made.out.lines().collect();
    let key = lines[0].strip_prefix("key:  ").unwrap();
    assert_eq!(key.len(), 43, "{key}");
    let hash = sse_token::api_key::hash_in_hex(key);
    assert_eq!(
        lines[1..],
        [format!("line: name=billing hash={hash} subscribe=user:* publish=orders")]
    );

    let json = &run(&["key", "--json", "--publish", "*", "--admin"], "").json()[0];
    let (key, line) = (json["key"].as_str().unwrap(), json["line"].as_str().unwrap());
    let hash = sse_token::api_key::hash_in_hex(key);
    assert_eq!(line, format!("name=key-{} hash={hash} publish=* admin=true", &hash[..8]));
    let nothing = run(&["key"], "");
    assert!(nothing.code == 0 && nothing.err.contains("allows nothing yet"), "{}", nothing.err);
}

#[test]
fn a_key_is_sent_as_one_by_everything_that_asks_a_gateway() {
    let gateway = ScriptedGateway::play(vec![publish_all("id")]);
    assert_eq!(run(&["demo", "x", "--url", &gateway.url, "--key", "k-1"], "").code, 0);
    let request = &gateway.requests()[0];
    assert_eq!((request.header("x-api-key"), request.header("authorization")), (Some("k-1"), None));

    let gateway = ScriptedGateway::play(vec![reply(stream("id: 1-0\ndata: x\n\n"))]);
    let followed =
        run_with(&[("SSE_KEY", "k-2")], &["tail", "demo", "--limit", "1", "--url", &gateway.url]);
    assert_eq!(followed.code, 0, "{}", followed.err);
    assert_eq!(gateway.requests()[0].header("x-api-key"), Some("k-2"));

    let denied = response("401 Unauthorized", "text/plain", "", "");
    let gateway = ScriptedGateway::play(vec![reply(denied)]);
    let url = format!("{}/events", gateway.url);
    let loaded = run(&["bench", &url, "--connections", "1", "--seconds", "1", "--key", "k-3"], "");
    assert_eq!(loaded.code, 1);
    assert!(loaded.out.contains("answered 401"), "{}", loaded.out);
    assert!(loaded.out.contains("give a --token or --key"), "{}", loaded.out);
    assert_eq!(gateway.requests()[0].header("x-api-key"), Some("k-3"));
}

#[test]
fn two_answers_to_who_is_asking_are_none() {
    let both = [("SSE_TOKEN", "t"), ("SSE_KEY", "k")];
    for arguments in [&["demo", "x"][..], &["tail", "demo"], &["bench", "http://127.0.0.1:1/"]] {
        let refused = run_with(&both, arguments);
        assert_eq!(refused.code, 64, "{arguments:?}");
        assert!(refused.err.contains("SSE_TOKEN and SSE_KEY are both set"), "{}", refused.err);
        let refused = run(&[arguments, &["--token", "t", "--key", "k"]].concat(), "");
        assert_eq!(refused.code, 64, "{arguments:?}");
    }
    let gateway = ScriptedGateway::play(vec![publish_all("id")]);
    let sent = run_with(&both, &["demo", "x", "--url", &gateway.url, "--token", "t2"]);
    assert_eq!(sent.code, 0, "{}", sent.err);
    let request = &gateway.requests()[0];
    assert_eq!(
        (request.header("x-api-key"), request.header("authorization")),
        (None, Some("Bearer t2"))
    );
}

#[test]
fn one_line_of_many_that_is_not_allowed_is_told_with_what_to_do() {
    let results = "{\"line\":1,\"channel\":\"a\",\"id\":\"1-0\"}\n{\"line\":2,\"channel\":\"b\",\"error\":\
        {\"type\":\"urn:sse-gateway:publish-denied\",\"status\":403,\"detail\":\"not b\"}}\n";
    let answer = response("207 Multi-Status", "application/x-ndjson", "", results);
    let gateway = ScriptedGateway::play(vec![reply(answer)]);
    let items = "{\"channel\":\"a\",\"data\":1}\n{\"channel\":\"b\",\"data\":2}\n";
    let sent = run(&["--ndjson", "--json", "--url", &gateway.url], items);
    assert_eq!(sent.code, 1);
    let outcomes: Vec<Value> = sent.json().iter().map(|line| line["outcome"].clone()).collect();
    assert_eq!(outcomes[..2], ["published", "failed"]);
    assert!(
        sent.err.contains("not b; which channels are allowed is said by the token"),
        "{}",
        sent.err
    );
}
