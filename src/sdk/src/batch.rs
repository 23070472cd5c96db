//! Independent operations carried out together.

use crate::client::Client;
use crate::error::{Error, Result};
use crate::limits::BATCH_IN_FLIGHT_MAX;
use crate::read::{Entry, Get};
use crate::value::IntoValue;
use crate::write::{Delete, Put, Written};
use futures_util::{StreamExt, stream};
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::ops::Deref;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::Instant;

/// One operation of a batch.
#[derive(Clone, Debug)]
pub enum BatchOperation {
    /// A put.
    Put(Put),
    /// A delete.
    Delete(Delete),
    /// A get.
    Get(Get),
}

/// The result of one operation of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchResult {
    /// Of a put or a delete.
    Written(Written),
    /// Of a get.
    Entry(Entry),
}

/// What can be added to a batch, and what it gives: puts, deletes and gets.
pub trait IntoBatchOperation: Into<BatchOperation> {
    /// What it gives.
    type Output;
    /// Takes its output out of its result.
    #[doc(hidden)]
    fn output(result: &BatchResult) -> Option<Self::Output>;
}

macro_rules! operations {
    ($($operation:ident => $output:ident),*) => {$(
        impl From<$operation> for BatchOperation {
            fn from(operation: $operation) -> Self {
                Self::$operation(operation)
            }
        }

        impl IntoBatchOperation for $operation {
            type Output = $output;

            fn output(result: &BatchResult) -> Option<$output> {
                match result {
                    BatchResult::$output(output) => Some(output.clone()),
                    _ => None,
                }
            }
        }
    )*};
}

operations!(Put => Written, Delete => Written, Get => Entry);

/// Stands for an operation of a batch, see [`Batch::add`].
#[derive(Debug)]
pub struct BatchHandle<O> {
    position: usize,
    operation: PhantomData<fn() -> O>,
}

impl<O> Clone for BatchHandle<O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<O> Copy for BatchHandle<O> {}

/// See [`Client::batch`]. Awaiting it gives the [`BatchResults`]. The operations are independent: some
/// may fail while others succeed, and they may take effect in any order.
///
/// If its future is dropped before it is ready, the operations under way end as if each had been
/// dropped, and those that have not begun never do.
///
/// ```no_run
/// # async fn example(client: corelith_client::Client) -> corelith_client::Result<()> {
/// let mut batch = client.batch();
/// let name = batch.add(client.get("name"));
/// let saved = batch.add(client.put("visited", "yes").if_absent());
/// let results = batch.await;
/// println!("{:?}", results.of(name)?.value);
/// println!("{}", results.of(saved)?.version);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a batch does nothing until it is awaited"]
pub struct Batch {
    client: Client,
    operations: Vec<BatchOperation>,
    deadline: Option<Duration>,
}

impl Client {
    /// Collects operations that are then carried out together, each on its own.
    pub fn batch(&self) -> Batch {
        Batch::new(self.clone())
    }
}

impl Batch {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            operations: Vec::new(),
            deadline: None,
        }
    }

    /// Adds a put.
    pub fn put(self, key: impl AsRef<[u8]>, value: impl IntoValue) -> Self {
        let put = self.client.put(key, value);
        self.with(put)
    }

    /// Adds a delete.
    pub fn delete(self, key: impl AsRef<[u8]>) -> Self {
        let delete = self.client.delete(key);
        self.with(delete)
    }

    /// Adds a get.
    pub fn get(self, key: impl AsRef<[u8]>) -> Self {
        let get = self.client.get(key);
        self.with(get)
    }

    /// Adds an operation that was made before, with its condition for example.
    pub fn with(mut self, operation: impl Into<BatchOperation>) -> Self {
        self.operations.push(operation.into());
        self
    }

    /// Adds an operation; its result is found by the handle.
    pub fn add<O: IntoBatchOperation>(&mut self, operation: O) -> BatchHandle<O> {
        let position = self.operations.len();
        self.operations.push(operation.into());
        BatchHandle {
            position,
            operation: PhantomData,
        }
    }

    /// How long all of it may take. Without one, each operation has its own deadline from when it
    /// begins, and of a long batch not all begin at once.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// How many operations it holds.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }
}

impl IntoFuture for Batch {
    type Output = BatchResults;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let until = self.deadline.map(|deadline| Instant::now() + deadline);
        let run = move |operation| async move {
            let left = until.map_or(Duration::MAX, |until| {
                until.saturating_duration_since(Instant::now())
            });
            match operation {
                BatchOperation::Put(put) => put.within(left).await.map(BatchResult::Written),
                BatchOperation::Delete(delete) => {
                    delete.within(left).await.map(BatchResult::Written)
                }
                BatchOperation::Get(get) => get.within(left).await.map(BatchResult::Entry),
            }
        };
        let operations = stream::iter(self.operations).map(run);
        let results = operations.buffered(BATCH_IN_FLIGHT_MAX).collect();
        Box::pin(async move { BatchResults(results.await) })
    }
}

/// One result per operation of a batch, in their order; a slice of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "operations of the batch may have failed"]
pub struct BatchResults(Vec<Result<BatchResult>>);

impl BatchResults {
    /// What the operation behind `handle` gave.
    ///
    /// # Errors
    /// As that operation alone; `Invalid` if the handle is of another batch.
    pub fn of<O: IntoBatchOperation>(&self, handle: BatchHandle<O>) -> Result<O::Output> {
        self.output::<O>(handle.position)
    }

    /// What the put or delete at `position` gave.
    ///
    /// # Errors
    /// As that operation alone; `Invalid` if no put or delete is there.
    pub fn written(&self, position: usize) -> Result<Written> {
        self.output::<Put>(position)
    }

    /// What the get at `position` gave.
    ///
    /// # Errors
    /// As that operation alone; `Invalid` if no get is there.
    pub fn entry(&self, position: usize) -> Result<Entry> {
        self.output::<Get>(position)
    }

    /// The first operation that failed: its position, and why.
    pub fn first_error(&self) -> Option<(usize, &Error)> {
        let errors = self.0.iter().map(|result| result.as_ref().err());
        errors
            .enumerate()
            .find_map(|(at, error)| Some((at, error?)))
    }

    fn output<O: IntoBatchOperation>(&self, position: usize) -> Result<O::Output> {
        let wrong = || Error::Invalid {
            what: "position or handle of a batch: no such operation is there",
        };
        match self.0.get(position) {
            Some(Ok(result)) => O::output(result).ok_or_else(wrong),
            Some(Err(error)) => Err(error.clone()),
            None => Err(wrong()),
        }
    }
}

impl Deref for BatchResults {
    type Target = [Result<BatchResult>];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl IntoIterator for BatchResults {
    type Item = Result<BatchResult>;
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
