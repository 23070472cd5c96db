//! What a network does to connections.

use crate::ms;
use corelith_io::sim::{Sim, SimConfig, SimNode};
use corelith_io::{
    ErrorKind, ReadHalf, TcpListener, TcpStream, WriteHalf, now, sleep, spawn, timeout,
};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

const PORT: u16 = 7411;

fn pair(seed: u64) -> (Sim, SimNode, SimNode) {
    let sim = Sim::new(seed);
    let (a, b) = (sim.add_node(), sim.add_node());
    (sim, a, b)
}

/// Sends back what arrives.
async fn echo(at: SimNode) {
    let listener = TcpListener::bind(at.address(PORT)).unwrap();
    loop {
        let (mut read, mut write) = listener.accept().await.unwrap().into_split();
        spawn(async move {
            let mut bytes = [0; 1000];
            while let Ok(count @ 1..) = read.read(&mut bytes).await {
                if write.write_all(&bytes[..count]).await.is_err() {
                    break;
                }
            }
        });
    }
}

async fn connect(to: SimNode) -> (ReadHalf, WriteHalf) {
    TcpStream::connect(to.address(PORT))
        .await
        .unwrap()
        .into_split()
}

async fn round_trip(read: &mut ReadHalf, write: &mut WriteHalf) -> corelith_io::Result<()> {
    write.write_all(&[1]).await?;
    read.read(&mut [0; 1]).await.map(drop)
}

#[test]
fn a_partition_delays_until_it_heals() {
    for seed in 0..10 {
        let (sim, a, b) = pair(seed);
        sim.start(b, 0, move || echo(b));
        let net = sim.net();
        sim.block_on(a, async move {
            let (mut read, mut write) = connect(b).await;
            round_trip(&mut read, &mut write).await.unwrap();
            net.partition(&[a], &[b]);
            write.write_all(&[1]).await.unwrap();
            assert!(timeout(ms(3000), read.read(&mut [0; 1])).await.is_err());
            assert!(
                timeout(ms(3000), TcpStream::connect(b.address(PORT)))
                    .await
                    .is_err()
            );
            net.heal_all();
            assert_eq!(read.read(&mut [0; 1]).await.unwrap(), 1);
            round_trip(&mut read, &mut write).await.unwrap();
        });
    }
}

#[test]
fn a_one_way_cut_lets_the_other_way_pass_until_the_buffer_is_full() {
    let (sim, a, b) = pair(1);
    let received = Rc::new(Cell::new(0));
    let counter = Rc::clone(&received);
    sim.start(b, 0, move || async move {
        let listener = TcpListener::bind(b.address(PORT)).unwrap();
        let (mut read, _write) = listener.accept().await.unwrap().into_split();
        let mut bytes = vec![0; 10_000];
        loop {
            counter.set(counter.get() + read.read(&mut bytes).await.unwrap());
        }
    });
    let net = sim.net();
    let sent = Rc::new(Cell::new(0));
    let counter = Rc::clone(&sent);
    sim.start(a, 0, move || async move {
        let (_read, mut write) = connect(b).await;
        net.cut_one_way(b, a);
        loop {
            write.write_all(&[7; 10_000]).await.unwrap();
            counter.set(counter.get() + 10_000);
        }
    });
    sim.run_for(Duration::from_secs(5));
    let buffer = SimConfig::default().socket_buffer_bytes;
    assert_eq!(
        received.get(),
        buffer,
        "all that the buffer takes, and no more"
    );
    assert!(sent.get() <= buffer);
    sim.net().heal(a, b);
    assert!(sim.run_until(|| received.get() > 3 * buffer, Duration::from_secs(5)));
}

#[test]
fn a_crashed_peer_is_noticed_by_sending_once_it_is_up_again() {
    for seed in 0..10 {
        let (sim, a, b) = pair(seed);
        sim.start(b, 0, move || echo(b));
        let halves = Rc::new(RefCell::new(None));
        let kept = Rc::clone(&halves);
        sim.block_on(a, async move {
            let (mut read, mut write) = connect(b).await;
            round_trip(&mut read, &mut write).await.unwrap();
            *kept.borrow_mut() = Some((read, write));
        });
        sim.crash(b);
        let (mut read, mut write) = halves.borrow_mut().take().unwrap();
        let kept = Rc::clone(&halves);
        sim.block_on(a, async move {
            assert!(
                timeout(ms(5000), read.read(&mut [0; 1])).await.is_err(),
                "nobody tells it"
            );
            assert!(
                timeout(ms(2000), TcpStream::connect(b.address(PORT)))
                    .await
                    .is_err()
            );
            *kept.borrow_mut() = Some((read, write));
        });
        sim.start(b, 0, move || echo(b));
        (read, write) = halves.borrow_mut().take().unwrap();
        sim.block_on(a, async move {
            assert!(
                timeout(ms(5000), read.read(&mut [0; 1])).await.is_err(),
                "still nobody"
            );
            write.write_all(&[1]).await.unwrap();
            let error = read.read(&mut [0; 1]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Disconnected);
            assert!(write.write_all(&[1]).await.is_err());
            let (mut read, mut write) = connect(b).await;
            round_trip(&mut read, &mut write).await.unwrap();
        });
    }
}

#[test]
fn a_killed_peer_is_noticed_at_once_and_its_port_refuses() {
    for seed in 0..10 {
        let (sim, a, b) = pair(seed);
        sim.start(b, 0, move || echo(b));
        let killer = sim.clone();
        let seen = Rc::new(Cell::new(false));
        let set = Rc::clone(&seen);
        sim.start(a, 0, move || async move {
            let (mut read, mut write) = connect(b).await;
            round_trip(&mut read, &mut write).await.unwrap();
            killer.kill(b);
            assert!(matches!(read.read(&mut [0; 1]).await, Ok(0) | Err(_)));
            let refused = TcpStream::connect(b.address(PORT)).await.err().unwrap();
            assert_eq!(refused.kind(), ErrorKind::Disconnected);
            set.set(true);
        });
        assert!(sim.run_until(|| seen.get(), ms(100)));
    }
}

#[test]
fn lost_segments_arrive_late_and_in_order() {
    for seed in 0..5 {
        let (sim, a, b) = pair(seed);
        sim.net().set_packet_loss(0.3);
        sim.start(b, 0, move || echo(b));
        sim.block_on(a, async move {
            let (mut read, mut write) = connect(b).await;
            let sent: Vec<u8> = (0..20_000).map(|number| (number % 251) as u8).collect();
            let sending = sent.clone();
            spawn(async move {
                for piece in sending.chunks(700) {
                    write.write_all(piece).await.unwrap();
                }
                std::future::pending::<()>().await;
            });
            let mut received = Vec::new();
            while received.len() < sent.len() {
                let mut bytes = [0; 4096];
                let count = read.read(&mut bytes).await.unwrap();
                received.extend_from_slice(&bytes[..count]);
            }
            assert!(received == sent);
        });
        assert!(sim.now() > ms(200));
    }
}

#[test]
fn connections_are_reset_at_random_and_on_request() {
    let config = SimConfig {
        reset_chance: 0.01,
        ..SimConfig::default()
    };
    let sim = Sim::with_config(3, config);
    let (a, b) = (sim.add_node(), sim.add_node());
    sim.start(b, 0, move || echo(b));
    let net = sim.net();
    sim.block_on(a, async move {
        let mut resets = 0;
        while resets < 5 {
            let (mut read, mut write) = connect(b).await;
            while round_trip(&mut read, &mut write).await.is_ok() {}
            resets += 1;
        }
        let (mut read, _write) = connect(b).await;
        net.reset(a, b);
        assert!(read.read(&mut [0; 1]).await.is_err());
    });
}

#[test]
fn clogs_delay_and_flapping_lets_some_pass() {
    let (sim, a, b) = pair(5);
    sim.start(b, 0, move || echo(b));
    let net = sim.net();
    sim.block_on(a, async move {
        let (mut read, mut write) = connect(b).await;
        net.clog(a, b, ms(300));
        let start = now();
        round_trip(&mut read, &mut write).await.unwrap();
        assert!(start.elapsed() >= ms(299));
        net.heal_all();
        net.flap(a, b, ms(500), 5);
        let start = now();
        while start.elapsed() < ms(6000) {
            round_trip(&mut read, &mut write).await.unwrap();
        }
        let start = now();
        round_trip(&mut read, &mut write).await.unwrap();
        assert!(start.elapsed() < ms(50), "the flapping is over");
    });
}

#[test]
fn one_port_one_listener_until_its_process_ends() {
    let (sim, a, _) = pair(6);
    sim.start(a, 0, move || echo(a));
    sim.run_for(ms(1));
    sim.block_on(a, async move {
        let busy = TcpListener::bind(a.address(PORT)).err().unwrap();
        assert_eq!(busy.kind(), ErrorKind::AddressInUse);
    });
    sim.kill(a);
    sim.block_on(a, async move {
        TcpListener::bind(a.address(PORT)).unwrap();
    });
}

/// How many of its messages a node has got through to another, in both directions, in a second.
fn heard_in_a_second(sim: &Sim, heard: &[Rc<Cell<u32>>; 2]) -> [u32; 2] {
    // What is on its way arrives.
    sim.run_for(ms(500));
    let before = [heard[0].get(), heard[1].get()];
    sim.run_for(ms(1000));
    [heard[0].get() - before[0], heard[1].get() - before[1]]
}

#[test]
fn a_deaf_node_is_heard_and_a_mute_one_hears() {
    for seed in 0..5 {
        let (sim, a, b) = pair(seed);
        let heard = [(); 2].map(|()| Rc::new(Cell::new(0)));
        // Each sends over a connection of its own, so that nothing waits for answers.
        for (from, to, count) in [(a, b, &heard[0]), (b, a, &heard[1])] {
            let count = Rc::clone(count);
            sim.start(to, 0, move || async move {
                let listener = TcpListener::bind(to.address(PORT)).unwrap();
                let (mut read, _write) = listener.accept().await.unwrap().into_split();
                loop {
                    read.read(&mut [0; 1]).await.unwrap();
                    count.set(count.get() + 1);
                }
            });
            sim.start(from, 0, move || async move {
                let (_read, mut write) = connect(to).await;
                loop {
                    write.write_all(&[1]).await.unwrap();
                    sleep(ms(10)).await;
                }
            });
        }
        let net = sim.net();
        let both = |[to_b, to_a]: [u32; 2]| (to_b > 50, to_a > 50);
        assert_eq!(both(heard_in_a_second(&sim, &heard)), (true, true));
        net.deafen(a);
        let [to_b, to_a] = heard_in_a_second(&sim, &heard);
        assert!(to_b > 50 && to_a == 0, "{to_b} {to_a}");
        net.rejoin(a);
        assert_eq!(both(heard_in_a_second(&sim, &heard)), (true, true));
        net.mute(a);
        let [to_b, to_a] = heard_in_a_second(&sim, &heard);
        assert!(to_b == 0 && to_a > 50, "{to_b} {to_a}");
        net.rejoin(a);
        net.cut_one_way(b, a);
        let [to_b, to_a] = heard_in_a_second(&sim, &heard);
        assert!(to_b > 50 && to_a == 0, "{to_b} {to_a}");
        net.heal(a, b);
        assert_eq!(both(heard_in_a_second(&sim, &heard)), (true, true));
    }
}
