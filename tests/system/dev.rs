//! The development cluster: the first thing that anybody starts.

use crate::cluster::{Running, corelith, directory, signal};
use crate::waiting::{self, DEADLINE};
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

/// The first of three free ports in a row.
fn three_free_ports() -> u16 {
    let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    loop {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        if port < u16::MAX - 1 && free(port + 1) && free(port + 2) {
            return port;
        }
    }
}

/// Starts the cluster and waits until it says that it is ready; its output is in `dir`.
fn start(dir: &Path, port: u16) -> Running {
    start_with(dir, &["--port", &port.to_string()])
}

fn start_with(dir: &Path, options: &[&str]) -> Running {
    let said = dir.join("said");
    let mut command = corelith();
    command
        .args(["dev", "--data"])
        .arg(dir.join("data"))
        .args(options)
        .stdout(File::create(&said).unwrap())
        .stderr(File::create(dir.join("log")).unwrap());
    let mut running = Running::start(&mut command);
    waiting::until("the development cluster to be ready", || {
        let text = fs::read_to_string(&said).unwrap();
        let log = fs::read_to_string(dir.join("log")).unwrap();
        assert!(running.is_running(), "it ended: {text}{log}");
        if text.contains("Ctrl-C") {
            Ok(())
        } else {
            Err(text + &log)
        }
    });
    running
}

#[test]
fn what_was_written_is_there_after_ctrl_c_and_a_new_start() {
    let dir = directory();
    let port = three_free_ports();
    let run = |arguments: &[&str]| {
        let output = corelith()
            .args(arguments)
            .args(["--connect", &format!("127.0.0.1:{port}")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let mut cluster = start(dir.path(), port);
    run(&["put", "greeting", "hello"]);
    assert_eq!(run(&["get", "greeting"]), "hello");
    signal("INT", cluster.id());
    assert!(cluster.wait("the cluster to stop", DEADLINE).success());

    let _cluster = start(dir.path(), port);
    assert_eq!(run(&["get", "greeting"]), "hello");
}

#[test]
fn a_second_start_has_the_shape_of_the_first() {
    let dir = directory();
    let port = three_free_ports();
    let options = ["--nodes", "1", "--shards", "2", "--cores", "2", "--port"];
    let mut cluster = start_with(dir.path(), &[&options[..], &[&port.to_string()]].concat());
    signal("INT", cluster.id());
    assert!(cluster.wait("the cluster to stop", DEADLINE).success());

    let data = dir.path().join("data");
    for (option, value, known) in [
        ("--nodes", "3", "1"),
        ("--shards", "6", "2"),
        ("--cores", "1", "2"),
    ] {
        let mut command = corelith();
        command.args(["dev", option, value, "--data"]).arg(&data);
        let refused = command.output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let complaint = String::from_utf8_lossy(&refused.stderr);
        assert!(
            complaint.contains(&format!("{option}: {value}")),
            "{complaint}"
        );
        assert!(
            complaint.contains(&format!("created with {known}")),
            "{complaint}"
        );
    }
    let _cluster = start_with(dir.path(), &[]);
    let said = fs::read_to_string(dir.path().join("said")).unwrap();
    assert!(
        said.contains(&format!("127.0.0.1:{port} to {}", port + 1)),
        "{said}"
    );
    assert!(said.contains("2 shards"), "{said}");
}

#[test]
fn nothing_is_left_behind_when_a_port_is_taken() {
    let dir = directory();
    let port = three_free_ports();
    let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port + 2)).unwrap();
    let mut command = corelith();
    command.args(["dev", "--port", &port.to_string(), "--data"]);
    let refused = command.arg(dir.path().join("data")).output().unwrap();
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    let complaint = String::from_utf8_lossy(&refused.stderr);
    let expected = format!("the port {} on 127.0.0.1 is in use", port + 2);
    assert!(
        complaint.contains(&expected) && complaint.contains("--port"),
        "{complaint}"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{complaint}");
}
