//! What cannot work is refused at the start, in one sentence that says what to do.

use crate::cluster::{Cluster, Running, configuration, corelith, directory, free_ports};
use crate::{seccomp, waiting};
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Writes the configuration of node 1 of 3.
fn write_configuration(dir: &Path, name: &str, ports: &[u16]) -> PathBuf {
    let file = dir.join("node.toml");
    fs::write(&file, configuration(name, 1, &dir.join("data"), ports)).unwrap();
    file
}

fn node(config: &Path) -> Command {
    let mut command = corelith();
    command.arg("node").arg("--config").arg(config);
    command
}

/// Runs a command that must end by itself with an error: one line, with all of `words` in it.
fn refuses(command: &mut Command, words: &[&str]) {
    let output = ends(command);
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    assert!(!output.status.success(), "{output:?}");
    assert!(
        output.status.code().is_some(),
        "ended by a signal: {output:?}"
    );
    assert_eq!(
        complaint.lines().count(),
        1,
        "one sentence was expected:\n{complaint}"
    );
    for word in words {
        assert!(
            complaint.contains(word),
            "`{word}` is missing in: {complaint}"
        );
    }
    println!("{complaint}");
}

fn ends(command: &mut Command) -> Output {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    waiting::until(&format!("process {pid} to give up"), || {
        child.try_wait().unwrap().ok_or("still runs")
    });
    child.wait_with_output().unwrap()
}

#[test]
fn a_port_in_use() {
    let dir = directory();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut ports = vec![port];
    ports.extend(free_ports(2));
    let config = write_configuration(dir.path(), "refusals", &ports);
    refuses(&mut node(&config), &[&port.to_string(), "in use"]);
}

#[test]
fn an_address_of_another_machine() {
    let dir = directory();
    let ports = free_ports(3);
    let config = write_configuration(dir.path(), "refusals", &ports);
    let text = std::fs::read_to_string(&config).unwrap();
    // Of a network that is for documents alone.
    let listen = format!("[node]\nlisten = \"192.0.2.1:{}\"\n", ports[0]);
    std::fs::write(&config, text.replace("[node]\n", &listen)).unwrap();
    let words = [
        "cannot listen on 192.0.2.1",
        "address of this machine in `node.listen`",
    ];
    refuses(&mut node(&config), &words);
    let left = std::fs::read_dir(dir.path()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left, [config], "nothing is created before");
}

/// The kernel closes the sockets of a process with rings some time after its end.
#[test]
fn the_port_of_a_process_that_was_just_killed_is_no_port_in_use() {
    let mut cluster = Cluster::start();
    for _ in 0..10 {
        cluster.kill(1);
        cluster.start_node(1);
    }
}

#[test]
fn a_configuration_with_a_mistake() {
    let dir = directory();
    let good = configuration("refusals", 1, &dir.path().join("data"), &free_ports(3));
    for (text, words) in [
        ("[node\n".to_owned(), vec!["node.toml", "line 1"]),
        (good.replace("[node]", "[node]\ncolour = 3"), vec!["colour"]),
        (good.replace("name = \"refusals\"", ""), vec!["name"]),
        (good.replace("shards = 4", "shards = 0"), vec!["shards"]),
        (good.replace("[node]\nid = 1", "[node]\nid = 9"), vec!["9"]),
        (
            good.replace("[node]", "[node]\npin = [9999]"),
            vec!["node.pin", "9999"],
        ),
    ] {
        let file = dir.path().join("node.toml");
        fs::write(&file, text).unwrap();
        refuses(&mut node(&file), &words);
    }
}

#[test]
fn a_configuration_that_is_not_there() {
    let dir = directory();
    refuses(&mut node(&dir.path().join("absent.toml")), &["absent.toml"]);
}

#[test]
fn too_little_locked_memory() {
    let dir = directory();
    let config = write_configuration(dir.path(), "refusals", &free_ports(3));
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg("ulimit -l 64 && exec \"$0\" node --config \"$1\"")
        .arg(corelith().get_program())
        .arg(&config)
        .stdin(Stdio::null());
    refuses(&mut shell, &["locked memory", "ulimit -l"]);
}

#[test]
fn io_uring_that_is_blocked() {
    let dir = directory();
    let config = write_configuration(dir.path(), "refusals", &free_ports(3));
    let mut command = node(&config);
    seccomp::forbid_io_uring(&mut command);
    refuses(&mut command, &["io_uring", "seccomp"]);
}

#[test]
fn a_data_directory_of_another_cluster() {
    let dir = directory();
    let ports = free_ports(3);
    let config = write_configuration(dir.path(), "first", &ports);
    let mut command = node(&config);
    let mut first = Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
    first.wait_until_listening(ports[0]);
    let elsewhere = write_configuration(dir.path(), "first", &free_ports(3));
    refuses(&mut node(&elsewhere), &["data", "in use"]);
    first.kill();
    let config = write_configuration(dir.path(), "second", &ports);
    refuses(
        &mut node(&config),
        &["data", "was created with cluster.name"],
    );
}

#[test]
fn a_cluster_that_is_not_there() {
    let port = free_ports(1)[0];
    let mut command = corelith();
    command.args(["get", "key", "--connect", &format!("127.0.0.1:{port}")]);
    refuses(&mut command, &[&port.to_string()]);
}
