//! Tests of the plan of `gateway/src`: which room may import which, so that an event's way can be
//! read in one direction.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// All rooms, in the order of `lib.rs`. A room imports only rooms before it.
const ROOMS: [&str; 14] = [
    "config",
    "logging",
    "panics",
    "vitals",
    "feed",
    "stream",
    "metrics",
    "broker",
    "hub",
    "access",
    "telemetry",
    "http",
    "worker",
    "gateway",
];
/// A stream knows no broker, and a broker no stream: the feed is between them.
const STRANGERS: [&str; 2] = ["stream", "broker"];
/// The only rooms that may import actix.
const OF_ACTIX: [&str; 3] = ["http", "worker", "gateway"];

/// A room and its files, with their text without comments and unit tests.
struct Room {
    name: &'static str,
    files: Vec<(PathBuf, String)>,
}

impl Room {
    fn read(name: &'static str) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut paths = vec![source.join(format!("{name}.rs"))];
        add_files(&source.join(name), &mut paths);
        let files = paths.into_iter().filter(|path| path.exists());
        let files: Vec<_> = files.map(|path| (path.clone(), code(&path))).collect();
        assert!(!files.is_empty(), "there is no room {name}");
        Room { name, files }
    }

    /// The rooms that this one imports, each with a file that imports it.
    fn imports(&self) -> BTreeSet<(&'static str, &Path)> {
        let mut found = BTreeSet::new();
        for (path, text) in &self.files {
            for after in text.split("crate::").skip(1) {
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                let room = &after[..end.unwrap_or(after.len())];
                let known = ROOMS.iter().find(|known| **known == room);
                let known = known.unwrap_or_else(|| panic!("{}: no room {room}", path.display()));
                if *known != self.name {
                    found.insert((*known, path.as_path()));
                }
            }
        }
        found
    }
}

fn add_files(directory: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries {
        let path = entry.expect("a directory that can be read").path();
        if path.is_dir() {
            add_files(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a file that can be read");
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn place(room: &str) -> usize {
    ROOMS.iter().position(|known| *known == room).expect("a room")
}

#[test]
fn a_room_imports_only_rooms_before_it() {
    let mut wrong = Vec::new();
    for room in ROOMS.map(Room::read) {
        for (other, path) in room.imports() {
            let strangers = STRANGERS.contains(&room.name) && STRANGERS.contains(&other);
            if place(other) > place(room.name) || strangers {
                wrong.push(format!("{} imports {other}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn only_http_and_the_shell_import_actix() {
    let mut wrong = Vec::new();
    let rooms = ROOMS.map(Room::read);
    for room in rooms.iter().filter(|room| !OF_ACTIX.contains(&room.name)) {
        let of_actix = |(_, text): &&(PathBuf, String)| {
            text.contains("actix_web::") || text.contains("use actix_")
        };
        wrong.extend(room.files.iter().filter(of_actix).map(|(path, _)| path));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The program hands its variables to `Config::with_settings`; nothing else depends on them.
#[test]
fn no_room_reads_the_environment() {
    let mut wrong = Vec::new();
    for room in ROOMS.map(Room::read) {
        let reads = room.files.into_iter().filter(|(_, text)| text.contains("env::var"));
        wrong.extend(reads.map(|(path, _)| path));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Every file is in a room, and `lib.rs` lists the rooms in their order.
#[test]
fn the_rooms_are_all_there_is() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let library = fs::read_to_string(source.join("lib.rs")).expect("lib.rs");
    let shown: Vec<&str> =
        library.lines().filter_map(|line| line.split_once("mod ")?.1.strip_suffix(';')).collect();
    assert_eq!(shown, ROOMS);
    for entry in fs::read_dir(&source).expect("src") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let known = ROOMS.contains(&name.as_str()) || name == "lib" || name == "bin";
        assert!(known, "{} is in no room", path.display());
    }
}

/// The files that ARCHITECTURE.md names on an event's way exist, and a reader who follows them
/// enters no room twice.
#[test]
fn an_events_way_enters_no_room_twice() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("../ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let way = text.split("## An event's way").nth(1).and_then(|rest| rest.split("\n## ").next());
    let files: Vec<&str> = way
        .expect("the way of an event")
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.ends_with(".rs"))
        .collect();
    assert!(files.len() > 12, "{files:?}");
    let mut rooms: Vec<&str> = Vec::new();
    for file in files {
        assert!(root.join("src").join(file).exists(), "there is no {file}");
        let room = file.split(['/', '.']).next().unwrap_or_default();
        if rooms.last() != Some(&room) {
            assert!(!rooms.contains(&room), "{file} enters {room} again, after {rooms:?}");
            rooms.push(room);
        }
    }
    assert_eq!(rooms, ["http", "broker", "feed", "hub", "stream"]);
}

/// Every other file that ARCHITECTURE.md names exists as well.
#[test]
fn the_files_that_the_architecture_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("../ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let code = text.split('`').skip(1).step_by(2);
    for file in code.filter(|name| name.ends_with(".rs") && name.contains('/')) {
        let places = [root.join("src").join(file), root.join("..").join(file)];
        assert!(places.iter().any(|place| place.exists()), "there is no {file}");
    }
}
