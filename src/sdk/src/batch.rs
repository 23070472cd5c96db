//! Independent operations that run together.

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
    /// The result of a put or a delete.
    Written(Written),
    /// The result of a get.
    Entry(Entry),
}

/// An operation that can be added to a batch: a put, a delete or a get.
pub trait IntoBatchOperation: Into<BatchOperation> {
    /// The type of its result.
    type Output;
    /// Extracts the operation's output from its result.
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

/// A handle to an operation of a batch, see [`Batch::add`].
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

/// A batch, made by [`Client::batch`]. Awaiting it returns the [`BatchResults`]. The operations are
/// independent: some may fail while others succeed, and they may take effect in any order. At most 256
/// are in flight at a time.
///
/// Cancel safety: if the future is dropped early, operations in flight behave as if each had been
/// dropped, and the others never start.
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
    /// An empty batch, to collect independent operations that run together.
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

    /// Adds an operation made before, for example one with a condition.
    pub fn with(mut self, operation: impl Into<BatchOperation>) -> Self {
        self.operations.push(operation.into());
        self
    }

    /// Adds an operation and returns the handle to its result, see [`BatchResults::of`].
    pub fn add<O: IntoBatchOperation>(&mut self, operation: O) -> BatchHandle<O> {
        let position = self.operations.len();
        self.operations.push(operation.into());
        BatchHandle {
            position,
            operation: PhantomData,
        }
    }

    /// Sets how long the whole batch may take. Without it, each operation has its own deadline from the
    /// moment it starts; the operations of a long batch do not all start at once. Of a large value, each request has
    /// it, and the transfer has none.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Number of operations in the batch.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether the batch has no operations.
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

/// The results of a batch, one per operation, in the order in which the operations were added.
/// Dereferences to a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "operations of the batch may have failed"]
pub struct BatchResults(Vec<Result<BatchResult>>);

impl BatchResults {
    /// The result of the operation that `handle` was returned for.
    ///
    /// # Errors
    /// The operation's own error; `Invalid` if the batch has no such operation. A handle of another
    /// batch is not always detected.
    pub fn of<O: IntoBatchOperation>(&self, handle: BatchHandle<O>) -> Result<O::Output> {
        self.output::<O>(handle.position)
    }

    /// The result of the put or delete at `position`, counted from 0.
    ///
    /// # Errors
    /// The operation's own error; `Invalid` if there is no put or delete at `position`.
    pub fn written(&self, position: usize) -> Result<Written> {
        self.output::<Put>(position)
    }

    /// The result of the get at `position`, counted from 0.
    ///
    /// # Errors
    /// The operation's own error; `Invalid` if there is no get at `position`.
    pub fn entry(&self, position: usize) -> Result<Entry> {
        self.output::<Get>(position)
    }

    /// Position and error of the first operation that failed; `None` if none failed.
    pub fn first_error(&self) -> Option<(usize, &Error)> {
        let errors = self.0.iter().map(|result| result.as_ref().err());
        errors
            .enumerate()
            .find_map(|(at, error)| Some((at, error?)))
    }

    fn output<O: IntoBatchOperation>(&self, position: usize) -> Result<O::Output> {
        let wrong = || Error::Invalid {
            what: "position or handle of a batch: the batch has no such operation",
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
