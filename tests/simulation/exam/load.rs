//! Many requests at once.

use super::{check, some_lead, steady};
use crate::client::Client;
use crate::notes::{Asked, encode};
use crate::trial::Report;
use crate::workload::{HEALED_DEADLINE, key_of};
use corelith_history::WriteCondition;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const CLIENTS: u32 = 4;
const REQUESTS_PER_CLIENT: u64 = 2_500;

/// The node that leads dies with 10,000 requests in flight: each outcome is known, or said to be unknown.
pub(crate) fn leader_change(seed: u64) -> Report {
    let mut trial = steady(seed);
    let (shards, keys) = (trial.plan.shards, trial.plan.keys);
    let workload = Rc::clone(&trial.workload);
    trial.safety(|cluster| {
        let (asked, answered) = (Rc::<Cell<u64>>::default(), Rc::<Cell<u64>>::default());
        let machine = cluster.sim.add_node();
        let lead = some_lead(cluster, shards);
        for core in 0..CLIENTS {
            let (workload, asked) = (Rc::clone(&workload), Rc::clone(&asked));
            let answered = Rc::clone(&answered);
            let work = move || async move {
                let client = Client::new(Arc::clone(&workload.map));
                let name = workload.take_client();
                for number in 0..REQUESTS_PER_CLIENT {
                    let (workload, client) = (Rc::clone(&workload), client.clone());
                    let answered = Rc::clone(&answered);
                    asked.set(asked.get() + 1);
                    drop(corelith_io::spawn(async move {
                        let notes = &workload.notes;
                        let asked = match number % 4 {
                            0 => Asked::Read,
                            _ => Asked::Write(Some(notes.take_value()), WriteCondition::Any),
                        };
                        let question = notes.ask(name, &key_of(number % keys), asked);
                        let encode = |value| encode(value, 60);
                        let carried = notes.carry(&client, &question, encode, HEALED_DEADLINE);
                        carried.await.ok();
                        answered.set(answered.get() + 1);
                    }));
                }
            };
            cluster.sim.start(machine, core, work);
        }
        let all = u64::from(CLIENTS) * REQUESTS_PER_CLIENT;
        let sim = cluster.sim.clone();
        assert!(sim.run_until(|| asked.get() == all, Duration::from_secs(10)));
        let some = sim.random_below(200);
        sim.run_until(|| answered.get() > some, Duration::from_secs(10));
        let before = answered.get();
        match sim.random_below(3) {
            0 => cluster.crash(lead.at),
            1 => cluster.kill(lead.at),
            _ => sim.net().isolate(lead.node),
        }
        let are_done = sim.run_until(|| answered.get() == all, 2 * HEALED_DEADLINE);
        assert!(are_done, "{} of {all} outcomes are known", answered.get());
        assert!(before < all / 2, "{before} were answered before");
    });
    trial.end(super::restart_all)
}

#[test]
fn ten_thousand_requests_in_flight_at_a_leader_change_end_in_known_ways() {
    check(1, leader_change);
}
