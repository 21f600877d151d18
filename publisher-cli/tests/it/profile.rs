//! Tests of profiles: which settings win, and where a credential is sent.

use std::path::Path;

use sse_lab::scratch::Scratch;

use crate::cli::run_with;
use crate::scripted_gateway::{ScriptedGateway, publish_all, reply, response};

/// Writes a configuration file with a profile of this gateway, and returns the file's path.
fn configure(directory: &Path, url: &str, default: &str) -> String {
    std::fs::write(directory.join("prod.token"), "t0k\n").unwrap();
    let text = format!(
        "{default}\n[profiles.prod]\nurl = \"{url}\"\ntoken_file = \"prod.token\"\nheaders = [\"X-A: b\"]\n"
    );
    let path = directory.join("config.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_profile_names_the_gateway_and_the_credential() {
    let scratch = Scratch::new("profile");
    for (default, variables, arguments) in [
        ("", None, &["--profile", "prod"][..]),
        ("", Some(("SSE_PUBLISH_PROFILE", "prod")), &[]),
        ("default = \"prod\"", None, &[]),
    ] {
        let gateway = ScriptedGateway::play(vec![publish_all("id")]);
        let config = configure(scratch.path(), &gateway.url, default);
        let mut environment = vec![("SSE_PUBLISH_CONFIG", config.as_str())];
        environment.extend(variables);
        let run = run_with(&environment, &[&["demo", "x"], arguments].concat());
        assert_eq!((run.code, run.err.as_str()), (0, ""));
        let request = &gateway.requests()[0];
        assert_eq!(request.header("authorization"), Some("Bearer t0k"));
        assert_eq!(request.header("x-a"), Some("b"));
    }
}

#[test]
fn the_file_is_found_below_the_home_directory() {
    let scratch = Scratch::new("profile-home");
    let folder = scratch.path().join(".config/sse-publish");
    std::fs::create_dir_all(&folder).unwrap();
    let gateway = ScriptedGateway::play(vec![publish_all("id")]);
    configure(&folder, &gateway.url, "default = \"prod\"");
    let home = scratch.path().to_str().unwrap();
    assert_eq!(run_with(&[("HOME", home)], &["demo", "x"]).code, 0);
    assert_eq!(gateway.requests()[0].header("authorization"), Some("Bearer t0k"));
}

#[test]
fn an_option_wins_over_the_environment_and_that_over_the_profile() {
    let scratch = Scratch::new("profile-order");
    let gateway = ScriptedGateway::play(vec![publish_all("id"), publish_all("id")]);
    let config = configure(scratch.path(), &gateway.url, "default = \"prod\"");
    let environment = [("SSE_PUBLISH_CONFIG", config.as_str()), ("SSE_KEY", "of-env")];
    assert_eq!(run_with(&environment, &["demo", "x"]).code, 0);
    assert_eq!(run_with(&environment, &["demo", "x", "--token", "of-line"]).code, 0);
    let requests = gateway.requests();
    assert_eq!(requests[0].header("x-api-key"), Some("of-env"));
    assert_eq!(requests[0].header("authorization"), None);
    assert_eq!(requests[1].header("authorization"), Some("Bearer of-line"));
}

#[test]
fn the_credential_of_a_profile_is_not_sent_to_another_server() {
    let scratch = Scratch::new("profile-other");
    let other = ScriptedGateway::play(vec![
        publish_all("id"),
        publish_all("id"),
        reply(response("204 No Content", "text/plain", "", "")),
    ]);
    let config = configure(scratch.path(), "https://events.example.org", "default = \"prod\"");
    let environment = [("SSE_PUBLISH_CONFIG", config.as_str())];
    let url = other.url.clone();
    let run = run_with(&environment, &["demo", "x", "--url", &url]);
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    let named = run_with(&environment, &["demo", "x", "--url", &url, "-P", "prod"]);
    let told = format!(
        "sse-publish: the credential of profile prod is for https://events.example.org and is not sent to {url}\n"
    );
    assert_eq!((named.code, named.err), (0, told));
    run_with(&environment, &["tail", "demo", "--url", &url]);
    for request in other.requests() {
        assert_eq!((request.header("authorization"), request.header("x-a")), (None, None));
    }
}

#[test]
fn the_file_in_the_guide_is_understood() {
    let guide = include_str!("../../../docs/guide.md");
    let (_, below) = guide
        .split_once("<!-- tested by: publisher-cli/tests/it/profile.rs -->\n```toml\n")
        .unwrap();
    let scratch = Scratch::new("profile-guide");
    let path = scratch.path().join("config.toml");
    std::fs::write(&path, below.split("```").next().unwrap()).unwrap();
    let environment = [("SSE_PUBLISH_CONFIG", path.to_str().unwrap())];
    let run = run_with(&environment, &["demo", "x", "--profile", "none"]);
    assert!(run.err.ends_with("there are: local, production, redis\n"), "{}", run.err);
}

#[test]
fn a_mistake_in_the_file_is_exit_code_64_and_named() {
    let scratch = Scratch::new("profile-wrong");
    let path = scratch.path().join("config.toml");
    std::fs::write(&path, "[profiles.a]\nurl = 'http://a'\ntoken_file = 'none'\n").unwrap();
    let path = path.to_str().unwrap();
    for (profile, config, told) in [
        ("b", path, "there is no profile \"b\"; there are: a"),
        ("a", path, "none: no such file or directory"),
        ("a", "/nonexistent/x.toml", "/nonexistent/x.toml: no such file or directory"),
    ] {
        let run = run_with(&[("SSE_PUBLISH_CONFIG", config)], &["demo", "x", "-P", profile]);
        assert_eq!(run.code, 64, "{}", run.err);
        assert!(run.err.contains(told), "{}", run.err);
    }
    let nowhere = run_with(&[], &["demo", "x", "-P", "a"]);
    assert!(nowhere.code == 64 && nowhere.err.contains("SSE_PUBLISH_CONFIG or HOME"));
}
