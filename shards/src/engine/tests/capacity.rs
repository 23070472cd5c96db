//! Bounds of tables that keys can reach.

use super::{on_core, open};
use crate::ids::LogIndex;
use crate::limits::BLOCK_PAYLOAD_BYTES_MAX;
use bytes::Bytes;

/// Pairs of long keys that differ at their ends only, each pair unlike the others: a data block that
/// begins with the second of a pair is known by all of its key, so the root of one table would be longer
/// than any block.
#[test]
fn long_keys_end_a_table_before_its_root_is_too_long() {
    const PREFIX_BYTES: usize = 3704;
    // With it, the second of a pair does not fit into the data block of the first one.
    const VALUE: [u8; 600] = [7; 600];
    const PAIRS: u64 = (BLOCK_PAYLOAD_BYTES_MAX / PREFIX_BYTES) as u64 + 500;
    let key = |number: u64, end: u8| {
        let seed = (number / 2).to_be_bytes();
        let mut key = seed.repeat(PREFIX_BYTES / 8);
        key.push(end);
        key
    };
    on_core(move |dir| async move {
        let engine = open(&dir, 256 << 20).await.unwrap();
        let keys = (0..PAIRS * 2).map(|number| key(number, (number % 2) as u8));
        let keys: Vec<Vec<u8>> = keys.collect();
        for (at, key) in (1..).zip(&keys) {
            let value = if at % 2 == 0 { &VALUE[..] } else { b"" };
            engine.put(LogIndex(at), key, Bytes::from_static(value));
            engine.set_applied(super::log_id(at), None);
        }
        engine.checkpoint().await.unwrap();
        let (tables, _) = engine.tables();
        assert!(tables > 1, "{tables}");
        for key in keys.iter().step_by(97) {
            assert!(engine.get(key).await.unwrap().is_some());
        }
        engine.close().await.unwrap();
        drop(engine);
        let engine = open(&dir, 1 << 20).await.unwrap();
        assert!(engine.get(&keys[7]).await.unwrap().is_some());
        engine.close().await.unwrap();
    });
}
