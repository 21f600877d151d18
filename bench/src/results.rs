//! The page of results: when and where the run took place, its targets, and everything it measured.
//!
//! It leaves nothing out: neither bad results nor those that other programs disturbed.

mod targets;

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use sse_bench::table::{Kept, Output, Table};

/// When and where the run took place, and what it compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// When the run began.
    pub date: String,
    /// Whether this was a quick run, with smaller numbers.
    pub quick: bool,
    /// Facts about the machine and the servers: name and value.
    pub facts: Vec<(&'static str, String)>,
}

impl Setting {
    /// The current time and this machine, with the versions of the servers.
    pub fn here(versions: Vec<(&'static str, String)>, quick: bool) -> Setting {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let cpu = after_colon(&read("/proc/cpuinfo"), "model name");
        let memory = after_colon(&read("/proc/meminfo"), "MemTotal");
        let mut facts = vec![
            ("cores", cores.to_string()),
            ("CPU", cpu),
            ("memory", gigabytes(&memory)),
            ("kernel", kernel(&read("/proc/sys/kernel/osrelease"))),
            (
                "congestion control",
                read("/proc/sys/net/ipv4/tcp_congestion_control").trim().to_owned(),
            ),
            ("network interfaces", interfaces(&read("/proc/net/dev"))),
            (
                "load when it began",
                read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
            ),
        ];
        facts.extend(versions);
        Setting { date: date(seconds), quick, facts }
    }
}

/// The page in Markdown.
pub fn page(setting: &Setting, output: &Output) -> String {
    let how = if setting.quick { "make bench QUICK=1" } else { "make bench" };
    let mut text = format!(
        "# Results\n\nMeasured {}. To measure again: `{how}`; what each column means and how it is \
         measured is in [README.md](README.md).\n\n",
        setting.date
    );
    if setting.quick {
        text += "**A quick run**: one short round each, with fewer connections than the targets are \
                 meant for.\n\n";
    }
    for (name, value) in &setting.facts {
        text += &format!("- {name}: {value}\n");
    }
    text += "\n## Targets\n\nEach value is from the run below. What was tried where one is missed is in \
             [README.md](README.md#what-was-tried).\n\n";
    text += &without_title(&targets::table(&targets::judge(output.records())));
    text += "\n## Measured\n\n`others` is the CPU that other programs took meanwhile, in percent of a core; a \
             row with `!` is to be measured again.\n";
    let mut after_table = true;
    for kept in output.kept() {
        match kept {
            Kept::Table(table) => text += &format!("\n{}", table.markdown()),
            // Remarks are list items, because Markdown joins plain lines into a paragraph. The list
            // needs an empty line before it.
            Kept::Remark(remark) if after_table => text += &format!("\n- {}\n", remark.trim()),
            Kept::Remark(remark) => text += &format!("- {}\n", remark.trim()),
        }
        after_table = matches!(kept, Kept::Table(_));
    }
    text
}

fn without_title(table: &Table) -> String {
    let text = table.markdown();
    text.split_once("\n\n").map(|(_, rows)| rows.to_owned()).unwrap_or(text)
}

fn after_colon(text: &str, name: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.split_once(':'));
    value.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
}

/// The kernel's version without what its distributor added.
fn kernel(release: &str) -> String {
    release.trim().split('-').next().unwrap_or_default().to_owned()
}

/// The names of the network interfaces. `lo` alone means a network namespace, in which no firewall
/// makes packets more expensive.
fn interfaces(text: &str) -> String {
    let names = text.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
    names.collect::<Vec<_>>().join(", ")
}

fn gigabytes(kilobytes: &str) -> String {
    let number = kilobytes.strip_suffix(" kB").and_then(|text| text.parse::<f64>().ok());
    number.map_or_else(|| kilobytes.to_owned(), |kb| format!("{:.1} GB", kb * 1024.0 / 1e9))
}

/// The date and time of a moment in Unix time.
fn date(seconds: u64) -> String {
    // In years that begin in March, a leap day is the last day of its year (see "civil_from_days"
    // by Howard Hinnant).
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}, {:02}:{:02} UTC", second / 3600, second / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_read_as_it_is_written() {
        assert_eq!(date(0), "1970-01-01, 00:00 UTC");
        assert_eq!(date(951_827_696), "2000-02-29, 12:34 UTC");
        assert_eq!(date(1_735_689_599), "2024-12-31, 23:59 UTC");
        assert_eq!(date(1_735_689_600), "2025-01-01, 00:00 UTC");
    }

    #[test]
    fn the_machine_is_read_from_proc() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nmodel name\t: Other\n";
        assert_eq!(after_colon(text, "model name"), "Some CPU @ 2 GHz");
        assert_eq!(after_colon(text, "MemTotal"), "unknown");
        assert_eq!(gigabytes("16000000 kB"), "16.4 GB");
        assert_eq!(kernel("6.1.0-18-amd64\n"), "6.1.0");
        let text = "Inter-|   Receive  |\n face |bytes\n    lo: 1 2\n  eth0: 3 4\n";
        assert_eq!(interfaces(text), "lo, eth0");
    }

    #[test]
    fn the_page_has_everything_in_its_order() {
        let mut output = Output::new(None);
        let mut table = Table::new("steady: a title", &["server", "p99 ms"]);
        table.row(vec!["nchan".to_owned(), "1.00".to_owned()]);
        output.table(table);
        output.remark("a remark");
        output.failed("steady", "other", "it broke");
        let facts = vec![("cores", "2".to_owned())];
        let setting = Setting { date: "today".to_owned(), quick: true, facts };
        let page = page(&setting, &output);
        let expected = [
            "# Results\n\nMeasured today.",
            "`make bench QUICK=1`",
            "- cores: 2\n",
            "## Targets\n",
            "| not measured |\n",
            "## Measured\n\n",
            "measured again.\n\n### steady: a title\n\n| server | p99 ms |\n| --- | ---: |\n",
            "| nchan | 1.00 |\n\n- a remark\n- steady: other: it broke\n",
        ];
        let mut rest = page.as_str();
        for part in expected {
            let at = rest.find(part).unwrap_or_else(|| panic!("{part:?} is not in\n{rest}"));
            rest = &rest[at + part.len()..];
        }
        assert_eq!(rest, "");
    }
}
