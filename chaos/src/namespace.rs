//! A network namespace for one run, so that packets are dropped only there.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Command, Stdio};

/// A namespace that a pair of interfaces joins to the host's. Dropping it deletes it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    /// The host's address.
    pub outside: IpAddr,
    /// The address inside.
    pub inside: IpAddr,
}

impl Namespace {
    /// Creates a namespace. The error says why that fails.
    pub fn new() -> Result<Namespace, String> {
        let tag = format!("{:x}{:03x}", std::process::id() & 0xffff, fastrand::u16(..0xfff));
        let (a, b) = (fastrand::u8(100..250), fastrand::u8(..));
        let [outside, inside] = [1, 2].map(|n| Ipv4Addr::new(10, a, b, n));
        let namespace = Namespace {
            name: format!("chaos-{tag}"),
            outside: outside.into(),
            inside: inside.into(),
        };
        let (name, ours, theirs) = (&namespace.name, format!("cho{tag}"), format!("chi{tag}"));
        run("ip", &format!("netns add {name}"))?;
        // From here on, an early return drops `namespace`, which deletes whatever was created.
        run("ip", &format!("link add {ours} type veth peer name {theirs}"))?;
        run("ip", &format!("link set {theirs} netns {name}"))?;
        run("ip", &format!("addr add {outside}/30 dev {ours}"))?;
        run("ip", &format!("link set {ours} up"))?;
        run("ip", &format!("-n {name} addr add {inside}/30 dev {theirs}"))?;
        run("ip", &format!("-n {name} link set {theirs} up"))?;
        run("ip", &format!("-n {name} link set lo up"))?;
        // Tests whether iptables works now, rather than in the middle of a run.
        namespace.drop_packets(50)?;
        namespace.heal()?;
        Ok(namespace)
    }

    /// A command that runs inside. `ip` execs the program, so the process is the program's own.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Drops this percentage of packets in each direction.
    pub fn drop_packets(&self, percent: u32) -> Result<(), String> {
        let share =
            format!("-m statistic --mode random --probability {}", f64::from(percent) / 100.0);
        let share = if percent < 100 { share } else { String::new() };
        for chain in ["INPUT", "OUTPUT"] {
            self.rule(&format!("-A {chain} {share} -j DROP"))?;
        }
        Ok(())
    }

    /// Stops dropping packets.
    pub fn heal(&self) -> Result<(), String> {
        self.rule("-F")
    }

    fn rule(&self, rule: &str) -> Result<(), String> {
        run("ip", &format!("netns exec {} iptables -w 5 {rule}", self.name))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Deleting the namespace also deletes the interfaces.
        let _ = run("ip", &format!("netns del {}", self.name));
    }
}

fn run(program: &str, args: &str) -> Result<(), String> {
    let mut command = Command::new(program);
    command.args(args.split_whitespace()).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {args}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
