//! Connections: bytes, ends, errors, many at once.

use crate::Place;
use bytes::BytesMut;
use corelith_io::{
    ErrorKind, ReadHalf, TcpListener, TcpStream, WriteHalf, spawn, timeout, yield_now,
};
use futures_util::future::join_all;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

type Halves = (ReadHalf, WriteHalf);

fn listen(place: &Place) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(place.any_port()).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub(crate) async fn pair(place: &Place) -> (Halves, Halves) {
    let (listener, address) = listen(place);
    let accepting = spawn(async move { listener.accept().await.unwrap().into_split() });
    let connected = TcpStream::connect(address).await.unwrap();
    assert_eq!(connected.peer_addr().unwrap(), address);
    (connected.into_split(), accepting.await.unwrap())
}

pub(crate) async fn read_exactly(read: &mut ReadHalf, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut at = 0;
    while at < len {
        let count = read.read(&mut bytes[at..]).await.unwrap();
        assert_ne!(count, 0, "the connection ended after {at} of {len} bytes");
        at += count;
    }
    bytes
}

async fn echo_all((mut read, mut write): Halves) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = read.read(&mut bytes).await {
        write.write_all(&bytes[..count]).await.unwrap();
    }
}

pub(crate) async fn echo(place: Place) {
    let ((mut read, mut write), server) = pair(&place).await;
    spawn(echo_all(server));
    for len in [1, 100, 4096, 10_000] {
        let sent: Vec<u8> = (0..len).map(|at| at as u8).collect();
        write.write_all(&sent).await.unwrap();
        assert_eq!(read_exactly(&mut read, len).await, sent);
    }
}

pub(crate) async fn a_dropped_connection_reads_as_ended(place: Place) {
    let ((mut read, _write), (server_read, mut server_write)) = pair(&place).await;
    server_write.write_all(b"last words").await.unwrap();
    drop((server_read, server_write));
    assert_eq!(read_exactly(&mut read, 10).await, b"last words");
    assert_eq!(read.read(&mut [0; 10]).await.unwrap(), 0);
    assert_eq!(read.read(&mut [0; 10]).await.unwrap(), 0);
}

pub(crate) async fn shutdown_wakes_both_readers(place: Place) {
    let ((mut read, mut write), (mut server_read, _server_write)) = pair(&place).await;
    let here = spawn(async move { read.read(&mut [0; 10]).await });
    let there = spawn(async move { server_read.read(&mut [0; 10]).await });
    yield_now().await;
    write.shutdown().await.unwrap();
    assert_eq!(here.await.unwrap().unwrap_or(0), 0);
    assert_eq!(there.await.unwrap().unwrap_or(0), 0);
    write.write_all(b"too late").await.unwrap_err();
    write.shutdown().await.unwrap();
}

pub(crate) async fn large_transfers_both_ways_at_once(place: Place) {
    const LEN: usize = 8 << 20;
    async fn send(mut write: WriteHalf, byte: u8) -> WriteHalf {
        for _ in 0..LEN / (1 << 20) {
            write.write_all(&vec![byte; 1 << 20]).await.unwrap();
        }
        write
    }
    async fn receive(mut read: ReadHalf, byte: u8) {
        let bytes = read_exactly(&mut read, LEN).await;
        assert!(bytes.iter().all(|read| *read == byte));
    }
    let ((read, write), (server_read, server_write)) = pair(&place).await;
    let senders = [spawn(send(write, 1)), spawn(send(server_write, 2))];
    let receivers = [spawn(receive(server_read, 1)), spawn(receive(read, 2))];
    for receiver in receivers {
        receiver.await.unwrap();
    }
    for sender in senders {
        sender.await.unwrap();
    }
}

pub(crate) async fn a_slow_reader_holds_the_writer_back(place: Place) {
    const LEN: usize = 64 << 20;
    let ((mut read, _write), (_server_read, mut server_write)) = pair(&place).await;
    let sent = Rc::new(Cell::new(0));
    let counter = Rc::clone(&sent);
    let sender = spawn(async move {
        let piece = vec![0; 1 << 20];
        while counter.get() < LEN {
            server_write.write_all(&piece).await.unwrap();
            counter.set(counter.get() + piece.len());
        }
    });
    // The kernel buffers a few MiB at most; 64 do not fit.
    assert_eq!(
        timeout(Duration::from_millis(300), pin(&sender)).await.ok(),
        None
    );
    assert!(sent.get() < LEN);
    read_exactly(&mut read, LEN).await;
    sender.await.unwrap();
}

/// Waits for a task without taking its handle.
async fn pin<T>(handle: &corelith_io::JoinHandle<T>) {
    while !handle.is_finished() {
        corelith_io::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn nobody_listens(place: Place) {
    let (listener, address) = listen(&place);
    drop(listener);
    let error = TcpStream::connect(address).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Disconnected);
}

pub(crate) async fn a_port_in_use_is_an_error(place: Place) {
    let (_listener, address) = listen(&place);
    let error = TcpListener::bind(address).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::AddressInUse);
}

pub(crate) async fn a_closed_listener_frees_its_port(place: Place) {
    let (listener, address) = listen(&place);
    let accepting = spawn(async move { listener.accept().await.map(|_| ()) });
    yield_now().await;
    accepting.abort();
    assert!(accepting.await.is_none());
    // The kernel may hold the port until the ring has released it.
    let bound = timeout(Duration::from_secs(5), async {
        while TcpListener::bind(address).is_err() {
            corelith_io::sleep(Duration::from_millis(5)).await;
        }
    });
    bound.await.unwrap();
}

pub(crate) async fn an_abandoned_accept_loses_no_connection(place: Place) {
    let (listener, address) = listen(&place);
    for _ in 0..3 {
        let waited = timeout(Duration::from_millis(5), listener.accept()).await;
        assert!(waited.is_err());
    }
    let connecting = spawn(TcpStream::connect(address));
    let accepted = timeout(Duration::from_secs(5), listener.accept()).await;
    let (_read, mut write) = accepted.unwrap().unwrap().into_split();
    let (mut read, _write) = connecting.await.unwrap().unwrap().into_split();
    write.write_all(b"hello").await.unwrap();
    assert_eq!(read_exactly(&mut read, 5).await, b"hello");
}

pub(crate) async fn many_connections_at_once(place: Place) {
    let (listener, address) = listen(&place);
    spawn(async move {
        loop {
            spawn(echo_all(listener.accept().await.unwrap().into_split()));
        }
    });
    let clients = (0..64_u8).map(|number| async move {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        for round in 0..20 {
            let sent = vec![number ^ round; 1 + number as usize * 10];
            write.write_all(&sent).await.unwrap();
            assert_eq!(read_exactly(&mut read, sent.len()).await, sent);
        }
    });
    join_all(clients).await;
}

pub(crate) async fn read_buf_appends(place: Place) {
    let ((_read, mut write), (mut server_read, _server_write)) = pair(&place).await;
    let mut bytes = BytesMut::from(&b"before "[..]);
    write.write_all(b"after").await.unwrap();
    while bytes.len() < 12 {
        assert_ne!(server_read.read_buf(&mut bytes).await.unwrap(), 0);
    }
    assert_eq!(&bytes[..], b"before after");
    write.shutdown().await.unwrap();
    assert_eq!(server_read.read_buf(&mut bytes).await.unwrap(), 0);
    assert_eq!(&bytes[..], b"before after");
}
