mod model;

use super::*;

const ANY: u128 = u128::MAX;

fn membership(stores: &[u128]) -> Membership {
    let members = (1..).zip(stores).map(|(node, store)| GroupMember {
        replica: ReplicaId(node),
        store: StoreId(*store),
    });
    founding(&members.collect::<Vec<_>>())
}

#[test]
fn a_store_counts_only_in_its_slot() {
    let table = [
        (Some(7), 7, Standing::Member),
        (Some(7), 8, Standing::Stranger),
        (Some(ANY), 8, Standing::Member),
        (Some(0), 8, Standing::Unclaimed),
        // A store without a number is nobody's.
        (Some(7), 0, Standing::Stranger),
        (None, 7, Standing::Absent),
    ];
    for (slot, store, expected) in table {
        let found = standing(slot.map(StoreId), StoreId(store));
        assert_eq!(found, expected, "{slot:?} {store}");
    }
}

#[test]
fn a_leader_binds_itself_and_then_who_is_connected() {
    // (slots of nodes 1 to 3, the stores that node 1 is connected with, what it binds)
    let table = [
        ([ANY, ANY, ANY], [0, 12, 13], Some((1, 11))),
        ([11, ANY, ANY], [0, 12, 13], Some((2, 12))),
        ([11, ANY, ANY], [0, 0, 13], Some((3, 13))),
        ([11, ANY, ANY], [0, 0, 0], None),
        ([11, 12, 0], [0, 12, 13], Some((3, 13))),
        ([11, 12, 0], [0, 12, ANY], None),
        ([11, 12, 13], [0, 99, 99], None),
    ];
    let me = GroupMember {
        replica: ReplicaId(1),
        store: StoreId(11),
    };
    for (slots, connected, expected) in table {
        let store_of = |node: NodeId| {
            let store = connected[node.0 as usize - 1];
            (store != 0).then_some(StoreId(store))
        };
        let next = next_binding(&membership(&slots), me, store_of);
        let next = next.map(|next| (next.replica.0, next.store.0));
        assert_eq!(next, expected, "{slots:?} {connected:?}");
    }
}
