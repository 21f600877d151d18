//! Tests of what is published: arguments, files and parts of an input, and their keys.

use sse_lab::scratch::Scratch;

use crate::cli::{Run, run};
use crate::real_gateway::RealGateway;

fn publish(gateway: &RealGateway, arguments: &[&str], input: &str) -> Run {
    run(&[&["demo", "--url", &gateway.url], arguments].concat(), input)
}

/// The data of the last events of the channel.
fn data(gateway: &RealGateway, last: usize) -> Vec<String> {
    let (from, limit) = (format!("-{last}"), last.to_string());
    let seen = ["tail", "demo", "--json", "-s", &from, "-n", &limit, "--url", &gateway.url];
    let lines = run(&seen, "").json();
    lines.iter().map(|line| line["data"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_file_or_a_whole_input_is_one_event() {
    let gateway = RealGateway::start();
    let scratch = Scratch::new("input");
    let path = scratch.path().join("a.txt");
    std::fs::write(&path, "1\n2\n\n").unwrap();
    let path = path.to_str().unwrap();
    let at = format!("@{path}");
    for (arguments, input, want) in [
        (&[at.as_str()][..], "", "1\n2\n"),
        (&["--whole", "--file", path], "", "1\n2\n"),
        (&["-w"], "x\n\ny", "x\n\ny"),
        (&["@@alice"], "", "@alice"),
        (&["-w"], "", ""),
    ] {
        let published = publish(&gateway, arguments, input);
        assert_eq!((published.code, published.err.as_str()), (0, ""), "{arguments:?}");
        assert_eq!(published.out.lines().count(), 1, "{}", published.out);
        assert_eq!(data(&gateway, 1), [want], "{arguments:?}");
    }
    let missing = publish(&gateway, &["@alice"], "");
    assert_eq!(missing.code, 64);
    assert!(missing.err.contains(
        "alice: no such file or directory; for a text that begins with @, write @@alice"
    ));
    let binary = scratch.path().join("b");
    std::fs::write(&binary, b"a\xff").unwrap();
    let binary = publish(&gateway, &[&format!("@{}", binary.display())], "");
    assert!(binary.code == 64 && binary.err.contains("not UTF-8 at byte 2"), "{}", binary.err);
}

#[test]
fn a_delimiter_splits_and_a_count_repeats() {
    let gateway = RealGateway::start();
    let split = publish(&gateway, &["--delimiter", "\\0", "--json"], "a\nb\0c");
    assert_eq!(split.code, 0, "{}", split.err);
    assert_eq!(split.json()[1]["number"], 2);
    assert_eq!(data(&gateway, 2), ["a\nb", "c"]);

    let counted = publish(&gateway, &["no. {n}", "--count", "3"], "");
    assert_eq!((counted.code, counted.out.lines().count(), counted.err.as_str()), (0, 3, ""));
    assert_eq!(data(&gateway, 3), ["no. 1", "no. 2", "no. 3"]);
}

#[test]
fn the_output_does_not_depend_on_the_number_of_events() {
    let gateway = RealGateway::start();
    for (input, events) in [("", "0 events"), ("a\n", "1 event"), ("a\nb\n", "2 events")] {
        let lines = publish(&gateway, &[], input);
        assert_eq!((lines.code, lines.out.as_str()), (0, ""));
        assert!(lines.err.starts_with(&format!("published {events} in ")), "{}", lines.err);
        assert_eq!(publish(&gateway, &["--quiet"], input).err, "");
    }
    for (channels, columns) in [("demo", 1), ("demo,orders", 2)] {
        for count in ["1", "2"] {
            let ids = run(&[channels, "x", "--count", count, "--url", &gateway.url], "");
            assert!(ids.out.lines().all(|line| line.split(' ').count() == columns), "{}", ids.out);
            assert_eq!(ids.out.lines().count(), columns * count.parse::<usize>().unwrap());
            assert_eq!(ids.err, "");
        }
    }
}

#[test]
fn a_key_makes_a_second_run_harmless() {
    let gateway = RealGateway::start();
    let key = ["x", "--idempotency-key", "paid-17"];
    assert_eq!(publish(&gateway, &key, "").out, publish(&gateway, &key, "").out);

    // Of lines, each has a key of its own.
    let lines = ["-k", "nightly", "--json"];
    let (first, second) =
        (publish(&gateway, &lines, "a\nb\n"), publish(&gateway, &lines, "a\nb\nc\n"));
    assert_eq!((first.code, second.code), (0, 0), "{}{}", first.err, second.err);
    assert_eq!(first.json()[..2], second.json()[..2]);
    assert_eq!(data(&gateway, 3), ["a", "b", "c"]);

    let field = ["--key-field", "order", "--json"];
    let orders = "{\"order\":7,\"v\":1}\nno\n{\"order\":8}\n";
    let (first, second) = (publish(&gateway, &field, orders), publish(&gateway, &field, orders));
    let ids = |run: &Run| [0, 1, 2].map(|at| run.json()[at]["id"].clone());
    assert_eq!((first.code, ids(&first)), (1, ids(&second)));
    let told = "line 2: not published: --key-field order: the data are no JSON object: column 2: ";
    assert!(first.err.contains(told), "{}", first.err);
}
