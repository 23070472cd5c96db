use super::*;

fn hello() -> Hello {
    Hello::peer(ClusterId(0xfeed), NodeId(3))
}

fn welcome(hello: &Hello) -> Welcome {
    Welcome::answer(hello, ClusterId(0xfeed), Epoch(1), NodeId(2), 1)
}

#[test]
fn both_sides_survive_the_wire() {
    assert_eq!(Hello::parse(&hello().encode()), Ok(hello()));
    let welcome = welcome(&hello());
    assert_eq!(Welcome::parse(&welcome.encode()), Ok(welcome));
    assert_eq!(welcome.accepted(&hello()), Ok(()));
}

#[test]
fn every_flipped_bit_is_noticed() {
    for bit in 0..HELLO_BYTES * 8 {
        let mut bytes = hello().encode();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Hello::parse(&bytes).is_err(), "bit {bit}");
    }
    for bit in 0..WELCOME_BYTES * 8 {
        let mut bytes = welcome(&hello()).encode();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Welcome::parse(&bytes).is_err(), "bit {bit}");
    }
    assert_eq!(
        Hello::parse(&[b'G'; HELLO_BYTES]),
        Err(HandshakeError::NotCorelith)
    );
}

#[test]
fn those_who_cannot_work_together_are_told_why() {
    let (ours, theirs) = (ClusterId(1), ClusterId(0xfeed));
    let cases = [
        (
            Hello {
                oldest: version::NEWEST + 1,
                newest: version::NEWEST + 2,
                ..hello()
            },
            Err(HandshakeError::TooNew {
                ours: version::NEWEST + 1,
            }),
        ),
        (
            Hello {
                oldest: 0,
                newest: 0,
                ..hello()
            },
            Err(HandshakeError::TooOld { ours: 0 }),
        ),
        (
            Hello {
                cluster: ours,
                ..hello()
            },
            Err(HandshakeError::OtherCluster { ours, theirs }),
        ),
        (Hello::client(ClusterId(0)), Ok(())),
        (
            Hello {
                oldest: 0,
                newest: 9,
                ..hello()
            },
            Ok(()),
        ),
    ];
    for (hello, expected) in cases {
        assert_eq!(welcome(&hello).accepted(&hello), expected, "{hello:?}");
    }
    let busy = Welcome {
        status: Status::Busy,
        ..welcome(&hello())
    };
    assert_eq!(busy.accepted(&hello()), Err(HandshakeError::Busy));
    let future = Welcome {
        version: 9,
        ..welcome(&hello())
    };
    assert!(future.accepted(&hello()).is_err());
}
