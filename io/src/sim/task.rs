//! Tasks of a simulated core.

use super::Core;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

pub(crate) struct JoinHandle<T> {
    _output: std::marker::PhantomData<fn() -> T>,
}

impl<T> JoinHandle<T> {
    pub(crate) fn abort(&self) {
        todo!()
    }

    pub(crate) fn is_finished(&self) -> bool {
        todo!()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Option<T>;
    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<T>> {
        todo!()
    }
}

pub(crate) fn spawn<T: 'static>(
    _core: &Core,
    _background: bool,
    _future: impl Future<Output = T> + 'static,
) -> JoinHandle<T> {
    todo!()
}

pub(crate) async fn yield_now(_core: Core) {
    todo!()
}

pub(crate) async fn yield_if_needed(_core: Core) {
    todo!()
}

pub(crate) async fn blocking<T: Send + 'static>(
    _core: Core,
    _work: impl FnOnce() -> T + Send + 'static,
) -> T {
    todo!()
}
