use super::*;
use crate::ids::{ReplicaId, ShardId, Term, ValueSegmentId};
use crate::vlog::ValuePointer;
use crate::wal::ValuePart;
use bytes::Bytes;
use corelith_io::OpenOptions;
use corelith_io::sim::Sim;
use std::cell::RefCell;
use std::path::{Path, PathBuf};

/// A pipeline whose writes complete when a test says so.
struct Bench {
    pipeline: BlockPipeline,
    /// Results of appends, in the order of their callbacks.
    told: Rc<RefCell<Vec<bool>>>,
    /// Headers of all submitted blocks.
    headers: Vec<BlockHeader>,
    appended: u64,
}

fn with_bench(test: impl AsyncFnOnce(Bench) + 'static) {
    let sim = Sim::new(1);
    let node = sim.add_node();
    sim.block_on(node, async move {
        let path = Path::new("/segment");
        let options = OpenOptions::new().write().create_new();
        let prepared = Prepared {
            id: SegmentId(1),
            path: PathBuf::from(path),
            file: Rc::new(options.open(path).await.unwrap()),
            len: 1 << 20,
        };
        let options = WalOptions {
            store_id: 1,
            shard: ShardId(1),
            segment_bytes: 1 << 20,
            cache_bytes: 0,
        };
        let index = Index::new(0);
        let pipeline = BlockPipeline::new(options, index, VecDeque::new(), Position::default());
        let mut bench = Bench {
            pipeline,
            told: Rc::default(),
            headers: Vec::new(),
            appended: 0,
        };
        let start = bench.pipeline.begin_recovered(prepared);
        bench.note(&start);
        bench.pipeline.complete(0, Ok(())).1.unwrap();
        test(bench).await;
    });
}

impl Bench {
    fn note(&mut self, write: &BlockWrite) {
        self.headers
            .push(BlockHeader::decode(&write.buf).unwrap().0);
        assert_eq!(write.number, self.headers.len() as u64 - 1);
    }

    /// Appends an entry; its value has ticket `values`, or it has none if that is 0.
    fn append(&mut self, values: u64) {
        let id = LogId {
            term: Term(1),
            node: ReplicaId(1),
            index: LogIndex(self.appended),
        };
        self.appended += 1;
        let mut entry = Entry::new(id, 2, Bytes::from_static(&[7; 100]));
        if values > 0 {
            entry.value = Some(ValuePart {
                space: crate::Space::User,
                start: 40,
                len: 60,
                key_start: 10,
                key_len: 5,
            });
            entry.place = Some(ValuePointer {
                segment: ValueSegmentId(1),
                slot: 0,
                offset: 0,
                len: 60,
                crc: 0,
            });
        }
        self.pipeline.stage_entry(entry, Ticket(values));
        let told = Rc::clone(&self.told);
        let callback = Box::new(move |result: Result<()>| told.borrow_mut().push(result.is_ok()));
        assert!(self.pipeline.wait(callback).is_none());
        self.submit();
    }

    fn submit(&mut self) {
        while let Next::Write(write) = self.pipeline.next() {
            self.note(&write);
        }
    }

    fn done(&mut self, number: u64) {
        let (ready, result) = self.pipeline.complete(number, Ok(()));
        result.unwrap();
        ready.into_iter().for_each(|callback| callback(Ok(())));
        self.submit();
    }

    fn values(&mut self, upto: u64) {
        let ready = self.pipeline.values_durable(Ticket(upto));
        ready.into_iter().for_each(|callback| callback(Ok(())));
        self.submit();
    }

    fn told(&self) -> Vec<bool> {
        self.told.borrow().clone()
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// An entry with a value of this ticket (0: without a value), in a block of its own.
    Append(u64),
    /// The write of this block completes; the first one appended is block 1.
    Done(u64),
    /// Values are durable up to this ticket.
    Values(u64),
}
use Step::{Append, Done, Values};

/// Steps, and how many appends are acknowledged after each.
type Case = &'static [(Step, usize)];

#[test]
fn a_block_is_durable_with_its_values_and_after_those_before_it() {
    let value_first: Case = &[(Append(1), 0), (Values(1), 0), (Done(1), 1)];
    let value_last: Case = &[(Append(1), 0), (Done(1), 0), (Values(1), 1)];
    let behind: Case = &[
        (Append(1), 0),
        (Append(0), 0),
        (Done(2), 0),
        (Done(1), 0),
        (Values(1), 2),
    ];
    let before: Case = &[
        (Append(0), 0),
        (Append(1), 0),
        (Done(1), 1),
        (Done(2), 1),
        (Values(1), 2),
    ];
    let one_by_one: Case = &[
        (Append(3), 0),
        (Append(4), 0),
        (Done(1), 0),
        (Done(2), 0),
        (Values(2), 0),
        (Values(3), 1),
        (Values(4), 2),
    ];
    let ahead: Case = &[(Values(9), 0), (Append(4), 0), (Done(1), 1)];
    let told_again: Case = &[(Values(9), 0), (Values(2), 0), (Append(4), 0), (Done(1), 1)];
    let out_of_order: Case = &[
        (Append(1), 0),
        (Append(2), 0),
        (Values(2), 0),
        (Done(2), 0),
        (Done(1), 2),
    ];
    let cases = [
        value_first,
        value_last,
        behind,
        before,
        one_by_one,
        ahead,
        told_again,
        out_of_order,
    ];
    for case in cases {
        with_bench(async move |mut bench| {
            for &(step, acknowledged) in case {
                match step {
                    Append(values) => bench.append(values),
                    Done(number) => bench.done(number),
                    Values(upto) => bench.values(upto),
                }
                assert_eq!(
                    bench.told(),
                    vec![true; acknowledged],
                    "{step:?} in {case:?}"
                );
                // An entry that is not acknowledged can be read from memory.
                let kept = bench.pipeline.index.first_cached();
                let first = (acknowledged as u64) < bench.appended;
                assert_eq!(kept, first.then_some(LogIndex(acknowledged as u64)));
            }
            assert!(bench.pipeline.is_all_durable());
            assert_eq!(bench.pipeline.outstanding_bytes(), 0);
        });
    }
}

#[test]
fn no_block_says_that_one_without_its_values_is_flushed() {
    with_bench(async |mut bench| {
        bench.append(1);
        bench.done(1);
        assert!(bench.pipeline.is_idle() && !bench.pipeline.is_all_durable());
        bench.append(0);
        assert_eq!(bench.headers[2].flushed_up_to, 1);
        bench.values(1);
        bench.append(0);
        assert_eq!(bench.headers[3].flushed_up_to, 2);
        bench.done(2);
        bench.append(0);
        assert_eq!(bench.headers[4].flushed_up_to, 3);
        // Proven is what a durable block says.
        assert_eq!(bench.pipeline.proven(), 1);
        bench.done(3);
        assert_eq!(bench.pipeline.proven(), 2);
    });
}

/// How far a recovery must search depends on it.
#[test]
fn blocks_that_wait_for_values_count_as_in_flight() {
    with_bench(async |mut bench| {
        let most = limits::LOG_WRITES_IN_FLIGHT_MAX as u64;
        bench.append(1);
        bench.done(1);
        for number in 2..=most {
            bench.append(0);
            bench.done(number);
        }
        for _ in 0..5 {
            bench.append(0);
        }
        assert_eq!(bench.headers.len() as u64, most + 1);
        assert!(bench.told().is_empty());
        bench.values(1);
        assert_eq!(bench.told().len() as u64, most);
        // What gathered meanwhile goes out at once.
        assert_eq!(bench.headers.len() as u64, most + 2);
        bench.done(most + 1);
        assert_eq!(bench.told().len() as u64, most + 5);
    });
}

#[test]
fn a_purge_is_durable_with_the_values_before_it() {
    with_bench(async |mut bench| {
        bench.append(1);
        bench.append(0);
        let upto = bench.pipeline.index.id_at(LogIndex(0)).unwrap();
        bench.pipeline.stage_purge(upto);
        bench.done(1);
        bench.done(2);
        bench.done(3);
        assert_eq!(bench.pipeline.purged_durable(), None);
        bench.values(1);
        assert_eq!(bench.pipeline.purged_durable(), Some(LogIndex(0)));
    });
}

#[test]
fn after_a_failure_nothing_is_acknowledged() {
    with_bench(async |mut bench| {
        bench.append(1);
        bench.done(1);
        let (told, error) = bench.pipeline.fail(Error::Closed);
        assert!(error.is_err());
        told.into_iter()
            .for_each(|callback| callback(error.clone()));
        assert_eq!(bench.told(), [false]);
        bench.values(1);
        assert_eq!(bench.told(), [false]);
        assert!(!bench.pipeline.is_all_durable());
    });
}
