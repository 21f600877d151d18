//! What continuous integration fuzzes: the kept inputs of each target, and some thousand changes of them, drawn from a fixed
//! seed. It needs neither libFuzzer nor a nightly compiler.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use fastrand::Rng;
use sse_fuzz::{TARGETS, Target};

/// Changed inputs of each target.
const CHANGES: usize = 3000;
/// The longest changed input, in bytes.
const LONGEST: usize = 2048;

/// What parsers stumble over.
const WORDS: [&[u8]; 40] = [
    b"\r\n",
    b"\r",
    b"\n\n",
    b"\0",
    b"\xFF",
    b"\xEF\xBB\xBF",
    b"\xE2\x80\xA8",
    b"data: ",
    b"id: ",
    b"event: gap",
    b"retry: 1",
    b":",
    b"*",
    b"?",
    b"{",
    b"}",
    b"{{",
    b"{sub}",
    b"/",
    b"..",
    b"-",
    b"+",
    b"0",
    b"-1",
    b"1e308",
    b"18446744073709551615",
    b"9223372036854775807",
    b"%00",
    b"%FF",
    b"%0A",
    b"&channel=a",
    b"&last_event_id=0",
    b"\"",
    b"\\u0000",
    b"\\ud800",
    b"[[[[[[[[",
    b"null",
    b"eyJhbGciOiJub25lIn0",
    b".",
    b"=",
];

/// The kept inputs, in the order of their names.
fn kept(target: &Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .expect("a corpus")
        .map(|entry| entry.expect("a file").path())
        .collect();
    paths.sort();
    let inputs: Vec<_> = paths.iter().map(|path| std::fs::read(path).expect("a file")).collect();
    assert!(inputs.len() >= 4, "{}: too few inputs to begin with", target.name);
    inputs
}

fn run(target: &Target, input: &[u8]) {
    let run = || (target.run)(input);
    if catch_unwind(AssertUnwindSafe(run)).is_err() {
        panic!("{} fails with this input: {}", target.name, input.escape_ascii());
    }
}

fn changed(inputs: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    let mut input = random.choice(inputs).expect("an input").clone();
    for _ in 0..random.usize(1..8) {
        let at = random.usize(..=input.len());
        let end = at + random.usize(..=(input.len() - at).min(32));
        match random.u8(..7) {
            0 if at < input.len() => input[at] ^= 1 << random.u8(..8),
            1 if at < input.len() => input[at] = random.u8(..),
            2 => drop(input.drain(at..end)),
            3 => {
                let word = random.choice(WORDS).expect("a word");
                input.splice(at..at, word.iter().copied());
            }
            4 => {
                let word = random.choice(WORDS).expect("a word");
                input.splice(at..end, word.iter().copied());
            }
            5 => {
                let piece = input[at..end].repeat(random.usize(1..20));
                input.splice(at..at, piece);
            }
            _ => {
                let other = random.choice(inputs).expect("an input");
                let from = random.usize(..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
    input.truncate(LONGEST);
    input
}

fn fuzz(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target");
    let inputs = kept(target);
    for input in &inputs {
        run(target, input);
    }
    let mut random = Rng::with_seed(15);
    for _ in 0..CHANGES {
        run(target, &changed(&inputs, &mut random));
    }
}

/// A test for each target, so that they run side by side and a failure bears its name.
macro_rules! tests {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            fuzz(stringify!($name));
        })*

        #[test]
        fn each_target_has_a_test_and_a_corpus_and_no_corpus_is_left_over() {
            let tests = [$(stringify!($name)),*];
            assert_eq!(TARGETS.map(|target| target.name), tests);
            let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
            let mut corpora: Vec<_> = std::fs::read_dir(corpora)
                .expect("the corpora")
                .map(|entry| entry.expect("a folder").file_name().into_string().expect("a name"))
                .collect();
            corpora.sort();
            assert_eq!(corpora, tests);
        }
    };
}

tests! { addresses cursors events grants items lines live_frames ndjson patterns requests resp streams tokens }

/// The tokens that are kept are taken, so that what is changed in them is what refuses the others.
#[test]
fn what_was_signed_is_taken() {
    let kept = kept(TARGETS.iter().find(|target| target.name == "tokens").expect("a target"));
    for token in sse_fuzz::tokens::signed() {
        assert!(kept.iter().any(|input| input == token.as_bytes()), "{token}");
        assert!(sse_fuzz::tokens::is_taken(token), "{token}");
    }
}
