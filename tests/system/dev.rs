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
    let said = dir.join("said");
    let mut command = corelith();
    command
        .args(["dev", "--port", &port.to_string(), "--data"])
        .arg(dir.join("data"))
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
            .args(["--connect", &format!("127.0.0.1:{port}")])
            .args(arguments)
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
