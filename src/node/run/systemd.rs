//! Telling systemd what state the process is in (`Type=notify`, see `sd_notify(3)`).
#![expect(
    clippy::disallowed_types,
    reason = "runs on the process's first thread, outside of the cores"
)]

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Tells systemd `state`, if it started this process and asked to be told.
pub(crate) fn notify(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(%error, socket = %socket.display(), "cannot notify systemd");
    }
}

fn send(socket: &OsStr, state: &str) -> std::io::Result<()> {
    // A leading `@` stands for the zero byte of an abstract address.
    let address = match socket.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::send;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    #[test]
    fn both_kinds_of_address_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("corelith-test-{}", std::process::id());
        let receivers = [
            (path.clone().into_os_string(), UnixDatagram::bind(&path)),
            (
                format!("@{name}").into(),
                SocketAddr::from_abstract_name(&name)
                    .and_then(|address| UnixDatagram::bind_addr(&address)),
            ),
        ];
        for (socket, receiver) in receivers {
            send(&socket, "READY=1").unwrap();
            let mut bytes = [0; 16];
            let len = receiver.unwrap().recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..len], b"READY=1");
        }
        assert!(send("/nowhere/notify".as_ref(), "READY=1").is_err());
    }
}
