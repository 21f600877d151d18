//! Tests of turning lines into events.

use super::*;

fn reader(channels: &[&str]) -> ItemReader {
    let channels = parse_channels(channels.iter().copied()).unwrap();
    let (event, keys) = (Some("tick".parse().unwrap()), KeySource::Run("r".into()));
    ItemReader { ndjson: true, counting: Counting::Lines, channels, event, keys }
}

fn keyed(ndjson: bool, member: &str, text: &str) -> Result<String, String> {
    let keys = KeySource::Member(member.to_owned());
    let reader = ItemReader { ndjson, keys, ..reader(&["a"]) };
    let events = reader.read(1, text).map_err(|reason| reason.text)?;
    Ok(events[0].key.to_string())
}

fn read(channels: &[&str], text: &str) -> Result<Vec<Event>, String> {
    reader(channels).read(17, text).map_err(|reason| reason.text)
}

#[test]
fn an_item_overrides_the_command_line() {
    let events = read(&["a"], r#"{"data":"x"}"#).unwrap();
    assert_eq!((events[0].channel.as_str(), &*events[0].key), ("a", "r-17"));
    assert_eq!(events[0].event.as_ref().unwrap().as_str(), "tick");
    let item = r#"{"channels":["b","c","b"],"event":"t","data":"x","idempotency_key":"k"}"#;
    let events = read(&["a"], item).unwrap();
    let names: Vec<_> = events.iter().map(|event| event.channel.as_str()).collect();
    assert_eq!(names, ["b", "c"]);
    assert_eq!((events[0].event.as_ref().unwrap().as_str(), &*events[1].key), ("t", "k"));
}

#[test]
fn the_culprit_is_named() {
    for (line, part) in [
        (r#"{"channel":"a b","data":1}"#, "a channel name holds only"),
        (r#"{"channel":"a","data":1,"event":"gap"}"#, "reserved"),
        (r#"{"channel":"a","channels":["b"],"data":1}"#, "not both"),
        (r#"{"channels":[],"data":1}"#, "empty"),
        (r#"{"data":1}"#, "names no channel"),
        (r#"{"channel":"a"}"#, "the item has no data"),
        (
            r#"{"channel":"a","data":1,"datta":2}"#,
            "no member \"datta\"; it has channel, channels, data",
        ),
        (r#"{"channel":"a","data":1,"idempotency_key":""}"#, "idempotency_key"),
        (r#"{"channel":"a","data":1,"idempotency_key":"ü"}"#, "idempotency_key"),
        ("hello", "column 1: expected a value"),
        (r#"{"channel":"a","data":1"#, "column 23: the text ends inside an object"),
        (r#"{"channel":7,"data":1}"#, "channel is a string, not a number"),
        (r#"{"channels":"a","data":1}"#, "channels is a list of strings, not a string"),
        (r#"{"channels":[true],"data":1}"#, "this one holds true or false"),
        (r#"{"channel":"a","data":"\ud800"}"#, "data: column 8: a \\u escape"),
        ("[1]", "expected an object {…}; this is a list"),
    ] {
        let text = read(&[], line).unwrap_err();
        assert!(text.contains(part), "{line}: {text}");
    }
}

#[test]
fn a_blank_line_is_no_item_but_empty_data() {
    assert_eq!(read(&["a"], " \t").unwrap(), []);
    let plain = ItemReader { ndjson: false, ..reader(&["a"]) };
    assert_eq!(&*plain.read(1, "").unwrap()[0].data, "");
}

#[test]
fn the_lines_of_tail_are_items() {
    let line = r#"{"id":"5-1","time":"x","channel":"b","event":"message","data":{"x": 1}}"#;
    let events = read(&["a"], line).unwrap();
    assert_eq!((events[0].channel.as_str(), &*events[0].data), ("b", "{\"x\":1}"));
    assert_eq!(events[0].event, None);
    for name in ["checkpoint", "alive"] {
        let line = format!(r#"{{"id":"5-1","event":"{name}","data":""}}"#);
        assert_eq!(read(&["a"], &line), Ok(Vec::new()), "{name}");
    }
    let gap = read(&["a"], r#"{"id":"5-1","event":"gap","data":"{}"}"#).unwrap_err();
    assert!(gap.contains("may be missing"), "{gap}");
}

#[test]
fn a_key_may_be_a_member_of_the_item_or_of_its_data() {
    assert_eq!(keyed(true, "id", r#"{"id":"5-1","data":{"id":7}}"#).unwrap(), "5-1");
    assert_eq!(keyed(true, "n", r#"{"data":{"n":7}}"#).unwrap(), "7");
    assert_eq!(keyed(true, "n", r#"{"n":8,"data":"x"}"#).unwrap(), "8");
    assert_eq!(keyed(true, "n", r#"{"data":1,"idempotency_key":"k","n":8}"#).unwrap(), "k");
    assert_eq!(keyed(false, "n", r#"{"n":"x-1"}"#).unwrap(), "x-1");
    for (text, part) in [
        ("hello", "the data are no JSON object: column 1"),
        (r#"{"m":1}"#, "there is no member of that name"),
        (r#"{"n":[]}"#, "a string or a number, not a list"),
        (r#"{"n":"a b"}"#, "--key-field n: an idempotency key is"),
    ] {
        let error = keyed(false, "n", text).unwrap_err();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn a_given_key_is_numbered_where_there_are_several_events() {
    let keys = KeySource::Given("k".into());
    let reader = ItemReader { ndjson: false, keys, ..reader(&["a"]) };
    assert_eq!(&*reader.read(3, "x").unwrap()[0].key, "k-3");
    let one = ItemReader { counting: Counting::One, ..reader };
    assert_eq!(&*one.read(1, "x").unwrap()[0].key, "k");
}
