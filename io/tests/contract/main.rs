//! What the code above this crate relies on, run in both worlds.
//!
//! A case is an async function of a [`Place`]. The runner of a world makes a core (or a simulated
//! node) and a fresh directory for each case.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod files;
mod moving;
mod names;
mod net;
mod tasks;
mod timers;

#[cfg(feature = "sim")]
mod sim;
mod uring;

use corelith_io::{Receiver, Sender};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;

/// Where a case runs.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// An empty directory.
    pub(crate) dir: PathBuf,
    /// The address of the node that the core belongs to.
    pub(crate) ip: IpAddr,
}

impl Place {
    /// The address to listen at: any free port.
    fn any_port(&self) -> SocketAddr {
        SocketAddr::new(self.ip, 0)
    }
}

/// What another core is to do.
pub(crate) type Job = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// A second core of the same process, which does the jobs it is sent.
pub(crate) struct OtherCore(Sender<Job>);

impl OtherCore {
    async fn run<F: Future<Output = ()> + 'static>(
        &self,
        job: impl FnOnce() -> F + Send + 'static,
    ) {
        let job: Job = Box::new(move || Box::pin(job()));
        assert!(self.0.send(job).await.is_ok(), "the other core has ended");
    }
}

/// What that core runs.
async fn do_jobs(jobs: Receiver<Job>) {
    while let Ok(job) = jobs.recv().await {
        job().await;
    }
}

/// Calls the macro `$run` with every case of two cores.
macro_rules! for_each_case_of_two_cores {
    ($run:ident) => {
        $run! {
            moving::a_connection_goes_on_at_another_core,
            moving::what_has_arrived_goes_along,
            moving::a_split_connection_is_put_together_and_moves,
            moving::a_peer_that_has_closed_is_noticed_there,
            moving::a_connection_that_nobody_attaches_closes,
            moving::a_connection_moves_to_and_fro,
        }
    };
}
pub(crate) use for_each_case_of_two_cores;

/// Calls the macro `$run` with every case.
macro_rules! for_each_case {
    ($run:ident) => {
        $run! {
            files::what_is_written_is_read,
            files::reads_start_and_end_anywhere,
            files::reads_stop_at_the_end_of_the_file,
            files::writes_must_be_aligned,
            files::blocks_may_be_overwritten,
            files::a_file_opened_for_reading_refuses_writes,
            files::many_durable_writes_in_flight,
            files::many_reads_and_writes_in_flight_from_one_task,
            files::a_new_length_is_seen,
            files::allocated_space_is_zeros,
            files::allocated_space_is_taken,
            files::a_second_handle_sees_the_same_bytes,
            files::an_abandoned_write_leaves_the_rest_alone,
            files::a_buffer_is_as_long_as_asked,
            files::buffers_are_recycled,
            names::a_missing_file_is_not_found,
            names::create_new_refuses_an_existing_name,
            names::directories_are_made_with_their_parents,
            names::a_directory_lists_its_names_in_order,
            names::rename_replaces,
            names::removed_names_are_gone,
            names::one_lock_per_directory,
            names::a_lock_that_changes_nothing,
            names::an_open_file_outlives_its_name,
            names::there_is_free_space,
            net::echo,
            net::a_dropped_connection_reads_as_ended,
            net::shutdown_wakes_both_readers,
            net::large_transfers_both_ways_at_once,
            net::a_slow_reader_holds_the_writer_back,
            net::nobody_listens,
            net::a_port_in_use_is_an_error,
            net::a_closed_listener_frees_its_port,
            net::an_abandoned_accept_loses_no_connection,
            net::many_connections_at_once,
            net::read_buf_appends,
            timers::sleeps_are_not_early,
            timers::sleeps_end_in_order,
            timers::a_timeout_ends_what_takes_too_long,
            timers::a_timeout_leaves_what_is_fast_alone,
            timers::many_sleepers_wake,
            timers::a_polled_and_dropped_sleep_is_forgotten,
            timers::a_deadline_in_the_past_is_over,
            timers::the_clock_does_not_go_back,
            tasks::a_task_returns_its_output,
            tasks::a_dropped_handle_detaches,
            tasks::an_aborted_task_returns_nothing,
            tasks::abort_drops_the_future,
            tasks::abort_after_the_end_changes_nothing,
            tasks::tasks_of_every_queue_run,
            tasks::a_yield_lets_others_run,
            tasks::a_loop_that_yields_if_needed_lets_timers_run,
            tasks::blocking_work_returns,
            tasks::random_numbers_differ,
            tasks::a_channel_within_a_core,
            tasks::a_full_channel_gives_the_message_back,
            tasks::one_task_may_wait_for_very_many_things,
        }
    };
}
pub(crate) use for_each_case;
