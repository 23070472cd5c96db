//! A network namespace for each node, and a hub that joins them and this process, where packets are dropped.
//!
//! The process executes itself again in a network and mount namespace of its own, so that everything made here is
//! gone with its last process. Dropped packets cause no error at their sender: a rule of the hub's routing that
//! nothing answers for (`blackhole`) drops what arrives through an interface in silence.

use crate::cluster::{NODES, Namespace};
use std::io::{self, Error};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Set in the process that has namespaces of its own.
const INSIDE: &str = "CORELITH_BENCH_NAMESPACES";
/// Number of this process in the network; nodes have 1, 2, 3.
const CLIENTS: usize = 9;
/// Priority of the first rule of a cut.
const RULES_FROM: u32 = 100;

/// Which packets of a node are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// From it and to it.
    Both,
    /// To it.
    ToIt,
    /// Between it and the other nodes; clients reach it.
    Nodes,
}

/// The network of a run.
#[derive(Debug)]
pub(crate) struct Network {
    rules: u32,
}

/// Whether this process has namespaces of its own.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Whether this user may make namespaces.
pub(crate) fn is_allowed() -> bool {
    let tried = Command::new("unshare")
        .args(["--net", "--mount", "true"])
        .stderr(Stdio::null())
        .status();
    tried.is_ok_and(|status| status.success())
}

/// Executes this program again, with the same arguments, in namespaces of its own. Returns only on failure.
pub(crate) fn enter() -> Error {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error,
    };
    Command::new("unshare")
        .args(["--net", "--mount"])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec()
}

impl Network {
    /// Makes the namespaces, if this process has namespaces of its own.
    ///
    /// # Errors
    /// A command failed.
    pub(crate) fn make_if_inside() -> io::Result<Option<Self>> {
        match is_inside() {
            true => Self::make().map(Some),
            false => Ok(None),
        }
    }

    fn make() -> io::Result<Self> {
        assert!(is_inside(), "it would change the machine's network");
        // Names of namespaces are files in /run/netns, which is shared with the machine otherwise.
        run("mount", "-t tmpfs tmpfs /run")?;
        std::fs::create_dir_all("/run/netns")?;
        run("ip", "link set lo up")?;
        run("ip", "netns add hub")?;
        let forward = "--net=/run/netns/hub sh -c";
        let words = forward.split(' ').map(str::to_owned);
        run_words(
            "nsenter",
            words.chain(["echo 1 > /proc/sys/net/ipv4/ip_forward".to_owned()]),
        )?;
        for number in (1..=NODES).chain([CLIENTS]) {
            let inside = if number == CLIENTS {
                run(
                    "ip",
                    &format!("link add eth0 type veth peer name v{number} netns hub"),
                )?;
                String::new()
            } else {
                run("ip", &format!("netns add n{number}"))?;
                run(
                    "ip",
                    &format!("-n hub link add v{number} type veth peer name eth0 netns n{number}"),
                )?;
                format!("-n n{number} ")
            };
            for command in [
                format!("-n hub addr add 10.77.{number}.1/24 dev v{number}"),
                format!("-n hub link set v{number} up"),
                format!("{inside}addr add {}/24 dev eth0", address(number)),
                format!("{inside}link set eth0 up"),
                format!("{inside}link set lo up"),
                format!("{inside}route add default via 10.77.{number}.1"),
            ] {
                run("ip", &command)?;
            }
        }
        Ok(Self { rules: 0 })
    }

    /// The namespaces of the nodes.
    pub(crate) fn namespaces(&self) -> Vec<Namespace> {
        let of = |number| Namespace {
            path: Path::new("/run/netns").join(format!("n{number}")),
            address: address(number),
        };
        (1..=NODES).map(of).collect()
    }

    /// Drops packets of node `index`, counted from 0, until [`Network::heal`].
    ///
    /// # Errors
    /// A command failed.
    pub(crate) fn cut(&mut self, index: usize, dropped: Dropped) -> io::Result<()> {
        for rule in rules(index + 1, dropped) {
            let priority = RULES_FROM + self.rules;
            run(
                "ip",
                &format!("-n hub rule add pref {priority} {rule} blackhole"),
            )?;
            self.rules += 1;
        }
        Ok(())
    }

    /// Drops nothing any more.
    ///
    /// # Errors
    /// A command failed.
    pub(crate) fn heal(&mut self) -> io::Result<()> {
        while self.rules > 0 {
            self.rules -= 1;
            run(
                "ip",
                &format!("-n hub rule del pref {}", RULES_FROM + self.rules),
            )?;
        }
        Ok(())
    }
}

fn address(number: usize) -> String {
    format!("10.77.{number}.2")
}

/// The packets to drop, as selectors of routing rules.
fn rules(number: usize, dropped: Dropped) -> Vec<String> {
    let to_it = format!("to {}", address(number));
    let from_it = format!("iif v{number}");
    match dropped {
        Dropped::Both => vec![to_it, from_it],
        Dropped::ToIt => vec![to_it],
        Dropped::Nodes => (1..=NODES)
            .filter(|other| *other != number)
            .flat_map(|other| {
                let here = format!("{from_it} to {}", address(other));
                [here, format!("iif v{other} {to_it}")]
            })
            .collect(),
    }
}

fn run(program: &str, words: &str) -> io::Result<()> {
    run_words(program, words.split(' ').map(str::to_owned))
}

fn run_words(program: &str, words: impl Iterator<Item = String>) -> io::Result<()> {
    let words: Vec<String> = words.collect();
    let output = Command::new(find(program)).args(&words).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let command = words.join(" ");
    Err(Error::other(format!(
        "{program} {command}: {}",
        said.trim()
    )))
}

/// `ip` is not in the path of every user.
fn find(program: &str) -> PathBuf {
    let full = Path::new("/usr/sbin").join(program);
    if full.is_file() { full } else { program.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_the_packets_to_drop() {
        let table = [
            (Dropped::Both, "to 10.77.2.2; iif v2"),
            (Dropped::ToIt, "to 10.77.2.2"),
            (
                Dropped::Nodes,
                "iif v2 to 10.77.1.2; iif v1 to 10.77.2.2; iif v2 to 10.77.3.2; iif v3 to 10.77.2.2",
            ),
        ];
        for (dropped, expected) in table {
            assert_eq!(rules(2, dropped).join("; "), expected, "{dropped:?}");
        }
    }
}
