//! Independent operations carried out together.

use crate::client::Client;
use crate::error::Result;
use crate::limits::BATCH_IN_FLIGHT_MAX;
use crate::read::{Entry, Get};
use crate::write::{Delete, Put, Written};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use std::future::{Future, IntoFuture};
use std::pin::Pin;

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

/// See [`Client::batch`]. Awaiting it gives one result per operation, in their order. The
/// operations are independent: some may fail while others succeed, and they may take effect in any
/// order.
#[derive(Clone, Debug)]
#[must_use = "a batch does nothing until it is awaited"]
pub struct Batch {
    client: Client,
    operations: Vec<BatchOperation>,
}

impl Batch {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            operations: Vec::new(),
        }
    }

    /// Adds a put.
    pub fn put(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        let put = self.client.put(key, value);
        self.with(BatchOperation::Put(put))
    }

    /// Adds a delete.
    pub fn delete(self, key: impl Into<Bytes>) -> Self {
        let delete = self.client.delete(key);
        self.with(BatchOperation::Delete(delete))
    }

    /// Adds a get.
    pub fn get(self, key: impl Into<Bytes>) -> Self {
        let get = self.client.get(key);
        self.with(BatchOperation::Get(get))
    }

    /// Adds an operation that was made before, with its condition for example.
    pub fn with(mut self, operation: BatchOperation) -> Self {
        self.operations.push(operation);
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
    type Output = Vec<Result<BatchResult>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let run = |operation| async {
            match operation {
                BatchOperation::Put(put) => put.await.map(BatchResult::Written),
                BatchOperation::Delete(delete) => delete.await.map(BatchResult::Written),
                BatchOperation::Get(get) => get.await.map(BatchResult::Entry),
            }
        };
        let operations = stream::iter(self.operations).map(run);
        Box::pin(operations.buffered(BATCH_IN_FLIGHT_MAX).collect())
    }
}
