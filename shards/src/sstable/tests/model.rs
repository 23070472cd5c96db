//! Random tables against the list of what was put into them.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
struct Group {
    key: Vec<u8>,
    /// Lengths of values, newest first.
    versions: Vec<usize>,
    compressible: bool,
    separated: bool,
}

fn group() -> impl Strategy<Value = Group> {
    let key = prop_oneof![
        8 => proptest::collection::vec(0..4_u8, 0..6),
        1 => (1..KEY_BYTES_MAX).prop_map(|len| vec![3; len]),
    ];
    let len = prop_oneof![
        8 => 0..400_usize,
        2 => 400..9000_usize,
        1 => 15_000..40_000_usize,
    ];
    let versions = prop_oneof![
        6 => proptest::collection::vec(len.clone(), 1..4),
        1 => proptest::collection::vec(len, 50..200),
    ];
    (key, versions, any::<bool>(), any::<bool>()).prop_map(
        |(key, versions, compressible, separated)| Group {
            key,
            versions,
            compressible,
            separated,
        },
    )
}

fn entries_of(groups: Vec<Group>) -> Vec<Entry> {
    // By key; the last group of a key counts.
    let groups: BTreeMap<_, _> = groups
        .into_iter()
        .map(|group| (group.key.clone(), group))
        .collect();
    let mut entries = Vec::new();
    for (key, group) in groups {
        for (number, len) in group.versions.iter().enumerate() {
            let at = ((group.versions.len() - number) * 10) as u64;
            let kept = match (len % 7, group.separated) {
                (0, _) => Kept::Deleted,
                (_, true) => Kept::Separated(pointer(at + *len as u64)),
                _ if group.compressible => Kept::Bytes(vec![b'c'; *len]),
                _ => Kept::Bytes(noise(at, *len)),
            };
            entries.push(entry(&key, at, kept));
        }
    }
    entries
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_table_holds_what_was_put_into_it(
        groups in proptest::collection::vec(group(), 1..60),
        options in proptest::sample::select(&ALL_OPTIONS),
    ) {
        on_core(move |dir| async move {
            let entries = entries_of(groups);
            let table = table_of(&dir, options, &entries).await;
            verify(&table).await.unwrap();
            assert!(read_on(&table, &[]).await.unwrap() == entries);
            for (key, at, _) in &entries {
                for at in [at.0 - 1, at.0, at.0 + 1] {
                    check_get(&table, &entries, key, LogIndex(at)).await;
                }
                let mut absent = key.clone();
                absent.push(1);
                check_get(&table, &entries, &absent, NEWEST).await;
                let (first, last) = table.key_range_at(4096).await;
                assert!(first <= last);
            }
        });
    }
}
