use super::*;

fn failed() -> Error {
    Error::Fenced(Box::new(Error::Closed))
}

#[test]
fn the_durable_prefix_has_no_gap() {
    let mut flight = WritesInFlight::new(7, 3);
    for about in ["a", "b", "c"] {
        assert!(!flight.is_full());
        flight.submit(about);
    }
    assert!(flight.is_full());
    assert_eq!(flight.next(), 10);
    flight.complete(8);
    assert_eq!(flight.uncompleted(), 2);
    assert_eq!(flight.pop_durable(|_| true), None);
    flight.complete(7);
    assert_eq!(flight.pop_durable(|_| true), Some((7, "a")));
    // It has completed, but something else is missing.
    assert_eq!(flight.pop_durable(|about| *about != "b"), None);
    assert_eq!(flight.pop_durable(|_| true), Some((8, "b")));
    assert_eq!(flight.pop_durable(|_| true), None);
    assert_eq!(flight.oldest(), Some(&"c"));
    flight.complete(9);
    assert_eq!(flight.pop_durable(|_| true), Some((9, "c")));
    assert!(flight.is_empty());
}

#[test]
#[should_panic(expected = "completed twice")]
fn a_write_completes_once() {
    let mut flight = WritesInFlight::new(0, 3);
    flight.submit(());
    flight.submit(());
    flight.complete(0);
    flight.complete(0);
}

#[test]
#[should_panic(expected = "is not in flight")]
fn what_was_not_submitted_does_not_complete() {
    let mut flight = WritesInFlight::new(0, 3);
    flight.submit(());
    flight.complete(1);
}

#[test]
fn the_first_failure_stays() {
    let mut fence = Fence::default();
    assert!(fence.check().is_ok() && !fence.is_over());
    fence.close();
    assert!(matches!(fence.check(), Err(Error::Closed)) && fence.is_over());
    let too_large = Error::TooLarge { len: 2, limit: 1 };
    assert!(matches!(fence.fail(too_large), Error::Fenced(_)));
    assert!(matches!(fence.fail(Error::Closed), Error::Fenced(_)));
    assert!(matches!(fence.check(), Err(Error::Fenced(_))));
}

#[test]
fn who_waits_for_room() {
    let open = Fence::default();
    let mut fenced = Fence::default();
    fenced.fail(failed());
    for (fence, outstanding, is_stopping, expected) in [
        (&open, 10, false, Some(true)),
        (&open, 11, false, None),
        (&open, 10, true, Some(true)),
        (&open, 11, true, Some(false)),
        (&fenced, 0, false, Some(false)),
        (&fenced, 11, false, Some(false)),
    ] {
        let goes_on = room(fence, outstanding, 10, is_stopping);
        assert_eq!(goes_on.map(|result| result.is_ok()), expected);
    }
}

#[test]
fn what_is_written_is_whole_blocks() {
    for (buf_len, len, expected) in [(2, 1, 1), (2, BLOCK_SIZE, 1), (2, BLOCK_SIZE + 1, 2)] {
        let mut buf = Buf::alloc(buf_len * BLOCK_SIZE);
        buf.fill(7);
        let buf = padded(buf, len);
        assert_eq!(buf.len(), expected * BLOCK_SIZE);
        assert!(buf[..len].iter().all(|byte| *byte == 7));
        assert!(buf[len..].iter().all(|byte| *byte == 0));
    }
}
