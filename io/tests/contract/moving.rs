//! Connections that move from one core of a process to another.

use crate::net::{pair, read_exactly};
use crate::{OtherCore, Place};
use corelith_io::{DetachedStream, channel, spawn, timeout, yield_now};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// Sends back what arrives.
async fn echo(stream: DetachedStream) {
    let (mut read, mut write) = stream.attach().unwrap().into_split();
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = read.read(&mut bytes).await {
        write.write_all(&bytes[..count]).await.unwrap();
    }
}

pub(crate) async fn a_connection_goes_on_at_another_core(place: Place, other: OtherCore) {
    let ((mut read, mut write), (server_read, server_write)) = pair(&place).await;
    let server = server_read.unsplit(server_write);
    let peer = server.peer_addr().unwrap();
    let detached = server.detach().unwrap();
    let (tell, told) = channel(1);
    let job = move || async move {
        let stream = detached.attach().unwrap();
        tell.send(stream.peer_addr().unwrap()).await.unwrap();
        echo(stream.detach().unwrap()).await;
    };
    other.run(job).await;
    assert_eq!(told.recv().await.unwrap(), peer);
    for len in [1, 100, 4096, 100_000] {
        let sent: Vec<u8> = (0..len).map(|at| at as u8).collect();
        let sending = sent.clone();
        let sender = spawn(async move {
            write.write_all(&sending).await.unwrap();
            write
        });
        assert_eq!(read_exactly(&mut read, len).await, sent);
        write = sender.await.unwrap();
    }
}

/// With a reader that has waited in vain on the first core, and bytes that arrive before, while and after the
/// connection belongs to no core.
pub(crate) async fn what_has_arrived_goes_along(place: Place, other: OtherCore) {
    let ((mut read, mut write), (mut server_read, server_write)) = pair(&place).await;
    let waited = timeout(Duration::from_millis(2), server_read.read(&mut [0; 10])).await;
    assert!(waited.is_err(), "nothing was sent");
    write.write_all(b"0123456789").await.unwrap();
    assert_eq!(read_exactly(&mut server_read, 4).await, b"0123");
    let detached = server_read.unsplit(server_write).detach().unwrap();
    write.write_all(b"abc").await.unwrap();
    other.run(move || echo(detached)).await;
    write.write_all(b"def").await.unwrap();
    assert_eq!(read_exactly(&mut read, 12).await, b"456789abcdef");
}

pub(crate) async fn a_split_connection_is_put_together_and_moves(place: Place, other: OtherCore) {
    let ((read, write), server) = pair(&place).await;
    let job = {
        let detached = read.unsplit(write).detach().unwrap();
        let (tell, told) = channel(1);
        let job = move || async move {
            let (mut read, mut write) = detached.attach().unwrap().into_split();
            write.write_all(b"from there").await.unwrap();
            tell.send(read_exactly(&mut read, 2).await).await.unwrap();
        };
        other.run(job).await;
        told
    };
    let (mut server_read, mut server_write) = server;
    assert_eq!(read_exactly(&mut server_read, 10).await, b"from there");
    server_write.write_all(b"ok").await.unwrap();
    assert_eq!(job.recv().await.unwrap(), b"ok");
}

pub(crate) async fn a_peer_that_has_closed_is_noticed_there(place: Place, other: OtherCore) {
    let ((read, mut write), (server_read, server_write)) = pair(&place).await;
    write.write_all(b"last words").await.unwrap();
    drop((read, write));
    let detached = server_read.unsplit(server_write).detach().unwrap();
    let (tell, told) = channel(1);
    let job = move || async move {
        let (mut read, _write) = detached.attach().unwrap().into_split();
        let bytes = read_exactly(&mut read, 10).await;
        assert_eq!(read.read(&mut [0; 10]).await.unwrap(), 0);
        tell.send(bytes).await.unwrap();
    };
    other.run(job).await;
    assert_eq!(told.recv().await.unwrap(), b"last words");
}

pub(crate) async fn a_connection_that_nobody_attaches_closes(place: Place, other: OtherCore) {
    for dropped_there in [false, true] {
        let ((mut read, _write), (server_read, server_write)) = pair(&place).await;
        let reader = spawn(async move { read.read(&mut [0; 10]).await });
        yield_now().await;
        let detached = server_read.unsplit(server_write).detach().unwrap();
        match dropped_there {
            true => other.run(move || async move { drop(detached) }).await,
            false => drop(detached),
        }
        let ended = timeout(PATIENCE, reader).await.unwrap().unwrap();
        assert_eq!(ended.unwrap_or(0), 0);
    }
}

pub(crate) async fn a_connection_moves_to_and_fro(place: Place, other: OtherCore) {
    let ((mut read, mut write), (server_read, server_write)) = pair(&place).await;
    let mut server = server_read.unsplit(server_write);
    for round in 0..20_u8 {
        let detached = server.detach().unwrap();
        let (give, given) = channel(1);
        let job = move || async move {
            let (mut read, mut write) = detached.attach().unwrap().into_split();
            let bytes = read_exactly(&mut read, 3).await;
            write.write_all(&bytes).await.unwrap();
            let detached = read.unsplit(write).detach().unwrap();
            assert!(give.send(detached).await.is_ok());
        };
        other.run(job).await;
        write.write_all(&[round; 3]).await.unwrap();
        assert_eq!(read_exactly(&mut read, 3).await, [round; 3]);
        server = given.recv().await.unwrap().attach().unwrap();
    }
}
