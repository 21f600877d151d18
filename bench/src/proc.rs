//! The CPU and memory that a process and its descendants use, read from `/proc`.

use std::collections::HashMap;
use std::fs;
use std::ops::{Add, Sub};

use rustix::param::clock_ticks_per_second;

/// CPU seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cpu {
    /// In user space.
    pub user: f64,
    /// In the kernel. Over loopback this includes the receiver's half of the work for each packet.
    pub system: f64,
}

impl Cpu {
    /// User and system together.
    pub fn total(self) -> f64 {
        self.user + self.system
    }
}

impl Add for Cpu {
    type Output = Cpu;
    fn add(self, other: Cpu) -> Cpu {
        Cpu { user: self.user + other.user, system: self.system + other.system }
    }
}

impl Sub for Cpu {
    type Output = Cpu;
    fn sub(self, other: Cpu) -> Cpu {
        Cpu { user: self.user - other.user, system: self.system - other.system }
    }
}

/// Memory in bytes. A page that several processes share is divided among them (PSS). Memory of the
/// kernel, such as socket buffers, is not included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub pss: u64,
    /// Heap, stacks and shared memory without a file. Programs keep their connections here; nginx
    /// keeps them in shared memory.
    pub anonymous: u64,
    /// Mapped files, mostly the program's code.
    pub file: u64,
}

impl Add for Memory {
    type Output = Memory;
    fn add(self, other: Memory) -> Memory {
        Memory {
            pss: self.pss + other.pss,
            anonymous: self.anonymous + other.anonymous,
            file: self.file + other.file,
        }
    }
}

/// The ids of a process and all its descendants.
pub fn tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(stat) = Stat::read(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut all = vec![root];
    let mut at = 0;
    while let Some(pid) = all.get(at) {
        all.extend(children.remove(pid).unwrap_or_default());
        at += 1;
    }
    all
}

/// The CPU that all threads of these processes have used so far, in steps of 10 ms.
pub fn cpu(pids: &[u32]) -> Cpu {
    let each = pids.iter().filter_map(|pid| Stat::read(*pid)).map(|stat| stat.cpu);
    each.fold(Cpu::default(), Cpu::add)
}

/// The CPU seconds that this machine has spent on anything, on all cores.
pub fn machine_cpu() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    parse_machine(&text) / clock_ticks_per_second() as f64
}

/// The memory that these processes use now.
pub fn memory(pids: &[u32]) -> Memory {
    let each = pids.iter().filter_map(|pid| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        Some(parse_memory(&text))
    });
    each.fold(Memory::default(), Memory::add)
}

struct Stat {
    parent: u32,
    cpu: Cpu,
}

impl Stat {
    fn read(pid: u32) -> Option<Stat> {
        Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Stat> {
        // The process name comes before the parenthesis. It may contain anything, even parentheses.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let seconds = |at: usize| {
            let ticks: f64 = fields.get(at)?.parse().ok()?;
            Some(ticks / clock_ticks_per_second() as f64)
        };
        let parent = fields.get(1)?.parse().ok()?;
        Some(Stat { parent, cpu: Cpu { user: seconds(11)?, system: seconds(12)? } })
    }
}

/// The ticks of everything except being idle and waiting for a disk. Those of guests are left out,
/// because user and nice time include them.
fn parse_machine(text: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "));
    let ticks = line.unwrap_or_default().split_whitespace().take(8).enumerate();
    let busy = ticks.filter(|(at, _)| !matches!(at, 3 | 4));
    busy.filter_map(|(_, ticks)| ticks.parse::<f64>().ok()).sum()
}

fn parse_memory(text: &str) -> Memory {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        number.unwrap_or(0) * 1024
    };
    Memory {
        pss: bytes("Pss"),
        anonymous: bytes("Pss_Anon") + bytes("Pss_Shmem"),
        file: bytes("Pss_File"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat_is_read_whatever_the_name() {
        let text = "12 (a) b (c) S 7 1 1 0 -1 4194560 1 2 3 4 250 100 0 0 20 0 5 0 1 1 1";
        let stat = Stat::parse(text).unwrap();
        let tick = 1.0 / clock_ticks_per_second() as f64;
        assert_eq!(stat.parent, 7);
        assert_eq!(stat.cpu, Cpu { user: 250.0 * tick, system: 100.0 * tick });
    }

    #[test]
    fn memory_is_read_by_exact_names() {
        let text = "00-ff ---p 0 0 0 [rollup]\nRss: 90 kB\nPss:  50 kB\nPss_Dirty: 1 kB\n\
                    Pss_Anon: 30 kB\nPss_File: 12 kB\nPss_Shmem: 8 kB\n";
        let expected = Memory { pss: 50 << 10, anonymous: 38 << 10, file: 12 << 10 };
        assert_eq!(parse_memory(text), expected);
    }

    #[test]
    fn the_machine_is_busy_with_all_but_idling() {
        assert_eq!(parse_machine("cpu  1 2 4 1000 1000 8 16 32 64 64\ncpu0 7"), 63.0);
        assert!(machine_cpu() > 0.0);
    }

    #[test]
    fn this_process_is_there_and_its_child_too() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pids = tree(std::process::id());
        assert!(pids.contains(&child.id()));
        assert!(memory(&pids).anonymous > 0);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
